"""Players of Pong: one of many manners, and one that wins."""

from __future__ import annotations

import itertools
import math
from collections import deque

import numpy as np

from worldsim.actions import ActionTable
from worldsim.agents.flight import in_64ths, mirrored
from worldsim.envs.source_state import State


class PongPlayer:
    """Follows the ball with the right-hand paddle, in one of many manners.

    Manner: how many ticks late it sees, whether it runs ahead to where the ball will arrive, which part of
    the paddle it hits with, whether it dodges, whether it leans on FIRE.
    """

    HALF = 3.2  # half a paddle; this and all below in 64ths of a frame
    EDGE = 56.0  # column of the player's paddle
    TOP, BOTTOM = 0.5, 62.5  # where a ball's centre turns

    def __init__(
        self, actions: ActionTable, rng: np.random.Generator, pixels: int, skill: str | None = None
    ) -> None:
        self._rng, self._pixels = rng, pixels
        self._plain = (actions.index("NOOP"), actions.index("UP"), actions.index("DOWN"))
        self._fire = (actions.index("FIRE"), actions.index("UPFIRE"), actions.index("DOWNFIRE"))
        self._firing = float(rng.choice([0.0, 0.1, 0.3, 1.0, 1.0, 1.0]))  # a hit with FIRE held is a fast ball
        self._seen: deque[State] = deque(maxlen=1 + int(rng.choice([0] * 14 + [1, 4])))
        self._foresight = rng.random() < 0.95
        self._dodging = rng.random() < 0.02
        # Where the ball meets the paddle, in half paddles from its middle. Edges win points: with FIRE held,
        # the player scored 11 times in 6000 ticks at 0.6-0.9, 20 times at 1.0-1.2, 25 times at 1.1-1.3.
        manners = ((0.0, 0.4), (0.0, 0.6), (0.0, 0.9), (0.4, 1.0), (0.9, 1.2))
        self._reach = manners[int(rng.integers(len(manners)))]
        if skill is not None:
            self._firing, late, self._reach = {"novice": (0.0, 5, (0.0, 0.6)), "average": (0.1, 2, (0.0, 1.0))}[skill]
            self._foresight = self._dodging = False
            self._seen = deque(maxlen=1 + late)
        self._aim = self._new_aim()
        self._ball = (math.nan, math.nan)
        self._coming = False
        self._paddle = math.nan

    def act(self, state: State) -> int:
        """The action for this tick."""
        state = in_64ths(state, self._pixels)
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
            y = mirrored(y + down * (self.EDGE - x) / right, self.TOP, self.BOTTOM)
        return y + self._aim

    def _new_aim(self) -> float:
        return float(self._rng.choice([-1, 1]) * self._rng.uniform(*self._reach)) * self.HALF

    def _press(self, direction: int) -> int:
        return (self._fire if self._rng.random() < self._firing else self._plain)[direction]


class PongPaddle:
    """What the player's paddle makes of its keys, measured in the game: a key moves it over four ticks and more.

    Of the 4.52 that a key pressed for one tick moves it in all, 1.16 come in that tick; half of what is then left comes
    in each later one. So it slides on after a key is let go, and a tick's key is no place but a push. All in 64ths.
    """

    FIRST, SLIDE = 1.16, 3.36
    NEAR = 4  # ticks over which all sequences of keys are compared; before, a push is worth its whole way
    SEQUENCES = {
        ticks: np.array(list(itertools.product([0, -1, 1], repeat=ticks)), np.float64) for ticks in range(1, NEAR + 1)
    }
    IDLE = 0.04  # that a push must bring nearer to be worth it

    def __init__(self) -> None:
        self.y = math.nan
        self._slide, self._pushed = 0.0, 0

    def see(self, y: float) -> None:
        """Take its place after the tick that :meth:`push` decided about."""
        if math.isnan(y) or math.isnan(self.y):
            self._slide = 0.0
        else:
            pushes = np.array([self._pushed, 0, -1, 1])  # a key may have been another's: whoever plays may be overruled
            off = np.abs(y - self.y - self._slide / 2 - self.FIRST * pushes)
            pushed = pushes[0] if off[0] <= 0.8 else pushes[off.argmin()]
            self._slide = self._slide / 2 + self.SLIDE * float(pushed)
        self.y = y

    def push(self, target: float, ticks: int) -> int:
        """Up (-1), down (1) or neither (0), to be at ``target`` in so many ticks."""
        if ticks > self.NEAR:
            gap = target - self.y - self._slide
            self._pushed = 0 if abs(gap) < (self.FIRST + self.SLIDE) / 2 else int(math.copysign(1, gap))
        else:
            keys = self.SEQUENCES[ticks]
            moved = self.FIRST + self.SLIDE * (1 - 0.5 ** np.arange(ticks - 1, -1, -1))  # by then, by each one's push
            gaps = target - self.y - self._slide * (1 - 0.5**ticks) - keys @ moved
            self._pushed = int(keys[(np.abs(gaps) + self.IDLE * np.abs(keys).sum(1)).argmin(), 0])
        return self._pushed


