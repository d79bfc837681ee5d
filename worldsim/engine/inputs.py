"""What callers hand to a session, checked before anything changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import ActionError, WorldsimError


def check_actions(actions: Sequence[int] | NDArray[np.integer], batch: int, count: int) -> NDArray[np.int64]:
    """Actions as int64 [B].

    Raises:
        ActionError: not whole numbers (floats and booleans are refused), not [B], or outside 0 ... count - 1.
    """
    try:
        array = np.asarray(actions)
    except ValueError as error:  # a ragged list
        raise ActionError(f"actions must have shape [{batch}], one for each row, not {actions!r}") from error
    if array.dtype.kind not in "iu":
        given = repr(actions).replace("\n", " ")[:80]
        raise ActionError(f"actions must be whole numbers from 0 to {count - 1}, not {array.dtype}: {given}")
    if array.shape != (batch,):
        raise ActionError(f"actions must have shape [{batch}], one for each row, not {list(array.shape)}")
    outside = array[(array < 0) | (array >= count)]
    if len(outside):
        raise ActionError(f"action {outside[0]} is out of range: the actions are 0 to {count - 1}")
    return array.astype(np.int64)


def check_rows(rows: Sequence[int] | NDArray[np.integer] | None, batch: int) -> list[int]:
    """Row numbers as a list; ``None`` is all of them.

    Raises:
        WorldsimError: none, twice the same, not whole numbers, or outside 0 ... batch - 1.
    """
    if rows is None:
        return list(range(batch))
    array = np.asarray(rows)
    whole = array.ndim == 1 and len(array) and array.dtype.kind in "iu"
    if not whole or len(set(array.tolist())) < len(array) or array.min() < 0 or array.max() >= batch:
        raise WorldsimError(f"rows must be different whole numbers from 0 to {batch - 1}, not {rows!r}")
    chosen: list[int] = array.tolist()
    return chosen


def check_seeds(seed: int | Sequence[int], count: int) -> list[int]:
    """One seed for each of ``count`` rows: ``seed + k``, or ``seed[k]``.

    Raises:
        WorldsimError: not whole numbers, or not as many as rows.
    """
    one = isinstance(seed, int | np.integer)
    given: list[Any] = [seed] * count if one else list(np.asarray(seed, dtype=object).ravel())
    whole = all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in given)
    if not whole or len(given) != count:
        raise WorldsimError(f"seed must be one whole number, or one for each of {count} rows, not {seed!r}")
    # PyTorch takes 64 bits; a seed here may be any whole number.
    return [(int(value) + (k if one else 0)) % 2**63 for k, value in enumerate(given)]
