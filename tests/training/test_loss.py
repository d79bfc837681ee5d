"""What the loss may look at, what it weighs, and that its random numbers are nobody's business but the seed's."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldsim.data.clips import ClipStore
from worldsim.data.episodes import Dataset
from worldsim.engine.sampler import levels, shift_levels
from worldsim.errors import RunError
from worldsim.model.config import ModelConfig
from worldsim.model.cue import since_rewards
from worldsim.model.world_model import WorldModel, init_weights
from worldsim.training.batches import _make_row, device_noise, make_batch, stratified, stream
from worldsim.training.loss import (
    Batch,
    LossConfig,
    attention,
    hindsight,
    last_rewards,
    moved,
    moving,
    noise_levels,
    pretrain_loss,
)
from worldsim.training.objective import Objective
from worldsim.training.own import Turn, own_frames, own_rows, whole_clips

TINY = ModelConfig(
    6, 80, 80, 16, dim=32, heads=2, encoder_layers=2, decoder_layers=1, decoder_width=8, window=4, context_levels=4
)
LOSS = LossConfig(draws=2, noise_shift=5.0, context_noise_share=0.5, own_share=0.67)


@pytest.fixture(scope="module")
def store(pong_data: Dataset) -> ClipStore:
    return ClipStore(pong_data, pong_data.train, 2 * TINY.window)


@pytest.fixture
def model() -> WorldModel:
    model = init_weights(WorldModel(TINY), 1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # AdaLN-Zero starts blind to its inputs; a trained model is not
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def batch_of(store: ClipStore, step: int = 0, places: range = range(2)) -> Batch:
    return make_batch(store, TINY, LOSS, seed=5, step=step, places=places)


def test_what_moved_and_what_is_foretold_to_move_weighs_more() -> None:
    model = WorldModel(TINY)
    frames = torch.zeros(3, 1, TINY.height, TINY.width, 3)
    frames[1:, 0, 4, 4, 1] = 0.2  # moved before the last frame, and is there still
    frames[2, 0, 12, 12, 0] = 0.2  # foretold
    before, last, made = model.patchify(frames)
    weights = model.unpatchify(attention(model.config, before, last, made, 16.0))[0]
    assert (weights[1:8, 1:8] == 16).all() and (weights[11:14, 11:14] == 16).all()
    assert int((weights == 16).sum()) == 3 * (49 + 9)
    assert int((weights == 1).sum()) == weights.numel() - 3 * (49 + 9)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_what_may_be_is_learned_as_likely_as_it_is(share: float) -> None:
    """A pixel that lights up in one frame of ten is best foretold a tenth lit; weights must not shift that."""
    model = WorldModel(TINY)
    following = torch.full((20, TINY.height, TINY.width, 3), -1.0)
    following[: int(20 * share), 5, 5] = 1.0
    target = model.patchify(following)
    before = last = torch.full_like(target, -1.0)
    guess = following.mean(0).requires_grad_()
    made = model.patchify(guess).expand_as(target)
    weights = attention(model.config, before, last, made, 16.0)
    (slope,) = torch.autograd.grad(((made - target).square() * weights).mean(), guess)
    assert float(weights.max()) == 16
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)


def test_in_hindsight_what_may_be_is_drawn_too_brightly() -> None:
    """A pixel that lights up in one frame of ten counts sixteen times where it does: as if it did in 1.6 of 2.5."""
    model = WorldModel(TINY)
    following = torch.full((20, TINY.height, TINY.width, 3), -1.0)
    following[:2, 5, 5] = 1.0
    target = model.patchify(following)
    weights = hindsight(model.config, torch.full_like(target, -1.0), target, 16.0)
    assert (model.unpatchify(weights[:2])[:, 4:7, 4:7] == 16).all() and int((weights == 16).sum()) == 2 * 27
    guess = torch.full((TINY.height, TINY.width, 3), -1.0)
    guess[5, 5] = 2 * 1.6 / 2.5 - 1
    guess.requires_grad_()
    made = model.patchify(guess).expand_as(target)
    (slope,) = torch.autograd.grad(((made - target).square() * weights).mean(), guess)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-9, rtol=0)


def test_hindsight_weighs_whole_clips(store: ClipStore) -> None:
    model = init_weights(WorldModel(replace(TINY, decoder="tokens", margin=0)), 0)  # fresh: guesses grey everywhere
    batch = batch_of(store)
    clean = model.see(batch.frames, torch.float32)
    last, following = clean[:, :-1], clean[:, 1:]
    expected = (following.square() * hindsight(model.config, last, following, 16.0)).mean()
    assert expected > following.square().mean()
    torch.testing.assert_close(pretrain_loss(model, batch, replace(LOSS, hindsight=1.0))[1]["denoise"], expected)


def test_by_both_a_false_ball_costs_as_much_as_a_missing_one() -> None:
    model = WorldModel(TINY)
    frames = torch.zeros(3, 1, TINY.height, TINY.width, 3)
    frames[1, 0, 4, 4] = 0.2  # foretold, and did not come
    frames[2, 0, 12, 12] = 0.2  # came, and was not foretold
    last, made, following = model.patchify(frames)
    told = last, last, made, following, 16.0
    by = {hindsight: model.unpatchify(moving(model.config, *told, hindsight)) == 16 for hindsight in (None, 0.0, 1.0)}
    foretold, came = torch.zeros(2, 1, TINY.height, TINY.width, 3, dtype=torch.bool)
    foretold[:, 3:6, 3:6], came[:, 11:14, 11:14] = True, True
    assert torch.equal(by[None], foretold) and torch.equal(by[1.0], came) and torch.equal(by[0.0], foretold | came)


def test_hindsight_is_of_the_first_steps() -> None:
    half = replace(LOSS, hindsight=0.5)
    assert half.at(0.0) == half.at(0.49) == half
    assert half.at(0.5) == half.at(1.0) == replace(LOSS, hindsight=0.0)  # by both
    assert LOSS.at(0.0) == LOSS.at(1.0) == LOSS
    with pytest.raises(RunError, match="hindsight=1.5 is no share"):
        replace(LOSS, hindsight=1.5)


def test_near_reaches_across_patches_but_not_across_frames() -> None:
    first = torch.zeros(2, 16, 16, 3)
    second = first.clone()
    second[0, 8, 8, 1] = 0.3
    second[1, 0, 0, 0] = 0.01  # trembles
    near = moved(first, second, 2)
    assert int(near.sum()) == 25 and bool(near[0, 6:11, 6:11].all())


def test_levels_shift_towards_noise_and_keep_their_ends() -> None:
    u = np.array([0.0, 0.5, 1.0], np.float32)
    np.testing.assert_allclose(shift_levels(u, 3.0), [0.0, 0.75, 1.0])
    np.testing.assert_array_equal(shift_levels(u, 1.0), u)


def test_some_levels_are_those_that_the_sampler_asks_for() -> None:
    u = (1 - np.arange(1000, dtype=np.float32) / 1000).astype(np.float32)
    plain, some = (noise_levels(u, replace(LOSS, noise_shift=3.0, sampled=part)) for part in (0.0, 0.6))
    np.testing.assert_array_equal(plain, shift_levels(u, 3.0))
    assert some.dtype == np.float32 and some.min() > 0 and some.max() == 1
    assert abs((some == 1.0).mean() - 0.3) < 0.01 and abs((some == 0.5).mean() - 0.3) < 0.01
    others = np.sort(some[(some != 1.0) & (some != 0.5)])
    evenly = np.linspace(0.0025, 1, len(others), dtype=np.float32)
    np.testing.assert_allclose(others, shift_levels(evenly, 3.0), atol=0.02)
    thirds = noise_levels(u, replace(LOSS, sampled=1.0, sampled_steps=3))
    assert {round(float(t), 4) for t in thirds} == {1.0, 0.6667, 0.3333}
    shifted = noise_levels(u, replace(LOSS, sampled=1.0, sampled_shift=1 / 3))
    assert {round(float(t), 4) for t in shifted} == {1.0, 0.25}
    with pytest.raises(RunError, match="sampled=1.5 is no share"):
        replace(LOSS, sampled=1.5)


def test_a_batch_is_the_same_whole_or_in_parts(store: ClipStore) -> None:
    whole = batch_of(store, places=range(4))
    halves = [batch_of(store, places=range(2)), batch_of(store, places=range(2, 4))]
    for name, value in vars(whole).items():
        assert torch.equal(value, torch.cat([getattr(half, name) for half in halves])), name


def test_a_stream_gives_what_each_step_would_give_alone(store: ClipStore) -> None:
    for step, batch in stream(store, TINY, LOSS, 5, range(3, 6), range(2)):
        assert torch.equal(batch.noise, batch_of(store, step).noise)
        assert torch.equal(batch.frames, batch_of(store, step).frames)


def test_clips_obey_the_time_convention(pong_data: Dataset, store: ClipStore) -> None:
    episode = pong_data.load(pong_data.train[0])
    clip = store[7]
    assert (clip.frames == episode.frames[7 : 7 + store.length]).all()
    assert (clip.actions == episode.actions[7 : 7 + store.length - 1]).all()
    assert len(clip.rewards) == len(clip.terminated) == store.length - 1
    assert (clip.since == since_rewards(episode.rewards)[7 : 7 + store.length]).all()


def test_held_out_episodes_are_not_in_the_training_clips(pong_data: Dataset) -> None:
    train = {info.file for info in pong_data.train}
    assert pong_data.held_out and not train & {info.file for info in pong_data.held_out}


def test_noise_that_a_device_draws_is_the_clips_own(store: ClipStore) -> None:
    def draw(places: range) -> list[dict[str, torch.Tensor]]:
        rows = [_make_row(store, TINY, LOSS, 5, 2, place, noise=False) for place in places]
        return [device_noise(row, TINY, LOSS, "cpu") for row in rows]

    whole, late = draw(range(8)), draw(range(4, 8))
    for one, again in zip(whole[4:], late, strict=True):
        assert all(torch.equal(one[name], again[name]) for name in ("noise", "context_noise"))
    made = batch_of(store, step=2, places=range(8))
    assert torch.stack([one["noise"] for one in whole]).shape == made.noise.shape
    silent = [not one["context_noise"].any() for one in whole]
    assert silent == [not noise.any() for noise in made.context_noise] and any(silent) and not all(silent)
    assert not torch.equal(whole[0]["noise"], whole[1]["noise"])


def predictions(model: WorldModel, batch: Batch) -> torch.Tensor:
    """x0 of every target, seen through the loss: gradient of the loss with respect to a probe on the output."""
    seen = {}
    denoise = model.denoise
    model.denoise = lambda *args: seen.setdefault("made", denoise(*args))  # type: ignore[method-assign]
    pretrain_loss(model, batch, LOSS)
    model.denoise = denoise  # type: ignore[method-assign]
    b, steps = batch.actions.shape
    return seen["made"].view(b, LOSS.draws, steps, TINY.tokens, TINY.patch_dim).detach()


def test_an_action_changes_the_frame_after_it_and_none_before(model: WorldModel, store: ClipStore) -> None:
    batch = batch_of(store)
    before = predictions(model, batch)
    batch.actions[:, 3] = (batch.actions[:, 3] + 1) % TINY.num_actions
    after = predictions(model, batch)
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    for t in range(3, before.shape[2]):  # target t is frame t + 1
        assert not torch.allclose(before[:, :, t], after[:, :, t], atol=1e-6), t


def test_a_frame_changes_no_earlier_prediction(model: WorldModel, store: ClipStore) -> None:
    batch = batch_of(store)
    before = predictions(model, batch)
    batch.frames[:, 5] = 255 - batch.frames[:, 5]
    after = predictions(model, batch)
    assert torch.equal(before[:, :, :4], after[:, :, :4])  # target 4 is frame 5 itself, noised
    assert not torch.allclose(before[:, :, 5], after[:, :, 5], atol=1e-6)


def test_outcomes_are_read_from_the_frame_they_led_to(model: WorldModel, store: ClipStore) -> None:
    batch = batch_of(store)
    batch.rewards[:] = 1
    base = pretrain_loss(model, batch, LOSS)[1]["reward"]
    batch.rewards[0, 2] = 2
    moved = pretrain_loss(model, batch, LOSS)[1]["reward"]
    assert base != moved


def test_a_model_that_knows_the_answer_has_no_denoising_loss(store: ClipStore) -> None:
    batch = batch_of(store)
    model = init_weights(WorldModel(TINY), 0)
    clean = model.patchify(batch.frames.float() / 127.5 - 1)[:, None, 1:]
    known = clean.expand(-1, LOSS.draws, -1, -1, -1).flatten(0, 2)
    model.denoise = lambda *_: known  # type: ignore[method-assign]
    assert pretrain_loss(model, batch, LOSS)[1]["denoise"] == 0


def test_own_frames_are_shown_in_their_clips_only_and_as_a_roll_out_would_show_them(
    model: WorldModel, store: ClipStore
) -> None:
    batch = batch_of(store, places=range(4))
    objective = Objective(model, LOSS, torch.float32, compiled=False)
    assert batch.context_level[1::2].any(), "no clip to be told that it is clean"
    clean = objective.show(batch)
    assert torch.equal(clean, model.see(batch.frames, torch.float32))
    seen = objective.show(batch, own_rows(range(4), 0.5))
    assert torch.equal(seen[::2], clean[::2])
    for clip in (1, 3):  # every second one
        assert torch.equal(seen[clip, 0], clean[clip, 0])
        assert not torch.allclose(seen[clip, 1:], clean[clip, 1:])
        grey = (seen[clip] + 1) * 127.5
        assert torch.allclose(grey, grey.round(), atol=1e-3) and grey.min() >= -1e-3 and grey.max() <= 255.001
        assert batch.context_level[clip] == 0
    kept = ((seen[[1, 3]] + 1) * 127.5).round().to(torch.uint8)
    further = objective.show(batch, own_rows(range(4), 0.5), kept)
    assert torch.equal(further[::2], clean[::2]) and torch.equal(further[1::2, 0], clean[1::2, 0])
    assert not torch.equal(further[1::2, 2:], seen[1::2, 2:]), "made from those made before"
    shown = {}
    encode = model.encode
    model.encode = lambda *args: shown.update(views=args[0]) or encode(*args)  # type: ignore[func-returns-value, method-assign]
    batch.context_level[:] = 0
    pretrain_loss(model, batch, LOSS, seen)
    assert torch.equal(shown["views"], model.views(seen))


@pytest.mark.parametrize(
    ("share", "batch", "clips"), [(0.34, 3, 1), (0.34, 2, 1), (0.67, 3, 2), (0.5, 4, 2), (0, 1, 0)]
)
def test_the_share_of_own_frames_is_of_whole_clips(share: float, batch: int, clips: int) -> None:
    """A third of two clips was none, without a word, for a whole training (the fourteenth page)."""
    assert len(own_rows(range(batch), whole_clips(share, batch))) == clips


def test_a_share_that_would_be_no_clip_is_refused() -> None:
    with pytest.raises(RunError, match="own_share=0.34 of batch=1 is less than half a clip"):
        whole_clips(0.34, 1)


def test_own_frames_are_those_of_a_roll_out_one_more_with_every_tick(model: WorldModel, store: ClipStore) -> None:
    """Picard's iteration against one frame after the other."""
    batch, ticks, at = batch_of(store, places=range(1)), 4, levels(LOSS.own_steps, 0.5)
    actions, noise = batch.actions, batch.noise[:, 0]
    previous, real = model.previous_actions(actions), model.see(batch.frames, torch.float32)
    rolled = real[:, :1]
    for t in range(ticks):
        so_far = own_frames(model, torch.cat((rolled, real[:, t + 1 :]), 1), previous, actions, noise, at)
        rolled = torch.cat((rolled, so_far[:, t + 1 : t + 2]), 1)
    made = real
    for n in range(1, ticks + 1):
        made = own_frames(model, made, previous, actions, noise, at)
        assert torch.allclose(made[:, : n + 1], rolled[:, : n + 1], atol=1e-4)
        if n < ticks:
            assert not torch.allclose(made[:, n + 1], rolled[:, n + 1], atol=1e-3)


