"""One table of actions, read by the environment, the model and the keyboard."""

from __future__ import annotations

import json

import pytest

from worldsim.actions import KEY_CODES, Action, ActionTable, key_code
from worldsim.errors import ActionError

PONG = ActionTable(
    (
        Action("NOOP"),
        Action("FIRE", (("space",),)),
        Action("UP", (("up",), ("w",))),
        Action("DOWN", (("down",), ("s",))),
        Action("UPFIRE", (("up", "space"), ("w", "space"))),
    )
)


@pytest.mark.parametrize(
    ("pressed", "name"),
    [
        ((), "NOOP"),
        (("up",), "UP"),
        (("w",), "UP"),
        (("up", "space"), "UPFIRE"),
        (("space", "w", "q"), "UPFIRE"),
        (("q",), "NOOP"),
        (("up", "down"), "UP"),
        (("down", "space"), "FIRE"),
    ],
)
def test_the_largest_combination_that_is_pressed_wins(pressed: tuple[str, ...], name: str) -> None:
    assert PONG.names[PONG.from_keys(frozenset(pressed))] == name


def test_every_action_with_keys_is_reached_by_each_of_its_combinations() -> None:
    for number, action in enumerate(PONG.actions):
        for combo in action.keys:
            assert PONG.from_keys(combo) == number


def test_key_codes_are_those_of_pygame() -> None:
    pygame = pytest.importorskip("pygame")
    pygame.display.init()  # key names need a video system
    try:
        for key in [*KEY_CODES, "w", "1", "."]:
            assert key_code(key) == pygame.key.key_code(key), key
    finally:
        pygame.display.quit()


def test_the_gymnasium_map_has_sorted_codes_and_every_combination() -> None:
    keys = PONG.to_gymnasium()
    assert keys[(ord("w"),)] == 2
    assert keys[(32, KEY_CODES["up"])] == 4
    assert () not in keys
    assert all(list(combo) == sorted(combo) for combo in keys)


def test_json_round_trip() -> None:
    assert ActionTable.from_json(json.loads(json.dumps(PONG.to_json()))) == PONG


def test_help_rows_name_keys_and_actions() -> None:
    assert ("Up+Space or W+Space", "UPFIRE") in PONG.help_rows()
    assert all(name != "NOOP" for _, name in PONG.help_rows())


def test_an_unknown_name_lists_those_there_are() -> None:
    assert PONG.index("DOWN") == 3
    with pytest.raises(ActionError, match="no action is called 'JUMP'.*NOOP, FIRE"):
        PONG.index("JUMP")


@pytest.mark.parametrize(
    ("actions", "noop", "message"),
    [
        ((), 0, "1 to 256"),
        ((Action("A"), Action("A")), 0, "repeat"),
        ((Action("A"),), 1, "noop is 1"),
        ((Action("A", (("up",),)), Action("B", (("up",),))), 0, "not its own"),
        ((Action("A", ((),)),), 0, "not its own"),
        ((Action("A", (("hyper",),)),), 0, "unknown key 'hyper'"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(actions: tuple[Action, ...], noop: int, message: str) -> None:
    with pytest.raises(ActionError, match=message):
        ActionTable(actions, noop)


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        {"actions": 3, "noop": 0},
        {"actions": [{"keys": []}], "noop": 0},
        {"actions": [{"name": 3}], "noop": 0},
        {"actions": [{"name": "A"}], "noop": "0"},
        {"actions": [{"name": "A", "keys": 5}], "noop": 0},
        {"actions": [{"name": "A", "keys": [[4]]}], "noop": 0},
    ],
)
def test_foreign_json_is_refused(data: object) -> None:
    with pytest.raises(ActionError):
        ActionTable.from_json(data)  # type: ignore[arg-type]
