"""Kept contexts: what is drawn, how often, what it weighs, and that only the decoder learns from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.errors import RunError
from worldsim.model.config import ModelConfig
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.batches import make_batch
from worldsim.training.crops import Crops, cut
from worldsim.training.decoder_objective import DecoderObjective
from worldsim.training.kept import Frames, ReplayConfig
from worldsim.training.loss import Batch, LossConfig, attention
from worldsim.training.objective import Objective, OwnPool
from worldsim.training.optimizer import OptimizerConfig
from worldsim.training.outcomes import OutcomesConfig
from worldsim.training.parallel import Ranks
from worldsim.training.pretrain_config import PretrainConfig
from worldsim.training.rehearsal import Drawn, Rehearsal, counts
from worldsim.training.replay import Replay
from worldsim.training.trainer import Trainer

TINY = ModelConfig(
    6, 80, 80, 20, history=3, dim=32, heads=2, encoder_layers=1, decoder_layers=1, decoder_width=8, window=4
)
LOSS = LossConfig(own_share=0.5)


@pytest.fixture(scope="module")
def model() -> WorldModel:
    return init_weights(WorldModel(TINY), 0)


@pytest.fixture(scope="module")
def store(pong_data: Dataset) -> ClipStore:
    return ClipStore(pong_data, pong_data.train, 8)


def clips(store: ClipStore, number: int) -> Batch:
    return make_batch(store, TINY, LOSS, 0, number, range(2), begun=0)


def filled(model: WorldModel, store: ClipStore, batches: int, rounds: int = 3) -> Replay:
    """A replay of so many batches of two clips, whose second shows noise in place of the model's own frames."""
    replay = Replay(DecoderObjective(model, LOSS, torch.float32, False), model, rounds, 0)
    for number in range(batches):
        batch = clips(store, number)
        seen = model.see(batch.frames, torch.float32)
        seen[1, 1:] = torch.rand(seen[1, 1:].shape, generator=torch.Generator().manual_seed(number)).mul(255).round()
        seen[1, 1:] = seen[1, 1:] / 127.5 - 1
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
    errors[1, 0, 0] = 0.5  # tick 0 of the second batch's real clip
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
    errors = torch.full((2, 2, 7, 16), 0.01, dtype=torch.float64)
    errors[0, 0, 2:5, 5] = 1.0  # as an error at tick 3 is kept
    errors[0, 1], own = -1, kept["errors"][0, 1]
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
    monkeypatch.setattr(objective, "arrival", lambda frames, noise: errors)
    replay = Replay(objective, model, 1, 0, patches=True)
    batch = clips(store, 0)
    replay.add(0, batch, model.see(batch.frames, torch.float32), ())
    own, around, usual = (float(replay.state()["errors"][0, 0, tick, 5]) for tick in (3, 4, 6))
    surprise = replay._surprise("usual", errors.numpy())
    assert own == pytest.approx(surprise[3, 5]) and usual == pytest.approx(surprise[6, 5])
    assert around == pytest.approx((surprise[3, 5] * surprise[4, 5]) ** 0.5)


def test_a_share_of_the_draws_falls_anywhere(model: WorldModel, store: ClipStore) -> None:
    replay = Replay(DecoderObjective(model, LOSS, torch.float32, False), model, 1, 0, patches=True)
    batch = clips(store, 0)
    replay.add(0, batch, model.see(batch.frames, torch.float32), ())
    errors = torch.full((1, 2, 7, 16), 0.01, dtype=torch.float64)
    errors[0, 0, 3, 5] = 1.0
    replay.restore(replay.state() | {"errors": errors}, lambda number: batch)
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
    for other in (Replay(objective, model, 4, 0), Replay(objective, model, 3, 0, patches=True)):
        with pytest.raises(RunError, match="replay.clips or replay.crop is not what this run began"):
            other.restore(kept, lambda number: clips(store, number))


def config(data: Dataset, run: Path, replay: ReplayConfig) -> PretrainConfig:
    shape = {
        "patch": 20, "dim": 32, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "decoder_width": 8, "window": 4,
    }  # fmt: skip
    return PretrainConfig(
        "pong", data.folder, run, steps=1, batch=2, dtype="float32", compile=False, model=shape, loss=LOSS,
        optimizer=OptimizerConfig(warmup=2, ema=0.0), replay=replay, outcomes=OutcomesConfig(steps=0),
    )  # fmt: skip


WAYS: list[dict[str, Any]] = [{}, {"crop": 2}, {"around": 5.0}, {"crop": 2, "whole": 0.4, "turns": True, "noised": 0.5}]


@pytest.mark.parametrize("way", WAYS)
def test_it_goes_on_to_the_same_bytes(pong_data: Dataset, tmp_path: Path, way: dict[str, Any]) -> None:
    how = ReplayConfig(steps=9, frames=8, clips=4, first=2, **way)
    straight, first = (Trainer(config(pong_data, tmp_path / name, how), Ranks()) for name in ("straight", "stopped"))
    straight.train()
    straight.finish_decoder()
    keep = first.keep
    first.keep = lambda last: (keep(last), first._ask_to_stop() if first.step == 6 else None, first._stop)[2]  # type: ignore[method-assign, func-returns-value]
    first.train()
    first.finish_decoder()
    first.save()
    assert first.step == 6 and not first.finished
    second = Trainer(config(pong_data, tmp_path / "stopped", how), Ranks())
    second.train()
    second.finish_decoder()
    assert second.finished
    ours, theirs = straight.state(), second.state()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


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


