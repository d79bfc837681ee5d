"""The monolithic designs: as causal as their chunks, and as exact in their cache as what they are compared with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from worldsim.engine.cache import RingCache
from worldsim.errors import WorldsimError
from worldsim.model.config import ModelConfig, MultiScaleConfig
from worldsim.model.designs import Design
from worldsim.model.dit import DiT, wake
from worldsim.model.world_model import WorldModel

SMALL = ModelConfig(3, height=16, width=24, dim=32, heads=2, encoder_layers=2, decoder_layers=1, window=5)
CHUNKS = pytest.mark.parametrize("chunk", [1, 2, 3])
VIEWED = pytest.mark.parametrize("viewed", [False, True])


def make(chunk: int, viewed: bool = False) -> DiT:
    torch.manual_seed(0)
    model = DiT(replace(SMALL, viewed=viewed, refined=viewed, history=3, standardised=viewed), chunk).eval()
    if model.standard is not None:
        model.standard.tell(torch.rand(SMALL.height, SMALL.width, 3) - 0.5, 0.3)
    wake(model, seed=1, scale=0.2)
    return model


def clip(length: int, rows: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    patches = torch.rand(rows, length, SMALL.tokens, SMALL.patch_dim, generator=generator) * 2 - 1
    actions = torch.randint(0, 3, (rows, length), generator=generator)
    return patches, torch.rand(rows, length, generator=generator), actions


@VIEWED
@CHUNKS
@torch.inference_mode()
def test_the_cached_step_computes_what_the_whole_clip_does_through_the_wrap(chunk: int, viewed: bool) -> None:
    """Every chunk from the clean ones before it, its frames at noise levels of their own: what a denoising step is."""
    model, length = make(chunk, viewed), 4 * SMALL.window // chunk * chunk
    patches, levels, actions = clip(length)
    clean = torch.zeros_like(levels)
    cache, before = RingCache(model, 2), [model.blank().expand(2, -1, -1)] if viewed else []
    for first in range(0, length, chunk):
        here = slice(first, first + chunk)
        ring = cache.keys, cache.values, cache.bias()
        frames = model.step(patches[:, here], model.condition(levels[:, here], actions[:, here]), *ring, *before)
        mixed = clean[:, : first + chunk].clone()
        mixed[:, here] = levels[:, here]
        whole = model(patches[:, : first + chunk], mixed, actions[:, : first + chunk])[:, here]
        torch.testing.assert_close(frames, whole, rtol=1e-4, atol=1e-4, msg=lambda m, t=first: f"tick {t}: {m}")
        led = model.condition(clean[:, here], actions[:, here])
        keys, values = model.remember(patches[:, here], led, *ring, *before)
        cache.write_chunk(keys, values)
        before = [model.view(patches[:, here], view) for view in before]
    assert frames.std() > 0.1


@VIEWED
@CHUNKS
@torch.inference_mode()
def test_teacher_forcing_is_every_chunk_given_the_clean_ones_before_it(chunk: int, viewed: bool) -> None:
    model, length = make(chunk, viewed), 3 * SMALL.window // chunk * chunk
    (clean, levels, actions), noisy = clip(length), clip(length)[0].flip(1)
    taught = model.teach(clean, noisy, levels, actions)
    for first in range(0, length, chunk):
        here = slice(first, first + chunk)
        mixed, level = clean[:, : first + chunk].clone(), torch.zeros_like(levels[:, : first + chunk])
        mixed[:, here], level[:, here] = noisy[:, here], levels[:, here]
        whole = model(mixed, level, actions[:, : first + chunk])[:, here]
        torch.testing.assert_close(taught[:, here], whole, rtol=1e-4, atol=1e-4)


@VIEWED
@CHUNKS
@torch.inference_mode()
def test_a_frame_changes_nothing_before_its_chunk_and_an_action_changes_its_frame(
    chunk: int, viewed: bool
) -> None:
    model, (patches, levels, actions) = make(chunk, viewed), clip(9)
    before = model(patches, levels, actions)
    other, moved = patches.clone(), actions.clone()
    other[:, 5] += 0.5
    moved[:, 5] = (moved[:, 5] + 1) % 3
    first = 5 // chunk * chunk
    for after in (model(other, levels, actions), model(patches, levels, moved)):
        torch.testing.assert_close(after[:, :first], before[:, :first], rtol=0, atol=0)
        for t in range(first, first + chunk):
            assert not torch.equal(after[:, t], before[:, t]), "frames of a chunk see each other"


@pytest.mark.parametrize("chunk", [1, 3])
@torch.inference_mode()
def test_views_of_what_is_before_a_chunk_are_of_clean_frames_and_of_its_own_frames_of_noisy_ones(chunk: int) -> None:
    model, (patches, levels, actions) = make(chunk, True), clip(9)
    noisy = patches.flip(1)
    before = model(noisy, levels, actions, patches)
    other = patches.clone()
    other[:, 5] += 0.5  # the last of a chunk, or of three
    after = model(noisy, levels, actions, other)
    torch.testing.assert_close(after[:, :6], before[:, :6], rtol=0, atol=0)
    assert not torch.equal(after[:, 6], before[:, 6]), "the view of the frame before it is another"
    inside = patches.clone()
    inside[:, 4] += 0.5
    same = torch.equal(model(noisy, levels, actions, inside)[:, 5], before[:, 5])
    assert same == (chunk == 3), "within a chunk nobody sees what the others will be"


@torch.inference_mode()
def test_with_a_chunk_as_long_as_the_clip_every_frame_sees_every_other() -> None:
    model, (patches, levels, actions) = make(7), clip(7)
    before = model(patches, levels, actions)
    for t in range(7):
        other = patches.clone()
        other[:, t] += 0.5
        after = model(other, levels, actions)
        assert all(not torch.equal(after[:, u], before[:, u]) for u in range(7))


def test_it_has_about_the_parameters_of_the_design_it_is_compared_with_and_no_more() -> None:
    ours, theirs = (sum(weight.numel() for weight in model(ModelConfig(6)).parameters()) for model in (WorldModel, DiT))
    assert 0.85 < theirs / ours <= 1


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        (replace(SMALL, past_actions=4), "past_actions is for design=scd, not for dit:2: leave it 1"),
        (replace(SMALL, reward_ages=8, recency=True), "reward_ages is for design=scd, not for dit:2: leave it 0"),
        (replace(SMALL, decoder_heads=2), "decoder_heads is for design=scd, not for dit:2: leave it 0"),
        (replace(SMALL, age_dim=4), "age_dim is for design=scd, not for dit:2: leave it 0"),
    ],
)
def test_what_only_the_separable_model_has_is_refused(sizes: ModelConfig, said: str) -> None:
    with pytest.raises(WorldsimError, match=said):
        Design.parse("dit:2").refuse_separable(sizes)
    assert Design.parse("dit:2").make(sizes).config.dim == 32, "beside a world that has it, it is made without"


def test_no_other_design_sees_at_two_scales() -> None:
    sizes = replace(SMALL, height=32, width=32, multiscale=MultiScaleConfig(near=2))
    with pytest.raises(WorldsimError, match="multiscale is for design=scd, not for dit:2: leave it null"):
        Design.parse("dit:2").make(sizes)
