"""Players that need no eyes: random, idle, and one held key."""

from __future__ import annotations

import numpy as np

from worldsim.envs.source_state import State


class RandomPlayer:
    """A random action, held for a random while: a person's fumbling rather than white noise."""

    def __init__(self, actions: int, rng: np.random.Generator, longest: int = 8) -> None:
        self._actions, self._rng, self._longest = actions, rng, longest
        self._action, self._left = 0, 0

    def act(self, state: State) -> int:
        """The action for this tick."""
        if self._left == 0:
            self._action = int(self._rng.integers(self._actions))
            self._left = int(self._rng.integers(1, self._longest + 1))
        self._left -= 1
        return self._action


class HeldPlayer:
    """One action for as long as it is asked: the no-op, or a key held down."""

    def __init__(self, action: int) -> None:
        self._action = action

    def act(self, state: State) -> int:
        """The action for this tick."""
        return self._action
