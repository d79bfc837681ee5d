"""Designs side by side: one command, one table, two pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import torch

from worldsim.benchmark.study import main
from worldsim.data.episodes import Dataset
from worldsim.model.designs import Design
from worldsim.model.dit import wake
from worldsim.world import World, WorldConfig, load_world, save_world


def test_worlds_of_two_designs_are_put_side_by_side(
    tiny_world_folder: Path, long_play: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    like = load_world(tiny_world_folder)
    torch.manual_seed(0)
    network = Design.parse("dit:2").make(like.config.model)
    wake(network, 1, scale=0.2)
    config = WorldConfig("tiny", like.config.model, design="dit:2")
    other = save_world(World(config, like.actions, network.requires_grad_(False), like.starts), tmp_path / "chunks")
    page = tmp_path / "docs" / "study.md"
    page.parent.mkdir()
    page.write_text("# Designs\n\nWhat we think of it.\n")
    told = [f"evaluate.data={long_play.folder}", "evaluate.parts=[objects]", "evaluate.quick=true",
            "evaluate.roll_outs=2", "evaluate.threads=1", "dtype=float32", "threads=1", "ticks=10", "repeats=1",
            "windows=[3,5]", f"out={tmp_path / 'out'}", f"into={page}"]  # fmt: skip
    assert main([f"worlds=[{tiny_world_folder},{other}]", *told]) in (0, None)
    text = page.read_text()
    assert text.startswith("# Designs\n\nWhat we think of it.\n") and text.count("<!-- study: written") == 1
    head, _, own, chunks = [line for line in text.splitlines() if line.startswith("|")]
    names = [name.strip() for name in head.strip("|").split("|")]
    rows = [
        dict(zip(names, (value.strip() for value in line.strip("|").split("|")), strict=True)) for line in (own, chunks)
    ]
    assert [row["design"] for row in rows] == ["scd", "dit:2"] and [row["world"] for row in rows] == ["tiny", "chunks"]
    assert rows[1]["delay, ticks"] == "2 (a trace after 1 to 2)"
    assert float(rows[1]["action to frame, ms"]) > 1000 / like.config.fps
    assert float(rows[1]["decisions/s"]) > 0 and int(rows[0]["kept bytes a frame"]) == 2 * 2 * 64 * 32 * 4
    assert "objects: exactly one ball of the real size, over 4 s" in names
    for picture in ("delay.png", "history.png"):
        assert f"]({page.stem}/{picture})" in text
        drawn = cv2.imread(str(page.with_suffix("") / picture))
        assert drawn is not None and drawn.std() > 5


def test_without_rows_and_worlds_there_is_nothing_to_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "name some rows=[...] to train (there is scd, scd-again, " in capsys.readouterr().err
