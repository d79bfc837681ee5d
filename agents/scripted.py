"""Scripted players: they read the source's own state and play well, badly, late or at an angle.

Each is made for one stretch of play and draws its manner from ``rng``: variety is what a recording needs. A player of a
given skill always has the same manner: that is what a comparison needs.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

import numpy as np

from worldsim.actions import ActionTable
from worldsim.agents.flight import in_64ths, mirrored
from worldsim.agents.pong import pong_player
from worldsim.envs.source_state import State

SKILLS = ("novice", "average", "expert")


class Player(Protocol):
    """Chooses an action from the source's state."""

    def act(self, state: State) -> int:
        """The action for this tick."""
        ...


class Script(Protocol):
    """Makes the scripted player of a game."""

    def __call__(
        self, actions: ActionTable, rng: np.random.Generator, pixels: int, skill: str | None = None
    ) -> Player:
        """A player.

        Args:
            actions: Of the source.
            rng: Everything random comes from it.
            pixels: Of the frames, each way.
            skill: One of :data:`SKILLS`; None: a manner drawn from ``rng``.
        """
        ...


class BreakoutPlayer:
    """Goes where the ball will come down, serves when there is none, and aims with all parts of the paddle."""

    HALF = 3.2  # half a paddle; this and all below in 64ths of a frame
    ROW = 61.6  # where the paddle meets the ball
    LEFT, RIGHT = 3.4, 60.2  # where a ball's centre turns

    def __init__(
        self, actions: ActionTable, rng: np.random.Generator, pixels: int, skill: str | None = None
    ) -> None:
        self._rng, self._pixels = rng, pixels
        self._keys = tuple(actions.index(name) for name in ("NOOP", "LEFT", "RIGHT", "FIRE"))
        self._seen: deque[State] = deque(maxlen=1 + int(rng.choice([0, 0, 0, 0, 0, 0, 1, 2, 4])))
        self._reach = float(rng.choice([0.2, 0.6, 0.9, 1.1])) * self.HALF
        self._serves = rng.random() < 0.9
        if skill is not None:
            late, reach = {"novice": (6, 0.9), "average": (3, 0.8), "expert": (0, 0.4)}[skill]
            self._seen, self._reach, self._serves = deque(maxlen=1 + late), reach * self.HALF, True
        self._aim = 0.0
        self._ball = (math.nan, math.nan)
        self._falling = False
        self._paddle = math.nan

    def act(self, state: State) -> int:
        """The action for this tick."""
        state = in_64ths(state, self._pixels)
        self._seen.append(state)
        x, y = self._seen[0]["ball_x"], self._seen[0]["ball_y"]
        right, down = x - self._ball[0], y - self._ball[1]
        self._ball = (x, y)
        paddle, speed = state["player_x"], state["player_x"] - self._paddle
        self._paddle = paddle
        if math.isnan(state["ball_x"]):
            return self._keys[3 if self._serves and self._rng.random() < 0.2 else 0]
        falling = down > 0
        if falling and not self._falling:
            self._aim = float(self._rng.uniform(-self._reach, self._reach))
        self._falling = falling
        if falling:
            x = mirrored(x + right * max(self.ROW - y, 0.0) / down, self.LEFT, self.RIGHT)
        gap = x + self._aim - paddle - (0.0 if math.isnan(speed) else speed)
        if math.isnan(gap) or abs(gap) < 1.0:
            return self._keys[0]
        return self._keys[1 if gap < 0 else 2]


class CarRacingDriver:
    """Steers towards the track ahead, at a speed of its own that may be more than the bends allow."""

    def __init__(
        self, actions: ActionTable, rng: np.random.Generator, pixels: int, skill: str | None = None
    ) -> None:
        self._noop, self._right, self._left, self._gas, self._brake = (
            actions.index(name) for name in ("NOOP", "RIGHT", "LEFT", "GAS", "BRAKE")
        )
        self._speed = float(rng.choice([20.0, 30.0, 40.0, 60.0]))  # metres a second
        self._slack = float(rng.choice([0.05, 0.1, 0.2]))  # radians off before it steers
        if skill is not None:
            self._speed, self._slack = {"novice": (15.0, 0.3), "average": (30.0, 0.2), "expert": (40.0, 0.1)}[skill]

    def act(self, state: State) -> int:
        """The action for this tick."""
        bend, speed = state["bend"], state["speed"]
        if abs(bend) > 0.6 and speed > self._speed / 2:
            return self._brake
        if abs(bend) > self._slack:
            return self._left if bend > 0 else self._right
        return self._gas if speed < self._speed else self._noop


#: By the name of a source's behaviour.
SCRIPTED: dict[str, Script] = {
    "pong": pong_player,
    "breakout": BreakoutPlayer,
    "carracing": CarRacingDriver,
}
