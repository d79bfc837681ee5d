"""The game's scripted player at the keyboard of a dream: it sees the picture and nothing else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from worldsim.agents.scripted import SCRIPTED, Player
from worldsim.envs.sources import load_source
from worldsim.errors import WorldsimError
from worldsim.evaluation.colour_reader import ColourReader, tells_apart
from worldsim.settings import group_names
from worldsim.world import World


class Autopilot:
    """Reads the objects of a picture by their colours and presses keys as the source's scripted player would.

    Args:
        world: learned from a source that has such a player.
        seed: for the player's manner.

    Raises:
        WorldsimError: no source of the world's has one, or its objects cannot be told apart by colour.
    """

    def __init__(self, world: World, seed: int) -> None:
        game = world.config.source.get("id")
        sources = [load_source(name) for name in group_names("source")]
        source = next((source for source in sources if source.id == game), None)
        if source is None or source.behaviour not in SCRIPTED or not tells_apart(source.objects):
            raise WorldsimError(
                f"nobody has taught keys=auto to play {game or world.name}: use random or a file"
            )
        model = world.config.model
        self._actions = world.actions
        objects = source.at(model.height, model.width).objects
        self._reader = ColourReader(objects, model.height, model.width)
        self._player: Player = SCRIPTED[source.behaviour](world.actions, np.random.default_rng(seed), model.height)
        self._held: frozenset[str] = frozenset()

    def presses(self, turn: int, frame: NDArray[np.uint8]) -> list[tuple[str, bool]]:
        """Keys to press (True) and release (False) before a turn, after a frame ``uint8 [H, W, 3]``."""
        state: dict[str, float] = {}
        for name, seen in self._reader.read(frame[None]).items():
            state |= {f"{name}_x": float(seen.x[0]), f"{name}_y": float(seen.y[0])}
        action = self._actions.actions[self._player.act(state)]
        wanted = frozenset(action.keys[0]) if action.keys else frozenset()
        changes = [(key, False) for key in sorted(self._held - wanted)]
        changes += [(key, True) for key in sorted(wanted - self._held)]
        self._held = wanted
        return changes
