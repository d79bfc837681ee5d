"""Training batches: clips of recorded play and their random numbers, each a pure function of (seed, step, place).

Nothing about the order of the data has to be saved or resumed: batch number ``step`` is the same on any machine, and a
rank of a data-parallel run takes its own slice of it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldsim.data.episodes import Dataset, Episode, EpisodeInfo
from worldsim.data.packed import PackedFrames
from worldsim.errors import DataError
from worldsim.model.cue import since_rewards

_READERS = 2  # episodes read at a time; each is in memory whole until it is packed


@dataclass(frozen=True)
class Clip:
    """T frames of one episode.

    Attributes:
        frames: uint8 [T, H, W, 3].
        actions: int64 [T-1]; action t is taken between frames t and t+1.
        rewards: float32 [T-1].
        terminated: bool [T-1].
        since: int64 [T], the last reward at every frame, those before the clip included; see
            :func:`~worldsim.model.cue.since_rewards`.
    """

    frames: NDArray[np.uint8]
    actions: NDArray[np.int64]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    since: NDArray[np.int64]


class ClipStore:
    """Every frame of some episodes in memory, packed, and the places where a clip may start.

    Args:
        dataset: The recorded play.
        episodes: Which of its episodes, e.g. ``dataset.train``.
        length: Frames in a clip (T).

    Attributes:
        episodes: Those that are as long as a clip.

    Raises:
        DataError: an episode cannot be read, or none is as long as a clip.
    """

    def __init__(self, dataset: Dataset, episodes: tuple[EpisodeInfo, ...], length: int) -> None:
        long_enough = [info for info in episodes if info.steps + 1 >= length]
        if not long_enough:
            raise DataError(
                f"{dataset.folder} has no episode of {length} frames: collect more steps, or lower model.window"
            )
        with ThreadPoolExecutor(_READERS) as readers:
            self.episodes = list(readers.map(lambda info: PackedEpisode.of(dataset.load(info)), long_enough))
        self._index(length)

    def _index(self, length: int) -> None:
        self.length, self._around, self._least = length, np.zeros(0, np.intp), 0
        # Of every episode the number of its first clip, and at last how many there are.
        self._first = np.cumsum([0, *(episode.frames.count + 1 - length for episode in self.episodes)])
        holding: dict[str, list[NDArray[np.intp]]] = {"lost": [], "won": [], "end": []}
        self._rewards: list[NDArray[np.intp]] = []
        for first, episode in zip(self._first[:-1], self.episodes, strict=True):
            events = {"lost": episode.rewards < 0, "won": episode.rewards > 0, "end": episode.terminated}
            for kind, event in events.items():
                before = np.concatenate(([0], np.cumsum(event)))
                holding[kind].append(first + np.flatnonzero(before[length - 1 :] > before[: 1 - length]))
            self._rewards.append(np.flatnonzero(episode.rewards))
        self._rewarded = np.cumsum([0, *map(len, self._rewards)])
        self._with = {kind: np.concatenate(numbers) for kind, numbers in holding.items() if any(map(len, numbers))}

    def __len__(self) -> int:
        """Number of different clips."""
        return int(self._first[-1])

    def __getitem__(self, index: int) -> Clip:
        """Clip number ``index``."""
        number = int(np.searchsorted(self._first, index, "right")) - 1
        episode, start = self.episodes[number], index - int(self._first[number])
        acts = slice(start, start + self.length - 1)
        frames = episode.frames.unpack(start, start + self.length)
        since = episode.since[start : start + self.length]
        return Clip(frames, episode.actions[acts], episode.rewards[acts], episode.terminated[acts], since)

    @property
    def events(self) -> tuple[str, ...]:
        """Which of "lost" (a negative reward), "won" (a positive one) and "end" (of an episode) some clip holds."""
        return tuple(self._with)

    def outcomes(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How many ticks of the episodes have a negative reward, none and a positive one, [3], and how many do not end
        them and do, [2].
        """
        signs = np.concatenate([np.sign(episode.rewards).astype(np.int64) for episode in self.episodes])
        ends = np.concatenate([episode.terminated.astype(np.int64) for episode in self.episodes])
        return np.bincount(signs + 1, minlength=3), np.bincount(ends, minlength=2)

    def around(self, ticks: Sequence[NDArray[np.intp]], length: int, least: int) -> ClipStore:
        """Shorter clips of the same episodes, drawn around some moments.

        Args:
            ticks: Of each episode the numbers of frames, of which every clip that is drawn holds one.
            length: Frames in a clip, at most as many as in those of this store.
            least: Frames of a clip that are before that one.

        Raises:
            DataError: there are no such moments.
        """
        shorter = copy.copy(self)
        shorter._index(length)
        whole = [  # those with a clip's frames on both sides
            first + at[(at >= length) & (at <= episode.frames.count - length)]
            for first, episode, at in zip(shorter._first[:-1], self.episodes, ticks, strict=True)
        ]
        shorter._around, shorter._least = np.concatenate(whole), least
        if not len(shorter._around):
            raise DataError("nothing of that kind was recorded: collect more steps, or name another thing")
        return shorter

    def draw(
        self, seed: int, step: int, place: int, *, event: str | None = None, rewarded: float = 0.0, ticks: int = 0
    ) -> tuple[Clip, np.random.Generator]:
        """The clip at one place of one batch, and the generator that its further random numbers come from.

        Args:
            seed, step, place: Which clip; equal numbers give the same one.
            event: Draw among the clips that hold it, one of :attr:`events`; None: among all.
            rewarded: Chance to draw in its place one that :meth:`after_reward` gives,
            ticks: with so many ticks after the reward.
        """
        rng = np.random.default_rng((seed, step, place))
        if event is not None:
            return self[int(rng.choice(self._with[event]))], rng
        if len(self._around):
            before = int(rng.integers(self._least, self.length))
            return self[int(rng.choice(self._around)) - before], rng
        number = int(rng.integers(len(self)))
        if rewarded:
            chance = np.random.default_rng((seed, step, place, 2))
            if chance.random() < rewarded and (clip := self.after_reward(chance, ticks)):
                return clip, rng
        return self[number], rng

    def after_reward(self, rng: np.random.Generator, ticks: int) -> Clip | None:
        """A clip that holds a reward, won or lost, and so many ticks after it where the episode has them.

        What a reward leads to may be long in coming (a ball is served a second after a point), and most clips hold none
        or end before.

        Args:
            rng: Draws it.
            ticks: At most a clip's.

        Returns:
            None where nothing was ever rewarded.
        """
        if not self._rewarded[-1]:
            return None
        which = int(rng.integers(self._rewarded[-1]))
        number = int(np.searchsorted(self._rewarded, which, "right")) - 1
        tick = int(self._rewards[number][which - self._rewarded[number]])
        start = tick - int(rng.integers(max(1, self.length - 1 - ticks)))
        first, last = int(self._first[number]), int(self._first[number + 1]) - 1
        return self[int(np.clip(first + start, first, last))]


@dataclass(frozen=True, eq=False)
class PackedEpisode:
    """As :class:`~worldsim.data.episodes.Episode`, with what a clip holds of it."""

    frames: PackedFrames
    actions: NDArray[np.int64]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    since: NDArray[np.int64]

    @classmethod
    def of(cls, episode: Episode) -> PackedEpisode:
        frames, since = PackedFrames.pack(episode.frames), since_rewards(episode.rewards)
        return cls(frames, episode.actions.astype(np.int64), episode.rewards, episode.terminated, since)