def test_clips_take_turns_in_the_pool_and_go_one_tick_further_with_each() -> None:
    pool, ticks, begun = 3, 2, 5
    turns = [Turn.at(step, begun, pool, ticks) for step in range(begun, begun + 4 * pool * ticks)]
    assert [turn.slot for turn in turns[:7]] == [0, 1, 2, 0, 1, 2, 0]
    assert [turn.ticks for turn in turns[:7]] == [0, 0, 0, 1, 1, 1, 0]
    assert [turn.clips for turn in turns[:8]] == [5, 6, 7, 5, 6, 7, 8, 9]
    for earlier, later in zip(turns, turns[pool:], strict=False):
        assert later.slot == earlier.slot
        assert (later.ticks, later.clips == earlier.clips) == ((earlier.ticks + 1) % ticks, earlier.ticks == 0)
    assert all(turn.clips <= begun + i for i, turn in enumerate(turns))


def test_a_clip_in_the_pool_comes_again_with_other_noise(store: ClipStore) -> None:
    loss = replace(LOSS, own_pool=2, own_ticks=3)
    first, again = (make_batch(store, TINY, loss, 0, step, range(2), begun=4) for step in (4, 6))
    (own,) = own_rows(range(2), loss.own_share)
    assert torch.equal(first.frames[own], again.frames[own]) and not torch.equal(first.noise[own], again.noise[own])
    plain = make_batch(store, TINY, loss, 0, 6, range(2))
    assert torch.equal(plain.frames[1 - own], again.frames[1 - own]), "real frames take no turns"
    assert torch.equal(plain.noise[1 - own], again.noise[1 - own])
    before = make_batch(store, TINY, loss, 0, 3, range(2), begun=4)
    assert torch.equal(before.frames, make_batch(store, TINY, loss, 0, 3, range(2)).frames)


