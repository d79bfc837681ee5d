"""Moments of held-out play: where roll-outs start, in the recording, in the dream and in the real game."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worldsim.data.episodes import Dataset, EpisodeInfo
from worldsim.envs.sources import Source, SourceState
from worldsim.errors import DataError
from worldsim.model.cue import since_rewards
from worldsim.start import Start


@dataclass(frozen=True, eq=False)
class Moment:
    """A moment of a recorded episode, with the frames that prime a dream and what really followed.

    Attributes:
        episode: The recording it is from.
        tick: Index of the start's last frame in it.
        start: The frames up to ``tick`` and the actions between them.
        past_actions: uint8 [tick], every action since the episode began: the way here in the real game.
        frames: uint8 [T, H, W, 3], what followed; ``frames[k]`` after ``actions[k]``.
        actions: int64 [T].
        since: int64 [N-1+T], the last reward before each of the start's actions and of these; see
            :func:`~worldsim.model.cue.since_rewards`.
    """

    episode: EpisodeInfo
    tick: int
    start: Start
    past_actions: NDArray[np.uint8]
    frames: NDArray[np.uint8]
    actions: NDArray[np.int64]
    since: NDArray[np.int64]


def spread_moments(dataset: Dataset, count: int, window: int, ticks: int, seed: int) -> list[Moment]:
    """Moments spread evenly over all held-out play, each at a random place of its share.

    Args:
        dataset: The recording; its training episodes are never used.
        count: How many.
        window: Frames of a start.
        ticks: That must follow in the recording.
        seed: Of the places.

    Raises:
        DataError: nothing is held out, or no held-out episode is long enough.
    """
    infos = [info for info in dataset.held_out if info.steps + 1 >= window + ticks]
    if not infos:
        raise DataError(
            f"{dataset.folder} holds out no episode of {window + ticks} frames to judge by: "
            "collect more steps, or with a larger held_out="
        )
    lengths = np.array([info.steps + 2 - window - ticks for info in infos])
    ends = np.cumsum(lengths)
    rng = np.random.default_rng((seed, 7001))
    places = ((np.arange(count) + rng.random(count)) / count * ends[-1]).astype(np.int64)
    moments = []
    for number, info in enumerate(infos):
        first = ends[number] - lengths[number]
        mine = places[(places >= first) & (places < ends[number])] - first + window - 1
        if not len(mine):
            continue
        episode = dataset.load(info)
        actions, since = episode.actions.astype(np.int64), since_rewards(episode.rewards)
        for tick in mine.tolist():
            before, after = slice(tick + 1 - window, tick + 1), slice(tick + 1, tick + 1 + ticks)
            led, taken = actions[tick + 1 - window : tick], actions[tick : tick + ticks]
            start = Start(f"{info.file} at {tick}", episode.frames[before].copy(), led, since[tick])
            past, told = episode.actions[:tick].copy(), since[tick + 1 - window : tick + ticks]
            moments.append(Moment(info, tick, start, past, episode.frames[after].copy(), taken, told))
    return moments


def clones(source: Source, moments: Sequence[Moment]) -> list[SourceState]:
    """The real game at each moment, by replaying its episode from the seed.

    Raises:
        DataError: the game does not replay the recording.
    """
    states: dict[int, SourceState] = {}
    order = sorted(range(len(moments)), key=lambda i: (moments[i].episode.index, moments[i].tick))
    playing, tick = None, 0
    for i in order:
        moment = moments[i]
        if moment.episode.index != playing:
            frame, _ = source.reset(seed=moment.episode.seed)
            playing, tick = moment.episode.index, 0
        for action in moment.past_actions[tick:]:
            frame, *_ = source.step(int(action))
        tick = moment.tick
        if not np.array_equal(frame, moment.start.frames[-1]):
            raise DataError(
                f"{moment.episode.file} does not replay: at tick {tick} the real game shows another frame than was "
                "recorded; collect again with this version of the game"
            )
        states[i] = source.clone_state()
    return [states[i] for i in range(len(moments))]
