"""Key sequences: played from a file or by name where nobody sits, and recorded where somebody does.

A file holds one JSON object a line, `{"tick": 12, "key": "up", "down": true}`: before turn 12 of the player's
loop, the key goes down. Turns count from 0 and go on during a pause.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldsim.actions import ActionTable
from worldsim.errors import WorldsimError
from worldsim.play.keyboard import KeyEvent

Combo = tuple[str, ...]
Press = tuple[Combo, int]  # keys held together, and for how many turns
Presses = Sequence[tuple[str, bool]]  # keys that go down (True) or up (False)
Script = dict[int, list[tuple[str, bool]]]  # turn -> presses before it
Hand = Callable[[int, NDArray[np.uint8]], Presses]  # turn and latest frame -> presses before it


def _idle(combos: list[Combo], fps: float, rng: random.Random) -> Iterator[Press]:
    """No key, ever."""
    yield (), 2**62


def _random(combos: list[Combo], fps: float, rng: random.Random) -> Iterator[Press]:
    """A random action's keys, or none, for 0.07 to 0.7 seconds each."""
    while True:
        yield rng.choice([(), *combos]), max(1, round(fps * rng.uniform(0.07, 0.7)))


def _sweep(combos: list[Combo], fps: float, rng: random.Random) -> Iterator[Press]:
    """Each action's keys in turn, half a second each, with a rest between."""
    while True:
        for combo in combos or [()]:
            yield combo, max(1, round(fps / 2))
            yield (), max(1, round(fps / 6))


def _taps(combos: list[Combo], fps: float, rng: random.Random) -> Iterator[Press]:
    """One-tick taps of random actions, five a second: an event for the response time in every sixth tick."""
    while True:
        yield rng.choice(combos or [()]), 1
        yield (), max(1, round(fps / 5) - 1)


NAMED: dict[str, Callable[[list[Combo], float, random.Random], Iterator[Press]]] = {
    "idle": _idle,
    "random": _random,
    "sweep": _sweep,
    "taps": _taps,
}


def load_script(name: str, table: ActionTable, turns: int, fps: float, seed: int) -> Script:
    """A named script for the keys of a world, or one from a file.

    Args:
        name: one of ``NAMED``, or the path of a file as the recorder writes it.
        table: the actions of the world.
        turns: how many turns a named script must last.
        fps: turns a second.
        seed: for the random ones.

    Raises:
        WorldsimError: neither a name nor a file, or a line of the file is not a key event.
    """
    if name not in NAMED:
        return _read(Path(name).expanduser())
    combos = [action.keys[0] for action in table.actions if action.keys]
    script: Script = {}
    turn, held = 0, frozenset[str]()
    for combo, length in NAMED[name](combos, fps, random.Random(seed)):
        if turn >= turns:
            break
        wanted = frozenset(combo)
        changes = [(key, False) for key in sorted(held - wanted)]
        changes += [(key, True) for key in sorted(wanted - held)]
        if changes:
            script[turn] = changes
        turn, held = turn + length, wanted
    return script


def _read(path: Path) -> Script:
    if not path.is_file():
        names = ", ".join((*NAMED, "auto"))
        raise WorldsimError(
            f"no keys called {str(path)!r}: use {names}, or a file that record_keys=... wrote"
        )
    script: Script = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
            turn, key, down = event["tick"], event["key"], event["down"]
        except (ValueError, TypeError, KeyError):
            turn = key = down = None
        if type(turn) is not int or turn < 0 or not isinstance(key, str) or not isinstance(down, bool):
            raise WorldsimError(
                f'{path} line {number} is not a key event: write {{"tick": 12, "key": "up", "down": true}}'
            )
        script.setdefault(turn, []).append((key, down))
    return script


class KeyRecorder:
    """Writes key events as they happen, so that the same game can be played again.

    Args:
        path: of the file, which is replaced.

    Raises:
        WorldsimError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise WorldsimError(f"cannot write keys to {path}: {error.strerror}") from error
        self._held: list[str] = []

    def write(self, turn: int, events: list[KeyEvent]) -> None:
        """Write the key events of one turn; losing the keyboard is written as keys coming up."""
        for event in events:
            if event.kind in ("down", "up"):
                self._line(turn, event.key, event.kind == "down")
            elif event.kind == "blur":
                for key in tuple(self._held):
                    self._line(turn, key, False)

    def _line(self, turn: int, key: str, down: bool) -> None:
        if down and key not in self._held:
            self._held.append(key)
        elif not down and key in self._held:
            self._held.remove(key)
        self._file.write(json.dumps({"tick": turn, "key": key, "down": down}) + "\n")

    def __enter__(self) -> KeyRecorder:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
