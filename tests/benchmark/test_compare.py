"""Two benchmarks side by side: a difference is said where it is shown, and not where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldsim.benchmark.compare import FIGURES, as_markdown, compare, main
from worldsim.benchmark.report import write
from worldsim.benchmark.statistics import summarise
from worldsim.errors import WorldsimError

Report = dict[str, Any]


def cell(seed: int, scale: float = 1.0, repeats: int = 3, error: str | None = None, **settings: Any) -> Report:
    """A cell of log-normal ticks about `scale` times 4 ms, of which the response is about half."""
    about = {"world": "pong", "backend": "eager", "steps": 2, "batch": 1} | settings
    if error:
        return {"cell": about, "error": error, "facts": {}, "repeats": [], "summary": {}}
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(repeats):
        tick = 4 * scale * np.exp(0.1 * rng.normal(size=100) + 0.02 * rng.normal())
        response = tick * rng.uniform(0.45, 0.55, 100)
        made.append({"samples": {"response": response.tolist(), "tick": tick.tolist()}, "resident_bytes": []})
    return {"cell": about, "error": None, "facts": {}, "repeats": made, "summary": summarise(made, 1)}


def report(*cells: Report, cpu: str = "Box 9") -> Report:
    made = {"format": "worldsim-benchmark", "version": 1, "command": "worldsim benchmark"}
    return made | {"environment": {"cpu": cpu}, "settings": {"ticks": 100}, "cells": list(cells)}


def test_half_the_time_is_faster_and_twice_is_slower_in_every_figure() -> None:
    a, b = report(cell(1)), report(cell(2, scale=0.5))
    rows = compare(a, b, draws=200)
    assert [row.figure for row in rows] == list(FIGURES)
    assert {row.verdict for row in rows} == {"faster"}
    for row in rows:
        assert row.a and row.b and row.ratio
        assert row.ratio.value == pytest.approx(row.b / row.a) == pytest.approx(0.5, rel=0.1)
    assert {row.verdict for row in compare(b, a, draws=200)} == {"slower"}


def test_the_same_thing_measured_twice_shows_no_difference() -> None:
    rows = compare(report(cell(1)), report(cell(2)), draws=200)
    assert {row.verdict for row in rows} == {"no difference shown"}


def test_only_cells_that_both_have_are_compared() -> None:
    a = report(cell(1), cell(2, backend="inductor"), cell(3, steps=4))
    b = report(cell(4, scale=2, backend="inductor"), cell(5, steps=8))
    rows = compare(a, b, draws=50)
    assert {row.cell["backend"] for row in rows} == {"inductor"} and len(rows) == len(FIGURES)


def test_single_cells_are_compared_whatever_they_are_and_what_differs_is_said() -> None:
    rows = compare(report(cell(1)), report(cell(2, scale=0.5, backend="inductor")), draws=50)
    assert rows[0].differs == {"backend": ("eager", "inductor")}
    text = as_markdown(rows)
    assert "a and b differ in backend: eager / inductor." in text
    assert "All cells: world pong, steps 2, batch 1." in text
    with pytest.raises(WorldsimError, match="no cell is in both"):
        compare(report(cell(1), cell(2, steps=3)), report(cell(1, steps=4)))
    with pytest.raises(WorldsimError, match="0 and 0 cells"):
        compare(report(), report())


def test_a_cell_without_figures_is_told_and_the_others_are_compared() -> None:
    a = report(cell(1), cell(2, batch=64))
    b = report(cell(3), cell(4, batch=64, error="out of memory"))
    rows = compare(a, b, draws=50)
    assert rows[-1].verdict == "not measured in b: out of memory" and rows[-1].ratio is None
    assert len(rows) == len(FIGURES) + 1
    assert "| 64 | - | - | - | - | - | not measured in b: out of memory |" in as_markdown(rows)


def test_single_repeats_are_said_to_be_too_little() -> None:
    alone, enough = (compare(report(cell(1, repeats=n)), report(cell(2)), draws=50) for n in (1, 2))
    assert "from blocks alone" in as_markdown(alone) and "from blocks alone" not in as_markdown(enough)


def test_the_command_prints_a_table_and_writes_the_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, out = (tmp_path / name for name in ("a.json", "b.json", "c.json"))
    write(a, report(cell(1), cell(5, steps=3)))
    write(b, report(cell(2, scale=0.5), cpu="Box 10"))
    assert main([str(a), str(b), f"out={out}"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| faster |") == len(FIGURES)
    assert "1 of the cells is in a alone." in printed
    assert "The environment of a and b differs in cpu." in printed
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (found["format"], found["version"]) == ("worldsim-benchmark-comparison", 1)
    assert [row["figure"] for row in found["rows"]] == list(FIGURES)
    assert found["rows"][0]["ratio"]["high"] < 1


@pytest.mark.parametrize(
    ("words", "about"),
    [
        ([], "say two files"),
        (["a.json"], "say two files"),
        (["a.json", "none.json"], "cannot read none.json"),
        (["a.json", "torn.json"], "cut short"),
        (["a.json", "a.json", "draws=3"], "draws=3"),
        (["a.json", "--fast"], "--fast"),
        (["a.json", "a.json", "out=no/such/folder/c.json"], "cannot write"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    words: list[str], about: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("a.json"), report(cell(1)))
    Path("torn.json").write_text(Path("a.json").read_text(encoding="utf-8")[:500], encoding="utf-8")
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("worldsim benchmark compare: ") and error.count("\n") == 1
    assert about in error


def test_help_says_how_to_call_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "a.json b.json [out=file.json]" in capsys.readouterr().out
