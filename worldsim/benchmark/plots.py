"""Pictures of a benchmark: distributions, latency against steps and along the roll-out, throughput against batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.benchmark.report import WHOLE, share_of_matmul_rate, split_settings
from worldsim.benchmark.statistics import TENTHS
from worldsim.benchmark.tables import figure
from worldsim.errors import WorldsimError
from worldsim.evaluation.pictures import pyplot

_POINTS = 2000  # of a distribution's line; more would not be told apart
_COLUMNS = 3  # of a legend below a picture
_BARE = ("world", "model", "backend", "device", "dtype")  # settings whose values say what they are

Cell = Mapping[str, Any]


def draw(report: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw what the report can show into a folder, which is made if need be; returns the files' names.

    A picture is left out if there is nothing to show in it: against steps or batch if no two cells differ in them
    alone, along the roll-out if it is shorter than ten ticks.

    Raises:
        MissingExtra: matplotlib is not installed.
        WorldsimError: a picture cannot be written.
    """
    plt = pyplot()
    cells = [cell for cell in report["cells"] if cell["error"] is None]
    pictures = {"distribution.png": _distribution, "steps.png": _steps, "roll_out.png": _roll_out, "batch.png": _batch}
    names = []
    for name, picture in pictures.items():
        made = picture(plt, cells) if cells else None
        if made is None:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            made.savefig(folder / name, dpi=110)
        except OSError as error:
            raise WorldsimError(f"cannot write {folder / name}: {error.strerror or error}") from error
        finally:
            plt.close(made)
        names.append(name)
    return names


def _distribution(plt: Any, cells: Sequence[Cell]) -> Any:
    """Share of ticks that took so long at most, by cell."""
    made, axes = plt.subplots(1, 2, figsize=_size(len(cells)), sharey=True, layout="constrained")
    labels = _labels(cells)
    for axis, stage in zip(axes, WHOLE, strict=True):
        for number, (cell, label) in enumerate(zip(cells, labels, strict=True)):
            samples = np.sort(np.concatenate([repeat["samples"][stage] for repeat in cell["repeats"]]))
            ranks = np.unique(np.linspace(0, len(samples) - 1, _POINTS).round().astype(np.int64))
            shares = 100 * (ranks + 1) / len(samples)
            axis.step(samples[ranks], shares, where="post", label=label, lw=1.3, **_look(number))
        for percent in (50, 95):
            axis.axhline(percent, color="0.6", lw=0.7, ls=":")
        axis.set(xscale="log", xlabel=f"{stage}, ms", title=_TITLES[stage])
        _plain_ticks(axis.xaxis)
    axes[0].set(ylabel="share of ticks that took so long at most, %", ylim=(0, 101), yticks=[0, 25, 50, 75, 95, 100])
    return _finish(made, axes, cells)


