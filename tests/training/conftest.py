"""What several rooms of tests look at: a run, and a small model with clips of recorded play."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.kept import TINY
from tests.training.runs import arguments
from worldsim.data.clips import ClipStore
from worldsim.data.collect import CollectConfig, collect
from worldsim.data.episodes import Dataset
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.pretrain import main
from worldsim.vision.colours import ColourReader


@pytest.fixture(scope="session")
def straight(pong_data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 6 + 12 + 5 + 3 steps that nothing disturbed."""
    run = tmp_path_factory.mktemp("run") / "straight"
    assert main(arguments(pong_data, run, "steps=12")) in (0, None)
    return run


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return init_weights(WorldModel(TINY), 0)


@pytest.fixture(scope="module")
def store(pong_data: Dataset) -> ClipStore:
    return ClipStore(pong_data, pong_data.train, 8)


@pytest.fixture(scope="session")
def play(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """1500 steps of real Pong, a few dozen turns."""
    folder = str(tmp_path_factory.mktemp("play"))
    config = CollectConfig(source="pong", steps=1500, processes=1, held_out=0, folder=folder, episode_steps=750)
    return collect(config, progress=False)


@pytest.fixture(scope="session")
def reader(play: Dataset) -> ColourReader:
    return ColourReader(play.config["source"]["objects"], 80, 80)
