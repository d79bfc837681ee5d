"""The command: files that it writes, and what it says when it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from worldsim.data.episodes import Dataset
from worldsim.errors import MissingExtra
from worldsim.evaluation import pictures
from worldsim.evaluation.evaluate import main

SHORT = ["quick=true", "roll_outs=2", "drift_rows=1", "drift_minutes=0.02", "lesson.steps=2", "lesson.samples=20"]


def test_it_writes_numbers_tables_and_pictures(
    tiny_world_folder: Path, pong_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [f"world={tiny_world_folder}", f"data={pong_data.folder}", f"out={tmp_path / 'out'}"]
    assert main([*where, *SHORT]) == 0
    out = tmp_path / "out"
    report = json.loads((out / "report.json").read_text())
    assert {"about", "reader", "control", "objects", "fidelity", "outcome", "drift", "bars", "seconds"} <= set(report)
    assert report["about"]["seed"] == 0 and len(report["about"]["fingerprint"]) == 64
    assert report["bars"][0]["passed"] in (True, False)
    for name in report["pictures"]:
        assert (out / name).stat().st_size > 1000
    assert {"roll_outs.png", "roll_outs.gif", "curves.png", "drift.png"} <= set(report["pictures"])
    text = (out / "report.md").read_text()
    assert "**FAIL**" in text and "A quick look" in text and "## Drift" in text
    assert "exactly one ball" in capsys.readouterr().out


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parts=[objekts]"]) == 2
    assert "unknown part 'objekts' (did you mean 'objects'?)" in capsys.readouterr().err


def test_a_recording_of_another_game_is_refused(
    pong_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from worldsim.actions import ActionTable
    from worldsim.model.config import ModelConfig
    from worldsim.world import new_world, save_world

    model = ModelConfig(2, dim=32, heads=2, encoder_layers=1, decoder_layers=1, window=4)
    folder = save_world(new_world("other", model, ActionTable.numbered(["A", "B"])), tmp_path / "other")
    assert main([f"world={folder}", f"data={pong_data.folder}", f"out={tmp_path / 'out'}"]) == 2
    assert "data=" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_world_of_an_unknown_game_asks_for_its_source(
    tiny_world_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"world={tiny_world_folder}"]) == 2
    assert "source=" in capsys.readouterr().err


def test_without_matplotlib_it_says_which_extra_to_install(
    tiny_world_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise MissingExtra("matplotlib", "train")

    monkeypatch.setattr(pictures, "_pyplot", missing)
    assert main([f"world={tiny_world_folder}"]) == 2
    assert "pip install 'worldsim[train]'" in capsys.readouterr().err
