"""What tests of single methods share: a model that is not blind to its inputs, and moments of a few frames."""

from __future__ import annotations

import torch

from worldsim.model.config import ModelConfig
from worldsim.model.world_model import WorldModel

SHAPE = ModelConfig(
    3, 16, 24, 8, margin=1, dim=32, heads=2, encoder_layers=1, decoder_layers=1, decoder_width=8, window=4
)


def shaken(seed: int = 0) -> WorldModel:
    generator, model = torch.Generator().manual_seed(seed), WorldModel(SHAPE)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


def moment(n: int = 5) -> tuple[torch.Tensor, ...]:
    """Context, view, action and noise of some frames."""
    generator = torch.Generator().manual_seed(1)
    draw = [torch.randn(n, SHAPE.tokens, size, generator=generator) for size in (SHAPE.dim, SHAPE.view_dim)]
    noise = torch.randn(n, SHAPE.tokens, SHAPE.patch_dim, generator=generator)
    return (*draw, torch.randint(0, 3, (n,), generator=generator), noise)
