"""Worlds of other designs are judged like those that are played, by the frames that actions lead to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.data.episodes import Dataset
from worldsim.errors import WorldError
from worldsim.evaluation.compare import main as compare
from worldsim.evaluation.evaluate import EvaluateConfig, evaluate
from worldsim.evaluation.learning import Lesson
from worldsim.evaluation.roll_outs import DreamSettings, dream
from worldsim.model.designs import Design
from worldsim.model.dit import DiT, wake
from worldsim.start import Start
from worldsim.world import World, WorldConfig, load_world, save_world

DESIGNS = ["dit", "dit:2", "clip:2", "stream:2", "stream-causal:2"]


def design_world(name: str, like: World) -> World:
    shape = like.config.model
    torch.manual_seed(0)
    network = Design.parse(name).make(shape)
    wake(network, 1)
    return World(WorldConfig("tiny", shape, design=name), like.actions, network.requires_grad_(False), like.starts)


@pytest.fixture
def like(tiny_world_folder: Path) -> World:
    return load_world(tiny_world_folder)


@pytest.mark.parametrize("name", DESIGNS)
def test_a_world_of_a_design_is_saved_and_loaded(name: str, like: World, tmp_path: Path) -> None:
    world = design_world(name, like)
    again = load_world(save_world(world, tmp_path / "world"))
    assert isinstance(again.network, DiT) and again.config == world.config
    rounded = {key: value.to(torch.bfloat16).float() for key, value in world.network.state_dict().items()}
    assert all(torch.equal(value, rounded[key]) for key, value in again.network.state_dict().items())
    assert again.fingerprint != like.fingerprint
    with pytest.raises(WorldError, match=f"is of design {name}, for evaluate and benchmark alone"):
        _ = again.model
    with pytest.raises(WorldError, match="do not belong together"):
        World(like.config, like.actions, world.network, like.starts)


@pytest.mark.parametrize("name", DESIGNS)
def test_frames_of_a_dream_are_those_that_its_actions_lead_to(name: str, like: World) -> None:
    """However late they come: a changed action changes its own frame, and in causal designs nothing before it."""
    world, settings = design_world(name, like), DreamSettings(dtype="float32", steps=2)
    side = like.config.model.height
    frames = np.random.default_rng(0).integers(0, 256, (5, side, side, 3), np.uint8)
    starts = [Start("noise", frames, np.zeros(4, np.int64))]
    actions = np.zeros((8, 1), np.int64)
    other = actions.copy()
    other[4] = 3
    one, two = (dream(world, starts, acts, settings) for acts in (actions, other))
    assert one.shape == (8, 1, side, side, 3)
    parted = (one != two).any((1, 2, 3, 4))
    assert parted[4], "the frame that the action leads to"
    if name in ("dit", "stream-causal:2"):
        assert not parted[:4].any()


@pytest.mark.parametrize("name", ["dit", "stream:2"])
def test_a_design_is_evaluated(name: str, like: World, pong_data: Dataset, tmp_path: Path) -> None:
    folder = save_world(design_world(name, like), tmp_path / "world")
    config = EvaluateConfig(
        world=str(folder), data=pong_data.folder, parts=("objects", "motion", "drift", "outcome"), quick=True,
        roll_outs=2, drift_minutes=1 / 60, drift_rows=1, dtype="float32", threads=1,
        lesson=Lesson(samples=60, episodes=2, steps=3),
    )  # fmt: skip
    report, bars = evaluate(config, tmp_path / "report", quiet=True)
    about = report["about"]
    assert about["design"] == name and about["left_out"] == f"motion and outcome: design {name} has none"
    assert "ball" in report["objects"]["by_object"] and "random" in report["drift"]["policies"]
    assert "motion" not in report and "points" not in report["drift"]
    page = (tmp_path / "report" / "report.md").read_text()
    assert f"Left out are motion and outcome: design {name} has none." in page


def test_designs_stand_in_one_table(
    like: World, pong_data: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [save_world(design_world(name, like), tmp_path / name.replace(":", "-")) for name in ("dit", "dit:2")]
    told = [f"out={tmp_path / 'out'}", f"evaluate.data={pong_data.folder}", "evaluate.parts=[objects]",
            "evaluate.quick=true", "evaluate.roll_outs=2", "evaluate.threads=1", "evaluate.dtype=float32"]  # fmt: skip
    assert compare([f"worlds=[{','.join(map(str, folders))}]", *told]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| dit")]
    assert len(table) == 2 and "| dit | 1 | 2 |" in table[0] and "| dit:2 | 2 | 2 |" in table[1]
