"""Steps of short clips around moments at which a thing turns or goes, for designs of any kind.

A ball meets a paddle in one tick of seventy, and a clip that is long enough for what a model remembers holds not even
one such moment: after 1500 steps of 48 frames balls flew as they should at all speeds, and of those that turned in the
tick that was foretold a thirtieth was drawn (docs/experiments/2026-11-30-thirty-ninth-standard.md). What happens there
is told by the few frames before, so some steps see many short clips around such moments in place of a few long ones.
Where things go is among them as often as where they turn: what may be hit or missed is not to be hit more often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from worldsim.data.clips import ClipStore, PackedEpisode
from worldsim.errors import RunError
from worldsim.training.turns import going, turning
from worldsim.vision.colours import ColourReader

_READ = 2048  # frames at once
_GONE = 4  # frames without it: a ball before a paddle may be hidden for one


@dataclass(frozen=True)
class ShortsConfig:
    """Which steps are of short clips.

    Attributes:
        about: Of the source's objects, those around whose moments.
        share: Of the steps of the whole model.
        frames: In a clip, at least; a step has as many frames as it has of long ones.

    Raises:
        RunError: ``share`` is none, nothing is named, or ``frames`` are no clip.
    """

    about: tuple[str, ...] = ()
    share: float = 0.5
    frames: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or not self.about or self.frames < 4:
            raise RunError("shorts need about=[<object>, ...], share between 0 and 1, and at least 4 frames, or null")


@dataclass(frozen=True)
class Shorts:
    """Short clips, and when and in which number they are learned from.

    Attributes:
        clips: They themselves.
        share: Of the steps.
        each: Of them in place of one long clip.
    """

    clips: ClipStore
    share: float
    each: int

    @classmethod
    def of(
        cls, store: ClipStore, how: ShortsConfig, reader: ColourReader, *, frames: int | None, given: int
    ) -> Shorts:
        """Find the moments in all of a store's episodes.

        Args:
            store: Long clips.
            how: See :class:`ShortsConfig`.
            reader: Sees the things.
            frames: That the network sees at once; None: any number, so that the settings say it.
            given: Frames before one that is to be foretold.

        Raises:
            DataError: nothing ever turns or goes.
            RunError: they would be longer than the long ones.
            SourceError: no such thing is told by its colour.
        """
        length = frames or how.frames
        if length > store.length:
            raise RunError(f"shorts of {length} frames are longer than clips of {store.length}: give a larger clip")
        with ThreadPoolExecutor(2) as readers:
            find = partial(_moments, reader=reader, names=how.about)
            found = list(readers.map(find, store.episodes))
        return cls(store.around(found, length, min(given, length - 1)), how.share, max(1, store.length // length))

    def at(self, step: int) -> bool:
        """Whether a step learns from them."""
        return math.floor((step + 1) * self.share) > math.floor(step * self.share)

    def places(self, places: range) -> range:
        """Places in a batch of short clips for those in one of long ones."""
        return range(places.start * self.each, places.stop * self.each)


def _moments(episode: PackedEpisode, reader: ColourReader, names: Sequence[str]) -> NDArray[np.intp]:
    """Numbers of an episode's frames in which one of the things turns or is no more."""
    count = episode.frames.count
    parts = [
        reader.middles(episode.frames.unpack(first, min(first + _READ, count)), names)
        for first in range(0, count, _READ)
    ]
    ticks = [tick for middles in np.concatenate(parts, 1) for tick in (turning(middles), going(middles, _GONE))]
    return np.unique(np.concatenate(ticks))
