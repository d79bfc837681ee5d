"""The files of a benchmark: what is written is read again, and nothing else is."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldsim.benchmark.report import merge, read, share_of_matmul_rate, write
from worldsim.benchmark.statistics import summarise
from worldsim.benchmark.tables import as_csv, as_markdown
from worldsim.errors import WorldsimError

Report = dict[str, Any]


def cell(error: str | None = None, milliseconds: float = 4.0, **settings: Any) -> Report:
    """A cell of two repeats of 20 ticks, or one that has no figures."""
    about = {"world": "pong", "backend": "eager", "steps": 2, "batch": 1} | settings
    if error:
        return {"cell": about, "error": error, "facts": {}, "repeats": [], "summary": {}}
    samples = {"decode": [milliseconds / 2] * 20, "response": [milliseconds / 2] * 20, "tick": [milliseconds] * 20}
    repeats = [{"samples": samples, "resident_bytes": []}] * 2
    facts = {"parameters": 7, "flops_per_tick": 2e9, "matmul_flops_per_second": 1e12}
    facts |= {"peak_memory_bytes": 300 * 2**20, "warmup_seconds": 1.5}
    facts |= {"frame_error_mean": 0.0561, "frame_error_max": 31.0, "delay_own": 4, "delay_first": 1, "delay_most": 4}
    return {
        "cell": about,
        "error": None,
        "facts": facts,
        "repeats": repeats,
        "summary": summarise(repeats, about["batch"]),
    }


def report(*cells: Report, **changes: Any) -> Report:
    made = {"format": "worldsim-benchmark", "version": 1, "command": "worldsim benchmark"}
    made |= {"environment": {"cpu": "Box 9", "commit": "abc", "torch": {"version": "2.12"}}}
    made |= {"settings": {"ticks": 20, "warmup": 5, "repeats": 2, "seed": 0}, "cells": list(cells)}
    return made | changes


def test_a_world_whose_encoder_is_not_run_is_named_below_the_table() -> None:
    blind = cell()
    blind["facts"] |= {"encoder_sees": False}
    assert "Of pong the encoder has learned nothing yet, and a tick does not run it" in as_markdown(report(blind))
    blind["facts"] |= {"encoder_sees": True}
    assert "encoder" not in as_markdown(report(blind)) and "encoder" not in as_markdown(report(cell()))


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    whole = report(cell(), cell(backend="inductor"), cell("out of memory", batch=4096))
    write(tmp_path / "a.json", whole)
    assert read(tmp_path / "a.json") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"], "nothing is left beside it"


def test_the_file_is_strict_json(tmp_path: Path) -> None:
    whole = report(cell())
    whole["environment"] |= {"load": float("nan"), "cores": np.int64(2)}
    write(tmp_path / "a.json", whole)

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    found = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"), parse_constant=refuse)
    assert found["environment"]["load"] is None and found["environment"]["cores"] == 2


def test_what_could_not_be_read_again_is_not_written_over_what_can(tmp_path: Path) -> None:
    write(tmp_path / "a.json", report(cell()))
    bad = cell()
    bad["repeats"][0]["samples"]["tick"][3] = float("nan")
    with pytest.raises(WorldsimError, match=r"cells\[0\]\.repeats\[0\]\.samples\.tick must be"):
        write(tmp_path / "a.json", report(bad))
    assert read(tmp_path / "a.json") == report(cell())


@pytest.mark.parametrize(
    ("damage", "about"),
    [
        (lambda text: text[: len(text) // 2], "cut short"),
        (lambda text: "", "not JSON"),
        (lambda text: text.replace("4.0", "NaN", 1), "NaN"),
        (lambda text: "[1, 2]", "not a benchmark"),
        (lambda text: text.replace("worldsim-benchmark", "other", 1), "not a benchmark"),
        (lambda text: text.replace('"version": 1', '"version": 0', 1), "version 0.*measure again"),
        (lambda text: text.replace('"version": 1', '"version": 2', 1), "version 2.*update worldsim"),
        (lambda text: text.replace('"ticks"', '"ticks', 1), "not JSON"),
        (lambda text: text.replace('"p95"', '"p_95"', 1), r"summary\.milliseconds\.decode\.p95 must be a number"),
        (lambda text: text.replace('"tick": [4.0, ', '"tick": ["4", ', 1), r"samples\.tick must be a list of numbers"),
        (lambda text: text.replace('"response": [2.0, ', '"response": [-2.0, ', 1), r"samples\.response must be"),
        (lambda text: text.replace('"error": null, ', "", 1), r"cells\[0\]\.error must be null or text"),
        (lambda text: text.replace('"inductor"', '"eager"'), r"cells\[1\] must be another cell than cells\[0\]"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_that_names_it(
    tmp_path: Path, damage: Callable[[str], str], about: str
) -> None:
    file = tmp_path / "bad.json"
    write(file, report(cell(), cell(backend="inductor")))
    file.write_text(damage(file.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(WorldsimError, match=about) as error:
        read(file)
    assert "bad.json" in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorldsimError, match=r"none\.json"):
        read(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WorldsimError, match="not JSON"):
        read(tmp_path / "binary.json")


def test_the_csv_has_a_row_for_every_cell_and_stage() -> None:
    rows = list(csv.DictReader(as_csv(report(cell(), cell("no such device", backend="cuda"))).splitlines()))
    assert [(row["backend"], row["stage"]) for row in rows] == [
        ("eager", "decode"),
        ("eager", "response"),
        ("eager", "tick"),
        ("cuda", ""),
    ]
    assert float(rows[2]["p95"]) == 4 and float(rows[2]["share_of_matmul_rate"]) == pytest.approx(0.5)
    assert rows[3]["error"] == "no such device" and rows[3]["p50"] == ""


def test_the_table_has_a_row_a_cell_and_only_the_settings_that_differ() -> None:
    text = as_markdown(report(cell(), cell(batch=8, milliseconds=400.0), cell("out of | memory\nhere", batch=64)))
    head, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    assert head.startswith("| batch | response ms p50 |") and "steps" not in head
    assert rows[0].startswith("| 1 | 2 | 2 | 2 | 4 | 4 | 4 | 0 | 250 (250 to 250) | 250 | 50 % | 300 |")
    assert rows[0].endswith("| 0.056 (31) | 4 (1 to 4) |")
    assert "| 2.5 (2.5 to 2.5) | 20 |" in rows[1], "8 frames a tick"
    assert rows[2].startswith("| 64 | not measured: out of / memory here |")
    assert {line.count("|") for line in [head, *rows]} == {15}, "every row is as wide as the head"
    assert "All cells: world pong, backend eager, steps 2." in text
    assert "Warm-up is excluded: 5 ticks a cell, which took 1.5 to 1.5 s" in text
    assert "Box 9" in text and "torch (version 2.12)" in text


def test_a_long_roll_out_has_its_tenths_in_the_table() -> None:
    assert "last / first" not in as_markdown(report(cell()))
    long = cell()
    samples = {stage: values * 1000 for stage, values in long["repeats"][0]["samples"].items()}
    samples["tick"][-10_000:] = [5.0] * 10_000
    long["repeats"] = [{"samples": samples, "resident_bytes": [2**20 * n for n in range(1, 11)]}]
    long["summary"] = summarise(long["repeats"], 1)
    rows = [line for line in as_markdown(report(long)).splitlines() if line.startswith("|")]
    length = len(samples["tick"])
    assert rows[-1].startswith(f"| - | {length} | 4 | 4 |") and rows[-1].endswith(" 5 | 1.250 | +9.00 |")


def test_a_table_of_nothing_and_of_errors_alone_is_still_a_table() -> None:
    assert "No cell was measured" in as_markdown(report())
    assert "not measured: no GPU" in as_markdown(report(cell("no GPU")))
    assert len(as_csv(report()).splitlines()) == 1


def test_the_share_of_the_matmul_rate_is_of_the_mean_tick() -> None:
    one = cell()
    assert share_of_matmul_rate(one) == pytest.approx(2e9 / 0.004 / 1e12)
    assert share_of_matmul_rate(cell("broken")) is None
    one["facts"] = {}
    assert share_of_matmul_rate(one) is None


def test_a_resumed_sweep_keeps_old_cells_and_replaces_equal_ones() -> None:
    old = report(cell(), cell("interrupted", backend="inductor"))
    both = merge(old, report(cell(backend="inductor"), cell(backend="aoti")))
    assert [one["cell"]["backend"] for one in both["cells"]] == ["eager", "inductor", "aoti"]
    assert all(one["error"] is None for one in both["cells"])
    assert both["cells"][0] == cell(), "and notes nothing where nothing was different"


def test_a_kept_cell_says_what_was_different_when_it_was_measured() -> None:
    new = report(cell(backend="inductor"), environment={"cpu": "Box 9", "commit": "def", "torch": {"version": "2.12"}})
    both = merge(report(cell()), new)
    assert both["environment"]["commit"] == "def"
    assert both["cells"][0]["environment"] == {"commit": "abc"}
    assert "1 of the cells is from an earlier run, with commit abc." in as_markdown(both)
    again = merge(both, report(environment=new["environment"] | {"commit": "ghi"}))
    assert [one["environment"] for one in again["cells"]] == [{"commit": "abc"}, {"commit": "def"}]


def test_cells_that_were_not_measured_alike_are_not_merged() -> None:
    with pytest.raises(WorldsimError, match="ticks=20, not 30"):
        merge(report(cell()), report(settings=report()["settings"] | {"ticks": 30}))
    with pytest.raises(WorldsimError, match="Box 9, not Box 10"):
        merge(report(cell()), report(environment={"cpu": "Box 10"}))
    elsewhere = report()["settings"] | {"out": "b", "resume": True, "backend": ["aoti"]}
    merge(report(cell()), report(cell(backend="aoti"), settings=elsewhere))
