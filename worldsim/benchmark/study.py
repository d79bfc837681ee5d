"""`worldsim study`: designs side by side, what each is worth and what it costs, as one table and two pictures.

What is not trained yet is trained first, all alike. Quality is `worldsim evaluate`'s, latency `worldsim benchmark`'s;
here both are asked of the same worlds in one run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from worldsim.benchmark.cells import Cell
from worldsim.benchmark.rows import train_rows
from worldsim.benchmark.run import BenchmarkConfig, benchmark
from worldsim.errors import RunError, WorldsimError
from worldsim.evaluation.bars import Bar
from worldsim.evaluation.card import insert
from worldsim.evaluation.compare import Row, judged, origin, short_name
from worldsim.evaluation.evaluate import EvaluateConfig
from worldsim.evaluation.pictures import pyplot, require_plots
from worldsim.evaluation.report import made, table, write
from worldsim.machine import commit, machine
from worldsim.model.config import ModelConfig
from worldsim.model.designs import SEPARABLE, Design
from worldsim.settings import command, command_line, from_dict, home
from worldsim.training.ancestry import nowhere
from worldsim.training.run import Run
from worldsim.world import find_world, load_world

QUALITY = "exactly one ball of the real size, over 4 s"  # what the picture shows against delay
FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class StudyConfig:
    """Everything `worldsim study` is told; see configs/study.yaml.

    Attributes:
        into: The page, made if it is not there; pictures lie beside it in a folder of its name.
        rows: Of ``recipes``, which are trained first where they are not, or ``"all"``; see
            :func:`~worldsim.benchmark.rows.train_rows`.
        recipes: What each row's training is told besides ``train``.
        train: What all trainings are told besides the defaults of `worldsim train`.
        runs: Folder of their runs; None: ``runs/study-<world>`` of the home folder.
        worlds: Runs' ``world/`` folders, or worlds by name; one more row each.
        steps: Denoising steps of all; None: each world's own.
        evaluate: See :class:`~worldsim.evaluation.evaluate.EvaluateConfig`.
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
    windows: tuple[int, ...] = ()
    backend: str = "eager"
    device: str = "cpu"
    dtype: str | None = None
    threads: int | None = None
    ticks: int = 100
    repeats: int = 4
    seed: int = 0
    out: Path | None = None

    def __post_init__(self) -> None:
        if not self.worlds and not self.rows:
            there = ", ".join(self.recipes) or "none"
            raise WorldsimError(
                f"name some rows=[...] to train (there is {there}; rows=all for every one), or some worlds=[...]: "
                "`world/` folders of runs of `worldsim train design=...`"
            )


@dataclass(frozen=True)
class Case:
    """One row of the study.

    Attributes:
        judged: What it is worth.
        cell: What it costs: an entry of a benchmark.
        model: Sizes of the world.
        fps: Decisions a second of the game.
        command: That trained it, where its run is there to say so.
    """

    judged: Row
    cell: Mapping[str, Any]
    model: ModelConfig
    fps: float
    command: str = ""

    @property
    def design(self) -> str:
        """Its name."""
        return str(self.judged.report["about"].get("design", SEPARABLE))

    @property
    def delay(self) -> int:
        """Ticks from an action to its frame."""
        return 1 if self.design == SEPARABLE else Design.parse(self.design).delay

    @property
    def shown_after(self) -> float | None:
        """Milliseconds from an action to its frame, at the game's pace: whole ticks, and the work of the last.

        The work is the p95 of a response: who makes four frames at a time works in one tick of four.
        """
        if self.cell["error"]:
            return None
        return 1000 * (self.delay - 1) / self.fps + float(self.milliseconds("response", "p95"))

    def milliseconds(self, stage: str, figure: str) -> float:
        """A figure of a stage."""
        return float(self.cell["summary"]["milliseconds"][stage][figure])

    @property
    def kept(self) -> int:
        """Bytes of keys and values that are kept of a frame; the frame itself where nothing else is."""
        c = self.model
        if self.design == SEPARABLE or self.design.startswith("dit"):
            return 2 * c.encoder_layers * c.tokens * c.dim * FLOAT32
        return c.tokens * c.patch_dim * FLOAT32

    def bars(self) -> dict[str, float | None]:
        """What it is worth, by what is asked."""
        bars = (Bar(b["part"], b["text"], _number(b["value"]), b["target"], b["at_least"]) for b in self._bars())
        return {f"{bar.part}: {bar.text}": bar.value for bar in bars if bar.value is not None}

    def _bars(self) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = self.judged.report["bars"]
        return found


def as_markdown(cases: Sequence[Case], said: str) -> str:
    """The table, one line a world, and what it was made with."""
    names = list(dict.fromkeys(name for case in cases for name in case.bars()))
    psnr = any(_psnr(case) is not None for case in cases)
    head = ["design", "world", "made by", "hours", "M parameters", "steps", "delay, ticks", "action to frame, ms",
            "response p95, ms", "tick mean, ms", "decisions/s", "kept bytes a frame", *names]  # fmt: skip
    lines = []
    for case in cases:
        row, cell, found = case.judged, case.cell, case.bars()
        about = row.report["about"]
        line: list[Any] = [case.design, row.world, row.how or None, None if row.hours is None else f"{row.hours:.2f}"]
        line += [f"{about['parameters'] / 1e6:.2f}", str(about["steps"]), _delay(case), case.shown_after]
        if cell["error"]:
            line += [cell["error"], None, None]
        else:
            timed = case.milliseconds("response", "p95"), case.milliseconds("tick", "mean")
            line += [*timed, cell["summary"]["decisions_per_second"]]
        line += [str(case.kept), *(found.get(name) for name in names)]
        lines.append([*line, _psnr(case)] if psnr else line)
    notes = [
        f"- {case.judged.world}: {made(case.judged.report['about'])}" + (case.command and f" By `{case.command}`.")
        for case in cases
    ]
    where = machine()
    notes.append(
        f"- latency: {cases[0].cell['cell']['backend']}, {cases[0].cell['cell']['dtype']}, "
        f"{cases[0].cell['cell']['threads']} threads, commit {commit()}; {where['cpu']}, torch {where['torch']}"
    )
    return "\n".join([f"`{said}`", "", *table([*head, *["PSNR at 1 s, dB"] * psnr], lines), "", *notes, ""])


