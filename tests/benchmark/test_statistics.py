"""Figures of samples, and whether an interval covers as often as it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from worldsim.benchmark.statistics import block_length, percentile, ratio, summarise
from worldsim.play.pacing import percentiles

Repeats = list[NDArray[np.float64]]


def recording(
    rng: np.random.Generator, repeats: int = 3, ticks: int = 150, level: float = 0.03, alike: float = 0.7
) -> Repeats:
    """Log-normal ticks about 5 ms, each like the one before, at a level of each repeat's own."""
    made = []
    for _ in range(repeats):
        noise = rng.normal(size=ticks + 50) * 0.2 * np.sqrt(1 - alike**2)
        for tick in range(1, len(noise)):
            noise[tick] += alike * noise[tick - 1]
        made.append(5 * np.exp(noise[50:] + level * rng.normal()))
    return made


def coverage(quantile: float | None, repeats: int, level: float, count: int = 150) -> float:
    """How often the interval of two recordings of the same thing holds 1."""
    rng = np.random.default_rng(17)
    held = 0
    for seed in range(count):
        a, b = (recording(rng, repeats, level=level) for _ in range(2))
        held += ratio(a, b, quantile, draws=200, seed=seed).covers_one
    return held / count


def test_a_percentile_is_a_sample_that_occurred_and_the_one_the_player_reports() -> None:
    samples = np.random.default_rng(0).permutation(np.arange(1.0, 102.0))
    asked = (50, 90, 95, 99, 100)
    assert tuple(percentile(samples, q) for q in asked) == percentiles(samples, asked)
    assert percentile(np.arange(1.0, 101.0), 55) == 55, "although 0.55 * 100 is more than 55"
    assert (percentile(samples, 0), percentile([7.0], 99)) == (1, 7)
    assert np.isnan(percentile([], 50))
    with pytest.raises(ValueError, match="0 to 100"):
        percentile(samples, 101)


def test_a_summary_is_of_all_ticks_and_shows_the_spread_of_repeats() -> None:
    repeats: list[dict[str, Any]] = [
        {"samples": {"response": [1.0] * 20, "tick": [2.0] * 19 + [12.0]}, "resident_bytes": list(range(10))},
        {"samples": {"response": [3.0] * 20, "tick": [4.0] * 20}, "resident_bytes": []},
    ]
    found = summarise(repeats, batch=8)
    tick = found["milliseconds"]["tick"]
    assert (tick["p50"], tick["p95"], tick["max"], tick["samples"]) == (4, 4, 12, 40)
    assert tick["jitter"] == tick["p99"] - tick["p50"] == 8
    assert tick["p50_of_repeats"] == [2, 4]
    assert found["decisions_per_second"] == 1000 / tick["mean"] == 1000 / 3.25
    assert found["frames_per_second"] == 8 * found["decisions_per_second"]
    assert found["decisions_per_second_of_repeats"] == [400, 250]
    assert found["deciles"]["resident_bytes"] == list(range(10))


def test_deciles_follow_the_roll_out_and_need_ten_ticks() -> None:
    rising = {"samples": {"tick": np.repeat(np.arange(1.0, 11.0), 7)}, "resident_bytes": []}
    assert summarise([rising, rising], 1)["deciles"] == {"tick_p50": list(range(1, 11)), "resident_bytes": []}
    short = {"samples": {"tick": [1.0] * 9}}
    assert summarise([short], 1)["deciles"]["tick_p50"] == []
    with pytest.raises(ValueError, match="no ticks"):
        summarise([{"samples": {"tick": []}}], 1)


@pytest.mark.parametrize("quantile", [0.5, 0.95, None])
@pytest.mark.parametrize("level", [0.03, 0.2])
def test_two_recordings_of_the_same_thing_agree_about_95_times_in_100(quantile: float | None, level: float) -> None:
    assert 0.90 <= coverage(quantile, repeats=3, level=level) <= 0.99


def test_with_two_repeats_and_with_repeats_that_are_alike_the_interval_covers_no_less() -> None:
    assert 0.90 <= coverage(0.5, repeats=2, level=0.1) <= 0.99
    assert coverage(None, repeats=3, level=0.0) >= 0.93


def test_blocks_are_what_makes_dependent_ticks_cover() -> None:
    rng = np.random.default_rng(3)
    pairs = [[recording(rng, 1, 300, 0.0, alike=0.9) for _ in range(2)] for _ in range(60)]
    single, blocks = (
        np.mean([ratio(a, b, None, draws=200, block=block).covers_one for a, b in pairs]) for block in (1, None)
    )
    assert single < 0.6 < 0.8 < blocks


def test_a_difference_that_is_there_is_found() -> None:
    rng = np.random.default_rng(5)
    a, b = recording(rng, 5, 200), [2 * one for one in recording(rng, 5, 200)]
    for quantile in (0.5, 0.95, None):
        found = ratio(a, b, quantile)
        assert 1 < found.low < 2 < found.high < 3 and not found.covers_one
        back = ratio(b, a, quantile)
        assert back.value == pytest.approx(1 / found.value) and back.high < 1


def test_the_ratio_is_that_of_the_reported_figures_and_repeats_with_its_seed() -> None:
    rng = np.random.default_rng(6)
    a, b = recording(rng, 3, 101), recording(rng, 3, 77)
    pooled_a, pooled_b = np.concatenate(a), np.concatenate(b)
    assert ratio(a, b, 0.95).value == pytest.approx(percentile(pooled_b, 95) / percentile(pooled_a, 95))
    assert ratio(a, b, None).value == pytest.approx(pooled_b.mean() / pooled_a.mean())
    assert ratio(a, b, 0.5, seed=1) == ratio(a, b, 0.5, seed=1) != ratio(a, b, 0.5, seed=2)


def test_a_single_repeat_is_said_to_have_an_interval_from_blocks_alone() -> None:
    rng = np.random.default_rng(7)
    one, three = recording(rng, 1), recording(rng, 3)
    assert ratio(one, three, 0.5).blocks_alone and ratio(one, one, 0.5).blocks_alone
    assert not ratio(three, three, 0.5).blocks_alone


def test_samples_without_any_spread_give_an_interval_of_one_point() -> None:
    constant = [np.full(30, 2.0)] * 3
    found = ratio(constant, [3 * one for one in constant], 0.95)
    assert (found.low, found.value, found.high) == pytest.approx((3, 3, 3))
    assert ratio(constant, constant, 0.95).covers_one


def test_blocks_grow_with_the_memory_of_the_ticks() -> None:
    rng = np.random.default_rng(8)
    lengths = [block_length(recording(rng, 3, 1000, alike=alike)) for alike in (0.0, 0.5, 0.9)]
    assert lengths[0] <= 3 < lengths[1] < lengths[2] <= 95
    assert block_length([np.full(50, 2.0)]) == block_length([np.ones(1)]) == 1


@pytest.mark.parametrize(
    ("a", "quantile", "about"),
    [([], 0.5, "positive"), ([[]], 0.5, "positive"), ([[0.0, 1.0]], 0.5, "positive"), ([[1.0]], 95, "0.95")],
)
def test_what_has_no_ratio_is_refused(a: Any, quantile: float, about: str) -> None:
    with pytest.raises(ValueError, match=about):
        ratio(a, [[1.0]], quantile)
