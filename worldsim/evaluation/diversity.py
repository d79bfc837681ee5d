"""Diversity: where the game decides by itself, do the futures of a moment differ as those of the game do?

A ball that is served may go anywhere, and distillation can lose that: distribution matching is drawn to the likeliest
future. So from moments just before a ball comes into play, many futures are dreamed under the recorded actions. A real
game goes on from one state in one way; what is compared is where balls go over many real serves, over the futures of
many moments, and over those of a single one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.evaluation.events import GONE
from worldsim.evaluation.objects import BALL
from worldsim.evaluation.roll_outs import dream
from worldsim.evaluation.subject import Subject
from worldsim.model.cue import since_rewards
from worldsim.start import Start
from worldsim.vision.reading import Reading

BEFORE = 2  # ticks from a dream's beginning to the tick in which the recorded ball is served
LATE = 15  # ticks by which a dream may serve later
FLIGHT = 10  # ticks that a served ball is followed
MOST = 20_000  # real frames that are read for serves, at most
DIRECTIONS = ("left up", "right up", "left down", "right down")

Serve = dict[str, NDArray[np.float64]]


def measure(subject: Subject) -> dict[str, Any] | None:
    """Where served balls go, in the real game and in the dream; None where no ball is ever served.

    Returns:
        Of ``real`` serves, of all ``dream`` futures and, as means over moments, of those of ``one_moment``: how many
        directions are in use (``directions``, the exponential of the entropy, of left or right and up or down) and how
        far apart balls are after ``FLIGHT`` ticks (``spread``, standard deviation of their places in pixels).
        ``served`` is the share of futures in which one ball flies, ``as_recorded`` those of them that go where the
        recorded one went, ``distance`` how far the shares of directions are from real ones (total variation).

    Raises:
        AssertionError: the subject has no reader.
    """
    assert subject.reader
    if BALL not in subject.reader.objects:
        return None
    found = list(_serves(subject))
    if len(found) < 2:
        return None
    count, futures = subject.extent.serves, subject.extent.futures
    chosen = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, count).astype(int))]
    starts = [start for start, _, _ in chosen for _ in range(futures)]
    actions = np.stack([actions for _, actions, _ in chosen for _ in range(futures)], 1)
    with subject.progress("futures", actions.size) as advance:
        frames = dream(subject.world, starts, actions, subject.settings, advance)
    dreamed = flights(subject.reader.read(frames)[BALL])
    real = {name: np.array([flight[name] for _, _, flight in found]) for name in dreamed}
    by_moment = {name: values.reshape(len(chosen), futures) for name, values in dreamed.items()}
    moments = [{name: values[row] for name, values in by_moment.items()} for row in range(len(chosen))]
    recorded = np.array([flight["direction"] for _, _, flight in chosen])
    served = by_moment["direction"] >= 0
    alike = by_moment["direction"] == recorded[:, None]
    flown = [one for one in moments if (one["direction"] >= 0).sum() > 1]
    return {
        "moments": len(chosen),
        "futures": futures,
        "flight": FLIGHT,
        "serves": len(found),
        "served": float(served.mean()),
        "as_recorded": float(alike[served].mean()) if served.any() else float("nan"),
        "distance": float(np.abs(_shares(real) - _shares(dreamed)).sum() / 2),
        "real": _summary(real),
        "dream": _summary(dreamed),
        "one_moment": {
            name: float(np.mean([_summary(one)[name] for one in flown])) if flown else float("nan")
            for name in ("directions", "spread")
        },
        "places": {
            place: [[float(x), float(y)] for x, y in zip(where["x"], where["y"], strict=True) if not np.isnan(x)]
            for place, where in (("real", real), ("dream", dreamed))
        },
    }


def flights(ball: Reading) -> Serve:
    """What a ball does that is not there at first, readings [T, N].

    Returns:
        Float64 [N] each: ``direction``, 0 to 3 for left or right (+1) and up or down (+2), -1 if no single ball was
        served and followed for ``FLIGHT`` ticks; ``x`` and ``y`` after those, NaN if none was.
    """
    ticks, rows = ball.count.shape
    made = {"direction": np.full(rows, -1.0), "x": np.full(rows, np.nan), "y": np.full(rows, np.nan)}
    for row in range(rows):
        first = int(np.argmax(ball.present[:, row])) if ball.present[:, row].any() else ticks
        last = first + FLIGHT
        if last >= ticks or not (ball.single[first, row] and ball.single[last, row]):
            continue
        right, down = ball.x[last, row] > ball.x[first, row], ball.y[last, row] > ball.y[first, row]
        made["direction"][row] = right + 2 * down
        made["x"][row], made["y"][row] = ball.x[last, row], ball.y[last, row]
    return made


def _serves(subject: Subject) -> Iterator[tuple[Start, NDArray[np.int64], dict[str, float]]]:
    """Real serves of held-out play: what a dream of one starts with, its actions, and how the ball flew."""
    assert subject.reader
    window, read = subject.window, 0
    for info in subject.dataset.held_out:
        if read >= MOST:
            return
        episode = subject.dataset.load(info)
        ball = subject.reader.read(episode.frames)[BALL]
        read += len(episode.frames)
        there = ball.present
        for tick in np.flatnonzero(there[GONE:]) + GONE:
            begun, over = tick - BEFORE, tick + LATE + FLIGHT
            if ball.count[tick - GONE : tick].any() or begun + 1 < window or over >= len(there):
                continue
            made = flights(ball[tick : tick + FLIGHT + 1].reshape(-1, 1))
            flight = {name: float(values[0]) for name, values in made.items()}
            if flight["direction"] < 0:
                continue
            actions = episode.actions.astype(np.int64)
            frames = episode.frames[begun + 1 - window : begun + 1].copy()
            since = since_rewards(episode.rewards)[begun]
            start = Start(f"{info.file} at {begun}", frames, actions[begun + 1 - window : begun], since)
            yield start, actions[begun:over], flight


def _shares(flown: Serve) -> NDArray[np.float64]:
    """Of the four directions among balls that flew."""
    counts = np.bincount(flown["direction"][flown["direction"] >= 0].astype(int), minlength=4)
    return np.asarray(counts / max(1, counts.sum()), np.float64)


def _summary(flown: Serve) -> dict[str, float]:
    shares = _shares(flown)
    known = shares[shares > 0]
    x, y = (one[~np.isnan(one)] for one in (flown["x"], flown["y"]))
    return {
        "directions": float(np.exp(-(known * np.log(known)).sum())) if len(known) else float("nan"),
        "spread": float(np.sqrt(x.var() + y.var())) if len(x) > 1 else float("nan"),
        **{name: float(share) for name, share in zip(DIRECTIONS, shares, strict=True)},
    }
