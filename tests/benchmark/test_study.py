"""Designs side by side: one command, one table, two pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import torch

from worldsim.actions import Action, ActionTable
from worldsim.benchmark.study import ROWS, main
from worldsim.benchmark.study_rows import Result, bare, joined
from worldsim.data.episodes import Dataset
from worldsim.model.config import ModelConfig
from worldsim.model.designs import Design
from worldsim.model.dit import wake
from worldsim.schema import from_dict
from worldsim.settings import defaults
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
            "windows=[3,5]", "timed_steps=[1,2]", f"out={tmp_path / 'out'}", f"into={page}"]  # fmt: skip
    assert main([f"worlds=[{tiny_world_folder},{other}]", *told]) in (0, None)
    text = page.read_text()
    assert text.startswith("# Designs\n\nWhat we think of it.\n") and text.count("<!-- study: written") == 1
    rows, paces = tables(text)
    assert [row["design"] for row in rows] == ["scd", "dit:2"] and [row["row"] for row in rows] == ["tiny", "chunks"]
    assert rows[1]["delay, ticks"] == "2 (a trace after 1 to 2)"
    assert float(rows[1]["action to frame, ms"]) > 1000 / like.config.fps
    assert float(rows[1]["decisions/s"]) > 0 and int(rows[0]["kept bytes a frame"]) == 2 * 2 * 64 * 32 * 4
    assert "objects: exactly one ball of the real size, over 4 s" in rows[0]
    assert [list(row) for row in paces] == [["row", "design", "1 steps", "2 steps"]] * 2
    assert paces[0]["2 steps"].endswith(" (1.00 x)") and float(paces[1]["1 steps"].split()[0]) > 0
    for picture in ("delay.png", "history.png"):
        assert f"]({page.stem}/{picture})" in text
        drawn = cv2.imread(str(page.with_suffix("") / picture))
        assert drawn is not None and drawn.std() > 5

    # Days later: the worlds are gone, another row comes, and what was found before stays.
    capsys.readouterr()
    (other / "model.safetensors").unlink()
    assert main([f"worlds=[{tiny_world_folder}]", *told, "windows=[]", "timed_steps=[]", "seed=3"]) in (0, None)
    (again,) = tables(page.read_text())
    assert page.read_text().count("<!-- study: written") == 1 and [row["row"] for row in again] == ["tiny", "chunks"]
    timed = "response p95, ms", "tick mean, ms", "decisions/s", "action to frame, ms"
    for was, now in zip(rows, again, strict=True):
        assert {key: now[key] for key in now if key not in timed} == {key: was[key] for key in was if key not in timed}
    assert [now["decisions/s"] for now in again] != [was["decisions/s"] for was in rows], "they are timed anew"
    assert main([*told, "windows=[]", "timed_steps=[]"]) in (0, None), "what there is, without anything new"
    assert [row["row"] for row in tables(page.read_text())[0]] == ["tiny", "chunks"]

    capsys.readouterr()
    assert main([*told, "evaluate.roll_outs=3"]) == 2
    assert "were judged with roll_outs=2, and are to be with 3 now" in capsys.readouterr().err
    kept = page.with_suffix("") / ROWS
    assert str(tmp_path) not in kept.read_text(), "where a recording lay is of no use elsewhere"
    kept.write_text(kept.read_text()[:100])
    assert main(told) == 2
    assert "restore it, or remove it to begin anew" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["scd", "msc", "dit-4", "stream-windows-4"])
def test_a_world_that_is_timed_in_the_place_of_a_lost_one_is_of_its_size(name: str, tmp_path: Path) -> None:
    recipe = defaults("study")["recipes"][name]
    sizes = {**recipe["model"], "num_actions": 3, "height": 16, "width": 16, "patch": 4, "dim": 32, "heads": 2}
    config = WorldConfig("tiny", from_dict(ModelConfig, sizes), design=recipe.get("design", "scd"))
    actions = ActionTable((Action("NOOP"), Action("UP"), Action("DOWN")))
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    world = load_world(bare(config, actions.to_json(), tmp_path / name))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert world.config == config and world.actions == actions
    assert all(weight.any() for weight in world.network.parameters()), "zeros would cost less on some machines"


def test_of_rows_of_one_name_the_newer_one_is_shown_in_the_order_of_the_recipes() -> None:
    def row(name: str, hours: float) -> Result:
        actions = ActionTable((Action("NOOP"),))
        config = WorldConfig(name, ModelConfig(num_actions=1, height=16, width=16, patch=4))
        return Result(name, "train", hours, "", config, actions.to_json(), {}, [])

    found = joined([row("mine", 1), row("dit", 2)], [row("dit", 3), row("scd", 4)], ["scd", "msc", "dit"])
    assert [(one.name, one.hours) for one in found] == [("scd", 4), ("dit", 3), ("mine", 1)]


def tables(text: str) -> list[list[dict[str, str]]]:
    """The Markdown tables of a page, each line by the names of its columns."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([value.strip() for value in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    return [[dict(zip(lines[0], line, strict=True)) for line in lines[2:]] for lines in found if lines]


def test_without_rows_and_worlds_there_is_nothing_to_study(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "name some rows=[...] to train (there is scd, scd-again, " in capsys.readouterr().err
