"""Things that fill the cells of a grid and may be gone from them: which cells are filled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import SourceError

TILES = "tiles"


class TileReader:
    """Tells which cells of a grid hold a tile, by its row's colour.

    A cell holds one where what it shows is, on average over its pixels and along the line from the background's colour
    to the tile's, nearer to the tile: a ball that covers a sixth of a cell is none.

    Args:
        tiles: ``{area: [top, bottom, left, right], columns: n, colours: [[r, g, b] of each row]}`` in frame pixels.
        background: Colour [3] of a cell without one.

    Raises:
        SourceError: the area does not divide into whole pixels, or a colour is the background's.
    """

    def __init__(self, tiles: Mapping[str, Any], background: NDArray[np.float32]) -> None:
        self.top, self.bottom, self.left, self.right = (round(edge) for edge in tiles["area"])
        self.rows, self.columns = len(tiles["colours"]), int(tiles["columns"])
        if not fits(tiles):
            cells = f"{self.rows}x{self.columns} cells of whole pixels"
            raise SourceError(f"tiles fill {cells}, which the area {tiles['area']} does not hold: mend the config")
        self._background = background
        colours = np.array(tiles["colours"], np.float32) - background
        strength = (colours**2).sum(-1, keepdims=True)
        if not strength.min() > 100:
            raise SourceError("tiles are told from the background by their colours: give each row one of its own")
        self._along = colours / strength  # [R, 3]

    def read(self, frames: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Whether each cell holds a tile, bool [..., R, C] of frames [..., H, W, 3]."""
        field = frames[..., self.top : self.bottom, self.left : self.right, :].astype(np.float32) - self._background
        high, wide = field.shape[-3] // self.rows, field.shape[-2] // self.columns
        cells = field.reshape(*frames.shape[:-3], self.rows, high, self.columns, wide, 3).mean((-4, -2))
        filled: NDArray[np.bool_] = np.einsum("...rcx,rx->...rc", cells, self._along) > 0.5
        return filled

    def without(self, frames: NDArray[np.float32], filled: NDArray[np.bool_]) -> None:
        """Take the tiles out of pictures [..., H, W, 3] that are differences from the background, in place."""
        high = (self.bottom - self.top) // self.rows
        wide = (self.right - self.left) // self.columns
        pixels = filled.repeat(high, -2).repeat(wide, -1)
        frames[..., self.top : self.bottom, self.left : self.right, :][pixels] = 0


def fits(tiles: Mapping[str, Any]) -> bool:
    """Whether the cells of a grid are of whole pixels: resized frames may not have such."""
    top, bottom, left, right = tiles["area"]
    height, width = (bottom - top) / len(tiles["colours"]), (right - left) / tiles["columns"]
    return all(float(one).is_integer() for one in (top, left, height, width)) and min(height, width) >= 1
