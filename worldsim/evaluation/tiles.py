"""Tiles (Breakout's bricks): do broken ones stay broken, and does none break untouched?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.vision.reading import Reading
from worldsim.vision.tiles import TileReader

# Pixels between a tile and the middle of the ball that breaks it, a tick before, then or a tick after. Of 1888 bricks
# that broke in recorded play 33 were farther: a ball among bricks cannot always be seen.
REACH = 3.0
REBUILT = 0.5  # of all tiles that come back in one tick: a new wall, and no fault
TALL = 1.0  # half of a ball's height that is not counted as distance


def compare(
    tiles: TileReader,
    before: NDArray[np.bool_],
    dreamed: tuple[NDArray[np.bool_], Reading],
    real: tuple[NDArray[np.bool_], Reading],
    fps: float,
) -> dict[str, Any]:
    """What becomes of tiles in a dream, and in the real game from the same moments under the same actions or policy.

    Args:
        tiles: Where they are.
        before: Which are there before the first frame, [N, R, C].
        dreamed, real: Which are there in every frame, [T, N, R, C], and the balls of the frames, [T, N].
        fps: Frames a second.

    Returns:
        ``dream`` and ``real``, see :func:`count`, and ``alike``: the share of all tiles that are there in both or gone
        from both, in the last frame.
    """
    return {
        "dream": count(tiles, before, *dreamed, fps),
        "real": count(tiles, before, *real, fps),
        "alike": float((dreamed[0][-1] == real[0][-1]).mean()),
    }


def count(
    tiles: TileReader, before: NDArray[np.bool_], there: NDArray[np.bool_], balls: Reading, fps: float
) -> dict[str, Any]:
    """What becomes of tiles.

    Returns:
        ``minutes`` that tiles were gone, of all tiles together; ``back``: how many came back (but for a new wall);
        ``kept``: 1 less those a minute; ``broke``: how many broke; ``untouched``: of these, the share that no ball was
        near.
    """
    was = np.concatenate((before[None], there[:-1]))
    back, broke = there & ~was, was & ~there
    back &= ~(back.mean((2, 3), keepdims=True) > REBUILT)
    minutes = float((~there).sum() / fps / 60)
    return {
        "minutes": minutes,
        "back": int(back.sum()),
        "kept": 1 - float(back.sum()) / minutes if minutes else math.nan,
        "broke": int(broke.sum()),
        "untouched": float((broke & ~near(tiles, balls)).sum() / broke.sum()) if broke.any() else math.nan,
    }


def near(tiles: TileReader, balls: Reading) -> NDArray[np.bool_]:
    """Whether a ball [T, N] is within ``REACH`` of each tile, then or a tick before or after, bool [T, N, R, C]."""
    high, wide = (tiles.bottom - tiles.top) / tiles.rows, (tiles.right - tiles.left) / tiles.columns
    top = tiles.top - 0.5 + high * np.arange(tiles.rows)[:, None]  # pixel indices are of pixels' middles
    left = tiles.left - 0.5 + wide * np.arange(tiles.columns)
    x, y = balls.x[..., None, None], balls.y[..., None, None]
    across = np.maximum(np.maximum(left - x, x - left - wide), 0)
    down = np.maximum(np.maximum(top - y, y - top - high) - TALL, 0)
    close: NDArray[np.bool_] = np.hypot(across, down) <= REACH  # NaN, where there is no ball, is not close
    around = close.copy()
    around[1:] |= close[:-1]
    around[:-1] |= close[1:]
    return around
