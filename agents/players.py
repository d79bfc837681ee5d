"""Players by name, and eyes for those that were written for a source's state: in a dream there are only pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from worldsim.actions import ActionTable
from worldsim.agents.random import HeldPlayer, RandomPlayer
from worldsim.agents.scripted import SCRIPTED, SKILLS, Player
from worldsim.envs.source_state import State
from worldsim.envs.sources import SourceConfig, load_source
from worldsim.errors import WorldsimError
from worldsim.settings import group_names
from worldsim.vision.colours import ColourReader, tells_apart
from worldsim.vision.reading import as_state
from worldsim.world import World

NAMED = ("random", "idle", "scripted", *(f"scripted:{skill}" for skill in SKILLS))

MakePlayer = Callable[[np.random.Generator], Player]


def source_of(world: World, name: str | None = None) -> SourceConfig:
    """The real game of a world, in the size that the world shows it.

    Args:
        world: A dream.
        name: Of a source; None: the one that the world was learned from.

    Raises:
        WorldsimError: it is not known.
    """
    game = world.config.source.get("id")
    known = (load_source(one) for one in group_names("source"))
    found = next((source for source in known if source.id == game), None) if name is None else None
    return (found or load_source(name or game or world.name)).at(world.config.model.height, world.config.model.width)


def player_of(name: str, actions: ActionTable, source: SourceConfig) -> MakePlayer:
    """How to make a player of :data:`NAMED`.

    Args:
        name: ``"random"``, ``"idle"``, ``"scripted"`` (a manner of its own each time) or ``"scripted:<skill>"``.
        actions: Of the source.
        source: In the size of the frames that will be played.

    Raises:
        WorldsimError: no such player, or a source without a scripted one.
    """
    if name == "random":
        return lambda rng: RandomPlayer(len(actions), rng)
    if name == "idle":
        return lambda rng: HeldPlayer(actions.noop)
    kind, _, skill = name.partition(":")
    if name not in NAMED:
        raise WorldsimError(f"no player is called {name!r}: there are {', '.join(NAMED)}")
    script = SCRIPTED.get(source.behaviour or "")
    if script is None:
        raise WorldsimError(f"source {source.name} has no {kind} player: give policy=random or a file")
    return lambda rng: script(actions, rng, source.height, skill or None)


class Eyes:
    """Reads the objects of pictures by their colours, as the states that scripted players know.

    Args:
        source: Says what its objects look like, in the size of the pictures.

    Raises:
        WorldsimError: they cannot be told apart by colour.
    """

    def __init__(self, source: SourceConfig) -> None:
        if not tells_apart(source.objects):
            raise WorldsimError(
                f"a scripted player reads the state of {source.name}, which a dream has not, and its objects cannot be "
                "told apart by colour: give where=[real]"
            )
        self._reader = ColourReader(source.objects, source.height, source.width)

    def states(self, frames: NDArray[np.uint8]) -> list[State]:
        """States of pictures uint8 [N, H, W, 3]; NaN where an object is not to be seen."""
        seen = self._reader.read(frames)
        return [as_state(seen, row) for row in range(len(frames))]


def act_all(players: Sequence[Player], states: Sequence[State]) -> NDArray[np.int64]:
    """Every player's action [N] for its own state."""
    return np.array([player.act(state) for player, state in zip(players, states, strict=True)], np.int64)
