"""Drift: minutes of dreaming without a reset, beside the real game for as long under the same policies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worldsim.agents.random import HeldPlayer, RandomPlayer
from worldsim.agents.scripted import SCRIPTED, Player
from worldsim.errors import WorldsimError
from worldsim.evaluation import tiles
from worldsim.evaluation.fidelity import frechet
from worldsim.evaluation.moments import clones
from worldsim.evaluation.outcome import in_pictures
from worldsim.evaluation.roll_outs import DreamRows, RealRows
from worldsim.evaluation.subject import Subject
from worldsim.model.designs import SEPARABLE
from worldsim.schema import nearest
from worldsim.vision.reading import Reading, Readings, as_state, joined

CHUNK = 30  # ticks of frames that are kept at a time
FEATURES_EVERY = 3  # ticks: frames in a row are nearly the same sample
MANNER = 5.0  # seconds until a scripted player takes on another manner
SNAPSHOTS = (0.0, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)  # seconds whose frames are kept for the picture


class Rows(Protocol):
    """Games side by side; see :class:`~worldsim.evaluation.roll_outs.RealRows`."""

    frames: NDArray[np.uint8]

    def step(self, actions: NDArray[np.int64]) -> NDArray[np.float32]:
        """Take an action in every row."""
        ...


@dataclass(frozen=True, eq=False)
class Run:
    """What was seen of games side by side.

    Attributes:
        readings: [T, N] by object.
        rewards: float32 [T, N].
        features: [T / FEATURES_EVERY, N, D].
        snapshots: Second to frames uint8 [N, H, W, 3].
        tiles: Before the first frame and of all, bool [1 + T, N, R, C]; ``None`` where there are none.
    """

    readings: Readings
    rewards: NDArray[np.float32]
    features: NDArray[np.float32]
    snapshots: dict[float, NDArray[np.uint8]]
    tiles: NDArray[np.bool_] | None = None


class Scripted:
    """A scripted player that changes its manner every few seconds, as in the recordings."""

    def __init__(self, make: Callable[[], Player], ticks: int) -> None:
        self._make, self._ticks, self._left = make, ticks, 0

    def act(self, state: dict[str, float]) -> int:
        """The action for this tick."""
        if self._left == 0:
            self._player, self._left = self._make(), self._ticks
        self._left -= 1
        return self._player.act(state)


def policies(subject: Subject) -> dict[str, Callable[[np.random.Generator], Player]]:
    """How to make a player of each policy: random, scripted (if the game has a script), idle, and each key held.

    Raises:
        WorldsimError: one is asked for that there is not.
    """
    table = subject.world.actions
    makers: dict[str, Callable[[np.random.Generator], Player]] = {"random": lambda rng: RandomPlayer(len(table), rng)}
    script = SCRIPTED.get(subject.source.behaviour or "")
    if script and subject.reader:
        side = subject.source.height
        makers["scripted"] = lambda rng: Scripted(lambda: script(table, rng, side), subject.ticks(MANNER))
    makers["idle"] = lambda rng: HeldPlayer(table.noop)
    kinds = subject.effects
    for kind, action in enumerate(kinds.first):
        if kind != kinds.of[table.noop]:
            makers[f"held {table.names[action]}"] = lambda rng, action=action: HeldPlayer(action)  # type: ignore[misc]
    wanted = subject.extent.drift_policies
    for name in wanted or ():
        if name not in makers:
            raise WorldsimError(f"unknown policy '{name}'{nearest(name, tuple(makers))}: there is {', '.join(makers)}")
    return makers if wanted is None else {name: makers[name] for name in wanted}


def measure(subject: Subject) -> tuple[dict[str, Any], dict[str, NDArray[np.uint8]]]:
    """Rates and Frechet distances along time, by policy, dream and real; and pictures of the dream by policy.

    Every policy starts from the same held-out moments. Nothing is ever reset: a dream goes on past the score that ends
    an episode, and a real game that is over goes on from another of the moments.

    Returns:
        The report, and for each policy the dream's first row at ``SNAPSHOTS``, uint8 [S, H, W, 3].
    """
    assert subject.reader
    extent, makers = subject.extent, policies(subject)
    ticks = subject.ticks(60 * extent.drift_minutes)
    moments = subject.moments(extent.drift_rows, 1)
    rows = len(moments) * len(makers)
    with subject.progress("drift, dream", ticks * rows) as advance:
        dreaming = DreamRows(subject.world, [m.start for m in moments] * len(makers), subject.settings)
        dreamed = play(subject, dreaming, _players(subject, makers), ticks, advance)
        dreaming.close()
    with subject.game() as game, subject.progress("drift, real game", ticks * rows) as advance:
        playing = RealRows(subject.source, clones(game, moments) * len(makers), subject.seed)
        real = play(subject, playing, _players(subject, makers), ticks, advance)
        playing.close()
    report: dict[str, Any] = {
        "minutes": extent.drift_minutes,
        "rows": len(moments),
        "last_seconds": min(extent.drift_last, 60 * extent.drift_minutes),
        "window_seconds": extent.drift_window,
        "policies": {},
    }
    pictures = {}
    for number, name in enumerate(makers):
        mine = slice(number * len(moments), (number + 1) * len(moments))
        report["policies"][name] = compare(subject, _rows(dreamed, mine), _rows(real, mine))
        pictures[name] = np.stack([frames[mine.start] for frames in dreamed.snapshots.values()])
    report["seconds"] = list(dreamed.snapshots)
    report["frechet"] = frechet_along(subject, dreamed, real)
    if parts := stretches(subject, ticks):
        report["early_from"] = subject.extent.drift_early
        report["frechet_held"] = {
            name: _mean_within(subject, report["frechet"], part)
            for name, part in zip(("early", "last"), parts, strict=True)
        }
    if {"ball", "player", "opponent"} <= set(subject.reader.objects) and subject.world.config.design == SEPARABLE:
        report["points"] = {
            "dream": in_pictures(dreamed.readings, dreamed.rewards),
            "real": in_pictures(real.readings, real.rewards),
        }
    return report, pictures


def play(subject: Subject, games: Rows, players: Sequence[Player], ticks: int, advance: Callable[[int], object]) -> Run:
    """Play every row, with players that see the game through the reader, and note what is seen."""
    assert subject.reader
    readings, rewards, features = [], [], []
    kept: list[NDArray[np.uint8]] = []
    wanted = {round(second * subject.fps): second for second in SNAPSHOTS}
    snapshots = {0.0: games.frames}
    seen, grid = subject.reader.read(games.frames), subject.tiles
    walls = [grid.read(games.frames)] if grid else []
    for tick in range(1, ticks + 1):
        states = (as_state(seen, row) for row in range(len(players)))
        actions = np.array([player.act(state) for player, state in zip(players, states, strict=True)], np.int64)
        rewards.append(games.step(actions))
        seen = subject.reader.read(games.frames)
        readings.append({name: reading[None] for name, reading in seen.items()})
        if grid:
            walls.append(grid.read(games.frames))
        if tick % FEATURES_EVERY == 0:
            kept.append(games.frames)
        if kept and (len(kept) == CHUNK or tick == ticks):
            block = subject.probe.features(np.stack(kept))
            features.append(block.reshape(len(kept), len(players), -1))
            kept = []
        if tick in wanted:
            snapshots[wanted[tick]] = games.frames
        advance(len(players))
    stacked = np.stack(walls) if grid else None
    return Run(joined(readings), np.stack(rewards), np.concatenate(features), snapshots, stacked)


def compare(subject: Subject, dreamed: Run, real: Run) -> dict[str, Any]:
    """One policy: rates over the whole run, over its last seconds, and along time."""
    extent = subject.extent
    window, last = subject.ticks(extent.drift_window), subject.ticks(extent.drift_last)
    ours, theirs = signals(dreamed.readings), signals(real.readings)
    ticks = len(dreamed.rewards)
    along = []
    for first in range(0, ticks - min(window, ticks) + 1, window):
        block = slice(first, first + window)
        sample = slice(first // FEATURES_EVERY, (first + window) // FEATURES_EVERY)
        along.append(
            {
                "from": first / subject.fps,
                "dream": {name: float(rate[block].mean()) for name, rate in ours.items()},
                "real": {name: float(rate[block].mean()) for name, rate in theirs.items()},
                "frechet": _frechet(dreamed.features[sample], real.features[sample]),
            }
        )
    walls = {}
    if subject.tiles and dreamed.tiles is not None:  # a real game that is over goes on elsewhere, with another wall
        seen = dreamed.tiles[0], dreamed.tiles[1:], dreamed.readings["ball"]
        walls["tiles"] = tiles.count(subject.tiles, *seen, subject.fps)
    held: dict[str, Any] = {}
    if parts := stretches(subject, ticks):
        held["early"] = _rates(ours, theirs, parts[0], window)
        if "ball" in dreamed.readings:
            runs = {"dream": dreamed.readings["ball"], "real": real.readings["ball"]}
            held["sharp"] = {
                name: {which: _sharp(ball[part]) for which, ball in runs.items()}
                for name, part in zip(("early", "last"), parts, strict=True)
            }
    return walls | held | {
        "whole": _rates(ours, theirs, slice(None), window),
        "last": _rates(ours, theirs, slice(max(0, ticks - last), None), window),
        "along": along,
        "points": {
            name: {"for": int((run.rewards > 0).sum()), "against": int((run.rewards < 0).sum())}
            for name, run in (("dream", dreamed), ("real", real))
        },
    }


def stretches(subject: Subject, ticks: int) -> tuple[slice, slice] | None:
    """The ticks near the beginning and those at the end that are held against each other; None: both are not in it."""
    extent = subject.extent
    early, length = subject.ticks(extent.drift_early), subject.ticks(extent.drift_last)
    return None if early + 2 * length > ticks else (slice(early, early + length), slice(ticks - length, ticks))


def signals(readings: Readings) -> dict[str, NDArray[np.bool_]]:
    """What is counted, bool [T, N] each: presence of every object and exactly one ball of the real size, which the bar
    looks at, and several of a kind, which it does not.
    """
    found = {f"{name} present": reading.present for name, reading in readings.items()}
    if "ball" in readings:
        found["one ball"] = readings["ball"].single
    return found | {f"several {name}s": reading.count > 1 for name, reading in readings.items()}


def frechet_along(subject: Subject, dreamed: Run, real: Run) -> list[dict[str, float]]:
    """Frechet distance along time over all policies, and between two halves of the real games, for scale."""
    size = max(1, subject.ticks(subject.extent.drift_window) // FEATURES_EVERY)
    table = []
    for first in range(0, len(real.features) - min(size, len(real.features)) + 1, size):
        a, b = dreamed.features[first : first + size], real.features[first : first + size]
        table.append(
            {
                "from": first * FEATURES_EVERY / subject.fps,
                "dream_to_real": _frechet(a, b),
                "real_to_real": _frechet(b[:, ::2], b[:, 1::2]) if b.shape[1] > 1 else math.nan,
            }
        )
    return table


def _mean_within(subject: Subject, along: Sequence[dict[str, float]], part: slice) -> float:
    """Frechet distance of the windows that begin in a stretch of ticks, on average."""
    mine = [at["dream_to_real"] for at in along if part.start <= subject.ticks(at["from"]) < part.stop]
    return float(np.mean(mine)) if mine else math.nan


def _sharp(ball: Reading) -> dict[str, int]:
    """Frames that show a ball, and those of them that show one, whole and sharp."""
    return {"frames": int((ball.count > 0).sum()), "sharp": int(ball.sharp.sum())}


def _rates(
    ours: dict[str, NDArray[np.bool_]], theirs: dict[str, NDArray[np.bool_]], part: slice, window: int
) -> dict[str, dict[str, float]]:
    """Dream's rate, real rate, their difference, and its standard error from the scatter of rows and windows."""
    table = {}
    for name in ours:
        a, b = ours[name][part], theirs[name][part]
        error = math.hypot(_standard_error(a, window), _standard_error(b, window))
        dream, real = float(a.mean()), float(b.mean())
        table[name] = {"dream": dream, "real": real, "difference": dream - real, "standard_error": error}
    return table


def _standard_error(signal: NDArray[np.bool_], window: int) -> float:
    blocks = [signal[first : first + window].mean(0) for first in range(0, len(signal), window)]
    means = np.concatenate(blocks)
    return float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else math.nan


def _frechet(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
    return frechet(a, b) if min(len(a), len(b)) > 1 else math.nan


def _players(subject: Subject, makers: dict[str, Callable[[np.random.Generator], Player]]) -> list[Player]:
    """One player a row, the same in the dream and in the real game."""
    return [
        make(np.random.default_rng((subject.seed, 7005, number, row)))
        for number, make in enumerate(makers.values())
        for row in range(subject.extent.drift_rows)
    ]


def _rows(run: Run, rows: slice) -> Run:
    return Run(
        {name: reading[:, rows] for name, reading in run.readings.items()},
        run.rewards[:, rows],
        run.features[:, rows],
        run.snapshots,
        None if run.tiles is None else run.tiles[:, rows],
    )
