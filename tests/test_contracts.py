"""The contracts that all else stands on: time alignment, and a cache that computes what training computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from worldsim.engine.cache import MultiScaleCache, RingCache, make_cache
from worldsim.engine.parts import DecodePart
from worldsim.engine.session import Session
from worldsim.model.config import MultiScaleConfig
from worldsim.model.world_model import WorldModel
from worldsim.world import World

TOLERANCE = {"rtol": 0, "atol": 1e-4}
TWO_SCALES = {
    "height": 32,
    "width": 32,
    "patch": 8,
    "heads": 4,
    "encoder_layers": 3,
    "window": 13,
    "multiscale": MultiScaleConfig(near=3, stride=4),
}


def clip(model: WorldModel, rows: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random patches [rows, T, L, P], trails and context levels [rows, T]."""
    c, generator = model.config, torch.Generator().manual_seed(seed)
    patches = torch.rand(rows, length, c.tokens, c.patch_dim, generator=generator) * 2 - 1
    previous = torch.randint(model.no_action, (rows, length), generator=generator)
    previous[:, 0] = model.no_action
    return patches, previous, torch.randint(c.context_levels, (rows, length), generator=generator)


@pytest.fixture(scope="module", params=["tiny", "tokens", "attention", "two scales", "default size"])
def world(request: pytest.FixtureRequest, make_world) -> World:
    if request.param == "tiny":
        return make_world(seed=1)
    if request.param == "tokens":
        return make_world(seed=1, decoder="tokens", extrapolated=0)
    if request.param == "attention":
        return make_world(seed=1, decoder_heads=2)
    if request.param == "two scales":
        return make_world(seed=1, **TWO_SCALES)
    sizes = {
        "height": 64,
        "width": 64,
        "dim": 256,
        "heads": 4,
        "encoder_layers": 4,
        "decoder_layers": 3,
        "decoder_width": 32,
        "window": 16,
    }
    return make_world(seed=1, **sizes)


@torch.inference_mode()
def test_cached_and_full_forward_agree_at_every_tick_through_wrap_and_row_reset(world: World) -> None:
    model, window = world.model, world.config.model.window
    length, born = 4 * window, 2 * window + 1  # row 1 starts over in mid-ring, while the other row goes on
    patches, previous, level = clip(model, 2, length)
    previous[1, born] = model.no_action
    whole = model.encode(model.views(patches), previous, level)
    late = model.encode(model.views(patches[1:, born:]), previous[1:, born:], level[1:, born:])
    cache, view = make_cache(model, 2), None
    for t in range(length):
        before, view = view, model.view(patches[:, t], view)
        if t == born:
            cache.reset([1])
            view = torch.stack((view[0], model.view(patches[1, t], None)))
            assert not torch.equal(view, model.view(patches[:, t], before))
        context, key, value = model.encode_step(
            view, previous[:, t], level[:, t], cache.keys, cache.values, cache.bias()
        )
        cache.write(key, value)
        torch.testing.assert_close(context[0], whole[0, t], **TOLERANCE, msg=lambda m, t=t: f"tick {t}: {m}")
        expected = whole[1, t] if t < born else late[0, t - born]
        torch.testing.assert_close(context[1], expected, **TOLERANCE, msg=lambda m, t=t: f"row 1, tick {t}: {m}")


@torch.inference_mode()
def test_the_cache_test_can_fail(world: World) -> None:
    """What lies in the ring, and at what age, changes the context by far more than the tolerance."""
    model, window = world.model, world.config.model.window
    patches, previous, level = clip(model, 1, window)
    cache, views = make_cache(model, 1), model.views(patches)
    for t in range(window - 1):
        _, key, value = model.encode_step(
            views[:, t], previous[:, t], level[:, t], cache.keys, cache.values, cache.bias()
        )
        cache.write(key, value)
    now = (views[:, -1], previous[:, -1], level[:, -1])
    right, _, _ = model.encode_step(*now, cache.keys, cache.values, cache.bias())
    nothing = torch.zeros_like(cache.bias())
    if isinstance(cache, RingCache):
        nothing[..., 0, :] = -torch.inf  # what says how old a slot is lies behind its bias
    empty, _, _ = model.encode_step(*now, cache.keys, cache.values, nothing)
    bias = cache.bias()
    parts = bias.tensor_split([cache.near_slots], -1) if isinstance(cache, MultiScaleCache) else [bias]
    wrong = torch.cat([part.roll(1, -1) for part in parts], -1)
    older, _, _ = model.encode_step(*now, cache.keys, cache.values, wrong)
    assert (right - empty).abs().max() > 0.01
    assert (right - older).abs().max() > 0.01


@torch.inference_mode()
def test_a_session_remembers_what_it_showed_as_a_full_forward_would(world: World) -> None:
    """Through priming, a row reset and 2 windows; the memory holds the uint8 frames that were shown."""
    model, ticks = world.model, 2 * world.config.model.window
    session = Session(world, 2, dtype="float32", seed=3)
    starts = [world.starts[0], world.starts[2]]
    session.reset(start=list(starts))
    frames = [list(start.frames) for start in starts]
    actions = [list(start.actions) for start in starts]
    random = np.random.default_rng(0)
    for tick in range(ticks):
        if tick == ticks // 2 + 1:
            session.reset([1], start="episode 1")
            frames[1], actions[1] = list(world.starts[1].frames), list(world.starts[1].actions)
        taken = random.integers(0, len(world.actions), 2)
        shown, _ = session.step(taken)
        context = torch.from_numpy(session.snapshot().context)
        for row in range(2):
            frames[row].append(shown[row])
            actions[row].append(taken[row])
            if tick % 4 == 0 or tick == ticks - 1:
                seen = model.patchify(torch.from_numpy(np.stack(frames[row])).float() / 127.5 - 1)[None]
                previous = model.previous_actions(torch.tensor([actions[row]]))
                full = model.encode(model.views(seen), previous, torch.zeros_like(previous))[0, -1]
                torch.testing.assert_close(context[row], full, **TOLERANCE)
    session.close()


