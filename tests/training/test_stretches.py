"""What each stretch of a pretraining run learns, and what a run may begin with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.runs import SHAPE, config
from worldsim.actions import Action, ActionTable
from worldsim.data.episodes import Dataset
from worldsim.errors import RunError
from worldsim.model.config import ModelConfig
from worldsim.model.outcome import EndHead
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.ancestry import collect_command
from worldsim.training.batches import make_batch
from worldsim.training.export import export
from worldsim.training.kept import MomentsConfig
from worldsim.training.outcomes import OutcomesConfig
from worldsim.training.parallel import Ranks
from worldsim.training.run import Run
from worldsim.training.trainer import Trainer
from worldsim.world import load_world, new_world, save_world


def test_the_last_steps_train_the_outcome_heads_and_nothing_else(pong_data: Dataset, tmp_path: Path) -> None:
    trainer = Trainer(config(pong_data, tmp_path / "run", steps=2), Ranks())
    trainer.train()
    before = {name: value.clone() for name, value in trainer.ema.state_dict().items()}
    trainer.finish_outcomes()
    assert trainer.finished and trainer.step == 5
    for name, value in trainer.ema.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("heads."), name


def test_the_outcome_heads_can_begin_from_nothing(pong_data: Dataset, tmp_path: Path) -> None:
    told = OutcomesConfig(3, 4, 8, lr=1e-12, anew=True)  # a rate at which they stay as they begin
    trainer = Trainer(config(pong_data, tmp_path / "run", steps=2, outcomes=told), Ranks())
    trainer.train()
    trainer.finish_outcomes()
    fresh = init_weights(WorldModel(trainer.shape), trainer.config.seed + 1).heads.state_dict()
    for name, value in trainer.ema.heads.state_dict().items():
        torch.testing.assert_close(value, fresh[name], rtol=0, atol=1e-6)


def test_a_run_that_is_asked_to_stop_gathers_no_more_for_its_heads(
    pong_data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(config(pong_data, tmp_path / "run", steps=2), Ranks())
    trainer.train()
    before = {name: value.clone() for name, value in trainer.ema.heads.state_dict().items()}
    draw, drawn = trainer.clips.draw, []

    def last_draw(*which: Any, **more: Any) -> Any:
        trainer._ask_to_stop()
        drawn.append(which)
        return draw(*which, **more)

    monkeypatch.setattr(trainer.clips, "draw", last_draw)
    trainer.finish_outcomes()
    assert len(drawn) == trainer.config.outcomes.batch < trainer.config.outcomes.clips and not trainer.finished
    assert all(torch.equal(value, before[name]) for name, value in trainer.ema.heads.state_dict().items())
    again = Trainer(config(pong_data, tmp_path / "run", steps=2), Ranks())
    again.finish_outcomes()
    assert again.finished


def test_the_decoder_can_rest_while_the_encoder_learns(
    pong_data: Dataset, straight: Path, tmp_path: Path
) -> None:
    export(Run(straight), tmp_path / "first")
    told = config(pong_data, tmp_path / "run", init=str(tmp_path / "first"), steps=2, decoder=0.0)
    trainer = Trainer(told, Ranks())
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    for name, value in trainer.model.state_dict().items():
        if name.startswith(("decoder.", "encoder.patches.")):
            rests = name.startswith("decoder.") and name != "decoder.context.weight"
            assert torch.equal(value, before[name]) == rests, name


def test_a_run_can_start_from_a_world_and_says_so(pong_data: Dataset, straight: Path, tmp_path: Path) -> None:
    first = Trainer(config(pong_data, straight), Ranks())
    export(Run(straight), tmp_path / "first")
    parent = load_world(str(tmp_path / "first"))
    trainer = Trainer(config(pong_data, tmp_path / "run", init=str(tmp_path / "first"), steps=2), Ranks())
    for name, value in first.ema.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], value.bfloat16().float()), name
    trainer.train()
    resumed = Trainer(config(pong_data, tmp_path / "run", init=str(tmp_path / "first"), steps=2), Ranks())
    assert resumed.step == 2 and not torch.equal(resumed.model.decoder.out.weight, first.ema.decoder.out.weight)
    card = export(Run(tmp_path / "run"), tmp_path / "second").card
    assert "init=first" in card and parent.fingerprint[:16] in card and str(tmp_path) not in card
    assert card.count("worldsim collect") == 2, "both worlds' commands are there"
    own, before = card.index("| training |"), card.index("was world")
    assert own < before < card.rindex("| training |"), "each with what it was trained on"
    with pytest.raises(RunError, match="has model.dim=32"):
        Trainer(config(pong_data, tmp_path / "other", init=str(tmp_path / "first"), model=SHAPE | {"dim": 64}), Ranks())


def test_a_run_can_be_told_of_rewards_that_its_world_was_not_told_of(
    pong_data: Dataset, straight: Path, tmp_path: Path
) -> None:
    export(Run(straight), tmp_path / "first")
    first = load_world(str(tmp_path / "first")).model
    shape = SHAPE | {"reward_ages": 5}
    told = config(pong_data, tmp_path / "run", init=str(tmp_path / "first"), steps=1, model=shape)
    trainer = Trainer(told, Ranks())
    t, action = torch.tensor([0.5]), torch.tensor([1])
    for age in range(11):  # at first it tells nothing
        cue = action + age * first.config.num_actions
        for ours, theirs in zip(trainer.model.modulations(t, cue), first.modulations(t, action), strict=True):
            torch.testing.assert_close(ours, theirs)
    trainer.train()
    export(Run(tmp_path / "run"), tmp_path / "second")
    more = shape | {"recency": True}
    heard = Trainer(config(pong_data, tmp_path / "heard", init=str(tmp_path / "second"), steps=1, model=more), Ranks())
    assert heard.model.heads.recent is not None
    own = shape | {"own_end": True}
    ended = Trainer(config(pong_data, tmp_path / "ended", init=str(tmp_path / "second"), steps=1, model=own), Ranks())
    assert isinstance(ended.model.heads.end, EndHead)
    with pytest.raises(RunError, match="has model.reward_ages=5, not 6"):
        Trainer(
            config(
                pong_data,
                tmp_path / "other",
                init=str(tmp_path / "second"),
                steps=1,
                model=SHAPE | {"reward_ages": 6},
            ),
            Ranks(),
        )


def test_a_run_can_see_more_frames_and_be_told_more_actions_than_its_world(
    pong_data: Dataset, straight: Path, tmp_path: Path
) -> None:
    """And begins with what that one made of fewer."""
    export(Run(straight), tmp_path / "first")
    first = load_world(str(tmp_path / "first")).model.float()
    shape = SHAPE | {"history": 6, "past_actions": 3}
    run = Trainer(config(pong_data, tmp_path / "run", init=str(tmp_path / "first"), steps=1, model=shape), Ranks())
    batch = make_batch(run.clips, run.shape, run.loss, 0, 0, range(2))
    made, cues, sign = [], batch.cues(run.shape).flatten(), torch.ones_like(batch.rewards)
    noisy = torch.randn(len(cues), run.shape.tokens, run.shape.patch_dim, generator=torch.Generator().manual_seed(0))
    for model in (run.model, first):
        with torch.no_grad():
            views, previous = model.views(model.see(batch.frames, torch.float32)), model.previous_actions(batch.actions)
            context = model.encode(views, previous, torch.zeros_like(previous))
            scene = model.scene(context[:, :-1].flatten(0, 1), views[:, :-1].flatten(0, 1))
            frames = model.denoise(noisy, scene, model.modulations(torch.ones(len(cues)), cues))
            made.append((context, frames, *model.outcome(context[:, 1:], views[:, 1:], sign)))
    for ours, theirs in zip(*made, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert ours.std() > 0
    run.train()
    assert run.model.encoder.older is not None and run.model.encoder.older.weight.any(), "it learns"
    export(Run(tmp_path / "run"), tmp_path / "second")
    for fewer in ({"history": 4, "past_actions": 3}, {"history": 6, "past_actions": 1}):
        with pytest.raises(RunError, match=r"has model\.(history=6, not 4|past_actions=3, not 1)"):
            told = config(pong_data, tmp_path / "no", init=str(tmp_path / "second"), steps=1, model=SHAPE | fewer)
            Trainer(told, Ranks())


def test_a_decoder_can_be_given_attention_that_adds_nothing_at_first(
    pong_data: Dataset, straight: Path, tmp_path: Path
) -> None:
    export(Run(straight), tmp_path / "first")
    first = load_world(str(tmp_path / "first")).model.float()
    shape = SHAPE | {"decoder_heads": 2}
    run = Trainer(config(pong_data, tmp_path / "run", init=str(tmp_path / "first"), steps=1, model=shape), Ranks())
    c, generator = run.shape, torch.Generator().manual_seed(0)
    noisy, scene = (torch.randn(2, *size, generator=generator) for size in ((c.tokens, c.patch_dim), c.scene_shape))
    told = torch.ones(2), torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        ours, theirs = (one.decoder.denoise(noisy, scene, one.modulations(*told)) for one in (run.model, first))
    assert torch.equal(ours, theirs) and ours.std() > 0
    run.train()
    mixing = run.model.decoder.get_submodule("mixing.out")
    assert isinstance(mixing.weight, torch.Tensor) and mixing.weight.any(), "it learns"
    export(Run(tmp_path / "run"), tmp_path / "second")
    with pytest.raises(RunError, match="has model.decoder_heads=2, not 0"):
        Trainer(config(pong_data, tmp_path / "none", init=str(tmp_path / "second"), steps=1), Ranks())


def test_what_a_resting_encoder_does_not_need_can_be_left_out(pong_data: Dataset, tmp_path: Path) -> None:
    deep = SHAPE | {"encoder_layers": 2}
    how = MomentsConfig(steps=2, frames=4, clips=4, first=2, own_share=0.0)
    first = Trainer(config(pong_data, tmp_path / "deep", steps=1, model=deep, moments=how), Ranks())
    first.begin_decoder()
    first.save()
    export(Run(tmp_path / "deep"), tmp_path / "first")
    parent = load_world(str(tmp_path / "first")).model
    assert parent.encoder.rests
    run = Trainer(config(pong_data, tmp_path / "run", init=str(tmp_path / "first"), steps=1), Ranks())
    batch = make_batch(run.clips, run.shape, run.loss, 0, 0, range(2))
    previous = parent.previous_actions(batch.actions)
    with torch.no_grad():
        ours, theirs = (
            model.encode(model.views(model.see(batch.frames, torch.float32)), previous, torch.zeros_like(previous))
            for model in (run.model, parent.float())
        )
    assert torch.equal(ours, theirs) and ours.std() > 0

    other = config(pong_data, tmp_path / "other", steps=1, model=deep)
    trainer = Trainer(other, Ranks())
    trainer.train()
    export(Run(tmp_path / "other"), tmp_path / "second")
    assert not load_world(str(tmp_path / "second")).model.encoder.rests
    with pytest.raises(RunError, match="has model.encoder_layers=2, not 1"):
        Trainer(config(pong_data, tmp_path / "less", init=str(tmp_path / "second"), steps=1), Ranks())


@pytest.mark.parametrize("window", [2, 9])
def test_a_run_can_start_with_another_window(
    pong_data: Dataset, straight: Path, tmp_path: Path, window: int
) -> None:
    export(Run(straight), tmp_path / "first")
    first = load_world(str(tmp_path / "first")).model
    shape = SHAPE | {"window": window}
    told = config(pong_data, tmp_path / "run", init=str(tmp_path / "first"), steps=1, model=shape)
    trainer = Trainer(told, Ranks())
    ours, theirs = (model.encoder.blocks[0].time.age_bias for model in (trainer.model, first))
    assert ours.shape == (2, window) and theirs.shape == (2, 4)
    known = min(window, 4)
    assert torch.equal(ours[:, :known], theirs[:, :known])
    assert torch.equal(ours[:, 3:], theirs[:, 3:].expand(-1, max(0, window - 3)))
    # As long as no frame is older than both know, what it remembers is the same.
    patches = torch.rand(1, known, first.config.tokens, first.config.patch_dim)
    none = torch.zeros(1, known, dtype=torch.long)
    with torch.no_grad():
        one, other = (model.encode(model.views(patches), none, none) for model in (trainer.model, first))
    torch.testing.assert_close(one, other)
    trainer.train()
    assert trainer.step == 1


def test_a_run_can_start_from_a_world_of_another_game(pong_data: Dataset, tmp_path: Path) -> None:
    """What its actions do is learned anew, and what is a point; what it was told of rewards may be left out."""
    height, width = pong_data.load(pong_data.episodes[0]).frames.shape[1:3]
    size: dict[str, Any] = SHAPE | {"reward_ages": 5, "recency": True, "past_actions": 2}
    shape = ModelConfig(3, height, width, **size)
    keys = ActionTable(tuple(Action(name) for name in ("STAY", "LEFT", "RIGHT")))
    other = new_world("other", shape, keys, seed=3)
    save_world(other, tmp_path / "other")
    told = SHAPE | {"past_actions": 2}
    run = Trainer(config(pong_data, tmp_path / "run", init=str(tmp_path / "other"), steps=1, model=told), Ranks())
    theirs = load_world(str(tmp_path / "other")).model.state_dict()
    for name, value in run.model.state_dict().items():
        anew = name in ("encoder.action.weight", "encoder.older.weight", "decoder.action.weight")
        assert (value.shape != theirs[name].shape) == anew, name
        if name.startswith("heads.") and value.dim() > 1:
            assert not torch.equal(value, theirs[name]), name
        else:
            assert anew or name.startswith("heads.") or torch.equal(value, theirs[name]), name
    assert not run.model.heads.recent and "decoder.reward.weight" not in run.model.state_dict()
    run.train()


def test_a_card_has_the_whole_command_that_recorded_its_play(pong_data: Dataset) -> None:
    steps = sum(info.steps for info in pong_data.episodes)
    told = f"worldsim collect source=pong steps={steps} seed=3 held_out=0.34 episode_steps=100"
    assert collect_command(pong_data) == told
    behaviour = pong_data.config["behaviour"] | {"idle": 0.04, "epsilon": [0.02, 0.5]}
    other = replace(pong_data, config=pong_data.config | {"behaviour": behaviour, "episode_steps": None})
    assert collect_command(other) == (
        f"worldsim collect source=pong steps={steps} seed=3 held_out=0.34 behaviour.idle=0.04 "
        "'behaviour.epsilon=[0.02,0.5]'"
    )
