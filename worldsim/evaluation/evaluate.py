"""`worldsim evaluate`: a world measured against the game it was learned from, as numbers and pictures."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.agents import players
from worldsim.data.episodes import Dataset
from worldsim.engine.precision import pick_device, pick_dtype
from worldsim.envs.sources import load_source
from worldsim.errors import WorldsimError
from worldsim.evaluation import control, diversity, drift, fidelity, motion, objects, outcome
from worldsim.evaluation.bars import Bar, bars
from worldsim.evaluation.learning import Lesson
from worldsim.evaluation.pictures import draw, require_plots
from worldsim.evaluation.report import as_json, as_lines, as_markdown, write
from worldsim.evaluation.roll_outs import DreamSettings
from worldsim.evaluation.subject import Extent, Subject, source_of
from worldsim.machine import commit, machine
from worldsim.model.designs import SEPARABLE
from worldsim.schema import nearest
from worldsim.settings import command, command_line, from_dict, group_names, home
from worldsim.world import World, load_world

PARTS = ("control", "objects", "motion", "fidelity", "outcome", "diversity", "drift")
SEPARABLE_ONLY = ("motion", "outcome")  # other designs have no such parts


@dataclass(frozen=True)
class EvaluateConfig:
    """Everything `worldsim evaluate` is told; see configs/evaluate.yaml."""

    world: str = "pong"
    source: str | None = None
    data: Path | None = None
    out: Path | None = None
    parts: tuple[str, ...] = PARTS
    quick: bool = False
    steps: int | None = None
    shift: float | None = None
    seed: int = 0
    roll_outs: int = 64
    drift_minutes: float = 2.0
    drift_rows: int = 4
    drift_policies: tuple[str, ...] | None = None
    batch: int = 32
    device: str = "cpu"
    dtype: str | None = None
    backend: str = "eager"
    threads: int | None = None
    lesson: Lesson = field(default_factory=Lesson)

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise WorldsimError(f"unknown part '{part}'{nearest(part, PARTS)}: there is {', '.join(PARTS)}")
        if not self.parts:
            raise WorldsimError(f"parts is empty: name some of {', '.join(PARTS)}")
        for key in ("roll_outs", "drift_rows", "batch"):
            if getattr(self, key) < 1:
                raise WorldsimError(f"{key} must be at least 1, not {getattr(self, key)}")
        if self.drift_policies is not None and not self.drift_policies:
            raise WorldsimError("drift_policies is empty: name some, e.g. [random,scripted,idle], or null for all")
        if self.drift_minutes <= 0 or (self.threads is not None and self.threads < 1) or self.seed < 0:
            raise WorldsimError("drift_minutes must be above 0, threads 1 or more or null, seed 0 or more")

    def extent(self) -> Extent:
        """How much is measured; ``quick`` cuts it to about a minute, too little to judge by."""
        full = Extent(
            roll_outs=self.roll_outs,
            drift_minutes=self.drift_minutes,
            drift_rows=self.drift_rows,
            drift_policies=self.drift_policies,
            lesson=self.lesson,
        )
        if not self.quick:
            return full
        return replace(
            full,
            roll_outs=min(16, self.roll_outs),
            control_moments=6,
            motion_clips=8,
            outcome_ticks=2000,
            serves=2,
            futures=8,
            drift_minutes=min(1 / 6, self.drift_minutes),
            drift_rows=min(2, self.drift_rows),
            drift_window=2.5,
            drift_last=5.0,
            lesson=replace(
                self.lesson,
                samples=min(3000, self.lesson.samples),
                episodes=min(10, self.lesson.episodes),
                steps=min(300, self.lesson.steps),
            ),
        )


def evaluate(config: EvaluateConfig, out: Path, *, quiet: bool = False) -> tuple[dict[str, Any], list[Bar]]:
    """Measure a world and write the report and its pictures.

    Args:
        config: What to measure.
        out: Folder for ``report.json``, ``report.md`` and pictures.
        quiet: Show no progress.

    Returns:
        The report and the bars.

    Raises:
        WorldsimError: the world, the recording or the real game cannot be used; nothing is written then.
        MissingExtra: matplotlib or the game's package is not installed.
    """
    require_plots()
    subject = prepare(config, quiet)
    own = subject.world.config.design == SEPARABLE
    parts = {part for part in config.parts if own or part not in SEPARABLE_ONLY}
    if "drift" in parts and config.drift_policies is not None:
        drift.policies(subject)  # a name that there is not is told before hours of the other parts
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorldsimError(f"cannot make {out} ({error.strerror}): name another folder with out=") from error
    model = subject.world.config.model
    report: dict[str, Any] = {
        "about": {
            "world": subject.world.name,
            "fingerprint": subject.world.fingerprint,
            "design": subject.world.config.design,
            "parameters": sum(weight.numel() for weight in subject.world.network.parameters()),
            "frame": [model.height, model.width],
            "source": subject.source.id,
            "data": str(subject.dataset.folder),
            "held_out": [info.file for info in subject.dataset.held_out],
            "steps": config.steps or subject.world.config.steps,
            "shift": subject.world.config.shift,
            "dtype": str(pick_dtype(config.dtype, pick_device(config.device))).removeprefix("torch."),
            "backend": config.backend,
            "seed": config.seed,
            "quick": config.quick,
            "threads": subject.settings.workers,
            "command": command_line(),
            "commit": commit(),
            "machine": machine(),
        },
        "seconds": {},
    }
    drifted: dict[str, NDArray[np.uint8]] | None = None
    left_out: list[str] = []
    seconds: dict[str, float] = report["seconds"]

    def timed(part: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        found = work()
        seconds[part] = time.perf_counter() - begun
        if not quiet:
            print(f"{part}: {seconds[part]:.0f} s", file=sys.stderr, flush=True)
        return found

    told: set[str] = set()

    def measured(part: str, work: Callable[[], Any]) -> None:
        """Parts take minutes each: what one found is told at once, and is not lost with the next."""
        report[part] = timed(part, work)
        fresh = [bar for bar in bars(report) if bar.value is not None and bar.text not in told]
        told.update(bar.text for bar in fresh)
        if fresh and not quiet:
            print(*as_lines(fresh), sep="\n", file=sys.stderr, flush=True)

    if subject.reader:
        report["about"]["reader"] = subject.reader.name
        report["reader"] = timed("reader", lambda: objects.validate_reader(subject))
    if parts & {"control", "objects", "fidelity"}:
        timed("roll-outs", lambda: subject.roll_outs)
    if "control" in parts:
        measured("control", lambda: control.measure(subject))
    if "objects" in parts and subject.reader:
        measured("objects", lambda: objects.measure(subject))
    if "motion" in parts and subject.reader:
        measured("motion", lambda: motion.measure(subject))
    if "fidelity" in parts:
        measured("fidelity", lambda: fidelity.measure(subject))
    if "outcome" in parts:
        measured("outcome", lambda: outcome.measure(subject))
    if "diversity" in parts and subject.reader:
        measured("diversity", lambda: diversity.measure(subject))
    if "drift" in parts and subject.reader:
        report["drift"], drifted = timed("drift", lambda: drift.measure(subject))
        if "outcome" in report and "points" in report["drift"]:
            report["outcome"]["points"] = report["drift"]["points"]
    if subject.reader is None and set(config.parts) & {"objects", "motion", "diversity", "drift"}:
        left_out.append(
            "objects, motion, diversity and drift: the source has neither colours to tell its objects by nor a state"
        )
    if parts != set(config.parts):
        left = " and ".join(part for part in config.parts if part not in parts)
        left_out.append(f"{left}: design {subject.world.config.design} has none")
    if left_out:
        report["about"]["left_out"] = "; ".join(left_out)
    rows = bars(report)
    report["bars"] = [bar.to_json() for bar in rows]
    # Numbers first: a picture that fails must not cost them.
    write(out / "report.json", as_json(report))
    write(out / "report.md", as_markdown(report, rows))
    report["pictures"] = timed("pictures", lambda: draw(subject, report, drifted, out))
    write(out / "report.json", as_json(report))
    write(out / "report.md", as_markdown(report, rows))
    return report, rows


def prepare(config: EvaluateConfig, quiet: bool = False) -> Subject:
    """The world, the recording and the real game of a config, checked against each other."""
    world = load_world(config.world).shifted(config.shift)
    folder = config.data
    if folder is None:
        folder = home() / "data" / (config.source or source_name(world))
    dataset = Dataset.open(folder)
    recorded = config.source or str(dataset.config["source"].get("name"))
    known = load_source(recorded).objects if recorded in group_names("source") else None
    settings = DreamSettings(
        config.steps, config.seed, config.device, config.dtype, config.batch, config.threads or _cores(), config.backend
    )
    return Subject(world, dataset, source_of(dataset, known), config.extent(), settings, quiet)


def source_name(world: World) -> str:
    """Name of the game that a world is a copy of, as its recordings are called.

    Raises:
        WorldsimError: nobody knows.
    """
    try:
        return players.source_of(world).name
    except WorldsimError as error:
        names = ", ".join(group_names("source"))
        raise WorldsimError(
            f"which game is world {world.name!r} a copy of? name it with source=, one of {names}, or data="
        ) from error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@command("evaluate")
def main(settings: dict[str, Any]) -> None:
    """Measures a world against held-out play and the real game: report.json, report.md and pictures."""
    config = from_dict(EvaluateConfig, settings)
    import torch

    out = config.out or home() / "evaluations" / Path(config.world).name
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # cores are used by sessions side by side
    try:
        _, rows = evaluate(config, out)
    finally:
        torch.set_num_threads(threads)
    print(*as_lines(rows), sep="\n")
    print(f"{out / 'report.md'}: the whole report; pictures beside it")
