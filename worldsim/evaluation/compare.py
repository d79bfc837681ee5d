"""`worldsim compare`: worlds, denoising steps and their levels, and backends side by side, with what training took."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldsim.checkpoint import read_facts
from worldsim.errors import RunError, WorldsimError
from worldsim.evaluation.bars import Bar
from worldsim.evaluation.card import insert
from worldsim.evaluation.evaluate import EvaluateConfig, evaluate
from worldsim.evaluation.report import made, table, write
from worldsim.model.designs import SEPARABLE, Design
from worldsim.settings import command, command_line, from_dict, home
from worldsim.training.run import Run
from worldsim.world import find_world, load_world


@dataclass(frozen=True)
class CompareConfig:
    """Everything `worldsim compare` is told; see configs/compare.yaml.

    Attributes:
        worlds: By name or folder; the ``world/`` of a run brings the run's method and cost along.
        steps: Denoising steps that each is judged at; None: its own.
        shifts: And shifts of their noise levels, see :func:`~worldsim.engine.sampler.levels`; None: its own.
        backends: What computes their dreams, see :data:`~worldsim.engine.backends.BACKENDS`.
        into: ``<page>.md:<part>`` to put the table into.
        out: Where the reports of single worlds are kept; None: ``comparisons/`` of the home folder.
        evaluate: How each is judged, see :class:`~worldsim.evaluation.evaluate.EvaluateConfig`.
    """

    worlds: tuple[str, ...]
    steps: tuple[int | None, ...] = (None,)
    shifts: tuple[float | None, ...] = (None,)
    backends: tuple[str, ...] = ("eager",)
    into: str | None = None
    out: Path | None = None
    evaluate: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.worlds and self.steps and self.shifts and self.backends):
            raise WorldsimError(
                "name some worlds=[...], steps=[...], shifts=[...] and backends=[...]; null takes each world's own"
            )
        if self.into is not None and not all(self.into.rpartition(":")):
            raise WorldsimError(f"into is {self.into!r}: name a Markdown file and a part of it, as in page.md:methods")


@dataclass(frozen=True)
class Row:
    """One world at one number of denoising steps.

    Attributes:
        world: Its name, or that of its run's folder.
        how: What made it and in how many steps, as its run says; empty where there is no run.
        hours: That the run's training took, and its checkpoint's steps; None where there is no run.
        report: See :func:`~worldsim.evaluation.evaluate.evaluate`.
    """

    world: str
    how: str
    hours: float | None
    report: Mapping[str, Any]


def judged(config: EvaluateConfig, folder: Path) -> dict[str, Any]:
    """The report of a world: one that was written earlier, if it is of the same weights and asked the same.

    Args:
        config: What is measured.
        folder: Where reports are kept.

    Raises:
        WorldsimError: the world, the recording or the real game cannot be used.
    """
    fingerprint = load_world(config.world).shifted(config.shift).fingerprint
    asked = {
        key: list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
        for key, value in vars(config).items()
        if key not in ("world", "out", "lesson", "threads", "batch")
    }
    asked["lesson"] = dict(vars(config.lesson))
    out = folder / f"{Path(config.world).name}-{fingerprint[:12]}-{config.steps or 'own'}-{config.backend}"
    try:
        known = json.loads((out / "asked.json").read_text(encoding="utf-8"))
        if known == asked:
            report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
            return report
    except (OSError, ValueError):
        pass  # there is none, or it was cut off
    (out / "asked.json").unlink(missing_ok=True)
    evaluate(config, out)
    write(out / "asked.json", json.dumps(asked))  # last: without it a report is not believed
    made_now: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return made_now


def origin(name: str) -> tuple[str, float | None]:
    """What made a world, and how many hours it took, if the world is in the folder of a run."""
    run = Run(find_world(name).parent)
    try:
        settings, facts = run.settings(), read_facts(run.checkpoint)
    except RunError:
        return "", None
    seconds, how = facts.get("seconds"), settings.get("method", "train")
    if str(settings.get("design", "")).startswith("dit"):
        how = f"{how}, {settings['forcing']} forcing"
    return f"{how}, {facts['step']} steps", None if seconds is None else seconds / 3600


def as_markdown(rows: Sequence[Row], command: str) -> str:
    """The comparison as a table, one line a world and number of steps, one column a bar that was measured."""
    measured = [[_bar(bar) for bar in row.report["bars"]] for row in rows]
    names = list(dict.fromkeys((bar.part, bar.text) for row in measured for bar in row if bar.value is not None))
    asked = {
        (bar.part, bar.text): f"{'>=' if bar.at_least else '<='} {bar.target:g}" for row in measured for bar in row
    }
    lines: list[list[Any]] = [["asked", *[None] * 8, *(asked[name] for name in names)]]
    for row, found in zip(rows, measured, strict=True):
        values = {(bar.part, bar.text): bar.value for bar in found}
        about = row.report["about"]
        hours = None if row.hours is None else f"{row.hours:.2f}"
        computed = f"{about['backend']}, {about['dtype']}"
        design = about.get("design", SEPARABLE)
        delay = 1 if design == SEPARABLE else Design.parse(design).delay
        size = f"{about['parameters'] / 1e6:.2f}"
        asks = [about["steps"], f"{about.get('shift', 1.0):g}"]
        first = [row.world, design, delay, *asks, computed, row.how or None, hours, size]
        lines.append([*first, *(values.get(name) for name in names)])
    head = ["world", "design", "delay, ticks", "steps", "shift", "computed by", "made by", "hours", "M parameters"]
    head += [f"{part}: {text}" for part, text in names]
    notes = [f"- {row.world}: {made(row.report['about'])}" for row in rows]
    return "\n".join([f"`{command}`", "", *table(head, lines), "", *notes, ""])


def short_name(world: str) -> str:
    """Of a world by its folder: that of its run, where it is in one."""
    folder = Path(world)
    return folder.parent.name if folder.name == "world" and folder.parent.name else folder.name


def _bar(bar: Mapping[str, Any]) -> Bar:
    value = float("inf") if bar["value"] == "missing" else bar["value"]
    return Bar(bar["part"], bar["text"], value, bar["target"], bar["at_least"], bar["note"])


@command("compare")
def main(settings: dict[str, Any]) -> int | None:
    """Judges worlds alike and writes one table of them."""
    config = from_dict(CompareConfig, settings)
    import torch

    folder = config.out or home() / "comparisons"
    rows, failed = [], 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # cores are used by sessions side by side
    for world in config.worlds:
        for steps, shift, backend in itertools.product(config.steps, config.shifts, config.backends):
            try:
                asked = {**config.evaluate, "world": world, "steps": steps, "shift": shift, "backend": backend}
                rows.append(Row(short_name(world), *origin(world), judged(from_dict(EvaluateConfig, asked), folder)))
            except WorldsimError as error:
                print(f"{world} at {steps or 'its own'} steps on {backend}: {error}", flush=True)
                failed += 1
    torch.set_num_threads(threads)
    if not rows:
        return 2
    text = as_markdown(rows, command_line())
    print(text)
    if config.into:
        page, _, part = config.into.rpartition(":")
        begin, end = f"<!-- {part}: written by `worldsim compare` -->", f"<!-- /{part} -->"
        insert(Path(page), f"{begin}\n\n{text}\n{end}", begin, end, part.capitalize())
    return 1 if failed else None
