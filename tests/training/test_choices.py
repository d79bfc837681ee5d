"""Noise that tells what nobody can know: of several guesses from pure noise one is learned from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.kept import LOSS, TINY, clips
from tests.training.runs import config, same, stop_at
from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.errors import RunError
from worldsim.model.config import ModelConfig
from worldsim.model.patches import unpatchify
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.crops import Crops, cut
from worldsim.training.decoder_objective import DecoderObjective
from worldsim.training.kept import Frames, MomentsConfig, ReplayConfig
from worldsim.training.loss import LossConfig
from worldsim.training.optimizer import Optimizer, OptimizerConfig
from worldsim.training.outcomes import OutcomesConfig
from worldsim.training.parallel import Ranks
from worldsim.training.replay import Replay
from worldsim.training.trainer import Trainer

CHOOSING = replace(LOSS, sampled=0.9, choices=3)


@pytest.fixture
def model() -> WorldModel:
    model = init_weights(WorldModel(TINY), 0)
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    return model


@pytest.mark.parametrize("side", [None, 2])
def test_the_guess_that_is_nearest_to_what_followed_is_likeliest(
    model: WorldModel, store: ClipStore, side: int | None
) -> None:
    crops = Crops(TINY, side) if side else None

    def choose(error: float, lot: float) -> Tensor:
        loss = replace(CHOOSING, choice_error=error)
        objective = DecoderObjective(model, loss, torch.float32, False, crops)
        return objective.choose(frames, t, noise, torch.full((16,), lot), squares)

    kept = Replay(DecoderObjective(model, CHOOSING, torch.float32, False, crops), model, 1, 0, patches=bool(side))
    batch = clips(store, 0)
    kept.add(0, batch, model.see(batch.frames, torch.float32), ())
    drawn, frames, _ = kept.draw(np.random.default_rng(0), 16, ReplayConfig())
    squares = torch.from_numpy(crops.around(np.random.default_rng(1), drawn.patches)) if crops else None
    following = cut(model.shown(frames.following, torch.float32), squares)
    noise = torch.randn(3, *following.shape, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([1.0, 0.5] * 8)
    view, drawer = model.view_of(model.shown(frames.past, torch.float32)), crops.within(model) if crops else model
    with torch.no_grad():
        scene = cut(frames.context, squares), cut(view, squares)
        guesses = torch.stack([drawer.decoder(one, torch.ones(16), *scene, frames.cue) for one in noise])
    off = (guesses - following).square().sum((2, 3))
    assert len(set(off.argmin(0)[::2].tolist())) > 1, "which one is the nearest is not the same everywhere"
    nearest = noise[off.argmin(0), torch.arange(16)]
    for lot in (0.0, 0.5, 0.999):
        found = choose(1e-6, lot)
        assert torch.equal(found[::2], nearest[::2]), "of next to no error allowed it is the nearest, whatever the lot"
        assert torch.equal(found[1::2], noise[0, 1::2]), "what is not made from pure noise has its own"
    for lot, which in ((0.1, 0), (0.5, 1), (0.9, 2)):
        assert torch.equal(choose(1e9, lot)[::2], noise[which, ::2]), "where every error is allowed it is any"


def test_two_futures_are_chosen_between_and_not_blended() -> None:
    """A ball comes above or below, as often; what the mean is without, noise decides with."""
    shape = ModelConfig(
        3, 20, 20, 20, history=2, dim=32, heads=2, encoder_layers=1, decoder_layers=1, decoder_width=16, window=4
    )

    def picture(y: int | None) -> Tensor:
        frame = torch.full((20, 20, 3), 60, dtype=torch.uint8)
        if y is not None:
            frame[y : y + 4, 8:12] = 236
        return frame

    def decided(choices: int) -> tuple[float, float]:
        """Shares of guesses from pure noise with one whole ball above, and below."""
        model = init_weights(WorldModel(shape), 0)
        objective = DecoderObjective(model, LossConfig(sampled=1.0, choices=choices), torch.float32, False)
        optimizer = Optimizer(model, OptimizerConfig(muon_lr=0.01, adam_lr=0.002, warmup=1))
        chance = torch.Generator().manual_seed(1)
        none, ends = model.patchify(picture(None)[None]), [model.patchify(picture(y)[None]) for y in (2, 14)]

        def frames(below: Tensor) -> Frames:
            count = len(below)
            following, zeros = torch.where(below[:, None, None], ends[1], ends[0]), torch.zeros(count).long()
            return Frames(torch.zeros(count, 1, 32), none[None].expand(count, 2, -1, -1), zeros, following, zeros)

        steps, count = 500, 16
        for step in range(steps):
            given = frames(torch.rand(count, generator=chance) < 0.5)
            t = torch.where(torch.rand(count, generator=chance) < 0.5, 1.0, 0.5)
            noise = torch.randn(choices, count, *given.following.shape[1:], generator=chance)
            chosen = objective.choose(given, t, noise, torch.rand(count, generator=chance))
            least = torch.full((count,), 16.0)
            objective.loss(given, torch.ones(count), t, chosen, least=least).backward()
            optimizer.step(1 - step / steps)
        given = frames(torch.zeros(256).bool())
        noise = torch.randn(given.following.shape, generator=chance)
        with torch.no_grad():
            view = model.view_of(model.shown(given.past, torch.float32))
            made = model.decoder(noise, torch.ones(256), given.context, view, given.cue)
        field = (unpatchify(made, shape) * 127.5 + 127.5 - 60) / (236 - 60)
        above, below = (field[:, y : y + 4, 8:12].mean((1, 2, 3)) for y in (2, 14))
        found = [((one > 0.6) & (other < 0.4)).float().mean().item() for one, other in ((above, below), (below, above))]
        return found[0], found[1]

    blended, chosen = decided(1), decided(4)
    assert sum(blended) < 0.2
    assert sum(chosen) > 0.7 and min(chosen) > 0.2


@pytest.mark.parametrize("way", [{}, {"crop": 2, "whole": 0.4}])
def test_a_run_that_chooses_goes_on_to_the_same_bytes(pong_data: Dataset, tmp_path: Path, way: dict[str, Any]) -> None:
    how = MomentsConfig(steps=9, frames=8, clips=4, first=2, every=2, **way)

    def trainer(name: str) -> Trainer:
        told = {"steps": 0, "loss": CHOOSING, "moments": how, "outcomes": OutcomesConfig(0)}
        return Trainer(config(pong_data, tmp_path / name, **told), Ranks())

    straight, first = trainer("straight"), trainer("stopped")
    straight.begin_decoder()
    stop_at(first, 6)
    first.begin_decoder()
    first.save()
    assert first.step == 6
    second = trainer("stopped")
    second.begin_decoder()
    assert same(straight.state(), second.state())


def test_choices_need_guesses_from_pure_noise() -> None:
    with pytest.raises(RunError, match="choices=0 is a number of guesses from pure noise, at least 1: give such"):
        LossConfig(sampled=0.5, choices=0)
    with pytest.raises(RunError, match="and sampled, the share of the levels"):
        LossConfig(choices=2)
