"""Keys become actions and commands."""

from __future__ import annotations

import pytest

from worldsim.actions import Action, ActionTable
from worldsim.play.keyboard import (
    COMMANDS,
    Keyboard,
    KeyEvent,
    command_keys,
    key_table,
    markdown_table,
)

PONG = ActionTable(
    (
        Action("NOOP"),
        Action("FIRE", (("space",),)),
        Action("UP", (("up",), ("w",))),
        Action("DOWN", (("down",), ("s",))),
        Action("UPFIRE", (("up", "space"), ("w", "space"))),
        Action("DOWNFIRE", (("down", "space"), ("s", "space"))),
    )
)


def down(*keys: str) -> list[KeyEvent]:
    return [KeyEvent("down", key) for key in keys]


def up(*keys: str) -> list[KeyEvent]:
    return [KeyEvent("up", key) for key in keys]


def actions(*ticks: list[KeyEvent]) -> list[str]:
    """The action of each tick, given what was polled before it."""
    keyboard = Keyboard(PONG)
    taken = []
    for events in ticks:
        keyboard.feed(events)
        taken.append(PONG.names[keyboard.take_action()])
    return taken


def test_a_tap_shorter_than_a_tick_still_counts_for_exactly_one_tick() -> None:
    assert actions(down("up") + up("up"), [], []) == ["UP", "NOOP", "NOOP"]


def test_a_tap_across_a_tick_counts_for_exactly_one_tick() -> None:
    assert actions(down("up"), up("up"), []) == ["UP", "NOOP", "NOOP"]


def test_two_taps_between_ticks_are_one_action() -> None:
    assert actions(2 * (down("space") + up("space")), []) == ["FIRE", "NOOP"]


def test_a_held_key_counts_for_every_tick_until_it_comes_up() -> None:
    assert actions(down("down"), [], [], up("down")) == ["DOWN", "DOWN", "DOWN", "NOOP"]


def test_a_tap_joins_a_held_key() -> None:
    assert actions(down("w"), down("space") + up("space"), []) == ["UP", "UPFIRE", "UP"]


@pytest.mark.parametrize(
    ("keys", "action"),
    [
        (("up", "space"), "UPFIRE"),
        (("space", "s"), "DOWNFIRE"),
        (("up", "w"), "UP"),
        (("up", "down"), "DOWN"),
        (("down", "up"), "UP"),
        (("up", "down", "space"), "DOWNFIRE"),
        (("space", "down", "up"), "UPFIRE"),
        (("x",), "NOOP"),
    ],
)
def test_keys_combine_and_the_last_of_two_that_exclude_each_other_wins(
    keys: tuple[str, ...], action: str
) -> None:
    assert actions(down(*keys)) == [action]


def test_an_action_of_two_keys_whose_single_keys_mean_nothing_is_found() -> None:
    table = ActionTable((Action("NOOP"), Action("BOTH", (("a", "b"),))))
    keyboard = Keyboard(table)
    keyboard.feed(down("a", "b"))
    assert table.names[keyboard.take_action()] == "BOTH"


def test_losing_the_keyboard_releases_held_keys_but_not_a_tap_before_it() -> None:
    assert actions(down("up"), [KeyEvent("blur")], []) == ["UP", "NOOP", "NOOP"]
    assert actions(down("up") + [KeyEvent("blur")], []) == ["UP", "NOOP"]


def test_commands_come_in_order_and_never_from_a_key_coming_up() -> None:
    events = (
        down("r", "p")
        + up("r", "p")
        + [KeyEvent("down", "=", "+"), KeyEvent("down", ";", "."), KeyEvent("quit")]
    )
    assert Keyboard(PONG).feed(events) == ["reset", "pause", "more", "tick", "quit"]


def test_a_worlds_own_keys_win_over_commands_and_esc_still_leaves() -> None:
    table = ActionTable((Action("STAY"), Action("ROLL", (("r",),)), Action("EXIT", (("escape",),))))
    keyboard = Keyboard(table)
    assert keyboard.feed(down("r", "backspace", "escape")) == ["reset", "quit"]
    assert table.names[keyboard.take_action()] == "ROLL"
    assert ("Backspace", "start again") in key_table(table), "help tells the key that is left"


def test_no_command_key_is_given_twice() -> None:
    keys = [key for command in COMMANDS for key in command.keys]
    assert len(keys) == len(set(keys)) == len(command_keys(PONG))


def test_the_table_has_every_action_with_keys_and_every_command() -> None:
    rows = dict(key_table(PONG))
    assert rows["Up or W"] == "UP" and rows["Esc"] == "leave"
    assert len(rows) == 5 + len(COMMANDS)
    assert len(markdown_table(PONG).splitlines()) == 2 + len(rows)
