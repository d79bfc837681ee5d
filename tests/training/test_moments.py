"""Moments: what the decoder begins on, what they are drawn for, and what waits meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.runs import config
from worldsim.data.episodes import Dataset
from worldsim.engine.sampler import levels
from worldsim.errors import SourceError
from worldsim.training.export import export
from worldsim.training.kept import MomentsConfig
from worldsim.training.loss import Batch
from worldsim.training.objective import Objective
from worldsim.training.optimizer import Optimizer
from worldsim.training.own import Turn, own_frames
from worldsim.training.parallel import Ranks
from worldsim.training.replay import Replay
from worldsim.training.run import Run
from worldsim.training.trainer import Trainer
from worldsim.world import load_world


def test_the_decoder_begins_on_moments_and_the_rest_of_the_model_waits(pong_data: Dataset, tmp_path: Path) -> None:
    how = MomentsConfig(steps=8, frames=16, clips=8, first=4, every=2, own_share=0.5)
    trainer = Trainer(config(pong_data, tmp_path / "run", steps=2, moments=how), Ranks())
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.begin_decoder()
    assert trainer.step == 8
    after = trainer.model.state_dict()
    waits = ("encoder.blocks.", "encoder.patches.", "heads.")
    for name, value in before.items():
        assert torch.equal(after[name], value) == name.startswith(waits), name
    # The whole model's contexts are those that the decoder has learned from, whatever it sees and remembers.
    with torch.no_grad():
        patches = torch.rand(2, 5, trainer.shape.tokens, trainer.shape.patch_dim)
        actions = torch.randint(0, 6, (2, 4))
        previous = trainer.model.previous_actions(actions)
        whole = trainer.ema.encode(trainer.ema.views(patches), previous, torch.zeros_like(previous))
        torch.testing.assert_close(whole[:, 2], trainer.ema.encoder.blind(previous[:, 2]))
    noise = torch.randn_like(patches[:, 1:])
    made, same = (
        own_frames(trainer.ema, patches, previous, actions, noise, levels(2), blind=blind) for blind in (False, True)
    )
    torch.testing.assert_close(made, same, rtol=0, atol=2 / 127)
    assert (made - patches)[:, 1:].abs().max() > 0.5, "made, not shown"
    trainer.train()
    assert trainer.step == 10
    encoder = trainer.model.encoder
    assert encoder.patches.weight.any() and all(block.mlp.down.weight.any() for block in encoder.blocks)


def test_own_frames_of_moments_are_of_the_clip_that_they_are_shown_for(
    pong_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever they begin: a pool that counted its turns from elsewhere went on with frames of another clip."""
    how = MomentsConfig(steps=24, frames=8, clips=40, first=6, every=1, own_share=0.5, own_after=0.25)
    told = config(pong_data, tmp_path / "run", steps=1, moments=how)
    trainer = Trainer(told, Ranks())
    clips: dict[tuple[int, int], list[Tensor]] = {}
    show = trainer._pool.show

    def showing(objective: Objective, batch: Batch, own: Sequence[int], step: int) -> Tensor:
        if own:
            turn = Turn.at(step, trainer._pool.begun, 2, 3)
            clips.setdefault((turn.slot, turn.clips), []).append(batch.frames[list(own)])
        return show(objective, batch, own, step)

    monkeypatch.setattr(trainer._pool, "show", showing)
    trainer.begin_decoder()
    assert trainer._pool.begun % 6, "where turns counted from nothing would be these"
    assert len(clips) > 4 and max(map(len, clips.values())) == 3
    for same in clips.values():
        assert all(torch.equal(one, same[0]) for one in same)


def test_a_run_that_starts_from_a_world_has_no_moments(pong_data: Dataset, straight: Path, tmp_path: Path) -> None:
    export(Run(straight), tmp_path / "first")
    how = MomentsConfig(steps=8)
    trainer = Trainer(config(pong_data, tmp_path / "run", init=str(tmp_path / "first"), steps=1, moments=how), Ranks())
    trainer.begin_decoder()
    assert trainer.step == 0 and trainer.model.encoder.patches.weight.any()


