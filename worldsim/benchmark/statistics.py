"""What samples of latency amount to: percentiles, rates, and ratios of two recordings with an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

PERCENTILES = (50, 90, 95, 99)
TENTHS = 10

# Student's t at 97.5 %: degrees of freedom, quantile. Between them a straight line in 1/df, which is never too short.
_T = (
    (1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (6, 2.447), (8, 2.306), (10, 2.228), (15, 2.131),
    (30, 2.042), (60, 2.000), (math.inf, 1.960),
)  # fmt: skip
_CHUNK = 1_000_000  # resampled values held at a time: 8 MB


@dataclass(frozen=True)
class Ratio:
    """A ratio of two recordings.

    Attributes:
        value: Of b over a.
        low, high: Ends of its 95 % interval.
        blocks_alone: A recording had fewer than two repeats, so that the interval knows how ticks vary within a
            repeat and not how repeats vary: it is too short.
    """

    value: float
    low: float
    high: float
    blocks_alone: bool = False

    @property
    def covers_one(self) -> bool:
        """Whether the interval holds 1: no difference is shown."""
        return self.low <= 1.0 <= self.high


def percentile(samples: ArrayLike, q: float) -> float:
    """The ``q``-th percentile (0 to 100) by its nearest rank, so that the figure occurred; NaN of no samples.

    Raises:
        ValueError: ``q`` is not in 0 to 100.
    """
    if not 0 <= q <= 100:
        raise ValueError(f"a percentile is in 0 to 100, not {q}")
    flat = np.asarray(samples, np.float64).ravel()
    if not flat.size:
        return math.nan
    rank = _rank(q, flat.size)
    return float(np.partition(flat, rank)[rank])


def summarise(repeats: Sequence[Mapping[str, Any]], batch: int) -> dict[str, Any]:
    """The figures of a cell, of all its repeats together and, where they show the spread, of each.

    Args:
        repeats: Each with ``samples``, stage: milliseconds in the order of the ticks, ``tick`` among them; and
            ``resident_bytes`` at each tenth of the repeat, or none.
        batch: Frames a tick.

    Returns:
        ``milliseconds`` by stage, where ``jitter`` is p99 - p50; ``decisions_per_second`` = 1000 / mean tick;
        ``frames_per_second`` = batch times that; ``deciles``: the tick's p50 in each tenth of the roll-out over all
        repeats, and the most resident memory there of any repeat (each empty if no repeat has ten).

    Raises:
        ValueError: there are no ticks.
    """
    series: dict[str, list[NDArray[np.float64]]] = {}
    for repeat in repeats:
        for stage, samples in repeat["samples"].items():
            if len(samples):
                series.setdefault(stage, []).append(np.asarray(samples, np.float64))
    if "tick" not in series:
        raise ValueError("there are no ticks to summarise")
    ticks = series["tick"]
    rate = _rate(np.concatenate(ticks))
    return {
        "milliseconds": {stage: _figures(of_repeats) for stage, of_repeats in series.items()},
        "decisions_per_second": rate,
        "frames_per_second": batch * rate,
        "decisions_per_second_of_repeats": [_rate(one) for one in ticks],
        "deciles": {
            "tick_p50": _along(ticks),
            "resident_bytes": _most([repeat.get("resident_bytes") or [] for repeat in repeats]),
        },
    }


def ratio(
    a: Sequence[ArrayLike],
    b: Sequence[ArrayLike],
    quantile: float | None,
    draws: int = 2000,
    seed: int = 0,
    block: int | None = None,
) -> Ratio:
    """A quantile of ``b`` over that of ``a``, with a 95 % bootstrap interval for samples that depend on each other.

    Each recording is drawn anew in two ways: moving blocks of consecutive ticks within each repeat (Kuensch 1989), as
    neighbouring ticks are alike; and repeats with replacement with such blocks inside, as each repeat has a level of
    its own. On the log scale, with n repeats, the variances of these draws are about W / n and
    (n - 1) / n * S^2 / n + W / n, where W is what the ticks of a repeat bring about and S^2 the variance between
    repeats that was seen, which has a part W in it. So S^2 / n is recovered from them and is the variance of the
    figure, W / n being the least it can be. Few repeats do not pin S^2 down, and percentiles of the draws could not
    reach beyond the repeats themselves: the interval is therefore value * exp(-+ t * deviation), where Student's t has
    the degrees of freedom n - 1 of each recording whose S^2 decides (Satterthwaite 1946).

    Args:
        a, b: One array of positive samples per repeat, in the order of the ticks; a and b taken as independent.
        quantile: In 0 to 1 (p95 is 0.95), by nearest rank over all repeats together; None for the mean.
        draws: Of each kind, from each recording.
        seed: Of the draws.
        block: Ticks a block; by default as the samples ask for (`block_length`).

    Raises:
        ValueError: a repeat is missing or empty, a sample is not positive, or the quantile is not in 0 to 1.
    """
    if quantile is not None and not 0 < quantile <= 1:
        raise ValueError(f"a quantile is in 0 to 1, not {quantile}: p95 is 0.95")
    if draws < 2 or (block is not None and block < 1):
        raise ValueError(f"an interval needs 2 draws and blocks of 1 tick at least, not {draws} and {block}")
    rng = np.random.default_rng(seed)
    logs, total, doubt = [], 0.0, 0.0
    for samples in (a, b):
        repeats = [np.asarray(one, np.float64) for one in samples]
        if not repeats or any(not one.size or not np.all(one > 0) for one in repeats):
            raise ValueError("a ratio needs one array of positive samples per repeat")
        logs.append(float(np.log(_statistic(np.concatenate(repeats), quantile))))
        ticks = block or block_length(repeats)
        within = float(_drawn(repeats, quantile, draws, ticks, rng, whole_repeats=False).var(ddof=1))
        between, count = 0.0, len(repeats)
        if count > 1:
            both = float(_drawn(repeats, quantile, draws, ticks, rng, whole_repeats=True).var(ddof=1))
            between = max(0.0, count / (count - 1) * (both - within) - within)
            doubt += (within + between) ** 2 / (count - 1) if between else 0.0
        total += within + between
    reach = _t(total**2 / doubt if doubt > 0 else math.inf) * math.sqrt(total)
    log = logs[1] - logs[0]
    return Ratio(math.exp(log), math.exp(log - reach), math.exp(log + reach), min(len(a), len(b)) < 2)


def block_length(repeats: Sequence[NDArray[np.float64]]) -> int:
    """Ticks a block so long that blocks are nearly independent, from the autocorrelation of the samples' logarithms.

    Politis and White 2004, as corrected by Patton, Politis and White 2009: b = (2 G^2 / D)^(1/3) n^(1/3) with
    G = sum of l(k / M) |k| R(k), D = 4/3 (sum of l(k / M) R(k))^2, l the flat-top window, R the autocovariance, and M
    twice the lag from which on R is no longer told from 0. At most 3 sqrt(n) and n / 3.
    """
    length = min(len(one) for one in repeats)
    most = max(1, min(math.ceil(3 * math.sqrt(length)), length // 3))
    if length < 6:
        return most
    centred = [np.log(one) - np.log(one).mean() for one in repeats]
    total = sum(len(one) for one in centred)
    still = max(5, math.ceil(math.sqrt(math.log10(length))))  # so many lags in a row that show nothing
    reach = min(length - 1, math.ceil(math.sqrt(length)) + still)
    lags = np.arange(reach + 1)
    covariance = np.array([sum(float(one[: len(one) - k] @ one[k:]) for one in centred) / total for k in lags])
    if covariance[0] <= 0:
        return 1
    seen = np.flatnonzero(np.abs(covariance[1:]) >= 2 * math.sqrt(math.log10(total) / total) * covariance[0]) + 1
    last = 0
    for lag in seen:
        if lag - last > still:
            break
        last = int(lag)
    window = np.clip(2 * (1 - lags / max(1, 2 * last)), 0, 1) * (lags <= 2 * last)
    weights = np.where(lags == 0, 1.0, 2.0) * window * covariance
    scale = float(weights.sum())
    if last == 0 or scale <= 0:
        return 1 if last == 0 else most
    best = (1.5 * (float((lags * weights).sum()) / scale) ** 2 * length) ** (1 / 3)
    return int(np.clip(math.ceil(best), 1, most))


def _rank(percent: float, count: int) -> int:
    """Index of the nearest rank. Multiplied before it is divided: 0.55 * 100 is more than 55."""
    return max(1, math.ceil(percent * count / 100)) - 1


def _statistic(rows: NDArray[np.float64], quantile: float | None) -> NDArray[np.float64]:
    """The quantile or mean of each row [..., N] -> [...]."""
    if quantile is None:
        return np.asarray(rows.mean(-1))
    rank = _rank(round(quantile * 100, 9), rows.shape[-1])
    return np.asarray(np.partition(rows, rank, -1)[..., rank])


def _drawn(
    repeats: Sequence[NDArray[np.float64]],
    quantile: float | None,
    draws: int,
    block: int,
    rng: np.random.Generator,
    whole_repeats: bool,
) -> NDArray[np.float64]:
    """Logarithms [draws] of the statistic of samples drawn anew, each repeat drawn to their mean length."""
    flat = np.concatenate(repeats)
    lengths = np.array([len(one) for one in repeats])
    firsts = np.cumsum(lengths) - lengths
    block = min(block, int(lengths.min()))
    count, length = len(repeats), round(float(lengths.mean()))
    figures: list[NDArray[np.float64]] = []
    for size in _sizes(draws, max(1, _CHUNK // (count * length))):
        which = rng.integers(count, size=(size, count)) if whole_repeats else np.tile(np.arange(count), (size, 1))
        room = (lengths - block + 1)[which][..., None]
        starts = (rng.random((size, count, -(-length // block))) * room).astype(np.int64) + firsts[which][..., None]
        ticks = (starts[..., None] + np.arange(block)).reshape(size, count, -1)[..., :length]
        figures.append(_statistic(flat[ticks].reshape(size, -1), quantile))
    return np.asarray(np.log(np.concatenate(figures)))


def _sizes(total: int, most: int) -> list[int]:
    return [min(most, total - done) for done in range(0, total, most)]


def _t(freedom: float) -> float:
    inverse = np.array([1 / df for df, _ in reversed(_T)])
    return float(np.interp(1 / max(1.0, freedom), inverse, [value for _, value in reversed(_T)]))


def _figures(of_repeats: Sequence[NDArray[np.float64]]) -> dict[str, Any]:
    samples = np.concatenate(of_repeats)
    figures: dict[str, Any] = {f"p{q}": percentile(samples, q) for q in PERCENTILES}
    return figures | {
        "max": float(samples.max()),
        "mean": float(samples.mean()),
        "jitter": figures["p99"] - figures["p50"],
        "samples": int(samples.size),
        "p50_of_repeats": [percentile(one, 50) for one in of_repeats],
    }


def _rate(ticks: NDArray[np.float64]) -> float:
    mean = float(ticks.mean())
    return 1000.0 / mean if mean > 0 else math.inf


def _along(ticks: Sequence[NDArray[np.float64]]) -> list[float]:
    parts = [np.array_split(one, TENTHS) for one in ticks if len(one) >= TENTHS]
    return [percentile(np.concatenate(tenth), 50) for tenth in zip(*parts, strict=True)]


def _most(resident: Sequence[Sequence[int]]) -> list[int]:
    whole = [one for one in resident if len(one) == TENTHS]
    return [int(max(tenth)) for tenth in zip(*whole, strict=True)]
