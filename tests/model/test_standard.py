"""Networks that see frames less their median and over their spread."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from worldsim.engine.cache import RingCache
from worldsim.model.config import ModelConfig
from worldsim.model.dit import DiT, wake
from worldsim.model.patches import patchify
from worldsim.model.standard import Standard
from worldsim.model.world_model import WorldModel

SMALL = ModelConfig(
    3, height=16, width=24, dim=32, heads=2, encoder_layers=2, decoder="tokens", decoder_layers=1, window=5,
    margin=3, extrapolated=0, standardised=True,
)  # fmt: skip
SPREAD = 0.25


def usual() -> torch.Tensor:
    return torch.rand(16, 24, 3, generator=torch.Generator().manual_seed(3)) * 2 - 1


def told(model: nn.Module) -> nn.Module:
    parts = [part for part in model.modules() if isinstance(part, Standard)]
    assert parts
    for part in parts:
        part.tell(usual(), SPREAD)
    return model


def test_a_view_is_less_that_of_the_usual_frame() -> None:
    model = WorldModel(SMALL)
    standard = Standard(SMALL, SMALL.margin)
    standard.tell(usual(), SPREAD)
    patches = patchify(usual(), SMALL)
    torch.testing.assert_close(standard.frame, patches, rtol=0, atol=0)
    frames = torch.rand(2, 3, SMALL.tokens, SMALL.patch_dim) * 2 - 1
    still = model.views(patches.expand(2, 3, -1, -1))  # which changes nowhere
    expected = (model.views(frames) - still) / SPREAD
    torch.testing.assert_close(standard.views(model.views(frames)), expected)


def test_frames_are_about_as_large_at_any_level_and_pure_noise_is_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    standard = Standard(SMALL)
    standard.tell(usual(), SPREAD)
    frames = standard.frame + SPREAD * torch.randn(400, SMALL.tokens, SMALL.patch_dim, generator=generator)
    noise = torch.randn(frames.shape, generator=generator)
    for level in (0.0, 0.1, 0.5, 0.9, 1.0):
        noisy = (1 - level) * frames + level * noise
        seen = standard.noisy(noisy, torch.full((400,), level))
        assert float(seen.square().mean().sqrt()) == pytest.approx(1, abs=0.01), level
    torch.testing.assert_close(seen, noise)


@pytest.mark.parametrize("name", ["scd", "dit"])
@torch.no_grad()
def test_who_knows_nothing_foretells_the_usual_frame(name: str) -> None:
    noise, t = torch.randn(2, SMALL.tokens, SMALL.patch_dim), torch.tensor([1.0, 0.3])
    if name == "dit":
        made = told(DiT(SMALL))(noise[:, None], t[:, None], torch.zeros(2, 1, dtype=torch.int64))[:, 0]
    else:
        model = told(WorldModel(SMALL))
        context, view = torch.randn(2, SMALL.tokens, SMALL.dim), torch.randn(2, SMALL.tokens, SMALL.view_dim)
        made = model.decode(noise, t, context, view, torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(made, patchify(usual(), SMALL).expand(2, -1, -1))


@torch.inference_mode()
def test_the_cached_steps_compute_what_whole_clips_do() -> None:
    torch.manual_seed(0)
    frames = torch.rand(2, 7, SMALL.tokens, SMALL.patch_dim) * 2 - 1
    actions, levels = torch.randint(0, 3, (2, 7)), torch.rand(2, 7)
    dit = told(DiT(SMALL)).eval()
    wake(dit, seed=1, scale=0.2)
    cache, clean = RingCache(dit, 2), torch.zeros(2, 7)
    for t in range(7):
        ring = cache.keys, cache.values, cache.bias()
        now = slice(t, t + 1)
        made = dit.step(frames[:, now], dit.condition(levels[:, now], actions[:, now]), *ring)
        mixed = torch.cat((clean[:, :t], levels[:, now]), 1)
        together = dit(frames[:, : t + 1], mixed, actions[:, : t + 1])[:, now]
        torch.testing.assert_close(made, together, rtol=1e-4, atol=1e-4)
        keys, values = dit.remember(frames[:, now], dit.condition(clean[:, now], actions[:, now]), *ring)
        cache.write_chunk(keys, values)
    model = told(WorldModel(SMALL)).eval()
    wake(model, seed=1, scale=0.2)
    views, none = model.views(frames), torch.zeros(2, 7, dtype=torch.int64)
    whole = model.encode(views, actions, none)
    cache = RingCache(model, 2)
    for t in range(7):
        ring = cache.keys, cache.values, cache.bias()
        context, keys, values = model.encode_step(views[:, t], actions[:, t], none[:, t], *ring)
        torch.testing.assert_close(context, whole[:, t], rtol=1e-4, atol=1e-4)
        cache.write(keys, values)


@torch.no_grad()
def test_a_ball_is_as_loud_as_a_place() -> None:
    """What it is for: two pixels in a frame move what a map of patches gives out about as much as where a token is."""
    still = torch.full((16, 24, 3), -0.5)
    frame = still.clone()
    frame[4:6, 5] = 1.0
    size, plain = {}, replace(SMALL, standardised=None)
    for config in (SMALL, plain):
        torch.manual_seed(0)
        encoder = WorldModel(config).encoder
        if encoder.standard is not None:
            encoder.standard.tell(still, 0.04)
        model, none = WorldModel(config), torch.zeros(1, dtype=torch.int64)
        with_ball, without = (
            encoder.embed(model.view(patchify(one[None], config), None), none, none) for one in (frame, still)
        )
        size[config.standardised] = float((with_ball - without)[0, 0].square().mean().sqrt())
    assert size[None] < 0.1 and size[True] == pytest.approx(25 * size[None])