def test_a_world_can_have_moments_once_more_and_its_encoder_begins_anew(
    pong_data: Dataset, straight: Path, tmp_path: Path
) -> None:
    export(Run(straight), tmp_path / "first")
    first = load_world(str(tmp_path / "first")).model
    how = MomentsConfig(steps=4, frames=8, clips=6, first=2, every=2, own_share=0.0, anyway=True)
    trainer = Trainer(config(pong_data, tmp_path / "run", init=str(tmp_path / "first"), steps=1, moments=how), Ranks())
    ours = trainer.model
    for one, other in zip(ours.decoder.parameters(), first.decoder.parameters(), strict=True):
        torch.testing.assert_close(one, other.float())
    assert not ours.encoder.patches.weight.any()
    assert torch.equal(ours.encoder.blocks[0].time.age_bias[:, 0], torch.tensor([0.0, -1.0])), "a slope, and a tap"
    trainer.begin_decoder()
    trainer.train()
    assert trainer.step == 5
    card = export(Run(tmp_path / "run"), tmp_path / "second").card
    assert "| 4 steps of the decoder alone, of 8 frames each, from single moments; then 1 steps of 2 clips " in card


def test_moments_are_judged_only_where_their_errors_will_be_asked_for(
    pong_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = MomentsConfig(steps=24, frames=2, clips=6, first=2, every=2, own_share=0.0, evenly=0.5)
    assert [how.at(step).emphasis for step in (0, 11, 12, 23)] == [0, 0, 2, 2] and how.at(12).correction == 0.3
    judged, errors, add = [], [], Replay.add

    def noted(self: Replay, number: int, *given: Any, judge: bool = True) -> None:
        add(self, number, *given, judge=judge)
        judged.append(judge)
        errors.append(self.state()["errors"][0, number % 3])

    monkeypatch.setattr(Replay, "add", noted)
    Trainer(config(pong_data, tmp_path / "run", steps=1, moments=how), Ranks()).begin_decoder()
    # Three batches are kept; one comes with every second step, so the first that step 12 still draws from is number 4.
    assert judged == [False] * 4 + [True] * 8
    assert [bool(one.std() > 0) for one in errors] == judged


def test_squares_are_drawn_for_the_errors_of_one_object_where_it_is_asked_for(
    pong_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, add = [], Replay.add

    def noted(self: Replay, number: int, *given: Any, judge: bool = True) -> None:
        add(self, number, *given, judge=judge)
        kept.append(self.state()["errors"][:, number % 2].flatten(1, 2))

    monkeypatch.setattr(Replay, "add", noted)
    how = MomentsConfig(
        steps=2, frames=2, clips=4, first=4, evenly=0.0, own_share=0.0, crop=2, turns=True, about=("ball",)
    )
    trainer = Trainer(config(pong_data, tmp_path / "ball", steps=1, moments=how), Ranks())
    trainer.begin_decoder()
    errors = torch.cat(kept, 1)
    assert trainer.step == 2 and errors.shape[0] == 2 and errors.min() >= 0
    all_of_it, ball = ((kind > 1e-3 * kind.max()).float().sum(1) for kind in errors)
    assert ball.max() > 0 and bool((ball <= all_of_it).all())
    assert ((ball == 0) & (all_of_it > 0)).sum() >= 5, "a paddle that moves while no ball is there"
    trainer = Trainer(config(pong_data, tmp_path / "bat", steps=1, moments=replace(how, about=("bat",))), Ranks())
    with pytest.raises(SourceError, match="no object 'bat' is told by its colour: choose of ball, player, opponent"):
        trainer.begin_decoder()


def test_the_whole_model_learns_more_slowly_after_moments(
    pong_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates, move = [], Optimizer.step

    def noted(self: Optimizer, scale: float, **how: Any) -> None:
        rates.append(scale)
        move(self, scale, **how)

    monkeypatch.setattr(Optimizer, "step", noted)
    how = MomentsConfig(steps=2, frames=2, clips=4, first=2, own_share=0.0, then=0.25)
    for name, moments in ("after", how), ("without", None):
        trainer = Trainer(config(pong_data, tmp_path / name, steps=3, moments=moments), Ranks())
        trainer.begin_decoder()
        trainer.train()
    after, without = rates[2:5], rates[5:]
    assert after == [0.25 * rate for rate in without] and min(without) > 0
