"""Events: what was said is paired with what was."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldsim.evaluation.events import GONE, matches, points, score
from worldsim.evaluation.outcome import in_pictures
from worldsim.vision.reading import Reading, Readings


def at(ticks: list[int], length: int = 20) -> NDArray[np.bool_]:
    row = np.zeros((length, 1), np.bool_)
    row[ticks] = True
    return row


def reading(x: NDArray[np.float64]) -> Reading:
    seen = ~np.isnan(x)
    return Reading(seen.astype(np.int64), seen.astype(np.float32), x.astype(np.float32), x.astype(np.float32))


def rally(ball: list[float]) -> Readings:
    """A ball at these columns, nan when there is none, between paddles at 6 and 57."""
    x = np.array(ball)[:, None]
    still = np.ones_like(x)
    return {"ball": reading(x), "player": reading(57 * still), "opponent": reading(6 * still)}


def test_an_event_is_matched_once() -> None:
    assert matches(np.array([4, 5]), np.array([5]), 1) == 1
    assert matches(np.array([5]), np.array([4, 6]), 1) == 1
    assert matches(np.array([3, 9]), np.array([4, 8]), 1) == 2
    assert matches(np.array([3]), np.array([5]), 1) == 0


def test_precision_and_recall() -> None:
    found = score(at([3, 8, 15]), at([3, 9]))
    assert (found["matched"], found["precision"], found["recall"]) == (1, 1 / 3, 1 / 2)
    near = score(at([3, 8, 15]), at([3, 9]), 1)
    assert (near["precision"], near["recall"]) == (2 / 3, 1)


def test_nothing_said_and_nothing_true_have_no_rates() -> None:
    assert np.isnan(score(at([]), at([2]))["precision"])
    assert score(at([]), at([2]))["recall"] == 0
    assert np.isnan(score(at([2]), at([]))["recall"])


def test_events_of_one_row_do_not_match_those_of_another() -> None:
    said, true = np.concatenate([at([3]), at([])], 1), np.concatenate([at([]), at([3])], 1)
    assert score(said, true, 3)["matched"] == 0


def test_a_ball_that_leaves_behind_a_paddle_is_a_point() -> None:
    gone = [float("nan")] * GONE
    assert np.flatnonzero(points(rally([54, 58, 62, *gone, 30, 30]))[:, 0]).tolist() == [3]
    assert points(rally([54, 58, 62, *gone, 30]))[3, 0] == -1
    assert points(rally([9, 5, 1, *gone, 30]))[3, 0] == 1


def test_a_ball_that_vanishes_in_the_field_or_for_a_tick_is_no_point() -> None:
    gone = [float("nan")] * GONE
    assert not points(rally([30, 33, 36, *gone, 30])).any()
    assert not points(rally([54, 58, 62, *gone[:-1], 30])).any()


def test_rewards_are_held_against_the_points_in_the_pictures() -> None:
    gone = [float("nan")] * GONE
    seen = rally([54, 58, 62, *gone, 9, 5, 1, *gone])
    rewards = np.zeros((len(seen["ball"].x), 1))
    rewards[4] = -1  # a tick after the ball is gone
    found = in_pictures(seen, rewards)
    assert found["-1"]["precision"] == found["-1"]["recall"] == 1
    assert found["+1"]["recall"] == 0
