"""A benchmark's figures as CSV and Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from worldsim.benchmark.report import FIGURES, share_of_matmul_rate, split_settings
from worldsim.benchmark.statistics import TENTHS
from worldsim.evaluation import report as files

_LONG = 10_000  # ticks of a repeat from which on the table shows whether its cost grows
_LONGEST = 80  # characters of an environment's value in Markdown; the flags of a CPU are longer


def as_csv(report: Mapping[str, Any]) -> str:
    """One row per cell and stage, times in milliseconds; a cell with an error has one row that says it."""
    settings = list(dict.fromkeys(name for cell in report["cells"] for name in cell["cell"]))
    facts = list(dict.fromkeys(name for cell in report["cells"] for name in cell["facts"]))
    rates = ["decisions_per_second", "frames_per_second"]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*settings, "stage", *FIGURES, *rates, "share_of_matmul_rate", *facts, "error"])
    for cell in report["cells"]:
        before = [cell["cell"].get(name) for name in settings]
        after = [cell["summary"].get(name) for name in rates] + [share_of_matmul_rate(cell)]
        after += [*(cell["facts"].get(name) for name in facts), cell["error"]]
        for stage, figures in (cell["summary"].get("milliseconds") or {"": {}}).items():
            rows.writerow([*before, stage, *(figures.get(name) for name in FIGURES), *after])
    return text.getvalue()


def as_markdown(report: Mapping[str, Any]) -> str:
    """A table with a row a cell, between what all cells share and what they were measured on."""
    cells = report["cells"]
    lines = [f"`{report['command']}`", ""]
    if not cells:
        return "\n".join([*lines, "No cell was measured."]) + "\n"
    common, differ = split_settings(cells)
    if common:
        lines += ["All cells: " + ", ".join(f"{name} {_text(value)}" for name, value in common.items()) + ".", ""]
    head = ["response ms p50", "p95", "p99", "tick ms p50", "p95", "max", "jitter", "decisions/s"]
    head += ["frames/s", "of matmul rate", "peak MiB", "off by", "delay"]
    rows = [[*(_text(cell["cell"].get(name)) for name in differ), *_row(cell, len(head))] for cell in cells]
    return "\n".join([*lines, *files.table([*differ, *head], rows), "", *_below(report)]) + "\n"


def figure(value: float | None) -> str:
    """A number with three digits that count, never as a power of ten; ``-`` for none."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _row(cell: Mapping[str, Any], width: int) -> list[str]:
    if cell["error"] is not None:
        return [f"not measured: {_text(cell['error'])}", *[""] * (width - 1)]
    summary, peak, share = cell["summary"], cell["facts"].get("peak_memory_bytes"), share_of_matmul_rate(cell)
    response, tick = (summary["milliseconds"][stage] for stage in ("response", "tick"))
    times = [response["p50"], response["p95"], response["p99"], tick["p50"], tick["p95"], tick["max"], tick["jitter"]]
    rates = summary["decisions_per_second_of_repeats"]
    spread = f" ({figure(min(rates))} to {figure(max(rates))})" if len(rates) > 1 else ""
    return [
        *map(figure, times),
        figure(summary["decisions_per_second"]) + spread,
        figure(summary["frames_per_second"]),
        "-" if share is None else f"{100 * share:.3g} %",
        "-" if peak is None else f"{peak / 2**20:.0f}",
        _off(cell["facts"]),
        _delay(cell["facts"]),
    ]


def _off(facts: Mapping[str, Any]) -> str:
    mean, most = (facts.get(f"frame_error_{which}") for which in ("mean", "max"))
    return "-" if mean is None or most is None else f"{mean:.2g} ({most:.0f})"


def _delay(facts: Mapping[str, Any]) -> str:
    own, first, most = (facts.get(f"delay_{which}") for which in ("own", "first", "most"))
    if own is None or first is None or most is None:
        return "-"
    return f"{own}" if first == most == own else f"{own} ({first} to {most})" if first != most else f"{own} ({first})"


def _below(report: Mapping[str, Any]) -> list[str]:
    measured = [cell for cell in report["cells"] if cell["error"] is None]
    seconds = [took for cell in measured if (took := cell["facts"].get("warmup_seconds")) is not None]
    warm = f"Warm-up is excluded: {report['settings'].get('warmup', 'unknown')} ticks a cell"
    if seconds:
        span = f"{min(seconds):.1f}" if len(seconds) == 1 else f"{min(seconds):.1f} to {max(seconds):.1f}"
        warm += f", which took {span} s"
    repeats = sorted({len(cell["repeats"]) for cell in measured})
    counted = " or ".join(map(str, repeats)) or "no"
    figures = f"Figures are of all ticks of {counted} repeats together, in brackets the slowest and the fastest repeat."
    off = "Off by: grey levels of 255 from eager float32 one tick ahead, on average (at most)."
    delay = "Delay: ticks from an action to its own frame, 1 for the next (to a first trace of it, if that is another)."
    lines = [f"{warm}. Jitter is p99 - p50 of the tick. {figures} {off} {delay}", ""]
    if resting := sorted({cell["cell"]["world"] for cell in measured if cell["facts"].get("encoder_sees") is False}):
        told = "the encoder has learned nothing yet, and a tick does not run it"
        lines += [f"Of {', '.join(resting)} {told}: without=resting_encoder does, as designs are to be compared.", ""]
    if any(len(repeat["samples"]["tick"]) >= _LONG for cell in measured for repeat in cell["repeats"]):
        lines += [*_along(measured), ""]
    lines += [f"Measured on: {_flat(report['environment'])}."]
    for kept in sorted({_flat(cell["environment"]) for cell in report["cells"] if cell.get("environment")}):
        count = sum(_flat(cell.get("environment", {})) == kept for cell in report["cells"])
        lines += ["", f"{count} of the cells {'is' if count == 1 else 'are'} from an earlier run, with {kept}."]
    return lines


def _along(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tick and the memory by tenth of the roll-out, a row a cell."""
    rows, differ = [], split_settings(cells)[1]
    for cell in cells:
        ticks, memory = (cell["summary"]["deciles"][name] for name in ("tick_p50", "resident_bytes"))
        if not ticks:
            continue
        grown = f"{(memory[-1] - memory[0]) / 2**20:+.2f}" if memory else "-"
        length = min(len(repeat["samples"]["tick"]) for repeat in cell["repeats"])
        about = ", ".join(f"{name} {_text(cell['cell'].get(name))}" for name in differ) or "-"
        rows.append([about, length, *map(figure, ticks), f"{ticks[-1] / ticks[0]:.3f}", grown])
    tenths = [f"tick ms p50, tenth {n}" if n == 1 else str(n) for n in range(1, TENTHS + 1)]
    return files.table(["cell", "ticks", *tenths, "last / first", "resident MiB since the first tenth"], rows)


def _flat(environment: Mapping[str, Any]) -> str:
    parts = []
    for name, value in environment.items():
        text = f"({_flat(value)})" if isinstance(value, Mapping) else _text(value)
        if text and (len(text) <= _LONGEST or isinstance(value, Mapping)):
            parts.append(f"{name.replace('_', ' ')} {text}")
    return ", ".join(parts)


def _text(value: Any) -> str:
    return "-" if value is None else " ".join(str(value).replace("|", "/").split())