class PongExpert:
    """Wins: it knows where the ball will be and what the paddle makes of its keys, and meets balls off its middle.

    A ball that comes down is met with the paddle's lower part, one that comes up with its upper part, and flies on
    steeply. FIRE is left alone: it makes balls fast, and the player misses more of them than the opponent does.
    """

    EDGE = 56.3  # column of a ball that the paddle meets; all in 64ths of a frame
    TOP, BOTTOM = -0.1, 63.1  # where a ball's centre turns
    OFF = 2.4  # from the paddle's middle to where it meets the ball; from 3 on it misses some
    HIDDEN = 3  # ticks that a ball can be behind a wall; what is gone for longer is gone

    def __init__(self, actions: ActionTable, pixels: int) -> None:
        self._pixels = pixels
        self._keys = {0: actions.index("NOOP"), -1: actions.index("UP"), 1: actions.index("DOWN")}
        self._paddle = PongPaddle()
        self._ball, self._flight = (math.nan, math.nan), (0.0, 0.0)
        self._hidden = 0
        self._middle = (self.TOP + self.BOTTOM) / 2

    def act(self, state: State) -> int:
        """The action for this tick."""
        state = in_64ths(state, self._pixels)
        self._paddle.see(state["player_y"])
        self._follow(state["ball_x"], state["ball_y"])
        if math.isnan(state["player_y"]):
            return self._keys[0]
        (x, y), (right, down) = self._ball, self._flight
        if math.isnan(x) or right <= 0:
            return self._keys[self._paddle.push(self._middle, PongPaddle.NEAR + 1)]
        ticks = (self.EDGE - x) / right
        meets = mirrored(y + down * max(ticks, 0.0), self.TOP, self.BOTTOM)
        return self._keys[self._paddle.push(meets - math.copysign(self.OFF, down), max(1, math.ceil(ticks)))]

    def _follow(self, x: float, y: float) -> None:
        """Where the ball is and how it flies, through ticks in which a wall hides it."""
        (old_x, old_y), (right, down) = self._ball, self._flight
        if math.isnan(x):
            self._hidden += 1
            if self._hidden > self.HIDDEN:
                self._ball, self._flight = (math.nan, math.nan), (0.0, 0.0)
            else:
                self._ball = (old_x + right, mirrored(old_y + down, self.TOP, self.BOTTOM))
            return
        if math.isnan(old_x):
            self._flight = (0.0, 0.0)
        elif self._hidden:
            self._flight = (x - old_x, math.copysign(down, self._middle - y))  # away from the wall
        else:
            self._flight = (x - old_x, y - old_y)
        self._ball, self._hidden = (x, y), 0


def pong_player(
    actions: ActionTable, rng: np.random.Generator, pixels: int, skill: str | None = None
) -> PongPlayer | PongExpert:
    """A player of Pong; see :class:`~worldsim.agents.scripted.Script`."""
    return PongExpert(actions, pixels) if skill == "expert" else PongPlayer(actions, rng, pixels, skill)