def draw(cases: Sequence[Case], along: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """Quality against delay, and latency against history; returns the files' names."""
    plt, names = pyplot(), []
    points = [(case, case.shown_after, case.bars().get(f"objects: {QUALITY}")) for case in cases]
    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for number, (case, late, worth) in enumerate(points):
        if late is not None and worth is not None:
            axis.plot(late, worth, "o", ms=8, color=f"C{number % 10}", label=f"{case.design} ({case.judged.world})")
    axis.set(xlabel="from an action to its frame at the game's pace, ms", ylabel=QUALITY, ylim=(-0.03, 1.03))
    axis.set_xlim(left=0)
    axis.grid(alpha=0.25)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=8)
    names.append(_save(plt, figure, folder / "delay.png"))
    whole = [entry for entry in along if not entry["error"]]
    if whole:
        figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
        for model in dict.fromkeys(entry["cell"]["model"] for entry in whole):
            mine = sorted((e for e in whole if e["cell"]["model"] == model), key=lambda e: e["cell"]["window"])
            ticks = [entry["summary"]["milliseconds"]["tick"]["mean"] for entry in mine]
            axis.plot([entry["cell"]["window"] for entry in mine], ticks, "o-", label=model)
        axis.set(xlabel="frames remembered", ylabel="tick, mean ms")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        axis.legend()
        names.append(_save(plt, figure, folder / "history.png"))
    return names


def study(config: StudyConfig) -> tuple[list[Case], list[dict[str, Any]]]:
    """Judge and time every world; and the latency of each design with memories of other lengths.

    Raises:
        WorldsimError: a world or its recording cannot be used.
    """
    folder = config.out or home() / "comparisons"
    rows, worlds = [], [load_world(name) for name in config.worlds]
    for name in config.worlds:
        asked = {**config.evaluate, "world": name, "steps": config.steps, "dtype": config.dtype}
        rows.append(Row(short_name(name), *origin(name), judged(from_dict(EvaluateConfig, asked), folder)))
    alike: dict[str, Any] = {
        "backend": config.backend, "device": config.device, "dtype": config.dtype, "threads": config.threads
    }  # fmt: skip
    cells = [Cell(world=name, steps=config.steps, **alike) for name in config.worlds]
    played = [name for name, world in zip(config.worlds, worlds, strict=True) if world.config.design == SEPARABLE]
    steps = config.steps or worlds[0].config.steps
    kinds = dict.fromkeys(world.config.design for world in worlds) if played else {}
    more = [
        Cell(world=played[0], model=kind, window=window, steps=steps, **alike)
        for kind in kinds
        for window in config.windows
    ]
    how = BenchmarkConfig(ticks=config.ticks, repeats=config.repeats, seed=config.seed, plots=False)
    found = benchmark([*cells, *more], how, lambda entries: None)
    cases = [
        Case(row, entry, world.config.model, world.config.fps, _trained_by(name))
        for name, row, entry, world in zip(config.worlds, rows, found[: len(cells)], worlds, strict=True)
    ]
    return cases, found[len(cells) :]


def _trained_by(name: str) -> str:
    """The command of the run in whose folder a world is, or nothing."""
    try:
        return nowhere(str(Run(find_world(name).parent).settings()["commands"]["train"]))
    except (RunError, KeyError):
        return ""


def _delay(case: Case) -> str:
    """By design, and where intervention found another one, when an action's first trace shows."""
    facts = case.cell["facts"]
    first, most = (facts.get(f"delay_{which}", case.delay) for which in ("first", "most"))
    return f"{case.delay}" if first == most == case.delay else f"{case.delay} (a trace after {first} to {most})"


def _psnr(case: Case) -> float | None:
    at = case.judged.report.get("fidelity", {}).get("at", {}).get("1")
    return None if at is None else float(at["psnr"])


def _number(value: Any) -> float | None:
    return float("inf") if value == "missing" else value


def _save(plt: Any, figure: Any, path: Path) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise WorldsimError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        plt.close(figure)
    return path.name


@command("study")
def main(settings: dict[str, Any]) -> int | None:
    """Trains, judges and times worlds of different designs and puts one table and two pictures into a page."""
    config = from_dict(StudyConfig, settings)
    require_plots()
    if config.rows:
        runs = config.runs or home() / "runs" / f"study-{config.train.get('world', 'pong')}"
        trained = train_rows(config.rows, config.recipes, config.train, runs)
        config = replace(config, worlds=(*trained, *config.worlds))
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # cores are used by sessions side by side
    try:
        cases, along = study(config)
    finally:
        torch.set_num_threads(threads)
    page = config.into.expanduser()
    pictures = draw(cases, along, page.with_suffix(""))
    text = as_markdown(cases, command_line())
    text += "\n" + "\n".join(f"![{name.partition('.')[0]}]({page.stem}/{name})" for name in pictures) + "\n"
    print(text)
    if not page.exists():
        write(page, "# What causality and separation buy\n")
    begin, end = "<!-- study: written by `worldsim study` -->", "<!-- /study -->"
    insert(page, f"{begin}\n\n{text}\n{end}", begin, end, "Measured")
    return 1 if any(case.cell["error"] for case in cases) else None
