"""Control: does the player's object move in the dream as it does in the real game, whatever is pressed?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.agents.random import RandomPlayer
from worldsim.evaluation.inverse import FRAMES, InverseDynamics, accuracy
from worldsim.evaluation.moments import clones
from worldsim.evaluation.roll_outs import branch, dream
from worldsim.evaluation.subject import Subject, spread
from worldsim.vision.reading import distance

HORIZONS = (1 / 6, 0.5, 1.0)
PLAYER = "player"  # what a source calls the object that the actions move
RANDOM = 2  # random action sequences from each moment, beside every action held


def measure(subject: Subject) -> dict[str, Any]:
    """Both halves of control; see :func:`paddle` and :func:`inverse_dynamics`."""
    report = {"inverse_dynamics": inverse_dynamics(subject)}
    if subject.reader and PLAYER in subject.reader.objects:
        report["player"] = player(subject)
    return report


def player(subject: Subject) -> dict[str, Any]:
    """Error of the player's object after every action held, and random ones, from the same real states.

    Pixels between the dreamed and the real object, median and 90th percentile over moments; an object that is missing
    in the dream counts as infinitely far, and moments without a real one do not count.
    """
    assert subject.reader
    moments, held_real = subject.branches
    ticks, count, kinds = held_real.shape[:3]
    held = np.tile(np.arange(kinds), (ticks, count))  # [T, M * A]
    rng = np.random.default_rng((subject.seed, 7004))
    chance = np.empty((ticks, count * RANDOM), np.int64)
    for column in range(count * RANDOM):
        fumbling = RandomPlayer(kinds, rng)
        chance[:, column] = [fumbling.act({}) for _ in range(ticks)]
    with subject.game() as game:
        states = [state for state in clones(game, moments) for _ in range(RANDOM)]
        chance_real = branch(game, states, chance)
    actions = np.concatenate([held, chance], 1)
    starts = [m.start for m in moments for _ in range(kinds)] + [m.start for m in moments for _ in range(RANDOM)]
    with subject.progress("control", actions.size) as advance:
        dreamed = dream(subject.world, starts, actions, subject.settings, advance)
    real = np.concatenate([held_real.reshape(ticks, count * kinds, *held_real.shape[3:]), chance_real], 1)
    apart = distance(subject.reader.read(dreamed)[PLAYER], subject.reader.read(real)[PLAYER])  # [T, rows]
    groups = {name: np.arange(count * kinds) % kinds == i for i, name in enumerate(subject.world.actions.names)}
    by_action = {name: at_horizons(subject, apart[:, : count * kinds][:, rows]) for name, rows in groups.items()}
    by_action["random"] = at_horizons(subject, apart[:, count * kinds :])
    return {
        "moments": count,
        "roll_outs": actions.shape[1],
        "error": at_horizons(subject, apart),
        "by_action": by_action,
        "curve": [spread(row) for row in apart],
    }


def at_horizons(subject: Subject, apart: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    """Errors [T, N] at the horizons: median, 90th percentile, and share within half a pixel."""
    table = {}
    for seconds in HORIZONS:
        row = apart[subject.ticks(seconds) - 1]
        median, high = spread(row)
        known = row[~np.isnan(row)]
        close = float((known <= 0.5).mean()) if len(known) else float("nan")
        table[f"{seconds:.2g}"] = {"median": median, "p90": high, "within_half_pixel": close}
    return table


def inverse_dynamics(subject: Subject) -> dict[str, Any]:
    """How well a network that learned from real frames tells the actions in the dream, over how well in the real game.

    Same moments, same actions, every tick of the roll-outs. Actions that look alike in the real game are one class.
    """
    rolls = subject.roll_outs
    judge = InverseDynamics(subject.dataset, subject.effects, subject.extent.lesson)
    lead = np.stack([m.start.frames[1 - FRAMES :] for m in rolls.moments], 1)
    true = judge.classes(rolls.actions)
    names = subject.effects.names
    real = accuracy(judge.read(np.concatenate([lead, rolls.real])), true, names)
    dreamed = accuracy(judge.read(np.concatenate([lead, rolls.dreamed])), true, names)
    shares = np.bincount(true.ravel(), minlength=len(names)) / true.size
    return {
        "ratio": dreamed["overall"] / real["overall"],
        "real": real,
        "dream": dreamed,
        "classes": dict(zip(names, shares.tolist(), strict=True)),
        "frames": int(true.size),
    }
