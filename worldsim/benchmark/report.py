"""A benchmark with every sample, as JSON that is checked when it is read. Its tables: `worldsim.benchmark.tables`."""

from __future__ import annotations

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
