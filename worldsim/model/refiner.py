"""Convolutions before and after a transformer of patches: there the noisy frame shows what nobody could know before."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.config import CELL, ModelConfig
from worldsim.model.convolution import Conv, ConvBlock, modulate
from worldsim.model.patches import from_cells, to_cells

WIDTH = 32  # channels
HINTS = 16  # values that a token says of each cell
BLOCKS = 2  # after the transformer; one is before it


class Refiner(nn.Module):
    """A few convolutions over cells of 2x2 pixels, around a transformer of patches.

    A token holds fewer values than its patch, and what is to be seen in a noisy patch has to be learned for every place
    in it, in and out again, from the few frames where nothing else tells of it: a decoder of tokens hardly did
    (docs/experiments/2026-12-01-fortieth-shorts.md). Convolutions learn it once. What they see goes to the tokens,
    which tell what is one thing from what only looks like it, and on to those that draw: the shape of a U-Net, with the
    transformer at its bottom. At first they add nothing.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, values, cells = config, 3 * CELL**2, (config.patch // CELL) ** 2
        self.sight = Conv(values, WIDTH)
        self.seen = nn.Linear(WIDTH * cells, config.dim, bias=False)
        self.hints = nn.Linear(config.dim, HINTS * cells, bias=False)
        self.first = Conv(WIDTH + HINTS + values, WIDTH)
        self.blocks = nn.ModuleList(ConvBlock(WIDTH) for _ in range(1 + BLOCKS))
        self.modulation = nn.Linear(config.dim, self.modulations)
        self.out = Conv(WIDTH, values)
        for zero in (self.seen.weight, self.out.weight, self.modulation.weight, self.modulation.bias):
            nn.init.zeros_(zero)

    @property
    def modulations(self) -> int:
        """Values (M) by which noise levels and actions change what it draws."""
        return 2 * WIDTH * (BLOCKS + 1)

    def look(self, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """What is to be seen in frames.

        Args:
            noisy: Patches [N, L, P], as the transformer sees them.

        Returns:
            For :meth:`forward` [N, C, H / 2, W / 2], and what is added to tokens [N, L, D].
        """
        sight: Tensor = self.blocks[0](self.sight(to_cells(noisy, self.config, 3, CELL)))
        return sight, self.seen(from_cells(sight, self.config, WIDTH, 1))

    def forward(self, made: Tensor, tokens: Tensor, sight: Tensor, modulation: Tensor) -> Tensor:
        """The frame that tokens foretell, with what the noisy one shows.

        Args:
            made: Foretold patches [N, L, P].
            tokens: Of which they were made [N, L, D].
            sight: Of :meth:`look`.
            modulation: [N, M], of :attr:`modulation`.

        Returns:
            [N, L, P].
        """
        c = self.config
        *inner, last = modulation.split(2 * WIDTH, -1)
        x = self.first(torch.cat((sight, to_cells(self.hints(tokens), c, HINTS, 1), to_cells(made, c, 3, CELL)), 1))
        for block, told in zip(list(self.blocks)[1:], inner, strict=True):
            x = block(x, told)
        return made + from_cells(self.out(F.relu(modulate(x, last))), c, 3, CELL)
