"""A benchmark as files: every sample as JSON, the figures as CSV, the table as Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldsim.benchmark.statistics import PERCENTILES, TENTHS
from worldsim.errors import WorldsimError
from worldsim.evaluation import report as files

FORMAT, VERSION = "worldsim-benchmark", 1
FIGURES = (*(f"p{q}" for q in PERCENTILES), "max", "mean", "jitter", "samples")
WHOLE = ("response", "tick")  # what is made of the other stages; every cell has them

#: Settings of a cell that came after the first reports, with the values that those were measured at.
LATER = {"model": "scd", "without": None, "allocator": "default"}

# Settings that say where results go or which cells there are: a resumed sweep may change them.
_APART_FROM_SAMPLES = {"out", "resume", "into", "plots"}
_FACTS = (
    "flops_per_tick", "matmul_flops_per_second", "peak_memory_bytes", "warmup_seconds", "frame_error_mean",
    "frame_error_max", "delay_own", "delay_first", "delay_most",
)  # fmt: skip
_LONG = 10_000  # ticks of a repeat from which on the table shows whether its cost grows
_LONGEST = 80  # characters of an environment's value in Markdown; the flags of a CPU are longer


def read(path: Path | str) -> dict[str, Any]:
    """A report as `write` left it, checked down to its samples.

    Raises:
        WorldsimError: it cannot be read, is cut short, is no benchmark, or of another version.
    """
    again = "measure again with worldsim benchmark"
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise WorldsimError(f"cannot read {path}: {error.strerror or error}; name a JSON of a benchmark") from error
    except (ValueError, RecursionError) as error:
        raise WorldsimError(f"{path} is not JSON or was cut short ({error}): {again}") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise WorldsimError(f"{path} is not a benchmark (it has no format '{FORMAT}'): name a JSON of a benchmark")
    version = report.get("version")
    if version != VERSION or isinstance(version, bool):
        newer = isinstance(version, (int, float)) and version > VERSION
        fix = "update worldsim" if newer else again
        raise WorldsimError(f"{path} is a benchmark of version {version!r}, this reads version {VERSION}: {fix}")
    try:
        check(report)
    except WorldsimError as error:
        raise WorldsimError(f"{path} is damaged: {error}; {again}") from error
    return report


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Write a report in one piece, so that an interrupted sweep leaves the last whole one.

    Raises:
        WorldsimError: it cannot be written, or `read` would refuse it.
    """
    check(_plain(report))
    # A cell a line: samples one below the other would be a million lines.
    head = [f"{json.dumps(key)}: {_dumps(value)}" for key, value in report.items() if key != "cells"]
    cells = ",\n".join(map(_dumps, report["cells"]))
    files.write(path, "{\n" + ",\n".join([*head, f'"cells": [\n{cells}\n]']) + "\n}\n")


def check(report: Mapping[str, Any]) -> None:
    """See that a report of this version has the shape that all others here rely on.

    Raises:
        WorldsimError: it has not; the line names the first place, such as ``cells[2].facts``.
    """
    _kinds(report, "", command=str, environment=dict, settings=dict, cells=list)
    seen: dict[str, int] = {}
    for number, cell in enumerate(report["cells"]):
        where = f"cells[{number}]"
        _need(isinstance(cell, dict), where, "a mapping")
        _check_cell(cell, f"{where}.")
        twin = seen.setdefault(key_of(cell), number)
        _need(twin == number, where, f"another cell than cells[{twin}]")


def key_of(cell: Mapping[str, Any]) -> str:
    """Text that two cells share if and only if their settings are equal."""
    return json.dumps(LATER | cell["cell"], sort_keys=True)


