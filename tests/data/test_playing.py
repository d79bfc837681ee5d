"""Where recordings mark a lost life; how episodes are collected: test_collect."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from worldsim.agents.mixture import MixtureConfig
from worldsim.data.playing import OUT_OF_SIGHT, lost_sight, play_episode
from worldsim.envs.sources import load_source, make_source
from worldsim.errors import SourceError


def _marks(ticks: list[int], length: int) -> np.ndarray:
    marks = np.zeros(length, bool)
    marks[ticks] = True
    return marks


@pytest.mark.parametrize(
    ("taken", "seen", "marked"),
    [
        ([6], [1, 1, 1, 0, 0, 0, 0, 0, 0], [4]),  # the action that led to the third frame without
        ([6], [1, 0, 1, 1, 0, 0, 0, 0, 0], [5]),  # the last time
        ([4], [1, 1, 0, 0, 0, 1, 1, 1, 1], [3]),  # the next one was served in the very tick that took the life
        ([2, 6], [1, 0, 0, 0, 0, 1, 1, 0, 0], [2, 6]),
        ([2, 6], [1, 0, 0, 0, 0, 0, 0, 0, 0], [2, 6]),  # never came back: where the game says so
        ([3], [0, 0, 0, 0, 0, 0, 0, 0, 0], [3]),
        ([], [1, 1, 0, 0, 1, 1, 0, 0, 0], []),
    ],
)
def test_a_lost_life_is_marked_soon_after_the_ball_was_lost_sight_of(
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
    left_at = lost + 1 - OUT_OF_SIGHT
    assert seen[left_at].all() and not any(seen[at + 1 : at + 1 + OUT_OF_SIGHT].any() for at in left_at)
    assert (episode.state["ball_y"][left_at] > 70).all()
    left = episode.state["lives"]
    counted = np.flatnonzero(left[1:] < left[:-1])  # by the game itself, which says so after the last, too
    assert (counted[:4] - lost[:4] >= 2).all() and (counted[:4] - lost[:4] <= 15).all()
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
