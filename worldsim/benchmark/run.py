"""`worldsim benchmark`: every cell in a process of its own, all taking turns, everything kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from worldsim.benchmark import compare, report, tables
from worldsim.benchmark.cells import ALLOCATORS, Cell, product
from worldsim.benchmark.statistics import summarise
from worldsim.errors import WorldsimError
from worldsim.evaluation.card import insert
from worldsim.evaluation.report import write as write_text
from worldsim.machine import commit, machine, stalls
from worldsim.settings import command, command_line, from_dict, home, unswept

EXCLUDED = (
    "compiling, priming and the warm-up ticks; keyboard, compositor and panel; the wait of a key for the next poll "
    "(half a tick on average); a cell of the engine also leaves out polling and drawing"
)


@dataclass(frozen=True)
class BenchmarkConfig:
    """How cells are measured; ``configs/benchmark.yaml`` says what each does.

    Raises:
        WorldsimError: a setting is out of range.
    """

    ticks: int = 300
    repeats: int = 4
    warmup: int = 30
    together: int = 6
    seed: int = 0
    out: Path | None = None
    resume: bool = False
    into: str | None = None
    plots: bool = True

    def __post_init__(self) -> None:
        for name, least in {"ticks": 10, "repeats": 1, "warmup": 1, "together": 1}.items():
            if getattr(self, name) < least:
                raise WorldsimError(f"{name} is {getattr(self, name)}, it must be at least {least}")
        if self.into is not None and not all(self.into.rpartition(":")):
            raise WorldsimError(f"into is {self.into!r}: name a Markdown file and a part of it, as in page.md:backends")


class Worker:
    """The process of one cell."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self._process = subprocess.Popen(
            [sys.executable, "-m", "worldsim.benchmark.worker"],
            env=os.environ | ALLOCATORS[cell.allocator],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def ask(self, **request: Any) -> dict[str, Any]:
        """One request, one answer; an answer with ``error`` if the process died of it."""
        process = self._process
        assert process.stdin and process.stdout
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return {"error": self._obituary()}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _obituary(self) -> str:
        code = self._process.wait()
        if code == -9:
            return "killed, most likely for memory: give a smaller batch or window"
        said = (self._process.stderr.read() if self._process.stderr else "").strip().splitlines()
        return f"its process ended with code {code}: {said[-1] if said else 'no word'}"

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def benchmark(
    cells: Sequence[Cell],
    config: BenchmarkConfig,
    keep: Callable[[list[dict[str, Any]]], None],
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """Measure cells in turns.

    Args:
        cells: What to measure. ``config.together`` of them are open at a time.
        config: How.
        keep: Called with all that is measured so far after every round of turns.
        say: Told what goes on.

    Returns:
        One entry a cell as :mod:`worldsim.benchmark.report` describes it, an ``error`` in those that have no figures.
    """
    entries: list[dict[str, Any]] = []
    for first in range(0, len(cells), config.together):
        with ExitStack() as stack:
            group = []
            for cell in cells[first : first + config.together]:
                say(f"open {cell.label}")
                worker = Worker(cell)
                stack.callback(worker.close)
                opened = worker.ask(open=asdict(cell), warmup=config.warmup, seed=config.seed)
                entry: dict[str, Any] = {
                    "cell": asdict(cell),
                    "error": opened.get("error"),
                    "facts": opened.get("facts", {}),
                    "repeats": [],
                    "summary": {},
                }
                entry["cell"] |= {
                    key: entry["facts"].pop(key)
                    for key in ("dtype", "steps", "threads", "window")
                    if key in entry["facts"]
                }
                entries.append(entry)
                group.append((worker, entry))
            for turn in range(config.repeats):
                # There and back: what drifts over a round hits the first and the last alike.
                for worker, entry in group if turn % 2 == 0 else reversed(group):
                    if entry["error"] is None:
                        say(f"turn {turn + 1} of {config.repeats}: {worker.cell.label}")
                        _add(entry, worker.ask(run=config.ticks), worker.cell.batch)
                keep(entries)
    return entries


def _add(entry: dict[str, Any], made: dict[str, Any], batch: int) -> None:
    if "error" in made:
        entry |= {"error": made["error"], "facts": {}, "repeats": [], "summary": {}}
        return
    entry["facts"]["peak_memory_bytes"] = made.pop("peak_memory_bytes")
    made["samples"] = {name: [round(value, 4) for value in values] for name, values in made["samples"].items()}
    entry["repeats"].append(made)
    entry["summary"] = summarise(entry["repeats"], batch)


@command("benchmark")
def run(settings: dict[str, Any]) -> int | None:
    """Measure latency and throughput of worlds: every sample as JSON, a table, CSV, plots."""
    names = {field.name for field in fields(Cell)}
    cells = product(settings)
    config = from_dict(BenchmarkConfig, {key: value for key, value in settings.items() if key not in names})
    out = (config.out or home() / "benchmarks" / time.strftime("%Y-%m-%d-%H%M%S.json")).expanduser()
    if config.plots:
        from worldsim.evaluation.pictures import require_plots

        require_plots()
    head = {
        "format": report.FORMAT,
        "version": report.VERSION,
        "command": command_line(),
        "environment": machine() | {"commit": commit(), "stalls": stalls()},
        "settings": {key: getattr(config, key) for key in ("ticks", "repeats", "warmup", "together", "seed")}
        | {"excluded": EXCLUDED},
    }
    before = report.read(out) if config.resume and out.exists() else None
    if before:
        cells = [cell for cell in cells if not _measured(cell, before, config.repeats)]
    out.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = before or head | {"cells": []}

    def keep(entries: list[dict[str, Any]]) -> None:
        nonlocal found
        # A cell that has had no turn yet has nothing to say; left to its defaults, one may turn out to be another.
        told = {report.key_of(entry): entry for entry in entries if entry["error"] or entry["repeats"]}
        new = head | {"cells": list(told.values())}
        found = report.merge(before, new) if before else new
        report.write(out, found)

    with _progress() as say:
        benchmark(cells, config, keep, say)
    table = tables.as_markdown(found)
    write_text(out.with_suffix(".csv"), tables.as_csv(found))
    write_text(out.with_suffix(".md"), table + "\n")
    print(table)
    if config.into:
        page, _, part = config.into.rpartition(":")
        begin, end = f"<!-- {part}: written by `worldsim benchmark` -->", f"<!-- /{part} -->"
        insert(Path(page), f"{begin}\n\n{table}\n{end}", begin, end, part.capitalize())
    if config.plots:
        from worldsim.benchmark.plots import draw

        folder = out.with_suffix("")
        folder.mkdir(exist_ok=True)
        draw(found, folder)
    print(f"\nwrote {out}, and .csv, .md{' and plots' if config.plots else ''} beside it")
    return 2 if all(entry["error"] for entry in found["cells"]) else None


def _measured(cell: Cell, before: dict[str, Any], repeats: int) -> bool:
    """Whether a result has all of a cell, whose settings may have been left to the worker."""
    wanted = {key: value for key, value in asdict(cell).items() if value is not None}
    return any(
        entry["error"] is None
        and len(entry["repeats"]) >= repeats
        and wanted.items() <= (report.LATER | entry["cell"]).items()
        for entry in before["cells"]
    )


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What goes on, on one line of a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    yield lambda text: print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    print("\r\033[K", end="", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """The verb, and ``compare`` under it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["compare"]:
        return compare.main(arguments[1:])
    return run(unswept(arguments))
