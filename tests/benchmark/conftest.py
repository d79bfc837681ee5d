"""What the tests of this room share."""

from __future__ import annotations

import pytest

from worldsim.data.collect import CollectConfig, collect
from worldsim.data.episodes import Dataset


@pytest.fixture(scope="session")
def long_play(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Episodes that are long enough to judge by."""
    pytest.importorskip("ale_py")
    folder = tmp_path_factory.mktemp("data") / "pong"
    asked = CollectConfig(
        source="pong", steps=700, processes=1, seed=5, held_out=0.34, folder=str(folder), episode_steps=220
    )
    return collect(asked, progress=False)
