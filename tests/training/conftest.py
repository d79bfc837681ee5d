"""A small real data set for the training tests: Pong, recorded once a test session."""

from __future__ import annotations

from pathlib import Path

import pytest

from worldsim.data.collect import CollectConfig, collect
from worldsim.data.episodes import Dataset


@pytest.fixture(scope="session")
def pong_data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six short episodes of real Pong, some held out."""
    folder: Path = tmp_path_factory.mktemp("data") / "pong"
    config = CollectConfig(
        source="pong", steps=600, processes=1, seed=3, held_out=0.34, folder=str(folder), episode_steps=100
    )
    return collect(config, progress=False)
