"""Several frames seen at once: frame by frame, in whole clips and of single moments they are the same."""

from __future__ import annotations

import pytest
import torch

from worldsim.model.config import ModelConfig
from worldsim.model.conv_decoder import ConvDecoder
from worldsim.model.world_model import WorldModel, init_weights

FRAMES = 6


def model_of(history: int, extrapolated: int = 0) -> WorldModel:
    shape = ModelConfig(
        3, 40, 40, 10, history=history, extrapolated=extrapolated,
        dim=32, heads=2, encoder_layers=1, decoder_layers=1, decoder_width=8, window=3,
    )  # fmt: skip
    return init_weights(WorldModel(shape), 0).eval()


def clip(model: WorldModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, FRAMES, model.config.tokens, model.config.patch_dim, generator=generator) * 2 - 1


@pytest.mark.parametrize("extrapolated", [0, 4])
@pytest.mark.parametrize("history", [2, 3, 5])
@torch.inference_mode()
def test_a_view_is_the_same_however_its_frames_come(history: int, extrapolated: int) -> None:
    model = model_of(history, extrapolated)
    patches = clip(model)
    views, view = model.views(patches), None
    assert views.shape[-1] == model.config.view_dim
    for t in range(FRAMES):
        view = model.view(patches[:, t], view)
        torch.testing.assert_close(view, views[:, t], rtol=0, atol=1e-6)
        past = patches[:, [max(0, t - age) for age in range(history - 1, -1, -1)]]
        torch.testing.assert_close(model.view_of(past), views[:, t], rtol=0, atol=1e-6)


@torch.inference_mode()
def test_a_view_tells_each_change_of_its_frames_and_none_before() -> None:
    model = model_of(4)
    patches = clip(model)
    c, one = model.config, model.views(patches)[:, 5]
    for age in range(FRAMES):
        other = patches.clone()
        other[:, 5 - age] = -other[:, 5 - age]
        differs = bool((model.views(other)[:, 5] != one).any())
        assert differs == (age < 4)
    older = one[..., 2 * c.seen_dim :].split(c.patch_dim, -1)
    for age, change in enumerate(older, 1):
        torch.testing.assert_close(change, patches[:, 5 - age] - patches[:, 4 - age])


@torch.inference_mode()
def test_a_decoder_draws_the_same_from_frames_as_from_a_view_of_them() -> None:
    model = model_of(4)
    patches, decoder = clip(model), model.decoder
    assert isinstance(decoder, ConvDecoder)
    context = torch.randn(2, model.config.tokens, model.config.dim, generator=torch.Generator().manual_seed(2))
    scene = decoder.scene(context, model.view_of(patches[:, -4:]))
    torch.testing.assert_close(decoder.scene_of(context, patches[:, -4:]), scene, rtol=0, atol=1e-5)


def test_less_than_two_frames_tell_no_change() -> None:
    with pytest.raises(ValueError, match="model.history must be at least 2 frames, not 1"):
        ModelConfig(3, 40, 40, 10, history=1)
