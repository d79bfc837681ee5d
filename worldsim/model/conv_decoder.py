"""The decoder of convolutions: what a thing does next is learned once for all places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.config import CELL, ModelConfig
from worldsim.model.convolution import Conv, ConvBlock, GridAttention, Upscale, modulate
from worldsim.model.decoder import FrameDecoder, without_margin
from worldsim.model.patches import from_cells, to_cells


class ConvDecoder(FrameDecoder):
    """A small U-Net (arXiv 1505.04597) over cells of 2x2 pixels.

    What a thing does next (fly on, bounce, obey a key) is the same wherever it is, and convolutions learn it once;
    tokens had to learn it for every place in a patch, and in a million frames did not (docs/experiments). What no
    neighbourhood tells (how the game stands, where the opponent is heading, when the ball is served) is in the context,
    of which every cell is given its part. What is chosen in several places at once, they agree upon by attention
    (``decoder_heads``).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        fine, coarse, values = config.decoder_width, 2 * config.decoder_width, 3 * CELL**2
        self.context = nn.Linear(config.dim, fine * (config.patch // CELL) ** 2, bias=False)
        # Of the last frame, of its change and those before and, with extrapolation, of the change that is due.
        self.seen = Conv((config.history + bool(config.extrapolated)) * values, fine)
        self.noisy = Conv(values, fine)
        self.down, self.up = Conv(fine, coarse, side=2), Upscale(coarse, fine)
        widths = [fine, *[coarse] * config.decoder_layers, fine]
        self.blocks = nn.ModuleList(ConvBlock(width) for width in [fine, *widths])  # the first is the scene's
        grid = config.height // (2 * CELL), config.width // (2 * CELL)
        self.mixing = GridAttention(coarse, config.decoder_heads, *grid) if config.decoder_heads else None
        self.modulation = nn.ModuleList(nn.Linear(config.dim, 2 * width) for width in [*widths, fine])
        self.out = Conv(fine, values)
        for layer in self.modulation:
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.weight)
        # Else every cell begins with a bias of its own, and convolutions learn each place by itself again: after the
        # same 22 k moments the error of straight flight was .63 instead of .16 (docs/experiments, the fifteenth Pong).
        nn.init.zeros_(self.context.weight)

    @property
    def repeated(self) -> list[nn.Module]:
        """See :attr:`FrameDecoder.repeated`: all but the scene's."""
        return list(self.blocks)[1:]

    def scene(self, context: Tensor, last: Tensor) -> Tensor:
        """See :meth:`FrameDecoder.scene`: features of every cell [..., H / 2, W / 2, C]."""
        c, lead = self.config, context.shape[:-2]
        seen, change, rest = last.flatten(0, -3).split((c.seen_dim, c.seen_dim, c.view_dim - 2 * c.seen_dim), -1)
        older = rest.split(c.patch_dim, -1) if rest.numel() else ()
        x = self._scene(context.flatten(0, -3), [without_margin(seen, c), without_margin(change, c), *older])
        return x.permute(0, 2, 3, 1).unflatten(0, lead)

    def scene_of(self, context: Tensor, past: Tensor) -> Tensor:
        """As :meth:`scene` where nothing is extrapolated, from patches of the last frames.

        Args:
            context: [N, L, D].
            past: [N, history, L, P], the newest last.

        Returns:
            [N, H / 2, W / 2, C].
        """
        frames = past.unbind(1)[::-1]
        changes = [one - other for one, other in zip(frames, frames[1:], strict=False)]
        return self._scene(context, [frames[0], *changes]).permute(0, 2, 3, 1)

    def _scene(self, context: Tensor, frames: Sequence[Tensor]) -> Tensor:
        told = to_cells(self.context(context), self.config, self.config.decoder_width, 1)
        x = told + self.seen(torch.cat([to_cells(patches, self.config, 3, CELL) for patches in frames], 1))
        return self._blocks()[0](x)

    def modulations(self, t: Tensor, cue: Tensor, size: Tensor | None = None) -> list[Tensor]:
        """See :meth:`FrameDecoder.modulations`: each block's and the output's shifts and scales [N, 2 C]."""
        condition = self.condition(t, cue, size)
        return [layer(condition) for layer in self.modulation]

    def denoise(self, noisy: Tensor, scene: Tensor, modulations: Sequence[Tensor]) -> Tensor:
        """See :meth:`FrameDecoder.denoise`."""
        first, *middle, last = zip(self._blocks()[1:], modulations, strict=False)
        x = scene.permute(0, 3, 1, 2) + self.noisy(to_cells(noisy, self.config, 3, CELL))
        x = first[0](x, first[1])
        y = self.down(x)
        for at, (block, modulation) in enumerate(middle):
            y = block(y, modulation)
            if self.mixing is not None and not at:  # the blocks that follow can make use of it
                y = self.mixing(y)
        x = last[0](x + self.up(y), last[1])
        return from_cells(self.out(F.relu(modulate(x, modulations[-1]))), self.config, 3, CELL)

    def _blocks(self) -> list[ConvBlock]:
        return [block for block in self.blocks if isinstance(block, ConvBlock)]  # ModuleList forgets what it holds