def test_the_same_clips_show_own_frames_in_however_many_parts() -> None:
    whole = own_rows(range(6), 0.5)
    parts = [start + row for start in (0, 2, 4) for row in own_rows(range(start, start + 2), 0.5)]
    assert whole == tuple(parts) == (1, 3, 5)
    assert own_rows(range(6), 0.67) == (1, 2, 4, 5)
    assert own_rows(range(6), 1) == tuple(range(6))
    assert own_rows(range(6), 0) == ()


def test_own_frames_carry_no_gradient_to_the_model_that_made_them(model: WorldModel, store: ClipStore) -> None:
    batch = batch_of(store)
    clean = model.patchify(batch.frames.float() / 127.5 - 1)
    previous, noise = torch.zeros(2, 8, dtype=torch.long), batch.context_noise[:, 1:]
    made = own_frames(model, clean, previous, batch.actions, noise, levels(2))
    assert made.shape == clean.shape and not made.requires_grad


def test_the_levels_of_one_step_are_spread_and_all_together_uniform() -> None:
    u = stratified(np.random.default_rng(0), 4, 5000)
    assert u.shape == (4, 5000) and u.min() > 0 and u.max() <= 1
    assert (np.sort(np.ceil(u * 4), 0) == np.arange(1, 5)[:, None]).all(), "one in each quarter"
    np.testing.assert_allclose(np.quantile(u, (0.1, 0.5, 0.9), axis=1), [[0.1] * 4, [0.5] * 4, [0.9] * 4], atol=0.03)


def test_the_heads_are_told_the_last_reward_and_none_before_the_first() -> None:
    assert last_rewards(torch.tensor([[0, 2, 1, 0]])).tolist() == [[1, 0, 2, 1]]
