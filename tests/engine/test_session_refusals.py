"""What a session refuses, in one line, and that it plays on as if it had not been asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.engine.sessions import play, started
from worldsim.engine.session import Session
from worldsim.errors import ActionError, BackendError, StartError, WorldsimError
from worldsim.world import World

BAD_ACTIONS = [
    ([3, 0], "action 3 is out of range: the actions are 0 to 2"),
    ([-1, 0], "action -1 is out of range"),
    ([0], r"shape \[2\], one for each row, not \[1\]"),
    (1, r"not \[\]"),
    ([[0, 1]], r"not \[1, 2\]"),
    ([], "whole numbers"),
    ([0.0, 1.0], "not float64"),
    (np.array([True, False]), "not bool"),
    (["up", "down"], "whole numbers"),
    ([0, None], "whole numbers"),
    ([[0], [0, 1]], "shape"),
    (np.array([2**63, 0], np.uint64), "out of range"),
]


@pytest.mark.parametrize(("actions", "message"), BAD_ACTIONS)
def test_bad_actions_are_refused_in_one_line_and_nothing_happens(tiny_world: World, actions: Any, message: str) -> None:
    session, other = started(tiny_world, 2), started(tiny_world, 2)
    with pytest.raises(ActionError, match=message) as error:
        session.render(actions)
    assert isinstance(error.value, ValueError) and "\n" not in str(error.value)
    np.testing.assert_array_equal(play(session, 2), play(other, 2))


GREY = np.zeros((2, 16, 24, 3), np.uint8)
BAD_STARTS = [
    ("episod 0", "did you mean 'episode 0'"),
    (3, "has 0 to 2"),
    (-1, "has 0 to 2"),
    (True, "unknown start"),
    ((GREY[:, :8], [0]), "8x24, this world has 16x24"),
    ((GREY.astype(np.float32), [0]), "must be uint8"),
    ((GREY[0], [0]), "must be uint8"),
    ((GREY[:0], []), "N >= 1"),
    ((GREY, [0, 1]), r"must be \[1 for 2 frames"),
    ((GREY, [3]), "action 3 is not one of 0 to 2"),
    ((GREY, [0.5]), "whole numbers, not float64"),
    ((GREY,), "tuple of 1"),
    ([0, 0, 0], "3 starts were given for 2 rows"),
]


@pytest.mark.parametrize(("start", "message"), BAD_STARTS)
def test_bad_starts_are_refused_in_one_line_and_nothing_happens(tiny_world: World, start: Any, message: str) -> None:
    session, other = started(tiny_world, 2), started(tiny_world, 2)
    with pytest.raises(StartError, match=message) as error:
        session.reset(start=start, seed=5)
    assert isinstance(error.value, ValueError) and "\n" not in str(error.value)
    np.testing.assert_array_equal(play(session, 2), play(other, 2))


def test_calls_out_of_order_say_what_to_call_first(tiny_world: World) -> None:
    session = Session(tiny_world, 2)
    session.reset([1])
    for call in (lambda: session.render([0, 0]), session.commit, session.snapshot, lambda: session.frames):
        with pytest.raises(WorldsimError, match=r"reset\(\) row 0 first"):
            call()
    session.reset([0])
    with pytest.raises(WorldsimError, match="without a rendered frame"):
        session.commit()
    session.render([0, 0])
    for call in (lambda: session.render([0, 0]), lambda: session.reset([0])):
        with pytest.raises(WorldsimError, match=r"commit\(\)"):
            call()
    session.reset()
    session.step([0, 0])
    session.close()
    session.close()
    for call in (lambda: session.render([0, 0]), session.commit, session.reset, session.snapshot):
        with pytest.raises(WorldsimError, match="closed"):
            call()


@pytest.mark.parametrize("rows", [[], [2], [-1], [0, 0], [True, False], [0.0], 0])
def test_rows_that_are_not_there_are_refused(tiny_world: World, rows: Any) -> None:
    with pytest.raises(WorldsimError, match="from 0 to 1"):
        Session(tiny_world, 2).reset(rows)


@pytest.mark.parametrize("seed", [1.5, "a", [1], [1, 2, 3], True, [1, None]])
def test_seeds_are_whole_numbers_one_or_one_for_each_row(tiny_world: World, seed: Any) -> None:
    with pytest.raises(WorldsimError, match="seed must be"):
        Session(tiny_world, 2).reset(seed=seed)


def test_a_session_that_cannot_be_is_refused_with_the_reason(tiny_world: World) -> None:
    for settings, message in (
        ({"batch": 0}, "at least 1 row"),
        ({"steps": 0}, "from 1 to 64"),
        ({"seed": 0.5}, "seed must be"),
    ):
        with pytest.raises(WorldsimError, match=message):
            Session(tiny_world, **settings)  # type: ignore[arg-type]
    for settings, message in (
        ({"dtype": "float16"}, "float32, bfloat16"),
        ({"device": "toaster"}, "try device=cpu"),
        ({"device": "meta:x"}, "try device=cpu"),
    ):
        with pytest.raises(BackendError, match=message):
            Session(tiny_world, **settings)  # type: ignore[arg-type]
