"""Which kept frames a step draws: whole or squares of them, and what their patches count."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.kept import LOSS, TINY
from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.errors import RunError
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.crops import Crops
from worldsim.training.decoder_objective import DecoderObjective
from worldsim.training.kept import ReplayConfig
from worldsim.training.objective import Objective, OwnPool
from worldsim.training.parallel import Ranks
from worldsim.training.rehearsal import Drawn, Rehearsal, counts


def test_the_patches_that_a_frame_was_drawn_for_count_more(pong_data: Dataset, store: ClipStore) -> None:
    """With their neighbours, as far as the frame reaches; all of a frame counts as much as before."""
    told = counts(TINY, 9.0)
    torch.testing.assert_close(told.mean(1), torch.ones(16))
    corner, middle = told[0].view(4, 4), told[5].view(4, 4)
    assert (corner > corner.min()).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert (middle > middle.min()).sum() == 9 and bool((middle[:3, :3] == middle.max()).all())
    torch.testing.assert_close(middle.max() / middle.min(), torch.tensor(9.0))
    assert torch.equal(counts(TINY, 1.0), torch.ones(16, 16))

    model = init_weights(WorldModel(TINY), 0)
    objective = DecoderObjective(model, LOSS, torch.float32, False)
    how = ReplayConfig(frames=12, clips=4, first=4, around=9.0)
    plain = replace(LOSS, own_share=0.0)

    def drawn(how: ReplayConfig) -> Drawn:
        shows = Objective(model, plain, torch.float32, False)
        rehearsal = Rehearsal(
            model, objective, shows, OwnPool(plain), store, plain, how,
            batch=2, seed=0, place=Ranks(), device=torch.device("cpu"),
        )  # fmt: skip
        rehearsal.begin(0, 1, {})
        try:
            return rehearsal.draw(0, 1)
        finally:
            rehearsal.close()

    some = drawn(how)
    assert some.squares is None and some.worth.shape == (12, 16) and len(set(some.at.patches.tolist())) > 1
    for row, patch in enumerate(some.at.patches):
        assert some.worth[row].argmax() in told[patch].topk(int((told[patch] > 1).sum())).indices
        torch.testing.assert_close(some.worth[row] / some.worth[row].mean(), told[patch])
    assert drawn(replace(how, around=1.0)).worth.shape == (12, 1)
    with pytest.raises(RunError, match="around=9 is of whole frames"):
        drawn(replace(how, crop=2))


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
            assert torch.equal(drawn.worth, torch.ones(6, 1))
    rehearsal.close()
    assert len(whole) == 80 * 6 and len(squares) == 120 * 12
    often, seldom = (np.bincount(drawn, minlength=28) / len(drawn) for drawn in (squares, whole))
    assert often.argmax() == 3 and often[3] > 1.5 / 28 and seldom[3] < 1.5 / 28, "by errors are squares drawn alone"
    for whole_steps, crop in ((1.2, 2), (0.5, None)):
        with pytest.raises(RunError, match="is a share of steps, from 0 to 1, beside those of squares"):
            ReplayConfig(whole=whole_steps, crop=crop)
