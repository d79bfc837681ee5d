"""What a world is told of the recording it was learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from worldsim.data.collect import CollectConfig, collect
from worldsim.data.episodes import Dataset, read_ends
from worldsim.errors import DataError
from worldsim.model.config import ModelConfig
from worldsim.model.world_model import WorldModel
from worldsim.training.export import build_world, shortest_life


def test_the_shortest_life_is_that_of_real_play(pong_data: Dataset, tmp_path: Path) -> None:
    pytest.importorskip("ale_py")
    told = CollectConfig(source="breakout", steps=1200, processes=1, held_out=0, folder=str(tmp_path))
    play = collect(told, progress=False)
    gaps = [np.diff(np.flatnonzero(play.load(info).terminated)) for info in play.train]
    found = shortest_life(play)
    assert found is not None and found == min(int(gap.min()) for gap in gaps if len(gap)) and found > 20
    assert shortest_life(pong_data) is None, "a game without lives"
    shape = ModelConfig(len(play.actions), height=80, width=80, dim=32, heads=2, encoder_layers=1, window=4)
    world = build_world("breakout", shape, WorldModel(shape), play, shortest=found)
    assert (world.config.lives, world.config.shortest_life) == (5, found)
    (tmp_path / "empty.npz").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty.npz cannot be read"):
        read_ends(tmp_path / "empty.npz")
