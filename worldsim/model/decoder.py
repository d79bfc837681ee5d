"""The frame-wise diffusion decoder: the only part that sees the current action, run once a denoising step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.attention import MLP, RMSNorm, SpatialAttention
from worldsim.model.config import ModelConfig
from worldsim.model.motion import CERTAIN, Displace, without_margin

DOUBT = 2.0  # against what is moved: at first, little of it is shown


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x * (1 + scale) + shift``, with shift and scale [N, D] over tokens [N, L, D]."""
    return torch.addcmul(shift.unsqueeze(-2), x, 1 + scale.unsqueeze(-2))


def choose(logits: Tensor) -> Tensor:
    """One-hot of the likeliest along the last dimension, with the gradient of the chances (straight-through).

    Moved by a mixture of displacements, a paddle blurs a little more every tick, and a ball has ghosts.
    """
    hard = (logits == logits.amax(-1, keepdim=True)).to(logits.dtype)
    hard = hard / hard.sum(-1, keepdim=True)  # ties: a mixture after all
    if not logits.requires_grad:
        return hard
    soft = logits.softmax(-1)
    return hard + soft - soft.detach()


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

    With extrapolation every pixel is a blend of three: what the layers draw, the frame that follows if motion goes on,
    and the last frame moved by a displacement that the layers choose for the token. Masks blend predictions of video so
    in arXiv 1605.07157. A thing that turns, or obeys a key, need not be drawn then: it is enough to say where it goes,
    which is the same to say wherever it is. Were what is drawn added to the frame that follows, it would have to take
    away whatever was drawn wrong before; such roll-outs ran away (docs/experiments).
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
        more = 2 * config.patch**2 + config.displacements if config.extrapolated else 0
        self.out = nn.Linear(config.dim, config.patch_dim + more)
        self.displace = Displace(config) if config.extrapolated else None
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
            [N, L, S]: tokens of width D and, with extrapolation, the patches that follow if motion goes on (P), and
            of the view the patches with margin and the displacements that motion goes by.
        """
        seen = F.linear(last, self.patches.weight[:, -last.shape[-1] :], self.patches.bias)
        tokens = seen + self.context(context) + self.position
        if not self.config.extrapolated:
            return tokens
        return torch.cat((tokens, *self.candidates(last)), -1)

    def candidates(self, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a view [..., V] has for :meth:`blend`: patches that follow, patches with margin, and displacements."""
        c = self.config
        seen, _, due, match = last.split((c.seen_dim, c.patch_dim, c.patch_dim, c.displacements), -1)
        return without_margin(seen, c) + due, seen, match

    def modulations(self, t: Tensor, action: Tensor) -> list[Tensor]:
        """What noise levels [N] and actions [N] do, each block's [N, 6 D] and the output's [N, 2 D].

        Few of either are ever used, so that a player can look these up instead of computing them.
        """
        condition = F.silu(self.level(t) + self.action(action))
        return [block.modulation(condition) for block in self._blocks()] + [self.modulation(condition)]

    def denoise(self, noisy: Tensor, scene: Tensor, modulations: Sequence[Tensor]) -> Tensor:
        """As :meth:`forward`, from :meth:`scene` and :meth:`modulations`: the least work between action and frame."""
        return self.denoise_and_move(noisy, scene, modulations)[0]

    def denoise_and_move(
        self, noisy: Tensor, scene: Tensor, modulations: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        """:meth:`denoise`, and float32 logits [N, L, 2 taps] of the displacements that the last frame is moved by;
        None without extrapolation.
        """
        dim = self.position.shape[-1]
        x = F.linear(noisy, self.patches.weight[:, : noisy.shape[-1]]) + scene[..., :dim]
        for block, modulation in zip(self._blocks(), modulations, strict=False):
            x = block(x, modulation)
        shift, scale = modulations[-1].chunk(2, -1)
        return self.blend(self.out(modulate(self.norm(x), shift, scale)), scene)

    def blend(self, out: Tensor, scene: Tensor) -> tuple[Tensor, Tensor | None]:
        """The layers' output [N, L, O] to patches [N, L, P], and with extrapolation logits of displacements."""
        c = self.config
        if self.displace is None:
            return out, None
        drawn, due_share, moved_share, said = out.split((c.patch_dim, c.patch**2, c.patch**2, c.displacements), -1)
        due, seen, match = scene[..., c.dim :].split((c.patch_dim, c.seen_dim, c.displacements), -1)
        logits = said.float() + CERTAIN * match.detach().float()
        chosen = choose(logits.flatten(0, 1).unflatten(-1, (2, -1))).to(out.dtype)  # [N L, 2, taps]
        moved = self.displace(chosen[:, 0], chosen[:, 1], seen.detach().flatten(0, 1))
        due = due.detach().unflatten(-1, (-1, 3))
        mixed = torch.lerp(drawn.unflatten(-1, (-1, 3)), due, due_share.sigmoid().unsqueeze(-1))
        moved = moved.view_as(mixed)
        mixed = torch.lerp(mixed, moved, (moved_share - DOUBT).sigmoid().unsqueeze(-1))
        return mixed.flatten(-2), logits

    def _blocks(self) -> Iterator[DecoderBlock]:
        for block in self.blocks:  # ModuleList forgets what it holds
            assert isinstance(block, DecoderBlock)
            yield block
