"""How like the real picture a dreamed one is: PSNR, SSIM and Frechet distance.

On a game of few pixels these flatter: a world whose ball had vanished scored 33 dB. Objects are what to judge by.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from worldsim.evaluation.subject import Subject

HORIZONS = (1 / 6, 0.5, 1.0, 2.0, 4.0)
EVERY = 3  # ticks between frames whose features are compared: frames in a row are nearly the same


def measure(subject: Subject) -> dict[str, Any]:
    """PSNR and SSIM against the recording at the horizons, and Frechet distance over the first and last second.

    ``still`` is the PSNR of showing the last real frame for ever, ``halves`` the Frechet distance of one half of the
    real roll-outs to the other: what the figures are worth.
    """
    rolls = subject.roll_outs
    ticks = len(rolls.actions)
    table = {}
    for seconds in HORIZONS:
        tick = subject.ticks(seconds) - 1
        if tick < ticks:
            ours, theirs = rolls.dreamed[tick], rolls.real[tick]
            table[f"{seconds:.2g}"] = {
                "psnr": psnr(ours, theirs),
                "ssim": ssim(ours, theirs),
                "still": psnr(rolls.before, theirs),
            }
    second = min(ticks, subject.ticks(1.0))
    parts = {"first second": slice(0, second, EVERY), "last second": slice(ticks - second, ticks, EVERY)}
    distances = {}
    for name, part in parts.items():
        real = subject.probe.features(rolls.real[part])
        row = real.reshape(-1, rolls.real.shape[1], real.shape[-1])
        halves = [half.reshape(-1, real.shape[-1]) for half in (row[:, ::2], row[:, 1::2])]
        enough = rolls.real.shape[1] > 1
        distances[name] = {
            "dream_to_real": frechet(subject.probe.features(rolls.dreamed[part]), real),
            "halves": frechet(*halves) if enough else float("nan"),
        }
    return {"at": table, "frechet": distances}


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of equally shaped uint8 pictures, 10 log10(255^2 / mean squared error).

    The error is averaged over all pictures before the logarithm, so one perfect picture does not make it infinite.
    """
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255.0**2 / error)) if error else float("inf")


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Mean structural similarity of uint8 pictures [N, H, W, 3] over channels and pictures.

    Wang et al. 2004, equation 13: an 11x11 Gaussian window of sigma 1.5, K1 = 0.01, K2 = 0.03; only windows that lie
    wholly in the picture count.
    """
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for x, y in zip(a.astype(np.float64), b.astype(np.float64), strict=True):
        mean_a, mean_b = _blur(x), _blur(y)
        variance_a, variance_b = _blur(x * x) - mean_a**2, _blur(y * y) - mean_b**2
        covariance = _blur(x * y) - mean_a * mean_b
        top = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
        bottom = (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
        values.append((top / bottom).mean())
    return float(np.mean(values))


def _blur(picture: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(cv2.GaussianBlur(picture, (11, 11), 1.5), np.float64)[5:-5, 5:-5]


def frechet(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Squared Frechet distance of two sets of features [N, D], each taken as a Gaussian (arXiv 1706.08500, eq. 6).

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).
    """
    one, other = a.astype(np.float64), b.astype(np.float64)
    cov_a, cov_b = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (one, other))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T  # S_a^(1/2)
    # (S_a S_b)^(1/2) has the trace of (S_a^(1/2) S_b S_a^(1/2))^(1/2), whose argument is symmetric.
    cross = np.linalg.eigvalsh(root @ cov_b @ root)
    apart = np.sum((one.mean(0) - other.mean(0)) ** 2)
    spread = np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(cross.clip(0)).sum()
    return float(max(0.0, apart + spread))
