"""The page of a study: its tables and its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldsim.benchmark.study_rows import Result
from worldsim.errors import WorldsimError
from worldsim.evaluation.pictures import pyplot
from worldsim.evaluation.report import made, table
from worldsim.machine import commit, machine
from worldsim.model.designs import SEPARABLE

QUALITY = "exactly one ball of the real size, over 4 s"  # what the picture shows against delay


@dataclass(frozen=True)
class Case:
    """One row of the tables.

    Attributes:
        result: What it is worth.
        cell: What it costs: an entry of a benchmark.
        paces: The same with other numbers of denoising steps, by these.
    """

    result: Result
    cell: Mapping[str, Any]
    paces: Mapping[int, Mapping[str, Any]]

    @property
    def shown_after(self) -> float | None:
        """Milliseconds from an action to its frame, at the game's pace: whole ticks, and the work of the last.

        The work is the p95 of a response: who makes four frames at a time works in one tick of four.
        """
        response = milliseconds(self.cell, "response", "p95")
        return None if response is None else 1000 * (self.result.delay - 1) / self.result.config.fps + response


@dataclass(frozen=True)
class Remembering:
    """The tick of a design with a memory of so many frames: ``entry`` of a benchmark, of the row ``name``."""

    name: str
    window: int
    entry: Mapping[str, Any]


def milliseconds(entry: Mapping[str, Any], stage: str, figure: str) -> float | None:
    """A figure of a stage of a cell; None where it was not measured."""
    return None if entry["error"] else float(entry["summary"]["milliseconds"][stage][figure])


def as_markdown(cases: Sequence[Case], said: str) -> str:
    """The tables, one line a world, and what they were made with."""
    names = list(dict.fromkeys(name for case in cases for name in case.result.figures()))
    psnr = any(case.result.psnr is not None for case in cases)
    head = ["row", "design", "made by", "hours", "M parameters", "steps", "delay, ticks", "action to frame, ms",
            "response p95, ms", "tick mean, ms", "decisions/s", "kept bytes a frame", *names]  # fmt: skip
    lines = []
    for case in cases:
        row, cell, found = case.result, case.cell, case.result.figures()
        line: list[Any] = [row.name, row.design, row.how or None, None if row.hours is None else f"{row.hours:.2f}"]
        line += [f"{row.about['parameters'] / 1e6:.2f}", str(row.about["steps"]), _delay(row), case.shown_after]
        if cell["error"]:
            line += [cell["error"], None, None]
        else:
            timed = milliseconds(cell, "response", "p95"), milliseconds(cell, "tick", "mean")
            line += [*timed, cell["summary"]["decisions_per_second"]]
        line += [str(row.kept), *(found.get(name) for name in names)]
        lines.append([*line, row.psnr] if psnr else line)
    notes = [
        f"- {case.result.name}: {made(case.result.about)}" + (case.result.command and f" By `{case.result.command}`.")
        for case in cases
    ]
    where, first = machine(), cases[0].cell["cell"]
    notes.append(
        f"- latency, of all rows in one run: {first['backend']}, {first['dtype']}, {first['threads']} threads, "
        f"commit {commit()}; {where['cpu']} ({where['instructions']}), torch {where['torch']}"
    )
    parts = [f"`{said}`", "", *table([*head, *["PSNR at 1 s, dB"] * psnr], lines), "", *notes, ""]
    paces = list(dict.fromkeys(steps for case in cases for steps in case.paces))
    if paces:
        parts += [
            "Mean milliseconds of a tick by denoising steps, and how many of the first separable row's that is:", "",
            *table(["row", "design", *(f"{steps} steps" for steps in paces)], _by_steps(cases, paces)), "",
        ]  # fmt: skip
    return "\n".join(parts)


def draw(cases: Sequence[Case], along: Sequence[Remembering], folder: Path) -> list[str]:
    """Quality against delay, and latency against history; returns the files' names."""
    plt, names = pyplot(), []
    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for number, case in enumerate(cases):
        late, worth = case.shown_after, case.result.figures().get(f"objects: {QUALITY}")
        if late is not None and worth is not None:
            label = f"{case.result.name} ({case.result.design})"
            axis.plot(late, worth, "o" if number < 10 else "s", ms=8, color=f"C{number % 10}", label=label)
    axis.set(xlabel="from an action to its frame at the game's pace, ms", ylabel=QUALITY, ylim=(-0.03, 1.03))
    axis.set_xlim(left=0)
    axis.grid(alpha=0.25)
    if axis.get_legend_handles_labels()[1]:
        axis.legend(fontsize=8)
    names.append(_save(plt, figure, folder / "delay.png"))
    ticks = [(one, milliseconds(one.entry, "tick", "mean")) for one in along]
    ticks = [(one, tick) for one, tick in ticks if tick is not None]
    if ticks:
        figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
        for name in dict.fromkeys(one.name for one, _ in ticks):
            mine = sorted((one.window, tick) for one, tick in ticks if one.name == name)
            axis.plot(*zip(*mine, strict=True), "o-", label=name)
        axis.set(xlabel="frames remembered", ylabel="tick, mean ms")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
        names.append(_save(plt, figure, folder / "history.png"))
    return names


def _by_steps(cases: Sequence[Case], paces: Sequence[int]) -> list[list[Any]]:
    """Lines of the second table."""
    own = next((case for case in cases if case.result.design == SEPARABLE), None)

    def tick(case: Case | None, steps: int) -> float | None:
        return milliseconds(case.paces[steps], "tick", "mean") if case and steps in case.paces else None

    lines = []
    for case in cases:
        line: list[Any] = [case.result.name, case.result.design]
        for steps in paces:
            mine, least = tick(case, steps), tick(own, steps)
            times = f" ({mine / least:.2f} x)" if mine and least else ""
            line.append(None if mine is None else f"{mine:.2f}{times}")
        lines.append(line)
    return lines


def _delay(row: Result) -> str:
    """By design, and where intervention found another one, when an action's first trace shows."""
    first, most = (row.delays.get(f"delay_{which}", row.delay) for which in ("first", "most"))
    return f"{row.delay}" if first == most == row.delay else f"{row.delay} (a trace after {first} to {most})"


def _save(plt: Any, figure: Any, path: Path) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise WorldsimError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        plt.close(figure)
    return path.name
