"""`worldsim study`: designs side by side, what each is worth and what it costs, as tables and two pictures.

What is not trained yet is trained first, all alike. Quality is `worldsim evaluate`'s, latency `worldsim benchmark`'s;
here both are asked of the same worlds. Rows stay beside the page, so that a study can be made in parts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from worldsim.benchmark import study_rows
from worldsim.benchmark.cells import Cell
from worldsim.benchmark.rows import train_rows
from worldsim.benchmark.run import BenchmarkConfig, benchmark
from worldsim.benchmark.study_page import Case, Remembering, as_markdown, draw
from worldsim.benchmark.study_rows import Result
from worldsim.errors import RunError, WorldsimError
from worldsim.evaluation.card import insert
from worldsim.evaluation.compare import judged, origin, short_name
from worldsim.evaluation.evaluate import EvaluateConfig
from worldsim.evaluation.pictures import require_plots
from worldsim.evaluation.report import write
from worldsim.settings import command, command_line, from_dict, home
from worldsim.training.ancestry import nowhere
from worldsim.training.run import Run
from worldsim.world import WorldConfig, find_world, load_world

ROWS = "rows.json"  # in the page's folder


@dataclass(frozen=True)
class StudyConfig:
    """Everything `worldsim study` is told; see configs/study.yaml.

    Attributes:
        into: The page, made if it is not there; rows and pictures lie beside it in a folder of its name.
        rows: Of ``recipes``, which are trained first where they are not, or ``"all"``; see
            :func:`~worldsim.benchmark.rows.train_rows`. Those of studies before, of the same page, are put beside them.
        recipes: What each row's training is told besides ``train``.
        train: What all trainings are told besides the defaults of `worldsim train`.
        runs: Folder of their runs; None: ``runs/study-<world>`` of the home folder.
        worlds: Runs' ``world/`` folders, or worlds by name; one more row each.
        steps: Denoising steps of all; None: each world's own.
        evaluate: See :class:`~worldsim.evaluation.evaluate.EvaluateConfig`.
        timed_steps: Denoising steps of the second table; empty: no such table.
        windows: Frames remembered, for the picture of latency against history; empty: no such picture.
        out: Of the reports of single worlds; None: ``comparisons/`` of the home folder.
    """

    into: Path
    rows: tuple[str, ...] | str = ()
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    runs: Path | None = None
    worlds: tuple[str, ...] = ()
    steps: int | None = None
    evaluate: dict[str, Any] = field(default_factory=dict)
    timed_steps: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()
    backend: str = "eager"
    device: str = "cpu"
    dtype: str | None = None
    threads: int | None = None
    ticks: int = 100
    repeats: int = 4
    seed: int = 0
    out: Path | None = None

    @property
    def asked(self) -> dict[str, Any]:
        """How rows are judged, whatever the machine and wherever the recording."""
        apart = ("data", "batch", "threads")
        return {key: value for key, value in self.evaluate.items() if key not in apart} | {"steps": self.steps}


def judge(config: StudyConfig) -> dict[str, Result]:
    """What each of the ``worlds`` is worth, by its folder or name.

    Raises:
        WorldsimError: a world or its recording cannot be used.
    """
    folder, found = config.out or home() / "comparisons", {}
    for name in config.worlds:
        asked = {**config.evaluate, "world": name, "steps": config.steps, "dtype": config.dtype}
        report = judged(from_dict(EvaluateConfig, asked), folder)
        found[name] = Result.of(short_name(name), *origin(name), _trained_by(name), load_world(name), report)
    return found


def timed(
    results: Sequence[Result], places: Mapping[str, str], config: StudyConfig
) -> tuple[list[Case], list[Remembering]]:
    """Time every row, and the first of each design with memories of other lengths, all taking turns.

    Args:
        results: The rows.
        places: Worlds of rows by their names. In the place of others, random weights are timed.
        config: What is timed.
    """
    alike: dict[str, Any] = {
        "backend": config.backend, "device": config.device, "dtype": config.dtype, "threads": config.threads
    }  # fmt: skip
    kinds: dict[str, Result] = {}
    for result in results:
        kinds.setdefault(result.kind, result)
    how = BenchmarkConfig(ticks=config.ticks, repeats=config.repeats, seed=config.seed, plots=False)
    with tempfile.TemporaryDirectory() as scratch:
        bare = Path(scratch)
        worlds = [
            places.get(row.name) or str(study_rows.bare(row.config, row.actions, bare / str(number)))
            for number, row in enumerate(results)
        ]
        cells = [Cell(world=world, steps=config.steps, **alike) for world in worlds]
        paces = [Cell(world=world, steps=steps, **alike) for world in worlds for steps in config.timed_steps]
        longer = [(row, window) for row in kinds.values() for window in config.windows]
        of_windows = [
            Cell(world=str(study_rows.bare(_remembering(row, window), row.actions, bare / f"w{number}")), **alike)
            for number, (row, window) in enumerate(longer)
        ]
        found = iter(benchmark([*cells, *paces, *of_windows], how, lambda entries: None))
        own, by_steps = list(islice(found, len(cells))), list(islice(found, len(paces)))
    cases, each = [], len(config.timed_steps)
    for number, (row, cell) in enumerate(zip(results, own, strict=True)):
        facts = {key: cell["facts"][key] for key in ("delay_first", "delay_most") if key in cell["facts"]}
        told = replace(row, delays=facts) if row.name in places else row
        steps = zip(config.timed_steps, by_steps[number * each : (number + 1) * each], strict=True)
        cases.append(Case(told, cell, dict(steps)))
    return cases, [Remembering(row.name, window, entry) for (row, window), entry in zip(longer, found, strict=True)]


def _remembering(row: Result, window: int) -> WorldConfig:
    return replace(row.config, model=replace(row.config.model, window=window))


def _trained_by(name: str) -> str:
    """The command of the run in whose folder a world is, or nothing."""
    try:
        return nowhere(str(Run(find_world(name).parent).settings()["commands"]["train"]))
    except (RunError, KeyError):
        return ""


@command("study")
def main(settings: dict[str, Any]) -> int | None:
    """Trains, judges and times worlds of different designs and puts their tables and pictures into a page."""
    config = from_dict(StudyConfig, settings)
    require_plots()
    page = config.into.expanduser()
    kept = page.with_suffix("") / ROWS
    before = study_rows.read(kept, config.asked)  # before hours of training: it may not fit
    if not config.worlds and not config.rows and not before:
        there = ", ".join(config.recipes) or "none"
        raise WorldsimError(
            f"name some rows=[...] to train (there is {there}; rows=all for every one), or some worlds=[...]: "
            "`world/` folders of runs of `worldsim train design=...`"
        )
    if config.rows:
        runs = config.runs or home() / "runs" / f"study-{config.train.get('world', 'pong')}"
        trained = train_rows(config.rows, config.recipes, config.train, runs)
        config = replace(config, worlds=(*trained, *config.worlds))
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # cores are used by sessions side by side
    try:
        now = judge(config)
    finally:
        torch.set_num_threads(threads)
    results = study_rows.joined(before, list(now.values()), list(config.recipes))
    study_rows.keep(kept, results, config.asked)  # hours are not lost if what follows fails
    cases, along = timed(results, {result.name: name for name, result in now.items()}, config)
    study_rows.keep(kept, [case.result for case in cases], config.asked)
    pictures = draw(cases, along, page.with_suffix(""))
    text = as_markdown(cases, command_line())
    text += "\n" + "\n".join(f"![{name.partition('.')[0]}]({page.stem}/{name})" for name in pictures) + "\n"
    print(text)
    if not page.exists():
        write(page, "# What causality and separation buy\n")
    begin, end = "<!-- study: written by `worldsim study` -->", "<!-- /study -->"
    insert(page, f"{begin}\n\n{text}\n{end}", begin, end, "Measured")
    return 1 if any(case.cell["error"] for case in cases) else None
