"""What tokens foretell, gone over pixel by pixel: there the noisy frame shows what nobody could know before."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from worldsim.model.config import CELL, ModelConfig
from worldsim.model.convolution import Conv, ConvBlock, modulate
from worldsim.model.patches import from_cells, to_cells

WIDTH = 32  # channels
HINTS = 16  # values that a token says of each cell
BLOCKS = 2


class Refiner(nn.Module):
    """A few convolutions over cells of 2x2 pixels, after a transformer of patches.

    A token holds fewer values than its patch, and what is to be seen in a noisy patch has to be learned for every place
    in it, in and out again, from the few frames where nothing else tells of it: a decoder of tokens hardly did.
    Convolutions learn it once: after 450 steps a ball that has turned is drawn at .56 of its brightness from a frame at
    a noise level of .25, where it was .15 (docs/experiments/2026-12-01-fortieth-shorts.md). At first they add nothing.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, values = config, 3 * CELL**2
        self.hints = nn.Linear(config.dim, HINTS * (config.patch // CELL) ** 2, bias=False)
        self.first = Conv(2 * values + HINTS, WIDTH)
        self.blocks = nn.ModuleList(ConvBlock(WIDTH) for _ in range(BLOCKS))
        self.modulation = nn.Linear(config.dim, self.modulations)
        self.out = Conv(WIDTH, values)
        for zero in (self.out.weight, self.modulation.weight, self.modulation.bias):
            nn.init.zeros_(zero)

    @property
    def modulations(self) -> int:
        """Values (M) by which noise levels and actions change what it does."""
        return 2 * WIDTH * (BLOCKS + 1)

    def forward(self, made: Tensor, tokens: Tensor, noisy: Tensor, modulation: Tensor) -> Tensor:
        """The frame that tokens foretell, with what the noisy one shows.

        Args:
            made: Foretold patches [N, L, P].
            tokens: Of which they were made [N, L, D].
            noisy: Patches [N, L, P], as the transformer sees them.
            modulation: [N, M], of :attr:`modulation`.

        Returns:
            [N, L, P].
        """
        c = self.config
        seen = to_cells(made, c, 3, CELL), to_cells(noisy, c, 3, CELL), to_cells(self.hints(tokens), c, HINTS, 1)
        *inner, last = modulation.split(2 * WIDTH, -1)
        x = self.first(torch.cat(seen, 1))
        for block, told in zip(self.blocks, inner, strict=True):
            x = block(x, told)
        return made + from_cells(self.out(F.relu(modulate(x, last))), c)
