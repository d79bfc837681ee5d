"""What is seen of the objects in a picture, whoever looks: colours or a learned probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

#: A blob of this share of an object's size is an object: a faint second ball is a second ball.
COUNTED = 0.2
#: "Of the real size +-40 %".
SIZE_TOLERANCE = 0.4
#: Of one that is sharp: "+-25 %".
SHARP_TOLERANCE = 0.25
#: Pixels within which an object of a dream still is where the recording has it.
IN_STEP = 1.5


@dataclass(frozen=True, eq=False)
class Reading:
    """What is seen of one kind of object in pictures of any leading shape.

    Attributes:
        count: int64, blobs of at least ``COUNTED`` of an object's size.
        size: float32, size of the biggest blob over that of a whole object (of the part of it that can be in the
            picture where the blob is); 0 without one.
        x, y: float32, centre of the biggest blob in pixel indices; NaN without one.
    """

    count: NDArray[np.int64]
    size: NDArray[np.float32]
    x: NDArray[np.float32]
    y: NDArray[np.float32]

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether at least one is there that is not too small."""
        return self.size >= 1 - SIZE_TOLERANCE

    @property
    def single(self) -> NDArray[np.bool_]:
        """Whether exactly one is there, of the real size within the tolerance."""
        return (self.count == 1) & (np.abs(self.size - 1) <= SIZE_TOLERANCE)

    @property
    def sharp(self) -> NDArray[np.bool_]:
        """Whether exactly one is there, of the real size within the closer tolerance."""
        return (self.count == 1) & (np.abs(self.size - 1) <= SHARP_TOLERANCE)

    def __getitem__(self, index: Any) -> Reading:
        """The same part of every array."""
        return Reading(self.count[index], self.size[index], self.x[index], self.y[index])

    def reshape(self, *shape: int) -> Reading:
        """Every array in another shape."""
        return Reading(*(array.reshape(shape) for array in self.arrays))

    @property
    def arrays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
        """The fields in order."""
        return self.count, self.size, self.x, self.y


Readings = dict[str, Reading]


class Reader(Protocol):
    """Finds objects in pictures.

    Attributes:
        name: How it looks, for the report.
        objects: What it looks for.
        counts: Whether it can see a second object of a kind.
    """

    name: str
    objects: tuple[str, ...]
    counts: bool

    def read(self, frames: NDArray[np.uint8]) -> Readings:
        """Readings by object of uint8 [..., H, W, 3], each of the leading shape."""
        ...


def joined(parts: Sequence[Readings]) -> Readings:
    """Readings of several stretches of pictures as one, along the first axis."""
    return {name: join([part[name] for part in parts]) for name in parts[0]}


def join(parts: Sequence[Reading]) -> Reading:
    """Readings of one kind of object as one, along the first axis."""
    return Reading(*(np.concatenate(arrays) for arrays in zip(*(part.arrays for part in parts), strict=True)))


def distance(a: Reading, b: Reading) -> NDArray[np.float64]:
    """Pixels between the objects of two readings; infinite where the first has none, NaN where the second has none.

    The second is the truth: a missing dream object is as wrong as can be, a missing real one says nothing.
    """
    apart = np.hypot(a.x.astype(np.float64) - b.x, a.y.astype(np.float64) - b.y)
    apart = np.where(a.present, apart, np.inf)
    return np.where(b.present, apart, np.nan)


def as_state(readings: Readings, row: int) -> dict[str, float]:
    """One picture's objects in the form of a source's state, for players that were written for it."""
    state = {}
    for name, reading in readings.items():
        seen = bool(reading.present[row])
        state[f"{name}_x"] = float(reading.x[row]) if seen else float("nan")
        state[f"{name}_y"] = float(reading.y[row]) if seen else float("nan")
    return state
