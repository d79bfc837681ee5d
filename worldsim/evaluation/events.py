"""Events in time: matching those that were said to those that were, and points read from pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.vision.reading import Reading, Readings

GONE = 5  # ticks without a ball that make it gone, not hidden: it hides for one at the upper and lower edge


def matches(said: NDArray[np.integer[Any]], true: NDArray[np.integer[Any]], tolerance: int) -> int:
    """How many of two rising lists of ticks pair up one to one within ``tolerance`` ticks."""
    found = i = j = 0
    while i < len(said) and j < len(true):
        if abs(int(said[i]) - int(true[j])) <= tolerance:
            found, i, j = found + 1, i + 1, j + 1
        elif said[i] < true[j]:
            i += 1
        else:
            j += 1
    return found


def score(said: NDArray[Any], true: NDArray[Any], tolerance: int = 0) -> dict[str, Any]:
    """Precision and recall of events.

    Args:
        said, true: bool [T, N], rows apart.
        tolerance: Ticks that an event may be early or late.

    Returns:
        ``precision``, ``recall`` (NaN when nothing was said or was), and the counts ``said``, ``true``, ``matched``.
    """
    matched = sum(
        matches(np.flatnonzero(said[:, n]), np.flatnonzero(true[:, n]), tolerance) for n in range(said.shape[1])
    )
    claims, facts = int(said.sum()), int(true.sum())
    return {
        "precision": matched / claims if claims else float("nan"),
        "recall": matched / facts if facts else float("nan"),
        "said": claims,
        "true": facts,
        "matched": matched,
    }


def points(readings: Readings) -> NDArray[np.int64]:
    """Points seen in pictures of a game where a ball is played past an opponent on the left or a player on the right.

    A point is a ball last seen behind a paddle's column and then gone for ``GONE`` ticks.

    Args:
        readings: Of ``ball``, ``player`` and ``opponent``, [T, N].

    Returns:
        int64 [T, N]: +1 for the player, -1 against, at the first tick without the ball.
    """
    ball = readings["ball"]
    seen = ball.count > 0
    left, right = (_column(readings[name]) for name in ("opponent", "player"))
    signs = np.zeros(seen.shape, np.int64)
    for n in range(seen.shape[1]):
        last = np.flatnonzero(seen[:-1, n] & ~seen[1:, n])
        for tick in last.tolist():
            after = seen[tick + 1 : tick + 1 + GONE, n]
            if len(after) == GONE and not after.any():
                signs[tick + 1, n] = int(ball.x[tick, n] < left) - int(ball.x[tick, n] > right)
    return signs


def _column(reading: Reading) -> float:
    """Where an object that moves up and down stands; NaN, which nothing is behind, if it is never seen."""
    seen = reading.x[reading.present]
    return float(np.median(seen)) if len(seen) else float("nan")