@torch.inference_mode()
def test_what_is_prepared_before_the_action_is_known_changes_no_frame(world: World) -> None:
    model, c = world.model, world.config.model
    patches, _, _ = clip(model, 3, 3)
    last = model.views(patches)[:, 1]
    context = torch.randn(3, c.tokens, c.dim, generator=torch.Generator().manual_seed(0))
    t, action = torch.tensor([1.0, 0.75, 0.1]), torch.tensor([0, 2, 1])
    whole = model.decode(patches[:, 0], t, context, last, action)
    part = DecodePart(model, (1.0, 0.75, 0.1, 0.0))
    for row, level in enumerate(t.tolist()):
        scene, chosen = model.scene(context, last)[row : row + 1], part.table[row, action[row : row + 1]]
        alone = model.denoise(patches[row : row + 1, 0], scene, chosen.split(part.sizes, -1))
        torch.testing.assert_close(alone[0], whole[row], **TOLERANCE, msg=lambda m, level=level: f"level {level}: {m}")
    assert whole.std() > 0.1


@torch.inference_mode()
def test_a_token_sees_its_patch_with_its_margin_and_what_changed_there(make_world) -> None:
    world = make_world(margin=3)
    model, c = world.model, world.config.model
    patches, _, _ = clip(model, 1, 2)
    frames = model.unpatchify(patches)[0]
    around = torch.zeros(2, c.height + 6, c.width + 6, 3)
    around[:, 3:-3, 3:-3] = frames
    views, side = model.views(patches), c.patch + 6
    assert views.shape[-1] == c.view_dim
    for token in range(c.tokens):
        top, left = c.patch * (token // c.columns), c.patch * (token % c.columns)
        seen = around[:, top : top + side, left : left + side]
        for t, change in ((0, torch.zeros_like(seen[0])), (1, seen[1] - seen[0])):
            expected = torch.cat((seen[t].flatten(), change.flatten()))
            torch.testing.assert_close(views[0, t, token, : len(expected)], expected, rtol=0, atol=1e-6)
    assert not views[0, 0, :, -c.patch_dim :].any() and views[0, 1, :, -c.patch_dim :].any()
    torch.testing.assert_close(model.view(patches[:, 1], views[:, 0]), views[:, 1], rtol=0, atol=0)


def test_the_norm_of_the_engine_is_that_of_training(world: World) -> None:
    norm = world.model.encoder.norm
    x = torch.randn(3, 5, world.config.model.dim, generator=torch.Generator().manual_seed(0)) * 3
    trained = norm(x)
    with torch.inference_mode():
        torch.testing.assert_close(norm(x), trained.detach(), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_an_action_changes_the_next_context_and_nothing_earlier(world: World) -> None:
    model, t = world.model, world.config.model.window + 2
    patches, previous, level = clip(model, 1, t + 5)
    other = previous.clone()
    other[:, t + 1] = (other[:, t + 1] + 1) % world.config.model.num_actions  # action[t] enters with frame t+1
    views = model.views(patches)
    one, two = model.encode(views, previous, level), model.encode(views, other, level)
    torch.testing.assert_close(one[:, : t + 1], two[:, : t + 1], rtol=0, atol=0)
    assert (one[:, t + 1] - two[:, t + 1]).abs().max() > 0.01


@torch.inference_mode()
def test_a_frame_changes_its_own_context_and_nothing_earlier(world: World) -> None:
    model, t = world.model, world.config.model.window + 2
    patches, previous, level = clip(model, 1, t + 5)
    other = patches.clone()
    other[:, t] = -other[:, t]
    one, two = (model.encode(model.views(shown), previous, level) for shown in (patches, other))
    torch.testing.assert_close(one[:, :t], two[:, :t], rtol=0, atol=0)
    assert (one[:, t] - two[:, t]).abs().max() > 0.01


def test_action_t_changes_frame_t_plus_1_and_nothing_earlier(world: World) -> None:
    sessions = [Session(world, seed=5, dtype="float32") for _ in range(2)]
    for session in sessions:
        session.reset(start=0)
    for tick in range(6):
        one, two = (session.step([1 if tick == 4 and which else 0])[0] for which, session in enumerate(sessions))
        if tick < 4:
            np.testing.assert_array_equal(one, two)
        else:  # action[4] made the frame of this tick, obs[5], and lives on in all later ones
            assert (one != two).any()


def test_the_action_is_heard_in_the_frame_of_its_own_tick_though_the_memory_has_not_seen_it(
    world: World,
) -> None:
    """`render` answers the action that it is given: the decoder alone sees it."""
    session = Session(world, seed=5, dtype="float32")
    session.reset(start=0)
    before = session.snapshot()
    answers = []
    for action in range(2):
        session.restore(before)
        answers.append(session.render([action]))
        np.testing.assert_array_equal(session.snapshot().context, before.context)
    assert (answers[0] != answers[1]).any()
