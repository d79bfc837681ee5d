"""`worldsim card`: copies measured figures into Markdown files, so that nobody types them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from worldsim.errors import DataError
from worldsim.evaluation.bars import Bar
from worldsim.evaluation.report import bar_table, made, table, write
from worldsim.machine import short
from worldsim.settings import command

BEGIN, END = "<!-- measured: written by `worldsim card` -->", "<!-- /measured -->"
LATENCY, LATENCY_END = "<!-- latency: written by `worldsim card` -->", "<!-- /latency -->"
POLICIES, POLICIES_END = "<!-- policies: written by `worldsim card` -->", "<!-- /policies -->"
LATENCY_ROWS = ("response", "decode", "encode", "tick")


def measured(evaluation: dict[str, Any]) -> str:
    """The figures of one evaluation as Markdown, between markers."""
    rows = [_bar(bar) for bar in evaluation["bars"]]
    about = evaluation["about"]
    return "\n".join([BEGIN, "", f"`{about['command']}`", "", made(about), "", *bar_table(rows), "", END])


def timed(latencies: Sequence[dict[str, Any]]) -> str:
    """The figures of some `play.py ... report=` files as Markdown, between markers of their own.

    A tick takes as long whatever was learned: they stay when a world's weights are judged anew, on another machine.
    """
    lines = [LATENCY, ""]
    for report in latencies:
        pace = "unpaced" if report["fps"] is None else f"at {report['fps']:g} a second"
        box = report["machine"]
        lines += [
            f"{report['ticks']} ticks {pace}: {report['decisions_per_second']:.1f} decisions/s, "
            f"{report['late_ticks']} late by more than a frame ({report['late_ticks_stolen']} of them while a "
            f"hypervisor ran others); {report['steps']} denoising steps, {report['dtype']}, {report['backend']}, "
            f"{box['cpu']}, {box['cores']} cores, {box['torch_threads']} threads, torch {box['torch']}, "
            f"{box['video_driver']} video.",
            "",
            *table(
                ["ms", "p50", "p95", "p99", "max"],
                [
                    [row, *(report["milliseconds"][row][key] for key in ("p50", "p95", "p99", "max"))]
                    for row in LATENCY_ROWS
                ],
            ),
            "",
            f"Not in it: {report['excluded']}.",
            "",
        ]
    return "\n".join([*lines, LATENCY_END])


def scored(policies: Sequence[dict[str, Any]]) -> str:
    """What some policies scored, of files that ``agents.evaluate out=`` wrote, as Markdown between markers."""
    head = ["policy", "actions", "where", "episodes", "mean return", "95 %", "median", "commit"]
    rows = [row for report in policies for row in _returns(report)]
    return "\n".join([POLICIES, "", *table(head, rows), "", POLICIES_END])


def _returns(report: dict[str, Any]) -> list[list[Any]]:
    """A row for each place that a policy played in."""
    name, how = Path(report["policy"]).name, "likeliest" if report["greedy"] else "drawn"
    made = ", ".join(f"{key.replace('_', ' ')} {report[key]}" for key in ("offline_steps", "steps") if key in report)
    rows = []
    for where, told in ((where, report[where]) for where in ("dream", "real") if where in report):
        low, high = told["mean_interval_95"]
        spread = f"{low:.2f} to {high:.2f}"
        head = [f"{name} ({made})" if made else name, how, where, told["episodes"]]
        rows.append([*head, f"{told['mean']:.2f}", spread, f"{told['median']:.1f}", short(report["commit"])])
    return rows


def _bar(bar: dict[str, Any]) -> Bar:
    value = math.inf if bar["value"] == "missing" else bar["value"]
    return Bar(bar["part"], bar["text"], value, bar["target"], bar["at_least"], bar["note"])


def insert(path: Path, text: str, begin: str = BEGIN, end: str = END, title: str = "Measured") -> None:
    """Put text, markers included, in place of what is between the markers of a Markdown file.

    A file without them gets it at its end, under ``title``.

    Raises:
        DataError: the file is not there, or has one marker without the other.
    """
    try:
        before = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}): name Markdown files with files=[...]") from error
    if (begin in before) != (end in before):
        raise DataError(f"{path} has one marker of the measured figures without the other: remove it")
    if begin in before:
        head, rest = before.split(begin, 1)
        write(path, head + text + rest.split(end, 1)[1])
    else:
        write(path, before.rstrip("\n") + f"\n\n## {title}\n\n{text}\n")


def _read(path: Path, wanted: str) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not a whole JSON report: measure again") from error
    if not isinstance(report, dict) or wanted not in report:
        raise DataError(f"{path} is not a report of that kind (no '{wanted}' in it)")
    return report


@command("card")
def main(settings: dict[str, Any]) -> None:
    """Copy measured figures into Markdown files."""
    if not settings["files"] or not (settings["evaluation"] or settings["latency"] or settings["policies"]):
        raise DataError("say files=[README.md,...] and evaluation=<json>, latency=[<json>,...] or policies=[...]")
    evaluation = _read(Path(settings["evaluation"]), "bars") if settings["evaluation"] else None
    latencies = [_read(Path(one), "milliseconds") for one in settings["latency"]]
    policies = [_read(Path(one), "greedy") for one in settings["policies"]]
    for file in settings["files"]:
        if evaluation:
            insert(Path(file), measured(evaluation))
        if latencies:
            insert(Path(file), timed(latencies), LATENCY, LATENCY_END, "Latency")
        if policies:
            insert(Path(file), scored(policies), POLICIES, POLICIES_END, "Policies")
        print(f"wrote the figures into {file}")
