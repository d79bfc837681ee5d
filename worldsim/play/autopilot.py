"""The game's scripted player at the keyboard of a dream: it sees the picture and nothing else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldsim.agents.players import Eyes, player_of, source_of
from worldsim.errors import WorldsimError
from worldsim.world import World


class Autopilot:
    """Reads the objects of a picture by their colours and presses keys as the source's scripted player would.

    Args:
        world: learned from a source that has such a player.
        seed: for the player's manner.

    Raises:
        WorldsimError: the source has none, or its objects cannot be told apart by colour.
    """

    def __init__(self, world: World, seed: int) -> None:
        try:
            source = source_of(world)
            self._eyes = Eyes(source)
            self._player = player_of("scripted", world.actions, source)(np.random.default_rng(seed))
        except WorldsimError as error:
            game = world.config.source.get("id") or world.name
            raise WorldsimError(f"nobody has taught keys=auto to play {game}: use random or a file") from error
        self._actions = world.actions
        self._held: frozenset[str] = frozenset()

    def act(self, frame: NDArray[np.uint8]) -> int:
        """The action after a frame ``uint8 [H, W, 3]``."""
        return self._player.act(self._eyes.states(frame[None])[0])

    def presses(self, turn: int, frame: NDArray[np.uint8]) -> list[tuple[str, bool]]:
        """Keys to press (True) and release (False) before a turn, after a frame ``uint8 [H, W, 3]``."""
        action = self._actions.actions[self.act(frame)]
        wanted = frozenset(action.keys[0]) if action.keys else frozenset()
        changes = [(key, False) for key in sorted(self._held - wanted)]
        changes += [(key, True) for key in sorted(wanted - self._held)]
        self._held = wanted
        return changes
