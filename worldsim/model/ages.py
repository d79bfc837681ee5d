"""How old a frame is that attention along time looks at: what heads begin with, and what another window makes of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_TAP = 0.5  # slope on both sides of the age that a head begins to look around
_WAVES = 0.5  # of values, which are about as large


def recency(heads: int, ages: Tensor, tap: int | None = None) -> Tensor:
    """Biases [heads, ages] that age weighs down by another slope in each head (ALiBi, arXiv 2108.12409).

    Slopes fall from 1 by a factor of 4, and the last head has none, or looks around frames of one age. Of heads that
    all begin without, each sees the past as a bag of frames, and one that looks at a frame of a certain age is long in
    coming: after 1200 steps no bias had left [-0.05, 0.05] (docs/experiments/2026-11-27-seventeenth-pong.md).

    Args:
        heads: How many.
        ages: int64 [ages].
        tap: What the last head looks around; None: all alike.
    """
    slopes = 0.25 ** torch.arange(heads)
    slopes[-1] = 0
    biases = -slopes[:, None] * ages.abs().to(slopes.dtype)
    if tap is not None:
        biases[-1] = -_TAP * (ages - tap).abs()
    return biases


def waves(ages: int, dim: int) -> Tensor:
    """What says how old something is, [ages, dim]: cosines and sines of periods from 4 ticks to twice ``ages``."""
    share = torch.arange(dim // 2) / max(1, dim // 2 - 1)
    angle = 2 * torch.pi * torch.arange(ages)[:, None] / (4 * (ages / 2) ** share)
    return _WAVES * torch.cat((angle.cos(), angle.sin()), 1)


def of_window(weights: Mapping[str, Tensor], window: int) -> dict[str, Tensor]:
    """A model's weights for another window: what is older than it knew is looked at as its oldest frames are.

    Args:
        weights: By name; those of designs whose chunks are one frame.
        window: Frames.
    """
    resized = dict(weights)
    for name, value in weights.items():
        if name.endswith(("age_bias", "age_value")):  # [h, window] and [h, window, age_dim]
            resized[name] = value[:, torch.arange(window, device=value.device).clamp(max=value.shape[1] - 1)]
    return resized
