"""A source's own state, for scripted play and for evaluation; never shown to a model.

Positions are in pixels of the source's resized frame, as pixel *indices*: an object that fills exactly column
10 has x = 10.0, which is what a brightness-weighted mean over indices finds. They are the centre of the part
of the object that is inside the frame, and NaN when none of it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

State = dict[str, float]
NAN = math.nan


@dataclass(frozen=True)
class Geometry:
    """How raw screen pixels became frame pixels: crop (top, bottom, left, right), then height and width."""

    crop: tuple[int, int, int, int]
    height: int
    width: int

    def x(self, left: float, right: float) -> float:
        """Frame x of the visible part of raw columns [left, right)."""
        return _centre(left - self.crop[2], right - self.crop[2], self.crop[3] - self.crop[2], self.width)

    def y(self, top: float, bottom: float) -> float:
        """Frame y of the visible part of raw rows [top, bottom)."""
        return _centre(top - self.crop[0], bottom - self.crop[0], self.crop[1] - self.crop[0], self.height)


def _centre(low: float, high: float, raw: int, pixels: int) -> float:
    low, high = max(low, 0), min(high, raw)
    return (low + high) / 2 * pixels / raw - 0.5 if high > low else NAN


def pong(env: Any, geometry: Geometry) -> State:
    """Atari Pong from its RAM. Offsets were calibrated against the pixels: see tests/envs/test_sources.py."""
    ram = env.unwrapped.ale.getRAM()
    ball_x, ball_y, opponent, player = (int(ram[cell]) for cell in (49, 54, 50, 51))
    x, y = NAN, NAN
    if ball_x and ball_y:
        x, y = geometry.x(ball_x - 49, ball_x - 47), geometry.y(ball_y - 14, ball_y - 10)
        if math.isnan(x) or math.isnan(y):
            x = y = NAN
    top = player - 14 + player % 2  # the paddle is drawn on even rows only
    return {
        "ball_x": x,
        "ball_y": y,
        "player_y": geometry.y(top, top + 16),
        "opponent_y": geometry.y(opponent - 15, opponent + 1),
        "player_score": float(ram[14]),
        "opponent_score": float(ram[13]),
    }


def breakout(env: Any, geometry: Geometry) -> State:
    """Atari Breakout from its RAM. The ball is absent until it is served."""
    ram = env.unwrapped.ale.getRAM()
    ball_x, ball_y, player = (int(ram[cell]) for cell in (99, 101, 72))
    x, y = NAN, NAN
    if ball_x and ball_y:
        x, y = geometry.x(ball_x - 49, ball_x - 47), geometry.y(ball_y + 9, ball_y + 13)
        if math.isnan(x) or math.isnan(y):
            x = y = NAN
    # The paddle disappears behind the right wall, which begins at column 152.
    paddle = geometry.x(max(player - 47, 8), min(player - 31, 152))
    return {"ball_x": x, "ball_y": y, "player_x": paddle, "lives": float(env.unwrapped.ale.lives())}


def carracing(env: Any, geometry: Geometry) -> State:
    """CarRacing from its physics, in the game's units (metres, radians), not in pixels: the view turns with the car.

    ``bend`` is the angle from the car's nose to the track ahead, to the left above 0; ``off`` the distance from
    the middle of the track.
    """
    game = env.unwrapped
    car, angle = game.car.hull.position, game.car.hull.angle
    track = [(point[2], point[3]) for point in game.track]
    nearest = min(range(len(track)), key=lambda i: (track[i][0] - car[0]) ** 2 + (track[i][1] - car[1]) ** 2)
    ahead = track[(nearest + 4) % len(track)]
    bend = math.atan2(ahead[1] - car[1], ahead[0] - car[0]) - (angle + math.pi / 2)
    return {
        "car_x": float(car[0]),
        "car_y": float(car[1]),
        "speed": float(game.car.hull.linearVelocity.length),
        "bend": math.remainder(bend, 2 * math.pi),
        "off": math.dist(track[nearest], (car[0], car[1])),
        "tiles": float(game.tile_visited_count),
    }


READERS: dict[str, Callable[[Any, Geometry], State]] = {
    "pong": pong,
    "breakout": breakout,
    "carracing": carracing,
}
