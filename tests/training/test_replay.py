"""Kept contexts: what is drawn, how often, what it weighs, and that only the decoder learns from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.training.kept import LOSS, clips
from tests.training.runs import same, stop_at
from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.errors import RunError
from worldsim.model.patches import to_uint8
from worldsim.model.world_model import WorldModel
from worldsim.training.batches import make_batch
from worldsim.training.decoder_objective import DecoderObjective
from worldsim.training.kept import ReplayConfig
from worldsim.training.optimizer import OptimizerConfig
from worldsim.training.outcomes import OutcomesConfig
from worldsim.training.parallel import Ranks
from worldsim.training.pretrain_config import PretrainConfig
from worldsim.training.replay import Replay
from worldsim.training.trainer import Trainer


def filled(model: WorldModel, store: ClipStore, batches: int, rounds: int = 3) -> Replay:
    """A replay of so many batches of two clips, the second with a little noise in place of the model's own frames."""
    replay = Replay(DecoderObjective(model, LOSS, torch.float32, False), model, rounds, 0)
    for number in range(batches):
        batch = clips(store, number)
        seen = model.see(batch.frames, torch.float32)
        noise = torch.rand(seen[1, 1:].shape, generator=torch.Generator().manual_seed(number)).mul(9).round()
        seen[1, 1:] = model.shown(to_uint8(seen[1, 1:] + noise / 127.5), seen.dtype)
        replay.add(number, batch, seen, (1,))
    return replay


