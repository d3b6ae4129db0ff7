"""What the pictures have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = [
    "BLUE",
    "COLOURS",
    "GREY",
    "MARKERS",
    "ORANGE",
    "VERMILLION",
    "as_float64",
    "band_noise",
    "flux_label",
]

BLUE, VERMILLION, ORANGE, GREY = "#0072B2", "#D55E00", "#E69F00", "#767676"
COLOURS = (BLUE, VERMILLION, "#009E73", "#CC79A7", ORANGE, "#56B4E9", "#000000")
MARKERS = "osD^vP*"


def as_float64(values: Any) -> npt.NDArray[Any]:
    """Return a float64 array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)


def band_noise(images: npt.NDArray[Any], noise: Any = None) -> npt.NDArray[Any]:
    """Return the pixel noise of each band of (N, C, H, W), shape (C,): as given, or measured.

    Measured, it is 1.4826 times the median absolute deviation of the pixels, which a galaxy that
    fills a small part of the frame hardly moves. A frame of one value has a noise of 1.
    """
    bands = images.shape[1]
    if noise is not None:
        given = as_float64(noise).reshape(-1)
        if len(given) != bands or not (given > 0).all() or not np.isfinite(given).all():
            raise ValueError(
                f"noise must hold one positive number for each of the {bands} bands, got {noise!r}"
            )
        return given
    pixels = np.moveaxis(images, 1, 0).reshape(bands, -1)
    middle = np.median(pixels, axis=1, keepdims=True)
    found = 1.4826 * np.median(np.abs(pixels - middle), axis=1)
    return np.where(found > 0, found, 1.0)


def flux_label(unit: str) -> str:
    """Return the label of an axis of flux per pixel."""
    return f"flux per pixel [{unit}]"
