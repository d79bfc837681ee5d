"""Squares of frames for a decoder that does the same everywhere: what moves fills a few of a frame's patches.

A ball's bounce is learned from the pixels around it, and a whole frame costs as much again as every square of that size
in it (Patch Diffusion, arXiv 2304.12526, trains on patches for the same reason). Squares of clips are drawn by what
*has* moved, which the decoder is shown: a weight told from what is given moves no best guess. Those of kept frames are
drawn by how badly a patch was foretold (:class:`~worldsim.training.kept.KeptConfig`), which what followed told.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.errors import RunError
from worldsim.model.config import CELL, ModelConfig
from worldsim.model.world_model import WorldModel

CHANGED = 8 / 255 * 2  # of values in [-1, 1]: a made frame's still pixels tremble by less
ANYWHERE = 0.1  # of what is drawn by what has moved, so that what appears where nothing did is learned too
_CHANGED = round(CHANGED * 127.5)  # of uint8 values


@dataclass(frozen=True)
class Crops:
    """Squares of ``side`` x ``side`` patches.

    Attributes:
        layout: Of whole frames.
        side: Patches along a square's side.

    Raises:
        RunError: the decoder knows places by heart, or a square is larger than a frame or does not divide into cells.
    """

    layout: ModelConfig
    side: int

    def __post_init__(self) -> None:
        c, largest = self.layout, min(self.layout.rows, self.layout.columns)
        if c.decoder != "convolutions":
            raise RunError(f"crop needs a decoder that does the same everywhere, not model.decoder={c.decoder}")
        if not 1 <= self.side <= largest:
            raise RunError(f"crop={self.side} is not between 1 and a frame's {largest} patches")
        if self.side * c.patch % (2 * CELL):
            raise RunError(f"crop={self.side} patches of {c.patch} pixels are no multiple of {2 * CELL} pixels")

    @property
    def square(self) -> ModelConfig:
        """The layout of a square."""
        side = self.side * self.layout.patch
        return replace(self.layout, height=side, width=side)

    def within(self, model: WorldModel) -> WorldModel:
        """The same model, with the same weights, whose decoder and patches are those of squares."""
        twin, decoder = copy.copy(model), copy.copy(model.decoder)
        decoder.config = twin.config = replace(self.square, shortcut=model.config.shortcut)
        twin._modules = {**model._modules, "decoder": decoder}
        return twin

    def choose(self, rng: np.random.Generator, busy: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Squares of frames, most often around what has just moved. They begin where the decoder's coarse cells do.

        Args:
            rng: Draws them.
            busy: Patches of each frame that differ from those of the frame before, [N, rows, columns].

        Returns:
            Numbers of the squares' patches [N, side * side].
        """
        n, every = self.side, self._every
        middle = np.minimum(np.arange(n), np.arange(n)[::-1]) + 1.0  # what moves is to have surroundings on all sides
        squares = np.lib.stride_tricks.sliding_window_view(busy, (n, n), (1, 2))[:, ::every, ::every]
        around: NDArray[np.float64] = np.einsum("fyxij,i,j->fyx", squares, middle, middle).reshape(len(busy), -1)
        total = around.sum(1, keepdims=True)
        evenly = 1 / around.shape[1]
        chances = np.where(total > 0, ANYWHERE * evenly + (1 - ANYWHERE) * around / np.maximum(total, 1), evenly)
        at = (chances.cumsum(1) < rng.random((len(busy), 1))).sum(1).clip(max=around.shape[1] - 1)
        top, left = np.divmod(at, squares.shape[2])
        return self._numbers(every * top, every * left)

    def busy_frames(self, frames: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Patches of a clip's frames [T, H, W, 3] but the last that differ from the frame before, [T-1, rows, columns];
        none of the first one's.
        """
        c = self.layout
        change = np.abs(frames[1:-1].astype(np.int16) - frames[:-2]).max(-1) > _CHANGED
        busy = change.reshape(-1, c.rows, c.patch, c.columns, c.patch).any((2, 4))
        return np.concatenate((np.zeros_like(busy[:1], shape=(1, c.rows, c.columns)), busy))

    def around(self, rng: np.random.Generator, patches: NDArray[np.intp]) -> NDArray[np.int64]:
        """Squares with given patches [N] in the middle, or next to it, as far as the frame reaches.

        Returns:
            Numbers of the squares' patches [N, side * side].
        """
        c, n = self.layout, self.side
        first = [at - (n - 1) // 2 - rng.integers(0, 2 - n % 2, len(at)) for at in np.divmod(patches, c.columns)]
        top, left = (
            np.clip(at, 0, most - n) // self._every * self._every
            for at, most in zip(first, (c.rows, c.columns), strict=True)
        )
        return self._numbers(top, left)

    @property
    def _every(self) -> int:
        """Patches from one place where the decoder's coarse cells begin, too, to the next."""
        return 1 if self.layout.patch % (2 * CELL) == 0 else 2

    def _numbers(self, top: NDArray[np.intp], left: NDArray[np.intp]) -> NDArray[np.int64]:
        """Of the patches of squares whose first ones lie in such rows and columns [N]."""
        side = np.arange(self.side)
        rows, columns = top[:, None, None] + side[:, None], left[:, None, None] + side
        numbers: NDArray[np.int64] = (rows * self.layout.columns + columns).reshape(len(top), -1)
        return numbers


def changed(before: Tensor, last: Tensor) -> NDArray[np.bool_]:
    """Which uint8 patches [..., L, P] of frames differ from those of the frames before, [..., L]."""
    change = (last.to(torch.int16) - before.to(torch.int16)).abs_().amax(-1) > _CHANGED
    differs: NDArray[np.bool_] = change.cpu().numpy()
    return differs


def cut(patches: Tensor, squares: Tensor | None) -> Tensor:
    """Of patches [..., L, X] those of squares [..., K], as [..., K, X]; all of them where there are no squares."""
    if squares is None:
        return patches
    return patches.gather(-2, squares[..., None].expand(*squares.shape, patches.shape[-1]))
