"""Keys to actions and commands, with one table that serves the player, its help and the README.

`python -m worldsim.play.keyboard` prints that table as Markdown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from worldsim.actions import ActionTable


@dataclass(frozen=True)
class KeyEvent:
    """What the keyboard did.

    Attributes:
        kind: a key went ``"down"`` or ``"up"``; ``"blur"``: the window lost the keyboard; ``"quit"``: it was
            closed.
        key: the key's pygame name (``"up"``, ``"w"``, ``"f12"``).
        text: the character that the key types, which differs from ``key`` under Shift and on other layouts.
    """

    kind: Literal["down", "up", "blur", "quit"]
    key: str = ""
    text: str = ""


@dataclass(frozen=True)
class Command:
    """A key that steers the player and not the game.

    Attributes:
        name: what the player calls it.
        keys: alternatives, the one to print first.
        text: what it does, for help.
    """

    name: str
    keys: tuple[str, ...]
    text: str


COMMANDS = (
    Command("reset", ("r", "backspace"), "start again"),
    Command("pause", ("p", "pause", "break"), "pause, and go on"),
    Command("tick", (".", "[.]"), "one tick, while paused"),
    Command("more", ("+", "=", "[+]"), "one more denoising step"),
    Command("fewer", ("-", "_", "[-]"), "one denoising step less"),
    Command("pilot", ("m",), "hand the controls over, and take them back"),
    Command("hud", ("tab",), "show or hide the panel"),
    Command("help", ("h", "f1"), "show or hide these keys"),
    Command("record", ("f9",), "start or stop recording to ./recordings"),
    Command("screenshot", ("f12",), "save a picture to ./screenshots"),
    Command("quit", ("escape",), "leave"),
)

_LABELS = {"escape": "Esc", "return": "Enter", "[.]": "Keypad .", "[+]": "Keypad +", "[-]": "Keypad -"}


def key_label(key: str) -> str:
    """A key's name as it is printed on people's keyboards: ``"escape"`` is ``"Esc"``."""
    return _LABELS.get(key, key.title())


def game_keys(table: ActionTable) -> frozenset[str]:
    """Every key that takes part in an action of the table."""
    return frozenset(key for action in table.actions for combo in action.keys for key in combo)


def command_keys(table: ActionTable) -> dict[str, str]:
    """Key name to command name. A game's own keys win over a command's; only Esc always leaves."""
    taken = game_keys(table) - {"escape"}
    return {key: command.name for command in COMMANDS for key in command.keys if key not in taken}


def key_table(table: ActionTable) -> list[tuple[str, str]]:
    """Rows of (keys, what they do): the game's actions, then the player's commands."""
    reachable = command_keys(table)
    commands = [
        (key_label(keys[0]), command.text)
        for command in COMMANDS
        if (keys := [key for key in command.keys if key in reachable])
    ]
    return table.help_rows() + commands


def markdown_table(table: ActionTable) -> str:
    """:func:`key_table` as the Markdown table that stands in the README."""
    rows = [f"| {keys} | {text} |" for keys, text in key_table(table)]
    return "\n".join(["| key | does |", "|---|---|", *rows])


class Keyboard:
    """Keys held now, and keys tapped since the last tick.

    A key that went down counts for the next tick even if it came up again before it; a key that stays down
    counts for every tick until it comes up.

    Args:
        table: the actions of the world.
    """

    def __init__(self, table: ActionTable) -> None:
        self._table = table
        self._game_keys = game_keys(table) - {"escape"}
        self._commands = command_keys(table)
        self._combos = {frozenset(combo) for action in table.actions for combo in action.keys}
        self._held: dict[str, int] = {}  # key -> when it went down, as a count of key presses
        self._tapped: dict[str, int] = {}
        self._presses = 0

    @property
    def held(self) -> frozenset[str]:
        """The game's keys that are down now."""
        return frozenset(self._held)

    def feed(self, events: Iterable[KeyEvent]) -> list[str]:
        """Take events in their order.

        Returns:
            The names of the commands among them, in order.
        """
        commands = []
        for event in events:
            if event.kind == "quit":
                commands.append("quit")
            elif event.kind == "blur":  # the key's release will go to another window
                self._held.clear()
            elif event.key in self._game_keys:
                self._feed_game_key(event)
            elif event.kind == "down":
                command = self._commands.get(event.key) or self._commands.get(event.text)
                if command is not None:
                    commands.append(command)
        return commands

    def take_action(self) -> int:
        """The action of this tick; taps are used up by it.

        Of keys that exclude each other (up and down) the one pressed last wins.
        """
        pressed = {**self._tapped, **self._held}
        self._tapped.clear()
        chosen: frozenset[str] = frozenset()
        for key in sorted(pressed, key=lambda name: pressed[name], reverse=True):
            if chosen | {key} in self._combos:
                chosen |= {key}
        return self._table.from_keys(chosen or frozenset(pressed))

    def forget_taps(self) -> None:
        """Forget keys that came up again since the last tick; those still down stay."""
        self._tapped.clear()

    def _feed_game_key(self, event: KeyEvent) -> None:
        if event.kind == "up":
            self._held.pop(event.key, None)
            return
        self._presses += 1
        self._held[event.key] = self._tapped[event.key] = self._presses


def main() -> None:
    """Print the README's key table, with the keys of Pong."""
    from worldsim.envs.sources import load_source

    print(markdown_table(load_source("pong").action_table()))


if __name__ == "__main__":
    main()
