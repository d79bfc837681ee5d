"""Which kept frames a step draws: whole or squares of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.kept import LOSS, TINY
from worldsim.data.clips import ClipStore
from worldsim.errors import RunError
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.crops import Crops
from worldsim.training.decoder_objective import DecoderObjective
from worldsim.training.kept import ReplayConfig
from worldsim.training.objective import Objective, OwnPool
from worldsim.training.parallel import Ranks
from worldsim.training.rehearsal import Rehearsal


def test_some_steps_are_of_whole_frames_drawn_evenly(store: ClipStore) -> None:
    model, plain = init_weights(WorldModel(TINY), 0), replace(LOSS, own_share=0.0)
    crops = Crops(TINY, 2)
    objective = DecoderObjective(model, plain, torch.float32, False, crops)
    how = ReplayConfig(frames=12, clips=4, first=4, every=1000, crop=2, whole=0.4)
    assert [how.is_whole(step) for step in range(10)] == [False, False, True, False, True] * 2
    rehearsal = Rehearsal(
        model, objective, Objective(model, plain, torch.float32, False), OwnPool(plain), store, plain, how,
        batch=2, seed=0, place=Ranks(), device=torch.device("cpu"),
    )  # fmt: skip
    rehearsal.begin(0, 200, {})
    rehearsal.draw(0, 1)
    rehearsal.replay._errors[:] = 1.0
    rehearsal.replay._errors[0, 0, 0, 3, 5] = 99.0
    rehearsal.replay._told.clear()
    squares: list[int] = []
    whole: list[int] = []
    for step in range(200):
        drawn = rehearsal.draw(step, 1)
        count, learned = (12, 4) if drawn.squares is not None else (6, TINY.tokens)
        assert drawn.noise.shape == (1, count, learned, TINY.patch_dim) and drawn.levels.shape == (1, count)
        (whole if drawn.squares is None else squares).extend(drawn.at.frames.tolist())
        if drawn.squares is None:
            assert torch.equal(drawn.worth, torch.ones(6))
    rehearsal.close()
    assert len(whole) == 80 * 6 and len(squares) == 120 * 12
    often, seldom = (np.bincount(drawn, minlength=28) / len(drawn) for drawn in (squares, whole))
    assert often.argmax() == 3 and often[3] > 1.5 / 28 and seldom[3] < 1.5 / 28, "by errors are squares drawn alone"
    for whole_steps, crop in ((1.2, 2), (0.5, None)):
        with pytest.raises(RunError, match="is a share of steps, from 0 to 1, beside those of squares"):
            ReplayConfig(whole=whole_steps, crop=crop)
