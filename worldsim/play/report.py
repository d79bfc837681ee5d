"""What a game cost: latencies by stage, as a table for people and as JSON with every sample."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from worldsim.errors import WorldsimError
from worldsim.machine import machine
from worldsim.play.pacing import STAGES, Timings, percentiles

# Latency rows of the report: those that a key waits for, their sum as measured, and those that run behind the
# picture.
BEFORE, AFTER = STAGES[:4], STAGES[4:]


def make_report(settings: dict[str, Any], timings: Timings) -> dict[str, Any]:
    """The report of one game.

    Args:
        settings: world, steps, dtype and the like, to be told with the figures.
        timings: all samples.
    """
    import pygame

    rows = {}
    for name in ("response", "event", *STAGES, "tick"):
        samples = timings.samples(name)
        figures = percentiles(samples, (50, 95, 99, 100)) if samples.size else (None,) * 4
        rows[name] = dict(zip(("p50", "p95", "p99", "max"), figures, strict=True)) | {"samples": samples.size}
    return {
        **settings,
        "ticks": timings.ticks,
        "decisions_per_second": timings.rate(),
        "late_ticks": timings.late,
        "late_ticks_stolen": timings.stolen,
        "milliseconds": rows,
        "machine": machine() | {"pygame": pygame.version.ver, "video_driver": pygame.display.get_driver()},
        "excluded": "warm-up ticks before the first; keyboard, compositor and panel; "
        "the wait of a key for the next poll (half a tick on average)",
    }


def as_table(report: dict[str, Any]) -> str:
    """The report as lines of text, at most 100 characters wide."""
    rows, box = report["milliseconds"], report["machine"]
    pace = "unpaced" if report["fps"] is None else f"at {report['fps']:g}/s"
    lines = [
        f"{report['world']}: {report['ticks']} ticks {pace}, "
        f"{report['decisions_per_second']:.1f} decisions/s, {report['late_ticks']} late by more than a frame"
        + f" ({report['late_ticks_stolen']} while a hypervisor ran others)"
        * bool(report["late_ticks_stolen"]),
        f"{'ms':<22}{'p50':>9}{'p95':>9}{'p99':>9}{'max':>9}",
    ]

    def row(label: str, name: str) -> None:
        figures = "".join(_figure(rows[name][key]) for key in ("p50", "p95", "p99", "max"))
        lines.append(f"{label:<22}{figures}")

    for name in BEFORE:
        row(f"  {name}", name)
    row("response", "response")
    row(f"  of {rows['event']['samples']} key events", "event")
    for name in AFTER:
        row(f"  {name}", name)
    row("tick", "tick")
    lines.append(
        f"steps {report['steps']}, {report['dtype']} on {report['device']}, {report['backend']}, seed {report['seed']}"
    )
    lines.append(
        f"{box['cpu']}, {box['cores']} cores, {box['torch_threads']} threads, torch {box['torch']}, "
        f"{box['video_driver']} video"
    )
    lines.append("response: from the poll for keys to the return of flip(). Not in it: keyboard, compositor,")
    lines.append("panel, and the wait of a key for the next poll (half a tick on average).")
    return "\n".join(lines)


def write_report(path: Path, report: dict[str, Any], timings: Timings) -> None:
    """Write the report with every sample as JSON, whole or not at all.

    Raises:
        WorldsimError: the file cannot be written.
    """
    names = ("response", "event", *STAGES, "tick")
    samples = {name: [round(value, 4) for value in timings.samples(name).tolist()] for name in names}
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps({**report, "samples": samples}, indent=1) + "\n", encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise WorldsimError(f"cannot write {path}: {error.strerror}") from error


def _figure(value: float | None) -> str:
    return f"{'-':>9}" if value is None else f"{value:>9.2f}"
