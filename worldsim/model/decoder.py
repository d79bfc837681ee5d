"""The frame-wise diffusion decoder: the only part that sees the current action, run once a denoising step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.config import CELL, ModelConfig
from worldsim.model.convolution import Conv, ConvBlock, Upscale, modulate


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


class FrameDecoder(nn.Module):
    """Noisy patches, the context, the last frame and the action in, the clean frame out (x0-prediction).

    A small U-Net (arXiv 1505.04597) over cells of 2x2 pixels. What a thing does next (fly on, bounce, obey a key) is
    the same wherever it is, and convolutions learn it once; tokens had to learn it for every place in a patch, and in
    a million frames did not (docs/experiments). What no neighbourhood tells (how the game stands, where the opponent
    is heading, when the ball is served) is in the context, of which every cell is given its part.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        fine, coarse, values = config.decoder_width, 2 * config.decoder_width, 3 * CELL**2
        self.context = nn.Linear(config.dim, fine * (config.patch // CELL) ** 2, bias=False)
        self.seen = Conv(3 * values, fine)  # the last frame, its change, and the change that is due
        self.noisy = Conv(values, fine)
        self.level = NoiseLevelEmbedding(config.dim)
        self.action = nn.Embedding(config.num_actions, config.dim)
        self.down, self.up = Conv(fine, coarse, side=2), Upscale(coarse, fine)
        widths = [fine, *[coarse] * config.decoder_layers, fine]
        self.past = nn.ModuleDict({"blocks": nn.ModuleList([ConvBlock(fine)])})
        self.blocks = nn.ModuleList(ConvBlock(width) for width in widths)
        self.modulation = nn.ModuleList(nn.Linear(config.dim, 2 * width) for width in [*widths, fine])
        self.out = Conv(fine, values)
        for layer in self.modulation:
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.weight)

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

        Args:
            context, last: As :meth:`forward` takes them, with any leading dimensions [..., L, D] and [..., L, V].

        Returns:
            [..., H / 2, W / 2, C], features of every cell.
        """
        c, lead = self.config, context.shape[:-2]
        seen, change, due = last.flatten(0, -3).split((c.seen_dim, c.seen_dim, c.patch_dim), -1)
        frames = (without_margin(seen, c), without_margin(change, c), due)
        told = self._cells(self.context(context.flatten(0, -3)), c.decoder_width, 1)
        x = told + self.seen(torch.cat([self._cells(patches, 3, CELL) for patches in frames], 1))
        return self._past()(x).permute(0, 2, 3, 1).unflatten(0, lead)

    def modulations(self, t: Tensor, action: Tensor) -> list[Tensor]:
        """What noise levels [N] and actions [N] do, each block's and the output's [N, 2 C].

        Few of either are ever used, so that a player can look these up instead of computing them.
        """
        condition = F.silu(self.level(t) + self.action(action))
        return [layer(condition) for layer in self.modulation]

    def denoise(self, noisy: Tensor, scene: Tensor, modulations: Sequence[Tensor]) -> Tensor:
        """As :meth:`forward`, from :meth:`scene` and :meth:`modulations`: the least work between action and frame."""
        first, *middle, last = zip(self._blocks(), modulations, strict=False)
        x = scene.permute(0, 3, 1, 2) + self.noisy(self._cells(noisy, 3, CELL))
        x = first[0](x, first[1])
        y = self.down(x)
        for block, modulation in middle:
            y = block(y, modulation)
        x = last[0](x + self.up(y), last[1])
        return self._patches(self.out(F.relu(modulate(x, modulations[-1]))))

    def _cells(self, patches: Tensor, channels: int, side: int) -> Tensor:
        """Patches [N, L, ...], of squares of ``side`` values a cell, to cells [N, channels * side**2, H / 2, W / 2]."""
        c = self.config
        cells = c.patch // CELL
        grid = patches.reshape(-1, c.rows, c.columns, cells, side, cells, side, channels)
        grid = grid.permute(0, 1, 3, 2, 5, 4, 6, 7)
        return grid.reshape(-1, c.rows * cells, c.columns * cells, channels * side**2).permute(0, 3, 1, 2)

    def _patches(self, cells: Tensor) -> Tensor:
        """Cells [N, 3 * CELL**2, H / 2, W / 2] to patches [N, L, P]."""
        c = self.config
        grid = cells.permute(0, 2, 3, 1).reshape(-1, c.rows, c.patch // CELL, c.columns, c.patch // CELL, CELL, CELL, 3)
        return grid.permute(0, 1, 3, 2, 5, 4, 6, 7).reshape(-1, c.tokens, c.patch_dim)

    def _past(self) -> ConvBlock:
        (block,) = self.past["blocks"]
        assert isinstance(block, ConvBlock)
        return block

    def _blocks(self) -> Iterator[ConvBlock]:
        for block in self.blocks:  # ModuleList forgets what it holds
            assert isinstance(block, ConvBlock)
            yield block
