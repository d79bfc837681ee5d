"""Training batches: clips of recorded play and their random numbers, each a pure function of (seed, step, place).

Nothing about the order of the data has to be saved or resumed: batch number ``step`` is the same on any machine, and a
rank of a data-parallel run takes its own slice of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldsim.data.episodes import Dataset, EpisodeInfo
from worldsim.errors import DataError


@dataclass(frozen=True)
class Clip:
    """T frames of one episode.

    Attributes:
        frames: uint8 [T, H, W, 3].
        actions: int64 [T-1]; action t is taken between frames t and t+1.
        rewards: float32 [T-1].
        terminated: bool [T-1].
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.int64]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]


class ClipStore:
    """Every frame of some episodes in memory, and the places where a clip may start.

    Args:
        dataset: The recorded play.
        episodes: Which of its episodes, e.g. ``dataset.train``.
        length: Frames in a clip (T).

    Raises:
        DataError: an episode cannot be read, or none is as long as a clip.
    """

    def __init__(self, dataset: Dataset, episodes: tuple[EpisodeInfo, ...], length: int) -> None:
        long_enough = [info for info in episodes if info.steps + 1 >= length]
        if not long_enough:
            raise DataError(
                f"{dataset.folder} has no episode of {length} frames: collect more steps, or lower model.window"
            )
        self.length = length
        starts, offset = [], 0
        total = sum(info.steps + 1 for info in long_enough)
        for info in long_enough:
            episode = dataset.load(info)
            rows = slice(offset, offset + len(episode) + 1)
            starts.append(offset + np.arange(len(episode) + 2 - length))
            if len(starts) == 1:
                self._frames = np.empty((total, *episode.frames.shape[1:]), np.uint8)
                # Row t holds what follows frame t; the last frame of an episode has no action and is never read.
                self._actions = np.zeros(total, np.int64)
                self._rewards = np.zeros(total, np.float32)
                self._terminated = np.zeros(total, np.bool_)
            acts = slice(offset, offset + len(episode))
            self._frames[rows] = episode.frames
            self._actions[acts] = episode.actions
            self._rewards[acts] = episode.rewards
            self._terminated[acts] = episode.terminated
            offset = rows.stop
        self._starts = np.concatenate(starts)
        events = {"lost": self._rewards < 0, "won": self._rewards > 0, "end": self._terminated}
        self._with: dict[str, NDArray[np.intp]] = {}
        for kind, event in events.items():
            before = np.concatenate(([0], np.cumsum(event)))
            holding = np.flatnonzero(before[self._starts + length - 1] > before[self._starts])
            if len(holding):
                self._with[kind] = holding

    def __len__(self) -> int:
        """Number of different clips."""
        return len(self._starts)

    def __getitem__(self, index: int) -> Clip:
        """Clip number ``index``."""
        first = int(self._starts[index])
        frames, acts = slice(first, first + self.length), slice(first, first + self.length - 1)
        return Clip(self._frames[frames], self._actions[acts], self._rewards[acts], self._terminated[acts])

    @property
    def events(self) -> tuple[str, ...]:
        """Which of "lost" (a negative reward), "won" (a positive one) and "end" (of an episode) some clip holds."""
        return tuple(self._with)

    def draw(
        self, seed: int, step: int, place: int, *, event: str | None = None
    ) -> tuple[Clip, np.random.Generator]:
        """The clip at one place of one batch, and the generator that its further random numbers come from.

        Args:
            seed, step, place: Which clip; equal numbers give the same one.
            event: Draw among the clips that hold it, one of :attr:`events`; None: among all.
        """
        rng = np.random.default_rng((seed, step, place))
        if event is not None:
            return self[int(rng.choice(self._with[event]))], rng
        return self[int(rng.integers(len(self)))], rng
