"""Attention in the decoder: it adds nothing at first, and then one place knows of another, however far away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from worldsim.model.config import ModelConfig
from worldsim.model.convolution import GridAttention
from worldsim.model.world_model import WorldModel, init_weights

FAR = ModelConfig(3, 160, 160, 20, dim=32, heads=2, encoder_layers=1, decoder_layers=2, decoder_width=8, window=2)


def drawn(model: WorldModel) -> WorldModel:
    """Weights in which nothing is zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3 / max(1, weight[0].numel()) ** 0.5)
    return model


def guess(model: WorldModel, past: Tensor) -> Tensor:
    c = model.config
    told = torch.zeros(1, c.tokens, c.dim), model.patchify(past)[None] / 127.5 - 1
    noisy = torch.randn(1, c.tokens, c.patch_dim, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        scene = model.decoder.scene(told[0], model.view_of(told[1]))
        none = torch.zeros(1, dtype=torch.int64)
        return model.unpatchify(model.decoder.denoise(noisy, scene, model.decoder.modulations(torch.ones(1), none)))


@pytest.mark.parametrize("heads", [0, 2])
def test_what_happens_in_one_corner_matters_in_the_other_only_with_attention(heads: int) -> None:
    model = drawn(init_weights(WorldModel(replace(FAR, extrapolated=0, decoder_heads=heads)), 0))
    still = torch.full((2, 160, 160, 3), 90, dtype=torch.uint8)
    other = still.clone()
    other[1, :8, :8] = 230
    differs = (guess(model, still) - guess(model, other)).abs().amax((0, 3))
    assert differs[:8, :8].max() > 1e-3
    assert (differs[-20:, -20:].max() > 1e-6) == bool(heads)


def test_it_adds_nothing_until_it_has_learned() -> None:
    attention = GridAttention(16, 2, 4, 6)
    x = torch.randn(3, 16, 4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.equal(attention(x), x)
    attention(x).square().sum().backward()
    assert attention.out.weight.grad is not None and attention.out.weight.grad.abs().max() > 0


def test_it_knows_places_by_what_is_there_and_by_their_offset() -> None:
    """Wherever a thing lies and whatever the grid's size, another is told of it by where it lies from there."""
    attention = GridAttention(16, 2, 16, 20)
    torch.nn.init.orthogonal_(attention.out.weight)
    with torch.no_grad():
        attention.qkv.weight.normal_(generator=torch.Generator().manual_seed(1))

    def told(rows: int, columns: int, thing: tuple[int, int], at: tuple[int, int]) -> Tensor:
        x = torch.zeros(1, 16, rows, columns)
        x[..., thing[0] : thing[0] + 2, thing[1] : thing[1] + 2] = torch.linspace(-1, 1, 16)[:, None, None]
        with torch.no_grad():
            told: Tensor = (attention(x) - x)[0, :, at[0], at[1]]
        return told

    here = told(16, 20, (0, 2), (4, 8))
    assert here.abs().max() > 1e-3
    torch.testing.assert_close(told(16, 20, (6, 10), (10, 16)), here)  # as far to the left and above
    # Among fewer places each counts more, and nothing is what the others tell.
    smaller = told(8, 10, (0, 2), (4, 8))
    torch.testing.assert_close(smaller / smaller.norm(), here / here.norm())
    assert torch.cosine_similarity(told(16, 20, (8, 2), (4, 8)), here, 0) < 0.9  # as far to the left, and below


def test_it_computes_in_the_format_of_its_weights() -> None:
    """Trainers give a module its weights in another format than its constants are in."""
    attention = GridAttention(16, 2, 4, 6)
    weights = {name: value.to(torch.bfloat16) for name, value in attention.named_parameters()}
    made = torch.func.functional_call(attention, weights, (torch.randn(1, 16, 4, 6, dtype=torch.bfloat16),))
    assert made.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ({"decoder_heads": -1}, "model.decoder_heads must be at least 0, not -1"),
        (
            {"decoder_heads": 4, "height": 60, "patch": 20, "width": 80},
            "sides are multiples of 8, not of convolutions over 60x80",
        ),
        ({"decoder_heads": 4, "decoder": "tokens"}, "not of tokens over 64x64: give 0"),
    ],
)
def test_what_it_cannot_be_over_is_refused(shape: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ModelConfig(3, **shape)