def split_settings(cells: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Settings of cells: those that are all equal with their values, and the names of those that differ."""
    names = list(dict.fromkeys(name for cell in cells for name in cell["cell"]))
    differ = [name for name in names if len({json.dumps(cell["cell"].get(name)) for cell in cells}) > 1]
    return {name: cells[0]["cell"][name] for name in names if name not in differ}, differ


def share_of_matmul_rate(cell: Mapping[str, Any]) -> float | None:
    """FLOPs of a tick (of the whole batch) over its mean time, as a share of the machine's matmul rate."""
    flops, rate = (cell["facts"].get(name) for name in ("flops_per_tick", "matmul_flops_per_second"))
    if cell["error"] is not None or not flops or not rate:
        return None
    return float(flops / (cell["summary"]["milliseconds"]["tick"]["mean"] / 1000) / rate)


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """A report with the cells of both, those of ``new`` in the place of equal ones of ``old``.

    Everything else is of ``new``. A cell that was kept notes under ``environment`` what was different when it was
    measured, such as the commit.

    Raises:
        WorldsimError: they were not measured alike: a setting that samples depend on differs, or the CPU.
    """
    apart = {name for report in (old, new) for cell in report["cells"] for name in cell["cell"]} | _APART_FROM_SAMPLES
    was, now = _plain(old["settings"]), _plain(new["settings"])
    for name in [name for name in {**now, **was} if name not in apart and was.get(name) != now.get(name)]:
        raise WorldsimError(
            f"the earlier cells were measured with {name}={was.get(name)}, not {now.get(name)}: "
            "use the same or write to another file"
        )
    before, after = _plain(old["environment"]), _plain(new["environment"])
    if before.get("cpu") != after.get("cpu"):
        raise WorldsimError(
            f"the earlier cells were measured on {before.get('cpu')}, not {after.get('cpu')}: write to another file"
        )
    changed = {name: before.get(name) for name in {**before, **after} if before.get(name) != after.get(name)}
    cells = {}
    for cell in old["cells"]:
        differs = changed | cell.get("environment", {})
        cells[key_of(cell)] = {**cell, "environment": differs} if differs else dict(cell)
    cells |= {key_of(cell): dict(cell) for cell in new["cells"]}
    return {**new, "cells": list(cells.values())}


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


def _check_cell(cell: Mapping[str, Any], where: str) -> None:
    _kinds(cell, where, cell=dict, facts=dict, repeats=list, summary=dict)
    _kinds({"environment": {}, **cell}, where, environment=dict)
    for name, value in cell["cell"].items():
        _need(not isinstance(value, (dict, list)), f"{where}cell.{name}", "one value")
    error = cell.get("error", 0)
    _need(error is None or isinstance(error, str), f"{where}error", "null or text")
    if error is not None:
        return
    _numbers(cell["facts"], f"{where}facts.", [name for name in _FACTS if cell["facts"].get(name) is not None])
    _need(len(cell["repeats"]) > 0, f"{where}repeats", "one at least")
    for number, repeat in enumerate(cell["repeats"]):
        at = f"{where}repeats[{number}]"
        _need(isinstance(repeat, dict), at, "a mapping")
        _kinds({"resident_bytes": [], **repeat}, f"{at}.", samples=dict, resident_bytes=list)
        _need(all(map(_number, repeat.get("resident_bytes", []))), f"{at}.resident_bytes", "a list of numbers")
        for stage in {**dict.fromkeys(WHOLE), **repeat["samples"]}:
            least = "numbers above 0" if stage in WHOLE else "numbers of 0 or more"
            _need(_durations(repeat["samples"].get(stage), stage), f"{at}.samples.{stage}", f"a list of {least}")
    where, summary = f"{where}summary.", cell["summary"]
    _kinds(summary, where, milliseconds=dict, deciles=dict, decisions_per_second_of_repeats=list)
    rates = summary["decisions_per_second_of_repeats"]
    _need(bool(rates) and all(map(_number, rates)), f"{where}decisions_per_second_of_repeats", "a list of numbers")
    _numbers(summary, where, ["decisions_per_second", "frames_per_second"])
    _kinds(summary["milliseconds"], f"{where}milliseconds.", **dict.fromkeys(WHOLE, dict))
    for stage, figures in summary["milliseconds"].items():
        _need(isinstance(figures, dict), f"{where}milliseconds.{stage}", "a mapping")
        _numbers(figures, f"{where}milliseconds.{stage}.", FIGURES)
    _kinds(summary["deciles"], f"{where}deciles.", tick_p50=list, resident_bytes=list)
    for name in ("tick_p50", "resident_bytes"):
        values = summary["deciles"][name]
        _need(len(values) in (0, TENTHS) and all(map(_number, values)), f"{where}deciles.{name}", "10 numbers or none")


def _durations(samples: Any, stage: str) -> bool:
    if not isinstance(samples, list) or not all(map(_number, samples)):
        return False
    if stage in WHOLE:
        return bool(samples) and min(samples) > 0
    return min(samples, default=0) >= 0


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _numbers(values: Mapping[str, Any], where: str, names: Sequence[str]) -> None:
    for name in names:
        _need(_number(values.get(name)), f"{where}{name}", "a number")


def _kinds(values: Mapping[str, Any], where: str, **kinds: type) -> None:
    for name, kind in kinds.items():
        wanted = "text" if kind is str else "a list" if kind is list else "a mapping"
        _need(isinstance(values.get(name), kind), f"{where}{name}", wanted)


def _need(good: bool, where: str, wanted: str) -> None:
    if not good:
        raise WorldsimError(f"{where} must be {wanted}")


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _plain(values: Any) -> Any:
    return json.loads(_dumps(values))


def _dumps(values: Any) -> str:
    try:
        return json.dumps(values, allow_nan=False, default=lambda one: one.tolist())
    except ValueError:  # a figure that is not finite: slower, and it becomes null
        return json.dumps(json.loads(files.as_json({"": values}))[""])
