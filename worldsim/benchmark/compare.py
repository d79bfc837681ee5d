"""`worldsim benchmark compare`: how much faster one recording is than another, and whether that is shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.benchmark import report as reports
from worldsim.benchmark.statistics import Ratio, percentile, ratio
from worldsim.benchmark.tables import figure
from worldsim.errors import WorldsimError
from worldsim.evaluation import report as files

# Stage and quantile (None: the mean) of each figure that is compared.
FIGURES = {
    "response p50": ("response", 0.5),
    "response p95": ("response", 0.95),
    "tick p50": ("tick", 0.5),
    "tick p95": ("tick", 0.95),
    "tick mean": ("tick", None),
}

# A deviation is known to 5 % from 200 draws; more are made as long as they take no minutes.
_LEAST_DRAWS, _MOST_VALUES = 200, 30_000_000

HELP = """worldsim benchmark compare a.json b.json [out=file.json]

Ratios b / a of response and tick with 95 % bootstrap intervals, for every cell that both files have. Files of one cell
each are compared whatever their settings. out= writes the ratios as JSON."""


@dataclass(frozen=True)
class Row:
    """One figure of one cell in two recordings.

    Attributes:
        cell: The settings of the cell, as in a.
        differs: Settings that are not the same in b, with the values (a's, b's); only where single cells are compared.
        figure: One of `FIGURES`, or empty if the cell was not measured in both.
        a, b: The figure in milliseconds.
        ratio: b / a with its interval; below 1, b is faster.
        verdict: ``faster``, ``slower`` or ``no difference shown``, of b; or why there is none.
    """

    cell: Mapping[str, Any]
    differs: Mapping[str, tuple[Any, Any]]
    figure: str
    a: float | None
    b: float | None
    ratio: Ratio | None
    verdict: str


def compare(a: Mapping[str, Any], b: Mapping[str, Any], draws: int = 1000, seed: int = 0) -> list[Row]:
    """Compare the cells that two reports share; if they share none and have one each, those.

    Args:
        a, b: As `worldsim.benchmark.report.read` returns them.
        draws, seed: Of the bootstrap, see `worldsim.benchmark.statistics.ratio`; fewer draws of very long roll-outs.

    Raises:
        WorldsimError: there is nothing to compare.
    """
    others = {reports.key_of(cell): cell for cell in b["cells"]}
    pairs = [(cell, others[reports.key_of(cell)]) for cell in a["cells"] if reports.key_of(cell) in others]
    if not pairs:
        if len(a["cells"]) != 1 or len(b["cells"]) != 1:
            counts = f"{len(a['cells'])} and {len(b['cells'])}"
            raise WorldsimError(f"no cell is in both files ({counts} cells): measure the same settings in both")
        pairs = [(a["cells"][0], b["cells"][0])]
    return [row for one, other in pairs for row in _rows(one, other, draws, seed)]


def as_markdown(rows: Sequence[Row]) -> str:
    """The rows as a table, below what all compared cells share and above how to read it."""
    cells = [{"cell": dict(row.cell)} for row in rows]
    common, differ = reports.split_settings(cells)
    changed = rows[0].differs if rows else {}
    same = ", ".join(f"{name} {value}" for name, value in common.items() if name not in changed)
    lines = [f"All cells: {same}.", ""] if same else []
    if changed:
        lines += ["a and b differ in " + ", ".join(f"{n}: {x} / {y}" for n, (x, y) in changed.items()) + ".", ""]
    body = []
    for row in rows:
        found = row.ratio
        shown = [f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}"] if found else ["-", "-"]
        figures = [row.figure or "-", figure(row.a), figure(row.b), *shown, row.verdict]
        body.append([*(str(row.cell.get(name, "-")) for name in differ), *figures])
    head = [*differ, "figure", "a, ms", "b, ms", "b / a", "95 % interval", "b is"]
    lines += [*files.table(head, body), ""]
    lines += ["Each interval is at 95 % by itself, from moving blocks of ticks and from the spread of the repeats."]
    if any(row.ratio and row.ratio.blocks_alone for row in rows):
        lines += ["", "Fewer than two repeats somewhere: intervals there are from blocks alone and too short."]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str]) -> int:
    """Compare two files; prints the table and returns the exit code, 2 after an error that a person can mend.

    Args:
        argv: The words after ``worldsim benchmark compare``.
    """
    if "-h" in argv or "--help" in argv:
        print(HELP)
        return 0
    try:
        _run(argv)
    except WorldsimError as error:
        print(f"worldsim benchmark compare: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("worldsim benchmark compare: stopped by Ctrl-C", file=sys.stderr)
        return 130
    return 0


def _run(argv: Sequence[str]) -> None:
    outs = [word.removeprefix("out=") for word in argv if word.startswith("out=")]
    paths = [word for word in argv if not word.startswith("out=")]
    unknown = [word for word in paths if word.startswith("-") or ("=" in word and not Path(word).exists())]
    if unknown:
        raise WorldsimError(f"cannot read '{unknown[0]}': it takes a.json b.json [out=file.json]")
    if len(paths) != 2 or len(outs) > 1 or "" in outs:
        raise WorldsimError("say two files and at most one out=: worldsim benchmark compare a.json b.json [out=c.json]")
    a, b = (reports.read(path) for path in paths)
    rows = compare(a, b)
    print(f"a: {paths[0]}\nb: {paths[1]}\n\n{as_markdown(rows)}")
    for line in _apart(a, b, rows):
        print(line)
    if outs:
        out, version = Path(outs[0]), {"format": "worldsim-benchmark-comparison", "version": 1}
        about = {"a": paths[0], "b": paths[1], "rows": [asdict(row) for row in rows]}
        files.write(out, json.dumps(version | about, indent=1, allow_nan=False) + "\n")
        print(f"wrote {out}")


def _rows(one: Mapping[str, Any], other: Mapping[str, Any], draws: int, seed: int) -> list[Row]:
    x, y = one["cell"], other["cell"]
    differs = {name: (x.get(name), y.get(name)) for name in {**x, **y} if x.get(name) != y.get(name)}
    for name, cell in (("a", one), ("b", other)):
        if cell["error"] is not None:
            return [Row(x, differs, "", None, None, None, f"not measured in {name}: {cell['error']}")]
    rows = []
    for name, (stage, quantile) in FIGURES.items():
        a, b = ([np.array(repeat["samples"][stage]) for repeat in cell["repeats"]] for cell in (one, other))
        ticks = max(sum(map(len, repeats)) for repeats in (a, b))
        found = ratio(a, b, quantile, draws=min(draws, max(_LEAST_DRAWS, _MOST_VALUES // ticks)), seed=seed)
        verdict = "no difference shown" if found.covers_one else "faster" if found.value < 1 else "slower"
        rows.append(Row(x, differs, name, _value(a, quantile), _value(b, quantile), found, verdict))
    return rows


def _value(repeats: Sequence[NDArray[np.float64]], quantile: float | None) -> float:
    ticks = np.concatenate(repeats)
    return float(ticks.mean()) if quantile is None else percentile(ticks, quantile * 100)


def _apart(a: Mapping[str, Any], b: Mapping[str, Any], rows: Sequence[Row]) -> list[str]:
    """What else to know before the ratios are believed: cells of one file alone, other machines, other settings."""
    lines = []
    compared = len({reports.key_of({"cell": dict(row.cell)}) for row in rows})
    for name, report in (("a", a), ("b", b)):
        alone = len(report["cells"]) - compared
        if alone:
            lines.append(f"{alone} of the cells {'is' if alone == 1 else 'are'} in {name} alone.")
    for part in ("environment", "settings"):
        names = [name for name in {**a[part], **b[part]} if a[part].get(name) != b[part].get(name)]
        if names:
            lines.append(f"The {part} of a and b differs in {', '.join(names)}.")
    return lines
