"""One table of actions for the source, the environment, the model and the keyboard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worldsim.errors import ActionError

# The key codes of pygame for keys that are not a single character: SDL2 key codes, stable since 2013.
# Kept here so that an environment can name its keys without importing pygame.
KEY_CODES = {
    "space": 32, "return": 13, "tab": 9, "backspace": 8, "escape": 27,
    "right": 1073741903, "left": 1073741904, "down": 1073741905, "up": 1073741906,
    "left ctrl": 1073742048, "left shift": 1073742049, "left alt": 1073742050,
    "right ctrl": 1073742052, "right shift": 1073742053, "right alt": 1073742054,
}  # fmt: skip


def key_code(key: str) -> int:
    """The pygame key code of a key's pygame name (``"w"``, ``"up"``, ``"space"``).

    Raises:
        ActionError: the name is not a single character or one of ``KEY_CODES``.
    """
    if key in KEY_CODES:
        return KEY_CODES[key]
    if len(key) == 1:
        return ord(key)
    raise ActionError(f"unknown key {key!r}: use one character or one of {', '.join(KEY_CODES)}")


@dataclass(frozen=True)
class Action:
    """One discrete action.

    Attributes:
        name: what the action is called on screen, such as ``"UPFIRE"``.
        keys: alternatives; each is a combination of pygame key names held together. The no-op has none.
    """

    name: str
    keys: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class ActionTable:
    """The actions of a world, in the order of their numbers.

    Attributes:
        actions: action ``i`` is ``actions[i]``.
        noop: the number of the action that does nothing.

    Raises:
        ActionError: no actions, more than 256, a repeated name, a key combination with two meanings, an
            unknown key, or a no-op outside the table.
    """

    actions: tuple[Action, ...]
    noop: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.actions) <= 256:
            raise ActionError(f"an action table holds 1 to 256 actions, not {len(self.actions)}")
        if len(set(self.names)) != len(self.actions):
            raise ActionError(f"action names repeat: {', '.join(self.names)}")
        if not 0 <= self.noop < len(self.actions):
            raise ActionError(f"noop is {self.noop}, but the actions are 0 to {len(self.actions) - 1}")
        seen: dict[frozenset[str], str] = {}
        for action in self.actions:
            for combo in action.keys:
                for key in combo:
                    key_code(key)
                if seen.setdefault(frozenset(combo), action.name) != action.name or not combo:
                    raise ActionError(f"keys {'+'.join(combo) or '(none)'} of {action.name} are not its own")

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def names(self) -> tuple[str, ...]:
        """Action names by number."""
        return tuple(action.name for action in self.actions)

    def index(self, name: str) -> int:
        """The number of the action called ``name``.

        Raises:
            ActionError: there is no such action; the message lists those there are.
        """
        if name not in self.names:
            raise ActionError(f"no action is called {name!r}: the actions are {', '.join(self.names)}")
        return self.names.index(name)

    def from_keys(self, pressed: Iterable[str]) -> int:
        """The action that a set of pressed keys means.

        The largest combination that is wholly pressed wins, the lower number among equals; keys with no
        meaning are ignored; nothing pressed is the no-op.
        """
        held = frozenset(pressed)
        best, size = self.noop, 0
        for number, action in enumerate(self.actions):
            for combo in action.keys:
                if len(combo) > size and held.issuperset(combo):
                    best, size = number, len(combo)
        return best

    def to_gymnasium(self) -> dict[tuple[int, ...], int]:
        """The map that ``gymnasium.utils.play`` wants: sorted pygame key codes to action number."""
        return {
            tuple(sorted(key_code(key) for key in combo)): number
            for number, action in enumerate(self.actions)
            for combo in action.keys
        }

    def help_rows(self) -> list[tuple[str, str]]:
        """Rows of (keys, action name) for a help screen, one for every action that has keys."""
        return [
            (" or ".join("+".join(key.title() for key in combo) for combo in action.keys), action.name)
            for action in self.actions
            if action.keys
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain lists and strings, ready for ``json.dumps``."""
        actions = [{"name": a.name, "keys": [list(combo) for combo in a.keys]} for a in self.actions]
        return {"actions": actions, "noop": self.noop}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ActionTable:
        """The inverse of :meth:`to_json`.

        Raises:
            ActionError: the data does not describe an action table.
        """
        try:
            noop = data["noop"]
            rows = [(row["name"], row.get("keys", [])) for row in data["actions"]]
            texts = [name for name, _ in rows] + [key for _, keys in rows for combo in keys for key in combo]
        except (KeyError, TypeError, AttributeError) as error:
            raise ActionError(f"not an action table: {type(error).__name__}: {error}") from error
        if type(noop) is not int or not all(isinstance(text, str) for text in texts):
            raise ActionError("not an action table: names and keys must be text and noop a whole number")
        return cls(tuple(Action(name, tuple(tuple(combo) for combo in keys)) for name, keys in rows), noop)

    @classmethod
    def numbered(cls, names: Sequence[str], noop: int = 0) -> ActionTable:
        """A table of names without keys, for a game nobody has given keys to."""
        return cls(tuple(Action(name) for name in names), noop)
