"""Rows of a study, from recorded play to the table in one command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from worldsim.benchmark.rows import DONE, merged, train_rows
from worldsim.benchmark.study import StudyConfig, main
from worldsim.checkpoint import read_facts
from worldsim.data.episodes import Dataset
from worldsim.errors import RunError
from worldsim.locking import sole_writer
from worldsim.model.config import ModelConfig
from worldsim.model.designs import SEPARABLE, Design
from worldsim.model.world_model import WorldModel
from worldsim.schema import from_dict
from worldsim.settings import defaults, written

RECIPES = defaults("study")["recipes"]
SMALL: dict[str, Any] = {
    "steps": 2, "batch": 2, "clip": 8, "sampling_steps": 2, "compile": False, "dtype": "float32", "threads": 1,
    "model": {"patch": 10, "dim": 32, "heads": 2, "window": 4}, "optimizer": {"warmup": 1},
    "report": {"held_out_clips": 1, "grid_rows": 1, "grid_ticks": [1, 4], "save_seconds": 0.5},
}  # fmt: skip
SETTINGS = merged(defaults("study")["train"], SMALL)
JUDGED = [
    "evaluate.parts=[objects]", "evaluate.quick=true", "evaluate.roll_outs=2", "evaluate.threads=1", "dtype=float32",
    "threads=1", "ticks=10", "repeats=1", "windows=[]",
    "timed_steps=[]",
]  # fmt: skip


def told(data: Dataset, place: Path, *more: str) -> list[str]:
    small = [f"++train.{key}={written(value)}" for key, value in SMALL.items()]
    where = [f"+train.data={data.folder}", f"evaluate.data={data.folder}", f"runs={place / 'runs'}"]
    return [*where, f"out={place / 'out'}", f"into={place / 'study.md'}", *small, *JUDGED, *more]


def test_designs_go_from_play_to_rows_of_the_table(
    long_play: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = ["msc", "dit-4-teacher", "stream-windows-4"]
    assert main(told(long_play, tmp_path, f"rows=[{','.join(rows)}]")) in (0, None)
    assert capfd.readouterr().out.count(": worldsim train ") == len(rows)
    text = (tmp_path / "study.md").read_text()
    head, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    names = [name.strip() for name in head.strip("|").split("|")]
    table = [dict(zip(names, (value.strip() for value in line.strip("|").split("|")), strict=True)) for line in lines]
    assert [row["row"] for row in table] == rows
    assert [row["design"] for row in table] == ["scd", "dit:4", "stream-windows:4"]
    assert [row["delay, ticks"].split()[0] for row in table] == ["1", "4", "4"]
    assert all("2 steps" in row["made by"] and float(row["decisions/s"]) > 0 for row in table)
    assert "By `worldsim train world=pong steps=2 batch=2" in text and "design=stream-windows:4" in text


def test_what_a_row_is_told_is_looked_at_before_any_is_trained(
    long_play: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for wrong, said in (
        (["rows=[scd,dot]"], "unknown row 'dot' (did you mean 'dit'?)"),
        (["rows=[scd,dit]", "+recipes.dit.stepps=3"], "row 'dit': unknown key 'stepps' (did you mean 'steps'?)"),
        (["rows=[scd,dit]", "+recipes.dit.model.dims=3"], "row 'dit': unknown key 'dims' (did you mean 'dim'?)"),
        (["rows=[scd,dit]", "recipes.dit.design=dat"], "row 'dit': no design is called 'dat'"),
        (["rows=[scd]", "train.data=/nowhere"], "row 'scd': no recorded episodes in /nowhere"),
    ):
        assert main(told(long_play, tmp_path, *wrong)) == 2
        assert said in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_training_that_fails_ends_the_study_and_says_so(
    long_play: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(told(long_play, tmp_path, "rows=[dit]", "+recipes.dit.init=pong")) == 2
    said = capfd.readouterr().err
    assert "init=pong is for design=scd" in said and "row 'dit' was not trained, as said above" in said
    assert not (tmp_path / "study.md").exists()


def test_a_study_that_is_ended_ends_its_training_which_goes_on_later(
    long_play: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "dit"
    asked = told(long_play, tmp_path, "rows=[dit]", "train.steps=1000000")
    process = subprocess.Popen([sys.executable, "-m", "worldsim", "study", *asked], stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 120
        while not (run / "checkpoint.safetensors").exists() and time.monotonic() < end:
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 130
    finally:
        process.kill()
    with sole_writer(run, RunError):  # nothing is left that writes there
        stopped = read_facts(run / "checkpoint.safetensors")["step"]
    assert stopped > 0 and not (run / DONE).exists()
    alike = {**SETTINGS, "data": str(long_play.folder), "steps": stopped + 2}
    for _ in range(2):
        assert train_rows(["dit"], RECIPES, alike, tmp_path / "runs") == [str(run / "world")]
        assert read_facts(run / "checkpoint.safetensors")["step"] == stopped + 2
    assert f"steps={stopped + 2}" in json.loads((run / DONE).read_text())
    assert capfd.readouterr().out.count("row 1 of 1, dit: worldsim train") == 2, "it is not trained a second time"


def test_recipes_have_equal_parameters_to_a_tenth() -> None:
    """But for the decoder of convolutions, which cannot be made as large at the same width."""
    sizes = {}
    for name, recipe in RECIPES.items():
        settings = merged(defaults("train"), merged(defaults("study")["train"], recipe))
        given = {key: value for key, value in settings["model"].items() if value is not None}
        config = from_dict(ModelConfig, {"num_actions": 6, "height": 80, "width": 80, **given, "patch": 10})
        design = settings["design"]
        network = WorldModel(config) if design == SEPARABLE else Design.parse(design).make(config)
        sizes[name] = sum(weight.numel() for weight in network.parameters())
    assert len(sizes) >= 15 and sizes.pop("scd-conv") < min(sizes.values())
    assert max(sizes.values()) <= 1.1 * min(sizes.values()), sizes


def test_settings_are_merged_key_by_key() -> None:
    assert merged({"a": 1, "b": {"c": 2, "d": None}}, {"b": {"d": {"e": 3}}}) == {"a": 1, "b": {"c": 2, "d": {"e": 3}}}
    assert merged({"a": {"b": 1}}, {"a": None}) == {"a": None}


def test_one_row_is_a_name() -> None:
    assert StudyConfig(Path("study.md"), rows="dit").rows == "dit"
