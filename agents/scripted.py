"""Scripted players: they read the source's own state and play well, badly, late or at an angle.

Each is made for one stretch of play and draws its manner from ``rng``: variety is what a recording needs.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Protocol

import numpy as np

from worldsim.actions import ActionTable
from worldsim.envs.source_state import State


class Player(Protocol):
    """Chooses an action from the source's state."""

    def act(self, state: State) -> int:
        """The action for this tick."""
        ...


class PongPlayer:
    """Follows the ball with the right-hand paddle, in one of many manners.

    Manner: how many ticks late it sees, whether it runs ahead to where the ball will arrive, which part of
    the paddle it hits with, whether it dodges, whether it leans on FIRE.
    """

    HALF = 3.2  # half a paddle, in frame pixels
    EDGE = 56.0  # column of the player's paddle
    TOP, BOTTOM = 0.5, 62.5  # where a ball's centre turns

    def __init__(self, actions: ActionTable, rng: np.random.Generator) -> None:
        self._rng = rng
        self._plain = (actions.index("NOOP"), actions.index("UP"), actions.index("DOWN"))
        self._fire = (actions.index("FIRE"), actions.index("UPFIRE"), actions.index("DOWNFIRE"))
        self._firing = float(rng.choice([0.0, 0.1, 0.3, 1.0, 1.0]))  # a hit with FIRE held is a fast ball
        self._seen: deque[State] = deque(maxlen=1 + int(rng.choice([0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8])))
        self._foresight = rng.random() < 0.8
        self._dodging = rng.random() < 0.05
        # Where the ball meets the paddle, in half paddles from its middle. Edges win points: with FIRE held, the
        # player scored 11 times in 6000 ticks at 0.6-0.9, 20 times at 1.0-1.2, 25 times at 1.1-1.3.
        self._reach = ((0.0, 0.4), (0.0, 1.0), (0.8, 1.2), (1.0, 1.3))[int(rng.integers(4))]
        self._aim = self._new_aim()
        self._ball = (math.nan, math.nan)
        self._coming = False
        self._paddle = math.nan

    def act(self, state: State) -> int:
        """The action for this tick."""
        self._seen.append(state)
        target = self._target(self._seen[0])
        paddle, speed = state["player_y"], state["player_y"] - self._paddle
        self._paddle = paddle
        if math.isnan(target) or math.isnan(paddle):
            return self._press(0)
        if self._dodging:
            target += 16 if target < 32 else -16
        gap = target - paddle - (0.0 if math.isnan(speed) else speed)  # it slides on after a key is let go
        return self._press(0 if abs(gap) < 1.0 else 1 if gap < 0 else 2)

    def _target(self, seen: State) -> float:
        x, y = seen["ball_x"], seen["ball_y"]
        right, down = x - self._ball[0], y - self._ball[1]
        self._ball = (x, y)
        coming = right > 0
        if coming and not self._coming:
            self._aim = self._new_aim()
        self._coming = coming
        if self._foresight and coming:
            span = self.BOTTOM - self.TOP
            phase = (y + down * (self.EDGE - x) / right - self.TOP) % (2 * span)
            y = self.TOP + min(phase, 2 * span - phase)  # off the walls as a mirror
        return y + self._aim

    def _new_aim(self) -> float:
        return float(self._rng.choice([-1, 1]) * self._rng.uniform(*self._reach)) * self.HALF

    def _press(self, direction: int) -> int:
        return (self._fire if self._rng.random() < self._firing else self._plain)[direction]


SCRIPTED: dict[str, Callable[[ActionTable, np.random.Generator], Player]] = {"pong": PongPlayer}
