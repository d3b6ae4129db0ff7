"""The noise of the sky: known noise is found, with galaxies and neighbours on top of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advphotoz import FGSM, LinfBall
from advphotoz.datasets import sky_noise

SIGMA = np.array([0.043, 0.016, 0.18])


def sky(n: int = 300, size: int = 32, level: float = 0.0, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(n, 3, size, size))
    return level + SIGMA[:, None, None] * noise


def blobs(n: int, size: int, where: tuple[float, float], width: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    r2 = (y - where[0]) ** 2 + (x - where[1]) ** 2
    return np.broadcast_to(np.exp(-r2 / (2 * width**2)), (n, 3, size, size))


@pytest.mark.parametrize("size", [16, 23, 32, 64])
def test_known_noise(size: int) -> None:
    np.testing.assert_allclose(sky_noise(sky(size=size)), SIGMA, rtol=0.03)


def test_galaxies_neighbours_and_a_sky_level_change_it_little() -> None:
    images = sky(level=0.3) + 20 * blobs(300, 32, (15.5, 15.5), 2.5)
    images[:, :] += 50 * blobs(300, 32, (3.0, 4.0), 1.5)  # a star in a corner of every image
    images[::3] += 80 * blobs(100, 32, (28.0, 28.0), 3.0)  # and a galaxy in each third one
    naive = images.std((0, 2, 3))
    assert (naive > 10 * SIGMA).all()
    # A third of the corners is filled: the median is the upper quartile of the others, which
    # scatter by 15 % with 64 pixels each.
    np.testing.assert_allclose(sky_noise(images), SIGMA, rtol=0.15)


def test_a_tensor_and_numbers_per_band_for_an_attack() -> None:
    noise = sky_noise(torch.from_numpy(sky()).float())
    ball = LinfBall(0.4 * noise)
    assert ball.eps == tuple((0.4 * noise).tolist())
    assert FGSM(0.4 * noise) == FGSM(ball)
    assert eval(repr(ball)) == ball
    delta = FGSM(0.4 * noise, objective=lambda output, z: output[:, 0])(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 1)),
        torch.zeros(2, 3, 8, 8),
        torch.zeros(2),
    )
    np.testing.assert_allclose(delta.abs().amax((0, 2, 3)), 0.4 * noise, rtol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 32, 32)), r"shape \(N, bands, height, width\).*got \(3, 32, 32\)"),
        (np.zeros((2, 3, 15, 15)), "too small to tell the sky"),
        (np.full((2, 3, 32, 32), np.nan), "2 of 2 are not, the first in row 0"),
        (np.zeros((2, 3, 32, 32)), "equal in band 0: padded"),
    ],
)
def test_images_without_a_sky(images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sky_noise(images)


def test_real_quasars(shared_data: Path) -> None:
    """What was measured from the corners independently, beside the data (README there)."""
    with np.load(shared_data / "sdss_quasars_ugriz_40.npz") as file:
        images = file["image"][:400]
    np.testing.assert_allclose(sky_noise(images), [0.045, 0.017, 0.027, 0.045, 0.169], rtol=0.12)