def test_a_frame_is_kept_with_all_that_foretells_the_next(model: WorldModel, store: ClipStore) -> None:
    replay = filled(model, store, 1)
    places, frames, _ = replay.draw(np.random.default_rng(0), 64, ReplayConfig())
    batch = clips(store, 0)
    real = model.patchify(batch.frames)
    with torch.no_grad():
        patches = model.see(batch.frames[:1], torch.float32)
        views = model.views(patches)
        previous = model.previous_actions(batch.actions[:1])
        context = model.encode(views, previous, torch.zeros_like(previous))
    for k, place in enumerate(places.frames.tolist()):
        row, tick = divmod(place, 7)
        assert torch.equal(frames.following[k], real[row, tick + 1]) and frames.cue[k] == batch.actions[row, tick]
        if row == 1:
            continue
        assert torch.equal(frames.past[k], torch.stack([real[0, max(0, tick - age)] for age in (2, 1, 0)]))
        assert frames.previous[k] == previous[0, tick]
        torch.testing.assert_close(frames.context[k], context[0, tick], rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            view = model.view_of(model.shown(frames.past[k], torch.float32))
        torch.testing.assert_close(view, views[0, tick], rtol=1e-4, atol=1e-5)


def test_the_newest_take_the_oldest_ones_place(model: WorldModel, store: ClipStore) -> None:
    replay = filled(model, store, 5)
    assert len(replay) == 3
    assert sorted(replay.state()["numbers"].tolist()) == [2, 3, 4]


def test_frames_are_drawn_by_their_errors_and_weigh_what_that_takes_back(model: WorldModel, store: ClipStore) -> None:
    replay = filled(model, store, 3)
    count, kept = 42, replay.state()
    real = np.tile(np.repeat([True, False], 7), 3)
    assert (kept["errors"].flatten().numpy()[~real] == -1).all(), "errors of own frames tell nothing"
    errors = torch.where(kept["errors"] < 0, kept["errors"], 0.01)
    errors[0, 1, 0, 0] = 0.5  # tick 0 of the second batch's real clip
    replay.restore(kept | {"errors": errors}, lambda number: clips(store, number))
    drawn, _, weights = replay.draw(np.random.default_rng(0), 20_000, ReplayConfig(emphasis=1, correction=1))
    often = np.bincount(drawn.frames, minlength=count)
    assert often[14] == often.max() and often[14] > 5 * np.median(often[real])
    # With all of it taken back, every frame weighs the same in the end.
    total = np.bincount(drawn.frames, weights.numpy(), count)
    np.testing.assert_allclose(total, total.mean(), rtol=0.25)
    assert float(weights.mean()) == pytest.approx(1, rel=1e-4)
    evenly, _, weights = replay.draw(np.random.default_rng(0), 20_000, ReplayConfig(emphasis=0))
    assert np.bincount(evenly.frames, minlength=count).max() < 1.3 * 20_000 / count
    assert torch.allclose(weights, torch.ones(()))


def test_what_is_drawn_evenly_is_not_judged(model: WorldModel, store: ClipStore) -> None:
    objective, judged = DecoderObjective(model, LOSS, torch.float32, False), filled(model, store, 2, rounds=2)
    even = Replay(objective, model, 2, 0)
    for number in range(2):
        batch = clips(store, number)
        even.add(number, batch, model.see(batch.frames, torch.float32), (1,), judge=False)
    draws = [one.draw(np.random.default_rng(0), 32, ReplayConfig(emphasis=0)) for one in (even, judged)]
    (here, _, weights), (there, _, _) = draws
    assert np.array_equal(here.frames, there.frames) and torch.equal(weights, torch.ones(32))
    assert float(even.state()["errors"].std()) == 0 < float(judged.state()["errors"].std())


def test_patches_are_drawn_by_their_own_errors_and_those_of_the_ticks_around(
    model: WorldModel, store: ClipStore
) -> None:
    replay = Replay(DecoderObjective(model, LOSS, torch.float32, False), model, 2, 0, patches=True)
    batch = clips(store, 0)
    replay.add(0, batch, model.see(batch.frames, torch.float32), (1,))
    kept = replay.state()
    errors = torch.full((1, 2, 2, 7, 16), 0.01)
    errors[0, 0, 0, 2:5, 5] = 1.0  # as an error at tick 3 is kept
    errors[0, 0, 1], own = -1, kept["errors"][0, 0, 1]
    assert float(own.mean()) == pytest.approx(-1) and bool((own[0] == -1).all()), "nothing came before the first"
    replay.restore(kept | {"errors": errors}, lambda number: batch)
    drawn, _, weights = replay.draw(np.random.default_rng(0), 20_000, ReplayConfig(emphasis=1, correction=1))
    there = (drawn.patches == 5) & np.isin(drawn.frames, (2, 3, 4))
    assert there.mean() == pytest.approx(0.335, abs=0.02)  # 3 of 9 mean errors, their floors counted
    assert np.ptp([np.mean(drawn.frames[there] == tick) for tick in (2, 3, 4)]) < 0.03
    total = np.bincount(drawn.frames * 16 + drawn.patches, weights.numpy(), 14 * 16)
    np.testing.assert_allclose(total[:112].mean(), total[112:].mean(), rtol=0.1)
    np.testing.assert_allclose(total[[2 * 16 + 5, 3 * 16 + 5]], total.mean(), rtol=0.2)


def test_a_patch_counts_by_the_ticks_around_it_and_more_by_its_own(
    model: WorldModel, store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = DecoderObjective(model, LOSS, torch.float32, False)
    errors = torch.full((14, 16), 0.01)
    errors[3, 5] = 1.0
    monkeypatch.setattr(objective, "arrival", lambda frames, noise: errors[None])
    replay = Replay(objective, model, 1, 0, patches=True)
    batch = clips(store, 0)
    replay.add(0, batch, model.see(batch.frames, torch.float32), ())
    own, around, usual = (float(replay.state()["errors"][0, 0, 0, tick, 5]) for tick in (3, 4, 6))
    surprise = replay._surprise("usual", errors.numpy())
    assert own == pytest.approx(surprise[3, 5]) and usual == pytest.approx(surprise[6, 5])
    assert around == pytest.approx((surprise[3, 5] * surprise[4, 5]) ** 0.5)


def test_what_a_clip_begins_with_is_not_drawn_for_its_errors(
    model: WorldModel, store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its past is the first frame over and over: nobody could know where what moves goes."""
    objective = DecoderObjective(model, LOSS, torch.float32, False)
    errors = torch.full((14, 16), 0.01)
    errors[[0, 1, 2], 5] = 1.0  # history is 3: two ticks do not know all of their past
    monkeypatch.setattr(objective, "arrival", lambda frames, noise: errors[None])
    replay = Replay(objective, model, 1, 0, patches=True)
    batch = clips(store, 0)
    replay.add(0, batch, model.see(batch.frames, torch.float32), ())
    kept = replay.state()["errors"][0, 0, 0]
    surprise = replay._surprise("usual", errors.numpy())
    assert float(kept[:2].max()) == 0 and float(kept[2, 5]) == pytest.approx(surprise[2, 5])
    assert float(kept[3, 5]) == pytest.approx((surprise[2, 5] * surprise[3, 5]) ** 0.5)


def peaked(model: WorldModel, store: ClipStore, peak: float) -> tuple[Replay, Tensor]:
    """Two clips of which one patch of one tick was foretold worse than all others, and their errors."""
    replay = Replay(DecoderObjective(model, LOSS, torch.float32, False), model, 1, 0, patches=True)
    batch = clips(store, 0)
    replay.add(0, batch, model.see(batch.frames, torch.float32), ())
    errors = torch.full((1, 1, 2, 7, 16), 0.01)
    errors[0, 0, 0, 3, 5] = peak
    replay.restore(replay.state() | {"errors": errors}, lambda number: batch)
    return replay, errors


def test_an_error_counts_up_to_a_hundred_means(model: WorldModel, store: ClipStore) -> None:
    replay, errors = peaked(model, store, 10.0)
    mean = float(errors.mean())
    assert 10 / mean > 150
    drawn, _, _ = replay.draw(np.random.default_rng(0), 20_000, ReplayConfig(emphasis=1))
    share = 100.1 / (100.1 + 223 * (0.01 / mean + 0.1))
    assert ((drawn.patches == 5) & (drawn.frames == 3)).mean() == pytest.approx(share, abs=0.02)


def test_a_share_of_the_frames_is_drawn_for_the_errors_of_some_things_alone(
    model: WorldModel, store: ClipStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose neighbours in time are not drawn with them, and which count for no more than others that are rare."""
    objective = DecoderObjective(model, LOSS, torch.float32, False)
    errors = torch.full((2, 14, 16), 1e-3)
    errors[0, 3, 5] = errors[1, 4, 9] = 1.0
    errors[1, 5, 2] = 0.3
    monkeypatch.setattr(objective, "arrival", lambda frames, noise: errors)
    replay = Replay(objective, model, 1, 0, patches=True, about=True)
    batch = clips(store, 0)
    replay.add(0, batch, model.see(batch.frames, torch.float32), ())
    how = ReplayConfig(emphasis=6, about_share=0.25)
    at, _, weights = replay.draw(np.random.default_rng(0), 400, how)
    here = {(tick, patch): ((at.frames == tick) & (at.patches == patch)).mean() for tick, patch in ((3, 5), (4, 9))}
    assert here[3, 5] > 0.7 and here[4, 9] + ((at.frames == 5) & (at.patches == 2)).mean() > 0.24
    assert not np.isin(at.frames[at.patches == 9], (2, 3, 5, 6)).any()
    assert float(weights.mean()) == pytest.approx(1)
    for told, most in ((replace(how, about_share=0.0), 0), (replace(how, emphasis=0.0), 80)):  # 50 of an even draw
        assert np.isin(replay.draw(np.random.default_rng(0), 400, told)[0].patches, (9, 2)).sum() <= most


@pytest.mark.parametrize("emphasis", [1, 3])
def test_own_frames_are_drawn_as_often_as_they_are_kept_whatever_the_errors_of_others(
    model: WorldModel, store: ClipStore, emphasis: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And mostly for what has changed in them: of some things' errors, for what has changed of those."""
    objective = DecoderObjective(model, LOSS, torch.float32, False)
    errors = torch.full((2, 14, 16), 1e-3)
    errors[:, 3, 5] = 1.0
    moved = torch.zeros(2, 14, 16)
    moved[1, 9, 6] = 1.0
    monkeypatch.setattr(objective, "arrival", lambda frames, noise: errors)
    monkeypatch.setattr(objective, "moved", lambda frames: moved)
    replay = Replay(objective, model, 1, 0, patches=True, about=True)
    batch = clips(store, 0)
    replay.add(0, batch, model.see(batch.frames, torch.float32), (1,))
    for share, most in ((0.0, None), (1.0, 0.9)):
        how = ReplayConfig(emphasis=emphasis, about_share=share)
        at, _, _ = replay.draw(np.random.default_rng(0), 4000, how)
        assert (at.frames >= 7).mean() == pytest.approx(0.5, abs=0.03), "one of two clips"
        own = at.frames[at.frames >= 7], at.patches[at.frames >= 7]
        if most is not None and emphasis > 1:
            assert ((own[0] == 9) & (own[1] == 6)).mean() > most


@pytest.mark.parametrize("judge", [True, False])
def test_own_frames_that_have_left_the_recording_are_never_drawn(
    model: WorldModel, store: ClipStore, judge: bool
) -> None:
    """For as long as they are seen; a thing that is drawn a little beside is what they are there for."""
    history = model.config.history
    objective = DecoderObjective(model, LOSS, torch.float32, False)
    replay = Replay(objective, model, 1, 0, patches=True)
    batch = clips(store, 0)
    seen = model.see(batch.frames, torch.float32)
    seen[1, 1:] = (seen[1, 1:] + 0.05).clamp(-1, 1)
    seen[1, 2, 6, :18] = 1.0 - seen[1, 2, 6, :18].sign()  # six pixels of one frame
    replay.add(0, batch, seen, (1,), judge=judge)
    for how in (ReplayConfig(emphasis=0), ReplayConfig(emphasis=3, anywhere=0.5)):
        ticks = replay.draw(np.random.default_rng(0), 2000, how)[0].frames
        assert sorted(set(ticks.tolist()) - set(range(7))) == [7 + t for t in range(7) if not 2 <= t < 2 + history]
    kept = replay.state()
    assert all(bool(value.isfinite().all()) for value in kept.values()), "or the run could not be saved"
    again = Replay(objective, model, 1, 0, patches=True)
    again.restore(kept, lambda number: batch)
    draws = [one.draw(np.random.default_rng(3), 50, ReplayConfig(emphasis=3))[0] for one in (replay, again)]
    assert np.array_equal(draws[0].frames, draws[1].frames) and np.array_equal(draws[0].patches, draws[1].patches)


def test_a_share_of_the_draws_falls_anywhere(model: WorldModel, store: ClipStore) -> None:
    replay, _ = peaked(model, store, 1.0)
    for anywhere in (0.0, 0.3):
        how = ReplayConfig(emphasis=4, correction=1, anywhere=anywhere)
        drawn, _, weights = replay.draw(np.random.default_rng(0), 20_000, how)
        there = (drawn.patches == 5) & (drawn.frames == 3)
        assert there.mean() == pytest.approx(1 - anywhere * 223 / 224, abs=0.02)
        if anywhere:  # whatever is drawn as often as it is kept, and what is drawn too often, weigh as much in the end
            total = np.bincount(drawn.frames * 16 + drawn.patches, weights.numpy(), 14 * 16)
            np.testing.assert_allclose(total[3 * 16 + 5], total.mean(), rtol=0.2)


def test_a_frame_counts_by_the_patch_that_is_worst_for_its_place(model: WorldModel, store: ClipStore) -> None:
    replay = Replay(DecoderObjective(model, LOSS, torch.float32, False), model, 3, 0)
    errors = np.full((20, 16), 0.001, np.float32)
    errors[:, 3] = np.linspace(0.5, 1.5, 20)  # where something is always wrong
    errors[7, 9] = 0.5
    surprise = replay._surprise("usual", errors)
    assert surprise.max(1).argmax() == 7 and surprise.argmax() == 7 * 16 + 9
    assert surprise[:, 3].max() < 2
    for _ in range(200):
        replay._surprise("usual", errors[:1])
    now = replay._surprise("usual", errors[:1])[0, 3]
    assert now == pytest.approx(0.969, abs=0.001), "what is usual is that of now"


def test_what_is_kept_comes_back_the_same(model: WorldModel, store: ClipStore) -> None:
    replay = filled(model, store, 4)
    again = Replay(DecoderObjective(model, LOSS, torch.float32, False), model, 3, 0)
    again.restore(replay.state(), lambda number: clips(store, number))
    one, other = (r.draw(np.random.default_rng(1), 50, ReplayConfig()) for r in (replay, again))
    np.testing.assert_array_equal(one[0].frames, other[0].frames)
    assert all(torch.equal(a, b) for a, b in zip(vars(one[1]).values(), vars(other[1]).values(), strict=True))
    assert torch.equal(one[2], other[2])
    assert again.state()["usual"].equal(replay.state()["usual"])


def test_what_was_kept_otherwise_is_refused(model: WorldModel, store: ClipStore) -> None:
    kept, objective = filled(model, store, 2).state(), DecoderObjective(model, LOSS, torch.float32, False)
    others = {}, {"patches": True}, {"about": True}
    for other in (Replay(objective, model, 3 + (not more), 0, **more) for more in others):
        with pytest.raises(RunError, match="replay.clips, replay.crop or replay.about is not what this run began"):
            other.restore(kept, lambda number: clips(store, number))


def config(data: Dataset, run: Path, replay: ReplayConfig) -> PretrainConfig:
    shape = {
        "patch": 20, "dim": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "decoder_width": 8, "window": 4,
    }  # fmt: skip
    return PretrainConfig(
        "pong", data.folder, run, steps=1, batch=2, dtype="float32", compile=False, model=shape, loss=LOSS,
        optimizer=OptimizerConfig(warmup=2, ema=0.0), replay=replay, outcomes=OutcomesConfig(steps=0),
    )  # fmt: skip


WAYS: list[dict[str, Any]] = [
    {}, {"crop": 2},
    {"crop": 2, "whole": 0.4, "turns": True, "about": ("ball",), "erased": ("player",), "erased_share": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_it_goes_on_to_the_same_bytes(pong_data: Dataset, tmp_path: Path, way: dict[str, Any]) -> None:
    how = ReplayConfig(steps=9, frames=8, clips=4, first=2, **way)
    straight, first = (Trainer(config(pong_data, tmp_path / name, how), Ranks()) for name in ("straight", "stopped"))
    straight.train()
    straight.finish_decoder()
    stop_at(first, 6)
    first.train()
    first.finish_decoder()
    first.save()
    assert first.step == 6 and not first.finished
    second = Trainer(config(pong_data, tmp_path / "stopped", how), Ranks())
    second.train()
    second.finish_decoder()
    assert second.finished
    assert same(straight.state(), second.state())


@pytest.mark.parametrize("way", WAYS)
def test_only_the_decoder_learns_and_it_does(pong_data: Dataset, tmp_path: Path, way: dict[str, Any]) -> None:
    how = ReplayConfig(steps=30, frames=24, clips=12, first=8, **way)
    trainer = Trainer(config(pong_data, tmp_path, how), Ranks())
    trainer.train()
    before = {name: value.clone() for name, value in trainer.ema.state_dict().items()}
    trainer.finish_decoder()
    assert trainer.finished
    for name, value in trainer.ema.state_dict().items():
        if not name.startswith("decoder."):
            assert torch.equal(value, before[name]), name
    objective = DecoderObjective(trainer.ema, LOSS, torch.float32, False)
    store = ClipStore(pong_data, pong_data.train, 12)
    replay = Replay(objective, trainer.ema, 1, 0)
    batch = make_batch(store, trainer.shape, LOSS, 0, 0, range(2))
    replay.add(0, batch, trainer.ema.see(batch.frames, torch.float32), ())
    after = replay.state()["errors"].mean()
    trainer.ema.load_state_dict(before)
    replay.add(0, batch, trainer.ema.see(batch.frames, torch.float32), ())
    assert after < 0.8 * replay.state()["errors"].mean()
