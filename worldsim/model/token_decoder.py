"""The decoder of tokens: a small DiT, the plainest of Separable Causal Diffusion's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.attention import MLP, RMSNorm, SpatialAttention
from worldsim.model.config import ModelConfig
from worldsim.model.decoder import FrameDecoder
from worldsim.model.refiner import Refiner
from worldsim.model.standard import Standard


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """``x * (1 + scale) + shift``, with shift and scale [N, D] over tokens [N, L, D]."""
    return torch.addcmul(shift.unsqueeze(-2), x, 1 + scale.unsqueeze(-2))


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


class TokenDecoder(FrameDecoder):
    """Attention within the frame over patches, :class:`DecoderBlock` (DiT, arXiv 2212.09748)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.standard = Standard(config, config.margin) if config.standardised else None
        self.patches = nn.Linear(config.patch_dim + config.view_dim, config.dim)  # noisy | last frame
        self.context = nn.Linear(config.dim, config.dim, bias=False)
        self.position = nn.Parameter(0.5 * torch.randn(config.tokens, config.dim))
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.decoder_layers))
        self.norm = RMSNorm(config.dim, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(config.dim, 2 * config.dim)
        self.out = nn.Linear(config.dim, config.patch_dim)
        self.refiner = Refiner(config) if config.refined else None
        for zero in (self.modulation.weight, self.modulation.bias, self.out.weight, self.out.bias):
            nn.init.zeros_(zero)

    @property
    def repeated(self) -> list[nn.Module]:
        """See :attr:`FrameDecoder.repeated`: all of them."""
        return list(self.blocks)

    def scene(self, context: Tensor, last: Tensor) -> Tensor:
        """See :meth:`FrameDecoder.scene`: tokens [..., L, D]."""
        last = last if self.standard is None else self.standard.views(last)
        seen = F.linear(last, self.patches.weight[:, -last.shape[-1] :], self.patches.bias)
        return seen + self.context(context) + self.position

    def modulations(self, t: Tensor, cue: Tensor, size: Tensor | None = None) -> list[Tensor]:
        """See :meth:`FrameDecoder.modulations`.

        Each block's [N, 6 D], the output's [N, 2 D], the refiner's if there is one, and the levels [N, 1].
        """
        condition = self.condition(t, cue, size)
        layers = [*(block.modulation for block in self._blocks()), self.modulation]
        if self.refiner is not None:
            layers.append(self.refiner.modulation)
        return [*(layer(condition) for layer in layers), t[:, None].to(condition.dtype)]

    def denoise(self, noisy: Tensor, scene: Tensor, modulations: Sequence[Tensor]) -> Tensor:
        """See :meth:`FrameDecoder.denoise`."""
        if self.standard is not None:
            noisy = self.standard.noisy(noisy, modulations[-1].squeeze(-1))
        x = F.linear(noisy, self.patches.weight[:, : noisy.shape[-1]]) + scene
        sight = None
        if self.refiner is not None:
            sight, seen = self.refiner.look(noisy)
            x = x + seen
        for block, modulation in zip(self._blocks(), modulations, strict=False):
            x = block(x, modulation)
        shift, scale = modulations[len(self.blocks)].chunk(2, -1)
        x = modulate(self.norm(x), shift, scale)
        made: Tensor = self.out(x)
        if self.refiner is not None:
            made = self.refiner(made, x, sight, modulations[-2])
        return made if self.standard is None else self.standard.whole(made)

    def _blocks(self) -> Iterator[DecoderBlock]:
        for block in self.blocks:  # ModuleList forgets what it holds
            assert isinstance(block, DecoderBlock)
            yield block
