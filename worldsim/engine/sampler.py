"""Few-step samplers as pure functions: denoiser, noise and noise levels in, clean frame out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from worldsim.errors import WorldsimError

MAX_STEPS = 64

#: x_t [B, L, P] and its noise level t in (0, 1] to a prediction of x0 [B, L, P].
Denoise = Callable[[Tensor, float], Tensor]

_Level = TypeVar("_Level", float, NDArray[np.float32], Tensor)


def shift_levels(u: _Level, shift: float) -> _Level:
    """Even levels to shifted ones, t = s u / (1 + (s - 1) u) (SD3, arXiv 2403.03206, equation 23)."""
    return shift * u / (1 + (shift - 1) * u)


def levels(steps: int, shift: float = 1.0) -> tuple[float, ...]:
    """Noise levels of a sampler with ``steps`` calls of the denoiser, from 1 (pure noise) down to 0: evenly spaced
    ones, see :func:`shift_levels`.

    Training draws more levels near noise, but sampling must not stay there. At the first level the denoiser gives the
    mean of all that may follow, and 0.75 is too noisy still to choose from it: no ball was served and the opponent
    stayed a smear. With a second level of 0.5, two steps play like eight (docs/experiments/2026-11-21-fourth-pong.md).
    A shift below 1 puts the levels further from noise: two steps at 1/3 ask at 1 and 0.25.

    Args:
        steps: Calls of the denoiser, 1 to 64.
        shift: s, above 0; 1 leaves the levels evenly spaced.

    Returns:
        ``steps + 1`` strictly falling levels, the first 1.0 and the last 0.0.

    Raises:
        WorldsimError: ``steps`` is not a whole number from 1 to 64, or ``shift`` no positive number.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
        raise WorldsimError(f"denoising steps must be a whole number from 1 to {MAX_STEPS}, not {steps!r}")
    if not (math.isfinite(shift) and shift > 0):
        raise WorldsimError(f"shift of the sampler's levels must be a positive number, not {shift}")
    even = (1 - i / steps for i in range(steps + 1))
    return tuple(shift_levels(u, shift) for u in even)


def sample(denoise: Denoise, noise: Tensor, levels: Sequence[float]) -> Tensor:
    """Euler's method on the rectified flow x_t = (1 - t) x0 + t eps (arXiv 2209.03003), for a denoiser that
    predicts x0.

    From level t to the next level s: x_s = x0 + (s / t) (x_t - x0), with x0 = denoise(x_t, t).

    Args:
        denoise: See :data:`Denoise`.
        noise: eps, standard normal [B, L, P]; not written to.
        levels: Falling noise levels from 1 to 0, see :func:`levels`.

    Returns:
        x0 of the last call [B, L, P].
    """
    x = noise
    for t, s in zip(levels[:-1], levels[1:], strict=True):
        x0 = denoise(x, t)
        x = x0 if s == 0 else x0 + (s / t) * (x - x0)
    return x
