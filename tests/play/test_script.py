"""Keys that press themselves, and keys written down."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldsim.actions import Action, ActionTable
from worldsim.errors import WorldsimError
from worldsim.play.keyboard import Keyboard, KeyEvent
from worldsim.play.script import NAMED, KeyRecorder, Script, load_script

TABLE = ActionTable((Action("STAY"), Action("LEFT", (("left",), ("a",))), Action("RIGHT", (("right",),))))


def actions(script: Script, turns: int) -> list[int]:
    keyboard = Keyboard(TABLE)
    taken = []
    for turn in range(turns):
        keyboard.feed(KeyEvent("down" if down else "up", key) for key, down in script.get(turn, ()))
        taken.append(keyboard.take_action())
    return taken


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_named_script_lasts_and_is_the_same_for_a_seed(name: str) -> None:
    taken = actions(load_script(name, TABLE, 600, 30.0, seed=1), 600)
    assert taken == actions(load_script(name, TABLE, 600, 30.0, seed=1), 600)
    assert set(taken) == ({0} if name == "idle" else {0, 1, 2})
    assert name == "idle" or any(taken[-60:])


def test_taps_last_one_tick() -> None:
    taken = actions(load_script("taps", TABLE, 600, 30.0, seed=1), 600)
    assert all(not (one and two) for one, two in zip(taken, taken[1:], strict=False))
    assert sum(map(bool, taken)) == 100


def test_a_world_without_keys_has_scripts_too() -> None:
    bare = ActionTable.numbered(("a", "b"))
    assert all(not load_script(name, bare, 100, 30.0, seed=1) for name in NAMED)


def test_what_is_recorded_plays_back_as_the_same_actions(tmp_path: Path) -> None:
    script = load_script("random", TABLE, 200, 30.0, seed=5)
    with KeyRecorder(tmp_path / "made" / "keys.jsonl") as recorder:
        for turn in range(200):
            events = [KeyEvent("down" if down else "up", key) for key, down in script.get(turn, ())]
            recorder.write(turn, events)
    assert load_script(str(tmp_path / "made" / "keys.jsonl"), TABLE, 200, 30.0, seed=0) == script


def test_losing_the_keyboard_is_recorded_as_keys_coming_up(tmp_path: Path) -> None:
    with KeyRecorder(tmp_path / "keys.jsonl") as recorder:
        recorder.write(4, [KeyEvent("down", "left")])
        recorder.write(9, [KeyEvent("blur")])
    assert load_script(str(tmp_path / "keys.jsonl"), TABLE, 20, 30.0, seed=0) == {
        4: [("left", True)],
        9: [("left", False)],
    }


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"tick": -1, "key": "up", "down": true}', '{"tick": 1, "key": "up"}']
)
def test_a_line_that_is_no_key_event_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "keys.jsonl").write_text('{"tick": 1, "key": "up", "down": true}\n\n' + line)
    with pytest.raises(WorldsimError, match=r"keys\.jsonl line 3 is not a key event: write"):
        load_script(str(tmp_path / "keys.jsonl"), TABLE, 20, 30.0, seed=0)


def test_an_unknown_script_lists_the_known() -> None:
    with pytest.raises(
        WorldsimError, match="no keys called 'rendom': use idle, random, sweep, taps, auto, or a file"
    ):
        load_script("rendom", TABLE, 20, 30.0, seed=0)
