"""The frame-wise diffusion decoder: the only part that sees the current action, run once a denoising step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.attention import MLP, RMSNorm, SpatialAttention
from worldsim.model.config import ModelConfig
from worldsim.model.motion import without_margin


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x * (1 + scale) + shift``, with shift and scale [N, D] over tokens [N, L, D]."""
    return torch.addcmul(shift.unsqueeze(-2), x, 1 + scale.unsqueeze(-2))


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


class DecoderBlock(nn.Module):
    """Attention within the frame and MLP, modulated by AdaLN-Zero (DiT, arXiv 2212.09748)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.dim, eps=1e-6, elementwise_affine=False)
        self.space = SpatialAttention(config.dim, config.heads, config.rows, config.columns)
        self.mlp = MLP(config.dim, config.mlp_ratio)
        self.modulation = nn.Linear(config.dim, 6 * config.dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:  # [N, L, D], [N, 6 D] -> [N, L, D]
        shift, scale, gate, shift2, scale2, gate2 = modulation.chunk(6, -1)
        x = torch.addcmul(x, gate.unsqueeze(-2), self.space(modulate(self.norm(x), shift, scale)))
        return torch.addcmul(x, gate2.unsqueeze(-2), self.mlp(modulate(self.norm(x), shift2, scale2)))


class FrameDecoder(nn.Module):
    """Noisy patches, the context, the last frame and the action in, the clean frame out (x0-prediction).

    With extrapolation every pixel is a blend of what the layers draw and of the frame that follows if motion goes on,
    as masks blend predictions of video (arXiv 1605.07157). Were what they draw added to that frame, it would have to
    take away whatever was drawn wrong before; such roll-outs ran away (docs/experiments).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Linear(config.patch_dim + config.view_dim, config.dim)  # noisy | last frame
        self.context = nn.Linear(config.dim, config.dim, bias=False)
        self.position = nn.Parameter(0.5 * torch.randn(config.tokens, config.dim))
        self.level = NoiseLevelEmbedding(config.dim)
        self.action = nn.Embedding(config.num_actions, config.dim)
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.decoder_layers))
        self.norm = RMSNorm(config.dim, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(config.dim, 2 * config.dim)
        blends = config.patch**2 if config.extrapolated else 0
        self.out = nn.Linear(config.dim, config.patch_dim + blends)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, noisy: Tensor, t: Tensor, context: Tensor, last: Tensor, action: Tensor) -> Tensor:
        """Predict the clean frame.

        Args:
            noisy: x_t = (1 - t) x0 + t eps, patches [N, L, P].
            t: Noise levels [N] in (0, 1]; 1 is pure noise.
            context: The encoder's tokens of the last frame [N, L, D].
            last: The view of the last frame [N, L, V].
            action: int64 [N], the action taken after the last frame.

        Returns:
            x0 as patches [N, L, P].
        """
        return self.denoise(noisy, self.scene(context, last), self.modulations(t, action))

    def scene(self, context: Tensor, last: Tensor) -> Tensor:
        """What no noise level and no action changes, once a frame.

        Returns:
            [N, L, S]: tokens of width D and, with extrapolation, the patches that follow if motion goes on (P).
        """
        seen = F.linear(last, self.patches.weight[:, -last.shape[-1] :], self.patches.bias)
        tokens = seen + self.context(context) + self.position
        if not self.config.extrapolated:
            return tokens
        frame = without_margin(last[..., : self.config.seen_dim], self.config)
        return torch.cat((tokens, frame + last[..., -self.config.patch_dim :]), -1)

    def modulations(self, t: Tensor, action: Tensor) -> list[Tensor]:
        """What noise levels [N] and actions [N] do, each block's [N, 6 D] and the output's [N, 2 D].

        Few of either are ever used, so that a player can look these up instead of computing them.
        """
        condition = F.silu(self.level(t) + self.action(action))
        return [block.modulation(condition) for block in self._blocks()] + [self.modulation(condition)]

    def denoise(self, noisy: Tensor, scene: Tensor, modulations: Sequence[Tensor]) -> Tensor:
        """As :meth:`forward`, from :meth:`scene` and :meth:`modulations`: the least work between action and frame."""
        dim = self.position.shape[-1]
        x = F.linear(noisy, self.patches.weight[:, : noisy.shape[-1]]) + scene[..., :dim]
        for block, modulation in zip(self._blocks(), modulations, strict=False):
            x = block(x, modulation)
        shift, scale = modulations[-1].chunk(2, -1)
        return self.blend(self.out(modulate(self.norm(x), shift, scale)), scene)

    def blend(self, out: Tensor, scene: Tensor) -> Tensor:
        """The layers' output to patches: with extrapolation, a share of what follows in place of what is drawn."""
        c = self.config
        if not c.extrapolated:
            return out
        drawn, blend = out.split((c.patch_dim, c.patch**2), -1)
        share = blend.sigmoid().unsqueeze(-1)  # [N, L, pixels, 1]
        mixed = torch.lerp(drawn.unflatten(-1, (-1, 3)), scene[..., c.dim :].unflatten(-1, (-1, 3)), share)
        return mixed.flatten(-2)

    def _blocks(self) -> Iterator[DecoderBlock]:
        for block in self.blocks:  # ModuleList forgets what it holds
            assert isinstance(block, DecoderBlock)
            yield block
