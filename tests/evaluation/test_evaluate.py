"""The command: files that it writes, and what it says when it cannot."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from worldsim.data.episodes import Dataset, write_episode, write_index
from worldsim.errors import MissingExtra
from worldsim.evaluation import pictures
from worldsim.evaluation.evaluate import PARTS, main

SHORT = ["quick=true", "roll_outs=2", "drift_rows=1", "drift_minutes=0.02", "lesson.steps=2", "lesson.samples=20"]


def test_it_writes_numbers_tables_and_pictures(
    tiny_world_folder: Path, pong_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [f"world={tiny_world_folder}", f"data={pong_data.folder}", f"out={tmp_path / 'out'}"]
    assert main([*where, *SHORT]) == 0
    out = tmp_path / "out"
    report = json.loads((out / "report.json").read_text())
    assert {"about", "reader", *PARTS, "bars", "seconds"} <= set(report)
    assert report["about"]["seed"] == 0 and len(report["about"]["fingerprint"]) == 64
    assert report["bars"][0]["passed"] in (True, False)
    for name in report["pictures"]:
        assert (out / name).stat().st_size > 1000
    assert {"roll_outs.png", "roll_outs.gif", "curves.png", "drift.png"} <= set(report["pictures"])
    text = (out / "report.md").read_text()
    assert "**FAIL**" in text and "A quick look" in text and "## Drift" in text
    told = capsys.readouterr()
    assert "exactly one ball" in told.out
    begun = told.err.index("objects: "), told.err.index("outcome: ")
    assert begun[0] < told.err.index("exactly one ball") < begun[1], "not told before the next part"


def stripped(dataset: Dataset, folder: Path, *, state: bool) -> Path:
    """The same recording of a source that does not say what its objects look like, with or without its state."""
    folder.mkdir()
    infos = []
    for info in dataset.episodes:
        episode = dataset.load(info)
        bare = episode if state else replace(episode, state={})
        infos.append(replace(info, sha256=write_episode(folder / info.file, bare)))
    source = dataset.config["source"] | {"objects": {}, "name": "unheard-of"}
    write_index(folder, dataset.config | {"source": source}, dataset.actions, dataset.behaviours, infos)
    return folder


def test_a_source_without_colours_is_read_by_a_probe(
    tiny_world_folder: Path, pong_data: Dataset, tmp_path: Path
) -> None:
    data = stripped(pong_data, tmp_path / "data", state=True)
    where = [f"world={tiny_world_folder}", f"data={data}", f"out={tmp_path / 'out'}"]
    assert main([*where, *SHORT, "parts=[objects]"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["about"]["reader"] == "probe"
    assert set(report["objects"]["by_object"]) == {"ball", "player", "opponent"}


def test_a_source_without_a_state_is_judged_by_what_is_left(
    tiny_world_folder: Path, pong_data: Dataset, tmp_path: Path
) -> None:
    data = stripped(pong_data, tmp_path / "data", state=False)
    where = [f"world={tiny_world_folder}", f"data={data}", f"out={tmp_path / 'out'}"]
    assert main([*where, *SHORT, "parts=[objects,fidelity,outcome,drift]"]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "objects" not in report and "drift" not in report
    assert report["fidelity"]["at"]["1"]["psnr"] > 0
    assert "Left out are objects, motion, diversity and drift" in (tmp_path / "out" / "report.md").read_text()


def test_an_unknown_part_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parts=[objekts]"]) == 2
    assert "unknown part 'objekts' (did you mean 'objects'?)" in capsys.readouterr().err


def test_a_recording_of_another_game_is_refused(
    pong_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from worldsim.actions import ActionTable
    from worldsim.model.config import ModelConfig
    from worldsim.world import new_world, save_world

    model = ModelConfig(2, dim=32, heads=2, encoder_layers=1, decoder_layers=1, decoder_width=8, window=4)
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

    monkeypatch.setattr(pictures, "pyplot", missing)
    assert main([f"world={tiny_world_folder}"]) == 2
    assert "pip install 'worldsim[train]'" in capsys.readouterr().err


def test_policies_that_there_are_not_are_told_before_anything_is_measured(
    tiny_world_folder: Path, pong_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = [f"world={tiny_world_folder}", f"data={pong_data.folder}", f"out={tmp_path / 'out'}"]
    assert main([*where, *SHORT, "drift_policies=[idol]"]) == 2
    assert "unknown policy 'idol' (did you mean 'idle'?): there is random, scripted, idle" in capsys.readouterr().err
    assert main([*where, *SHORT, "drift_policies=[]"]) == 2
    assert "drift_policies is empty" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
