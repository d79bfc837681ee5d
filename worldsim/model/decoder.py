"""The frame-wise diffusion decoder: the only part that sees the current action, run once a denoising step."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.config import ModelConfig


def without_margin(seen: Tensor, config: ModelConfig) -> Tensor:
    """Patches with their margin [..., X] to patches [..., P]."""
    side, inner = config.patch + 2 * config.margin, slice(config.margin, config.margin + config.patch)
    return seen.unflatten(-1, (side, side, 3))[..., inner, inner, :].flatten(-3)


class NoiseLevelEmbedding(nn.Module):
    """Noise level t in [0, 1] as sines and cosines of log-spaced frequencies, then a small MLP."""

    frequencies: Tensor

    def __init__(self, dim: int, frequencies: int = 64) -> None:
        super().__init__()
        self.register_buffer(
            "frequencies",
            1000.0 * torch.exp(-math.log(10_000.0) * torch.arange(frequencies) / frequencies),
            persistent=False,
        )
        self.up = nn.Linear(2 * frequencies, dim)
        self.down = nn.Linear(dim, dim)

    def forward(self, t: Tensor) -> Tensor:  # [N] -> [N, D]
        angle = t[:, None].float() * self.frequencies
        waves = torch.cat((angle.cos(), angle.sin()), -1).to(self.up.weight.dtype)
        return self.down(F.silu(self.up(waves)))


class StepSizeEmbedding(nn.Module):
    """How far a denoising step goes, as a shortcut model is told (arXiv 2410.12557): 1 is all the way from pure noise.

    One vector for each of 1, 1/2, 1/4 ... 1/``finest``; between two of them, the mean by their logarithms.

    Args:
        finest: Steps of the finest sampler, a power of two.
        dim: Of a vector. All begin at zero: as if nothing were told.
    """

    def __init__(self, finest: int, dim: int) -> None:
        super().__init__()
        self.halvings = finest.bit_length() - 1
        self.weight = nn.Parameter(torch.zeros(self.halvings + 1, dim))

    def forward(self, size: Tensor | None) -> Tensor:  # [N] in (0, 1] -> [N, D]; None, the finest -> [D]
        if size is None:
            return self.weight[-1]
        at = (-size.float().log2()).clamp(0, self.halvings)
        coarser = at.long().clamp(max=self.halvings - 1)
        return torch.lerp(self.weight[coarser], self.weight[coarser + 1], (at - coarser)[:, None].to(self.weight.dtype))


class FrameDecoder(nn.Module, ABC):
    """Noisy patches, the context, the last frame and the action in, the clean frame out (x0-prediction)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.level = NoiseLevelEmbedding(config.dim)
        self.action = nn.Embedding(config.num_actions, config.dim)
        self.reward = nn.Embedding(1 + 2 * config.reward_ages, config.dim) if config.reward_ages else None
        if self.reward is not None:
            nn.init.zeros_(self.reward.weight)
        self.size = StepSizeEmbedding(config.shortcut, config.dim) if config.shortcut else None

    def forward(
        self, noisy: Tensor, t: Tensor, context: Tensor, last: Tensor, cue: Tensor, size: Tensor | None = None
    ) -> Tensor:
        """Predict the clean frame.

        Args:
            noisy: x_t = (1 - t) x0 + t eps, patches [N, L, P].
            t: Noise levels [N] in (0, 1]; 1 is pure noise.
            context: The encoder's tokens of the last frame [N, L, D].
            last: The view of the last frame [N, L, V].
            cue: int64 [N], the action taken after the last frame and what else is told, see
                :func:`~worldsim.model.cue.cues`.
            size: Of the step that is taken with the guess [N] in (0, 1], for decoders that are told; None: the finest.

        Returns:
            x0 as patches [N, L, P].
        """
        return self.denoise(noisy, self.scene(context, last), self.modulations(t, cue, size))

    @property
    @abstractmethod
    def repeated(self) -> list[nn.Module]:
        """The blocks that run once a denoising step, in order."""

    def condition(self, t: Tensor, cue: Tensor, size: Tensor | None) -> Tensor:
        """What noise levels [N], cues [N] and step sizes [N] have in common for all layers, [N, D]."""
        told = self.level(t)
        if self.reward is None:
            told = told + self.action(cue)
        else:
            told = told + self.action(cue % self.config.num_actions) + self.reward(cue // self.config.num_actions)
        return F.silu(told if self.size is None else told + self.size(size))

    @abstractmethod
    def scene(self, context: Tensor, last: Tensor) -> Tensor:
        """What no noise level and no cue changes, once a frame.

        Args:
            context, last: As :meth:`forward` takes them, with any leading dimensions [..., L, D] and [..., L, V].

        Returns:
            [..., *S], S as :attr:`ModelConfig.scene_shape` says.
        """

    @abstractmethod
    def modulations(self, t: Tensor, cue: Tensor, size: Tensor | None = None) -> list[Tensor]:
        """What noise levels [N], cues [N] and step sizes [N] do, each layer's [N, ...]; see :meth:`forward`.

        Few of either are ever used, so that a player can look these up instead of computing them.
        """

    @abstractmethod
    def denoise(self, noisy: Tensor, scene: Tensor, modulations: Sequence[Tensor]) -> Tensor:
        """As :meth:`forward`, from :meth:`scene` and :meth:`modulations`: the least work between action and frame."""
