"""Worlds side by side: judged once each, told apart by steps, with what their runs cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from worldsim.checkpoint import save_checkpoint
from worldsim.data.episodes import Dataset
from worldsim.evaluation import compare
from worldsim.evaluation.compare import main, origin


@pytest.fixture
def run(tiny_world_folder: Path, tmp_path: Path) -> Path:
    """A run folder with a world in it, as a distillation leaves it."""
    folder = tmp_path / "run"
    shutil.copytree(tiny_world_folder, folder / "world")
    (folder / "settings.json").write_text(json.dumps({"method": "dmd"}))
    save_checkpoint(folder / "checkpoint.safetensors", {}, {"step": 30, "world": "tiny", "seconds": 5400.0})
    return folder


def told(data: Dataset, out: Path) -> list[str]:
    return [f"out={out}", f"evaluate.data={data.folder}", "evaluate.parts=[objects]", "evaluate.quick=true",
            "evaluate.roll_outs=2", "evaluate.threads=1", "evaluate.dtype=float32"]  # fmt: skip


def test_a_table_of_worlds_steps_and_their_levels(
    run: Path, pong_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Methods\n")
    arguments = [f"worlds=[{run / 'world'}]", "steps=[1,2]", "shifts=[0.15]", f"into={page}:methods"]
    arguments += told(pong_data, tmp_path / "out")
    assert main(arguments) == 0
    table = [line for line in page.read_text().splitlines() if line.startswith("| ")]
    assert "objects: exactly one ball of the real size, over 4 s" in table[0]
    assert "actions told" not in table[0], "what was not measured has no column"
    assert ">= 0.97" in table[2]
    for line, steps in zip(table[3:], (1, 2), strict=True):
        assert f"| run | scd | 1 | {steps} | 0.15 | eager, float32 | dmd, 30 steps | 1.50 |" in line
    assert page.read_text().count("2 denoising steps at levels shifted by 0.15, float32") == 1
    # A second time nothing is judged again, and the part is replaced.
    monkeypatch.setattr(compare, "evaluate", lambda *_: pytest.fail("judged again"))
    assert main(arguments) == 0
    assert page.read_text().count("<!-- methods") == 1
    for other in ("evaluate.seed=1", "backends=[int8]", "shifts=[null]"):
        with pytest.raises(BaseException, match="judged again"):
            main([*arguments, other])


def test_one_world_that_cannot_be_judged_does_not_cost_the_others(
    run: Path, pong_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"worlds=[nowhere,{run / 'world'}]", *told(pong_data, tmp_path / "out")]) == 1
    out = capsys.readouterr().out
    assert "nowhere at its own steps on eager: " in out and "dmd, 30 steps" in out
    assert main(["worlds=[nowhere]", *told(pong_data, tmp_path / "out")]) == 2


def test_how_a_chunk_causal_design_was_taught_is_told(run: Path) -> None:
    (run / "settings.json").write_text(json.dumps({"design": "dit:2", "forcing": "teacher"}))
    assert origin(str(run / "world")) == ("train, teacher forcing, 30 steps", 1.5)


def test_a_world_outside_of_a_run_has_no_origin(tiny_world_folder: Path) -> None:
    assert origin(str(tiny_world_folder)) == ("", None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["worlds=[]"], "name some worlds"),
        (["shifts=[]"], "name some worlds"),
        (["into=page.md"], "name a Markdown file and a part of it"),
    ],
)
def test_bad_settings_are_told(settings: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(settings) == 2
    assert said in capsys.readouterr().err
