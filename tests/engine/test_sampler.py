"""Samplers: noise levels and Euler's method."""

from __future__ import annotations

import pytest
import torch

from worldsim.engine.sampler import levels, sample
from worldsim.errors import WorldsimError


@pytest.mark.parametrize("steps", [1, 2, 4, 64])
def test_levels_fall_evenly_from_pure_noise_to_clean(steps: int) -> None:
    made = levels(steps)
    assert len(made) == steps + 1 and made[0] == 1.0 and made[-1] == 0.0
    assert [a - b for a, b in zip(made[:-1], made[1:], strict=True)] == pytest.approx([1 / steps] * steps)


def test_two_steps_call_the_denoiser_at_1_and_one_half() -> None:
    assert levels(2) == (1.0, 0.5, 0.0)


def test_a_shift_below_one_puts_the_levels_further_from_noise() -> None:
    assert levels(2, 1 / 3) == pytest.approx((1.0, 0.25, 0.0))
    assert levels(4, 1 / 3) == pytest.approx((1.0, 0.5, 0.25, 0.1, 0.0))
    assert levels(2, 3.0) == pytest.approx((1.0, 0.75, 0.0))


@pytest.mark.parametrize("shift", [0.0, -1.0, float("nan"), float("inf")])
def test_a_shift_that_is_no_positive_number_is_refused(shift: float) -> None:
    with pytest.raises(WorldsimError, match="positive number"):
        levels(2, shift)


@pytest.mark.parametrize("steps", [0, 65, -1, 2.0, True, "2", None])
def test_impossible_step_counts_are_refused_with_the_range(steps: object) -> None:
    with pytest.raises(WorldsimError, match="from 1 to 64"):
        levels(steps)  # type: ignore[arg-type]


def test_a_denoiser_that_knows_the_frame_leads_along_the_straight_line_to_it() -> None:
    """x_t = (1 - t) x0 + t eps at every level that the denoiser is asked about."""
    frame, noise, asked = torch.linspace(-1, 1, 24).view(2, 3, 4), torch.linspace(-2, 3, 24).view(2, 3, 4), []

    def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
        asked.append(t)
        torch.testing.assert_close(x, (1 - t) * frame + t * noise)
        return frame

    kept = noise.clone()
    torch.testing.assert_close(sample(denoise, noise, levels(5)), frame)
    assert asked == list(levels(5)[:-1])
    torch.testing.assert_close(noise, kept, rtol=0, atol=0)


def test_more_steps_follow_a_curved_path_better() -> None:
    """x0(x, t) of data N(0, s^2) is known and its flow ends at s * eps: the error falls with the steps."""
    s = 0.3

    def denoise(x: torch.Tensor, t: float) -> torch.Tensor:
        return x * (1 - t) * s**2 / ((1 - t) ** 2 * s**2 + t**2)

    noise = torch.linspace(-3, 3, 64).view(1, 1, 64)
    errors = [float((sample(denoise, noise, levels(n)) - s * noise).abs().max()) for n in (2, 8, 64)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.1