def test_a_square_is_cut_from_every_frame_that_is_seen(store: ClipStore) -> None:
    layout = replace(TINY, history=4, extrapolated=0)
    model, crops = init_weights(WorldModel(layout), 0), Crops(layout, 2)
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    objective = DecoderObjective(model, LOSS, torch.float32, False, crops)
    kept = Replay(objective, model, 1, 0, patches=True)
    batch = make_batch(store, layout, LOSS, 0, 0, range(2), begun=0)
    kept.add(0, batch, model.see(batch.frames, torch.float32), ())
    drawn, frames, _ = kept.draw(np.random.default_rng(0), 8, ReplayConfig())
    squares = torch.from_numpy(crops.around(np.random.default_rng(1), drawn.patches))
    noise, ones = torch.randn(8, 4, layout.patch_dim, generator=torch.Generator().manual_seed(1)), torch.ones(8)
    past, within = model.shown(frames.past, torch.float32), crops.within(model)
    following = cut(model.shown(frames.following, torch.float32), squares)
    with torch.no_grad():
        x0 = within.decoder(noise, ones, cut(frames.context, squares), cut(model.view_of(past), squares), frames.cue)
        weights = attention(within.config, cut(past[:, -2], squares), cut(past[:, -1], squares), x0, LOSS.moved_weight)
        expected = ((x0 - following).square() * weights).mean()
        assert expected > 0.01
        torch.testing.assert_close(objective.loss(frames, ones[:, None], ones, noise, squares), expected)


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
    rehearsal.replay._errors[0, 0, 3, 5] = 99.0
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
    for wrong in ({"whole": 1.2, "crop": 2}, {"whole": 0.5}):
        with pytest.raises(RunError, match="is a share of steps, from 0 to 1, beside those of squares"):
            ReplayConfig(**wrong)  # type: ignore[arg-type]


def test_what_goes_on_is_not_drawn_for_its_errors_and_what_turns_is(model: WorldModel) -> None:
    """A square that flies on, and one that turns back, both foretold equally badly."""

    def frame(on: int, back: int) -> Tensor:
        picture = torch.full((80, 80, 3), 20, dtype=torch.uint8)
        picture[8:12, on : on + 4] = picture[68:72, back : back + 4] = 230
        return picture

    on, back = [6, 9, 12, 15], [47, 50, 53, 50]  # in patches that nothing leaves or enters
    patches = model.patchify(torch.stack([frame(*at) for at in zip(on, back, strict=True)]))
    none = torch.zeros(1).long()
    frames = Frames(torch.zeros(1, 0), patches[None, :3], none, patches[None, 3], none)
    left = DecoderObjective(model, LOSS, torch.float32, False).turned(frames)[0].view(4, 4)
    still = (patches[3].float() - patches[2].float()).div(127.5).square().mean(1).view(4, 4)
    assert left[0].max() < 0.3 * still[0].max() and left[3].max() > 0.8 * still[3].max()
    assert left[1:3].max() < 1e-6, "where nothing moves nothing is left"


def test_some_frames_are_shown_a_noised_past_and_are_weighed_as_if_it_were_clean(store: ClipStore) -> None:
    model = init_weights(WorldModel(TINY), 0)
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    objective = DecoderObjective(model, LOSS, torch.float32, False)
    kept = Replay(objective, model, 1, 0)
    batch = clips(store, 0)
    kept.add(0, batch, model.see(batch.frames, torch.float32), ())
    frames = kept.draw(np.random.default_rng(0), 6, ReplayConfig())[1]
    chance = torch.Generator().manual_seed(0)
    noise, hazed = (torch.randn(shape, generator=chance) for shape in (frames.following.shape, frames.past[:2].shape))
    t, worth, haze = torch.full((6,), 0.7), torch.ones(6, 1), torch.tensor([0.25, 0.75])
    past, following = (model.shown(one, torch.float32) for one in (frames.past, frames.following))
    seen = past.clone()
    seen[0], seen[1] = 0.75 * past[0] + 0.25 * hazed[0], 0.25 * past[1] + 0.75 * hazed[1]
    with torch.no_grad():
        noisy = torch.lerp(following, noise, t[:, None, None])
        x0 = model.decoder(noisy, t, frames.context, model.view_of(seen), frames.cue)
        weights = attention(TINY, past[:, -2], past[:, -1], x0, LOSS.moved_weight)
        expected = ((x0 - following).square() * weights).mean()
        found = objective.loss(frames, worth, t, noise, None, haze, hazed)
        assert not torch.equal(found, objective.loss(frames, worth, t, noise))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    with pytest.raises(RunError, match="noised=2 and noised_to=0.8 are a share and a level"):
        ReplayConfig(noised=2)
