"""Picture metrics against what they must give in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from worldsim.evaluation.fidelity import frechet, psnr, ssim


def plain(level: int) -> NDArray[np.uint8]:
    return np.full((2, 32, 32, 3), level, np.uint8)


def exact(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Samples whose mean and covariance are exactly these."""
    rng = np.random.default_rng(0)
    white = rng.standard_normal((500, len(mean)))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(np.cov(white, rowvar=False))).T
    return mean + white @ np.linalg.cholesky(covariance).T


def test_psnr_of_a_constant_error() -> None:
    assert psnr(plain(100), plain(105)) == pytest.approx(20 * np.log10(255 / 5))
    assert psnr(plain(100), plain(100)) == float("inf")


def test_one_perfect_picture_does_not_make_psnr_infinite() -> None:
    a, b = plain(100), plain(100)
    b[1] += 5
    assert psnr(a, b) == pytest.approx(20 * np.log10(255 / 5) + 10 * np.log10(2))


def test_ssim_of_flat_pictures_is_the_luminance_term() -> None:
    c1 = (0.01 * 255) ** 2
    wanted = (2 * 100 * 140 + c1) / (100**2 + 140**2 + c1)
    assert ssim(plain(100), plain(140)) == pytest.approx(wanted, abs=1e-6)


def test_ssim_is_one_for_the_same_and_negative_for_the_inverted_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    assert ssim(picture, picture) == pytest.approx(1)
    assert ssim(picture, 255 - picture) < -0.5


def test_frechet_distance_of_gaussians() -> None:
    zero, one = np.zeros(3), np.eye(3)
    base = exact(zero, one)
    assert frechet(base, base) == pytest.approx(0, abs=1e-6)
    assert frechet(base, exact(np.array([1.0, 2.0, 2.0]), one)) == pytest.approx(9)
    # Commuting covariances: the squared difference of the standard deviations.
    assert frechet(base, exact(zero, np.diag([4.0, 9.0, 1.0]))) == pytest.approx(1 + 4)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    a = np.array([[2.0, 1.0], [1.0, 2.0]])
    b = np.array([[3.0, 0.0], [0.0, 1.0]])
    # tr((AB)^(1/2)) of a 2x2 matrix is sqrt(tr(AB) + 2 sqrt(det(AB))).
    wanted = np.trace(a) + np.trace(b) - 2 * np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    assert frechet(exact(np.zeros(2), a), exact(np.zeros(2), b)) == pytest.approx(wanted)
