"""The monolithic baseline: as causal, and as exact in its cache, as the design it is compared with."""

from __future__ import annotations

import pytest
import torch

from worldsim.engine.cache import RingCache
from worldsim.model.config import ModelConfig
from worldsim.model.dit import CausalDiT
from worldsim.model.world_model import WorldModel

SMALL = ModelConfig(3, height=16, width=24, dim=32, heads=2, encoder_layers=2, decoder_layers=1, window=5)


@pytest.fixture
def model() -> CausalDiT:
    torch.manual_seed(0)
    made = CausalDiT(SMALL).eval()
    with torch.no_grad():
        for weight in made.parameters():
            if not weight.any():  # AdaLN-Zero starts blind; a trained model is not
                weight.copy_(torch.randn_like(weight) * 0.2)
    return made


def clip(length: int, rows: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    patches = torch.rand(rows, length, SMALL.tokens, SMALL.patch_dim, generator=generator) * 2 - 1
    actions = torch.randint(0, 3, (rows, length), generator=generator)
    return patches, torch.rand(rows, length, generator=generator), actions


@torch.inference_mode()
def test_the_cached_step_computes_what_the_whole_clip_does_through_the_wrap(model: CausalDiT) -> None:
    """Every frame from the clean ones before it, at a noise level of its own: the pass that a denoising step is."""
    length = 4 * SMALL.window
    patches, levels, actions = clip(length)
    clean = torch.zeros_like(levels)
    cache = RingCache(model, 2)
    for t in range(length):
        ring = cache.keys, cache.values, cache.bias()
        frame, _, _ = model.step(patches[:, t], model.condition(levels[:, t], actions[:, t]), *ring)
        mixed = clean[:, : t + 1].clone()
        mixed[:, t] = levels[:, t]
        whole = model(patches[:, : t + 1], mixed, actions[:, : t + 1])[:, t]
        torch.testing.assert_close(frame, whole, rtol=1e-4, atol=1e-4, msg=lambda m, t=t: f"tick {t}: {m}")
        _, key, value = model.step(patches[:, t], model.condition(clean[:, t], actions[:, t]), *ring)
        cache.write(key, value)
    assert frame.std() > 0.1


@torch.inference_mode()
def test_a_frame_changes_nothing_before_it_and_an_action_changes_its_frame(model: CausalDiT) -> None:
    patches, levels, actions = clip(8)
    before = model(patches, levels, actions)
    other, moved = patches.clone(), actions.clone()
    other[:, 5] += 0.5
    moved[:, 5] = (moved[:, 5] + 1) % 3
    for after in (model(other, levels, actions), model(patches, levels, moved)):
        torch.testing.assert_close(after[:, :5], before[:, :5], rtol=0, atol=0)
        assert not torch.equal(after[:, 5], before[:, 5])


def test_it_has_about_the_parameters_of_the_design_it_is_compared_with_and_no_more() -> None:
    ours, theirs = (
        sum(weight.numel() for weight in model(ModelConfig(6)).parameters()) for model in (WorldModel, CausalDiT)
    )
    assert 0.85 < theirs / ours <= 1
