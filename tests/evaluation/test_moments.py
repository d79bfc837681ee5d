"""Moments of held-out play, in the recording and in the real game."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worldsim.data.episodes import Dataset
from worldsim.errors import DataError
from worldsim.evaluation.moments import clones, spread_moments
from worldsim.evaluation.roll_outs import RealRows, branch
from worldsim.evaluation.subject import Subject


def test_moments_come_from_held_out_episodes_and_fit_together(pong_data: Dataset) -> None:
    moments = spread_moments(pong_data, 5, window=4, ticks=10, seed=0)
    assert len(moments) == 5
    assert {moment.episode.file for moment in moments} <= {info.file for info in pong_data.held_out}
    for moment in moments:
        episode = pong_data.load(moment.episode)
        np.testing.assert_array_equal(moment.start.frames[-1], episode.frames[moment.tick])
        np.testing.assert_array_equal(moment.frames[0], episode.frames[moment.tick + 1])
        assert moment.actions[0] == episode.actions[moment.tick]
        assert moment.start.actions[-1] == episode.actions[moment.tick - 1]
        assert len(moment.start.frames) == 4 and len(moment.frames) == len(moment.actions) == 10


def test_the_same_seed_gives_the_same_moments(pong_data: Dataset) -> None:
    ticks = [[m.tick for m in spread_moments(pong_data, 6, 4, 10, seed)] for seed in (0, 0, 1)]
    assert ticks[0] == ticks[1] != ticks[2]


def test_the_real_game_continues_from_a_moment_as_it_was_recorded(subject: Subject) -> None:
    moments = subject.moments(4, 15)
    with subject.game() as game:
        actions = np.stack([moment.actions for moment in moments], 1)
        frames = branch(game, clones(game, moments), actions)
    np.testing.assert_array_equal(frames, np.stack([moment.frames for moment in moments], 1))


def test_a_recording_that_the_game_does_not_replay_is_named(subject: Subject) -> None:
    moment = subject.moments(1, 5)[0]
    frames = moment.start.frames.copy()
    frames[-1] += 1
    other = replace(moment, start=replace(moment.start, frames=frames))
    with subject.game() as game, pytest.raises(DataError, match=moment.episode.file):
        clones(game, [other])


def test_without_held_out_play_there_is_nothing_to_judge_by(pong_data: Dataset) -> None:
    bare = replace(pong_data, episodes=pong_data.train)
    with pytest.raises(DataError, match="held_out"):
        spread_moments(bare, 2, 4, 10, 0)


def test_a_real_game_that_is_over_goes_on_from_another_moment(subject: Subject) -> None:
    moments = subject.moments(2, 5)
    with subject.game() as game:
        states = clones(game, moments)
    short = replace(subject.source, max_episode_steps=max(moment.tick for moment in moments) + 2)
    rows = RealRows(short, states, seed=0)
    frames = []
    for _ in range(5):
        rewards = rows.step(np.zeros(2, np.int64))
        frames.append(rows.frames)
    rows.close()
    assert rewards.shape == (2,)
    # The later moment's game was cut off after two ticks; two ticks on, some game repeats what it showed before.
    assert any(np.array_equal(frames[t][1], frames[s][r]) for t in (2, 3, 4) for s in (0, 1) for r in (0, 1))
