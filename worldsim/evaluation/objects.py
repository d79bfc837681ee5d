"""Objects: under the same actions from the same moments, are they there, how many, how big and where?"""

from __future__ import annotations

from typing import Any

import numpy as np

from worldsim.evaluation import tiles
from worldsim.evaluation.subject import Subject, spread
from worldsim.vision.reading import IN_STEP, Reading, distance

HORIZONS = (1 / 6, 0.5, 1.0, 2.0, 4.0)
BALL = "ball"  # comes and goes; every other object is expected to stay


def measure(subject: Subject) -> dict[str, Any]:
    """Errors and rates by object over the roll-outs, and of those that stay, how often all are there.

    Raises:
        AssertionError: the subject has no reader.
    """
    assert subject.reader
    rolls = subject.roll_outs
    dreamed, real = subject.reader.read(rolls.dreamed), subject.reader.read(rolls.real)
    table = {name: compare(subject, dreamed[name], real[name]) for name in subject.reader.objects}
    report: dict[str, Any] = {"roll_outs": len(rolls.moments), "counts": subject.reader.counts, "by_object": table}
    steady = [name for name in subject.reader.objects if name != BALL]
    if steady:
        there = np.all([real[name].present for name in steady], 0)
        kept = np.all([dreamed[name].present for name in steady], 0)
        report["steady"] = {
            "objects": steady,
            "all_present": _share(kept, there),
            "usual": float(there.mean()),
            "frames": int(there.sum()),
        }
    if (grid := subject.tiles) is not None:
        ours, theirs = (grid.read(rolls.dreamed), dreamed[BALL]), (grid.read(rolls.real), real[BALL])
        report["tiles"] = tiles.compare(grid, grid.read(rolls.before), ours, theirs, subject.fps)
    return report


def compare(subject: Subject, dreamed: Reading, real: Reading) -> dict[str, Any]:
    """One kind of object, readings [T, N].

    Rates are over the dream frames whose real counterpart shows it: ``present`` where the real one is present,
    ``single`` (exactly one, of the real size +-40 %) where the real one is single. ``missing``, ``several`` and
    ``wrong_size`` say what the others show. ``invented`` is over the frames whose real counterpart shows none.
    ``in_step`` is the share of the roll-outs, of those whose real counterpart shows it, in which it is within 1.5
    pixels: a median between right ones and lost ones says little of either. ``usual`` is the share of all real frames
    in which it is single: what ``single`` would be of a game as good as the real one that is out of step with it.
    """
    apart = distance(dreamed, real)
    errors = {}
    for seconds in HORIZONS:
        tick = subject.ticks(seconds) - 1
        if tick < len(apart):
            median, high = spread(apart[tick])
            errors[f"{seconds:.2g}"] = {
                "median": median,
                "p90": high,
                "in_step": _share(apart[tick] <= IN_STEP, ~np.isnan(apart[tick])),
                "roll_outs": int(np.sum(~np.isnan(apart[tick]))),
                "present": _share(dreamed.present[tick], real.present[tick]),
                "single": _share(dreamed.single[tick], real.single[tick]),
            }
    one = dreamed.count == 1
    return {
        "errors": errors,
        "present": _share(dreamed.present, real.present),
        "single": _share(dreamed.single, real.single),
        "missing": _share(dreamed.count == 0, real.single),
        "several": _share(dreamed.count > 1, real.single),
        "wrong_size": _share(one & ~dreamed.single, real.single),
        "invented": _share(dreamed.count > 0, real.count == 0),
        "usual": float(real.single.mean()),
        "frames": int(real.single.sum()),
        "curve": [
            {
                "error": spread(apart[t]),
                "present": _share(dreamed.present[t], real.present[t]),
                "single": _share(dreamed.single[t], real.single[t]),
            }
            for t in range(len(apart))
        ],
    }


def validate_reader(subject: Subject, most: int = 4000) -> dict[str, Any]:
    """The reader against the source's own state on real held-out frames, by object.

    ``agreement`` is the share of frames where both see it or both do not; ``single`` the share of frames that have it
    where exactly one of the real size is seen; errors are in pixels, along the axes that the state has.
    """
    assert subject.reader
    share = max(1, sum(info.steps for info in subject.dataset.held_out) // most)
    seen, state = [], []
    for info in subject.dataset.held_out:
        episode = subject.dataset.load(info)
        seen.append(episode.frames[::share])
        state.append({name: column[::share] for name, column in episode.state.items()})
    if not seen:
        return {}
    readings = subject.reader.read(np.concatenate(seen))
    table = {}
    for name, reading in readings.items():
        columns = {a: f"{name}_{a}" for a in "xy" if f"{name}_{a}" in state[0]}
        if not columns:
            continue
        true = {axis: np.concatenate([part[column] for part in state]) for axis, column in columns.items()}
        there = np.all([~np.isnan(column) for column in true.values()], 0)
        both = there & reading.present
        apart = np.sqrt(
            sum((np.where(both, getattr(reading, a), 0) - np.where(both, t, 0)) ** 2 for a, t in true.items())
        )
        median, high = spread(apart[both])
        table[name] = {
            "agreement": float((there == reading.present).mean()),
            "single": _share(reading.single, there),
            "error_median": median,
            "error_p90": high,
            "error_max": float(apart[both].max(initial=0)),
            "frames": int(there.size),
        }
    return table


def _share(what: np.ndarray[Any, np.dtype[np.bool_]], where: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    """Share of ``where`` that is also ``what``; NaN where there is none."""
    return float(what[where].mean()) if where.any() else float("nan")