def _steps(plt: Any, cells: Sequence[Cell]) -> Any:
    """p50 and p95 against denoising steps, a line for each other setting."""
    lines = _lines(cells, "steps")
    if not lines:
        return None
    made, axes = plt.subplots(1, 2, figsize=_size(len(lines)), sharey=True, layout="constrained")
    labels = _labels([line[0] for line in lines], without=("steps",))
    for axis, stage in zip(axes, WHOLE, strict=True):
        for number, (line, label) in enumerate(zip(lines, labels, strict=True)):
            steps = [cell["cell"]["steps"] for cell in line]
            look = {"color": f"C{number % 10}", "marker": "osD^"[number // 10 % 4], "ms": 4}
            p50, p95 = ([cell["summary"]["milliseconds"][stage][q] for cell in line] for q in ("p50", "p95"))
            axis.plot(steps, p50, "-", label=label, **look)
            axis.plot(steps, p95, ":", mfc="white", **look)
        axis.set(xlabel="denoising steps", title=f"{_TITLES[stage]}; p50 solid, p95 dotted")
        axis.set_xticks(sorted({cell["cell"]["steps"] for line in lines for cell in line}))
    axes[0].set_ylabel("time, ms")
    axes[0].set_ylim(bottom=0)  # after both are drawn, as they share it
    return _finish(made, axes, [cell for line in lines for cell in line], without=("steps",))


def _roll_out(plt: Any, cells: Sequence[Cell]) -> Any:
    """The tick and the resident memory by tenth of the roll-out, against those of the first tenth."""
    shown = [cell for cell in cells if cell["summary"]["deciles"]["tick_p50"]]
    if not shown:
        return None
    made, axes = plt.subplots(1, 2, figsize=_size(len(shown)), layout="constrained")
    tenths = np.arange(1, TENTHS + 1)
    for number, (cell, name) in enumerate(zip(shown, _labels(shown), strict=True)):
        ticks = np.array(cell["summary"]["deciles"]["tick_p50"])
        memory = np.array(cell["summary"]["deciles"]["resident_bytes"]) / 2**20
        first = f"{figure(ticks[0])} ms" + (f", {memory[0]:.0f} MiB" if len(memory) else "")
        label = f"{name}: {first} at first".removeprefix(": ")
        axes[0].plot(tenths, 100 * ticks / ticks[0], marker="o", ms=4, label=label, **_look(number))
        if len(memory):
            axes[1].plot(tenths, memory - memory[0], marker="o", ms=4, **_look(number))
    length = {len(repeat["samples"]["tick"]) for cell in shown for repeat in cell["repeats"]}
    of = f"{min(length)} ticks" if len(length) == 1 else f"{min(length)} to {max(length)} ticks"
    axes[0].set(ylabel="tick p50, % of that in the first tenth", title="time of a tick")
    axes[1].set(ylabel="grown since the first tenth, MiB", title="resident memory")
    _at_least(axes[0], 95, 105)
    _at_least(axes[1], -1, 1)
    if not axes[1].lines:
        axes[1].text(0.5, 0.5, "not recorded", ha="center", va="center", transform=axes[1].transAxes, color="0.4")
    for axis in axes:
        axis.set(xlabel=f"tenth of the roll-out of {of}", xticks=tenths, xlim=(0.5, TENTHS + 0.5))
    return _finish(made, axes, shown)


def _batch(plt: Any, cells: Sequence[Cell]) -> Any:
    """Frames a second and share of the matmul rate against batch, a line for each other setting."""
    lines = _lines(cells, "batch")
    if not lines:
        return None
    made, axes = plt.subplots(1, 2, figsize=_size(len(lines)), layout="constrained")
    labels = _labels([line[0] for line in lines], without=("batch",))
    for number, (line, label) in enumerate(zip(lines, labels, strict=True)):
        batch = [cell["cell"]["batch"] for cell in line]
        rates = [cell["summary"]["frames_per_second"] for cell in line]
        axes[0].plot(batch, rates, marker="o", ms=4, label=label, **_look(number))
        shares = [(cell["cell"]["batch"], share_of_matmul_rate(cell)) for cell in line]
        known = [(size, 100 * share) for size, share in shares if share is not None]
        if known:
            axes[1].plot(*zip(*known, strict=True), marker="o", ms=4, **_look(number))
    axes[0].set(yscale="log", ylabel="frames a second", title="throughput")
    axes[1].set(ylim=(0, None), ylabel="share of the measured matmul rate, %", title="use of the hardware")
    _plain_ticks(axes[0].yaxis)
    if not axes[1].lines:
        axes[1].text(0.5, 0.5, "not measured", ha="center", va="center", transform=axes[1].transAxes, color="0.4")
    sizes = sorted({cell["cell"]["batch"] for line in lines for cell in line})
    for axis in axes:
        axis.set_xscale("log", base=2)
        axis.set_xticks(sizes, [str(size) for size in sizes], rotation=0 if len(sizes) < 9 else 60)
        axis.xaxis.minorticks_off()
        axis.set_xlabel("batch, frames a tick")
    return _finish(made, axes, [cell for line in lines for cell in line], without=("batch",))


_TITLES = {"response": "response: action to frame", "tick": "tick: all between two frames"}


def _lines(cells: Sequence[Cell], along: str) -> list[list[Cell]]:
    """Cells that differ in one setting alone, in its order; those that stand alone are left out."""
    lines: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        if along in cell["cell"]:
            others = tuple(sorted((name, str(value)) for name, value in cell["cell"].items() if name != along))
            lines.setdefault(others, []).append(cell)
    return [sorted(line, key=lambda cell: cell["cell"][along]) for line in lines.values() if len(line) > 1]


def _labels(cells: Sequence[Cell], without: Iterable[str] = ()) -> list[str]:
    """What tells each cell from the others; empty for one cell."""
    names = [name for name in split_settings(cells)[1] if name not in without]
    return [", ".join(_setting(name, cell["cell"].get(name)) for name in names) for cell in cells]


def _setting(name: str, value: Any) -> str:
    return str(value) if name in _BARE else f"{name} {value}"


def _look(number: int) -> dict[str, Any]:
    """Colour and dashes of a line: 40 that can be told apart."""
    return {"color": f"C{number % 10}", "ls": ("-", "--", ":", "-.")[number // 10 % 4]}


def _size(lines: int) -> tuple[float, float]:
    return 11.0, 4.4 + 0.22 * -(-lines // _COLUMNS)


def _at_least(axis: Any, low: float, high: float) -> None:
    """Show this span at least, so that noise does not fill the picture."""
    below, above = axis.get_ylim()
    axis.set_ylim(min(low, below), max(high, above))


def _plain_ticks(axis: Any) -> None:
    """Numbers at 1, 2 and 5 of each power of ten, and at more where it spans little; written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low > 20 else (1, 1.5, 2, 3, 4, 5, 7)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1e5 else f"{value:.0f}"))
    axis.set_minor_formatter(NullFormatter())


def _finish(made: Any, axes: Sequence[Any], cells: Sequence[Cell], without: Iterable[str] = ()) -> Any:
    """Grid, what all cells share as a title, and one legend below, where it covers nothing."""
    common = split_settings(cells)[0]
    shared = ", ".join(_setting(name, value) for name, value in common.items() if name not in without)
    made.suptitle(shared, fontsize=9, color="0.3")
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.title.set_fontsize(10)
    handles, labels = axes[0].get_legend_handles_labels()
    if any(labels):
        made.legend(handles, labels, loc="outside lower center", ncols=_COLUMNS, fontsize=8, frameon=False)
    return made
