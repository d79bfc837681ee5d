"""Where recordings mark a lost life; how episodes are collected: test_collect."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worldsim.agents.mixture import MixtureConfig
from worldsim.data.playing import lost_sight, play_episode
from worldsim.envs.sources import load_source, make_source
from worldsim.errors import SourceError


def _marks(ticks: list[int], length: int) -> np.ndarray:
    marks = np.zeros(length, bool)
    marks[ticks] = True
    return marks


@pytest.mark.parametrize(
    ("taken", "seen", "marked"),
    [
        ([6], [1, 1, 1, 0, 0, 0, 0, 0, 0], [2]),  # the action that led to the first frame without
        ([6], [1, 1, 0, 1, 1, 0, 0, 0, 0], [4]),  # the last time
        ([4], [1, 1, 0, 0, 0, 1, 1, 1, 1], [1]),  # the next one was served in the very tick that took the life
        ([2, 6], [1, 0, 0, 0, 0, 1, 1, 0, 0], [0, 6]),
        ([2, 6], [1, 0, 0, 0, 0, 0, 0, 0, 0], [0, 6]),  # never came back: where the game says so
        ([3], [0, 0, 0, 0, 0, 0, 0, 0, 0], [3]),
        ([], [1, 1, 0, 0, 1, 1, 0, 0, 0], []),
    ],
)
def test_a_lost_life_is_marked_where_the_ball_was_lost_sight_of(
    taken: list[int], seen: list[int], marked: list[int]
) -> None:
    moved = lost_sight(_marks(taken, 8), np.array(seen, bool))
    assert np.flatnonzero(moved).tolist() == marked


def test_a_recording_of_breakout_marks_five_lives_where_no_ball_is_in_the_picture_any_more() -> None:
    pytest.importorskip("ale_py")
    config = load_source("breakout")
    behaviour = MixtureConfig(epsilon=(0.9, 1.0))
    source = make_source(config)
    episode = play_episode(source, behaviour, seed=3, limit=None)
    lost = np.flatnonzero(episode.terminated)
    seen = ~np.isnan(episode.state["ball_y"])
    assert len(lost) == config.lives and not episode.truncated.any()
    assert seen[lost].all() and not seen[lost + 1].any()
    assert (episode.state["ball_y"][lost] > 70).all()
    left = episode.state["lives"]
    counted = np.flatnonzero(left[1:] < left[:-1])  # by the game itself, which says so after the last, too
    assert (counted[:4] - lost[:4] >= 4).all() and (counted[:4] - lost[:4] <= 17).all()
    source.close()


def test_what_a_life_hangs_on_must_be_a_number_of_the_state() -> None:
    pytest.importorskip("ale_py")
    config = load_source("breakout")
    source = make_source(replace(config, lost_with="ball_z"))
    with pytest.raises(SourceError, match="ball_x, ball_y, player_x, lives, not 'ball_z'"):
        play_episode(source, MixtureConfig(), seed=0, limit=10)
    source.close()
    for missing in ({"lives": None}, {"state": None}):
        with pytest.raises(SourceError, match="lost_with is for a game with lives and a state"):
            replace(config, **missing)
