"""SDSS imaging: pixels, point-spread function, noise and magnitudes of one pass of the survey.

Fluxes are in nanomaggies throughout, m = 22.5 - 2.5 log10(f); bands are in the order ugriz.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "ASINH_SOFTENING",
    "BANDS",
    "NMGY_PER_ELECTRON",
    "PIXEL",
    "PSF_FWHM",
    "SKY_SIGMA",
    "Array",
    "asinh_magnitude",
    "asinh_magnitude_error",
    "pixel_sigma",
]

Array = npt.NDArray[np.float64]

BANDS = "ugriz"
PIXEL = 0.396
"""Side of a pixel in arcsec."""
PSF_FWHM = np.array([1.53, 1.44, 1.32, 1.26, 1.29])
"""Typical width of the point-spread function in arcsec, pixel included."""
SKY_SIGMA = np.array([0.043, 0.016, 0.023, 0.039, 0.18])
"""Noise of an empty pixel in nanomaggies, measured on real SDSS stamps (sky and read-out)."""
NMGY_PER_ELECTRON = np.array(
    [0.01019 / 1.60, 0.00373 / 3.995, 0.00518 / 4.76, 0.00639 / 4.885, 0.03667 / 4.775]
)
"""Calibration over gain, from the headers of run 4247, camcol 4, field 142."""
ASINH_SOFTENING = np.array([1.4e-10, 0.9e-10, 1.2e-10, 1.8e-10, 7.4e-10])
"""The b of Lupton, Gunn & Szalay 1999 (AJ 118, 1406) that SDSS uses."""


def pixel_sigma(
    image: npt.NDArray[np.floating], sky: Array = SKY_SIGMA, n_pixels: float | Array = 1.0
) -> Array:
    """Return the noise of the flux in n_pixels that hold the source flux image (bands first).

    sigma^2 = n_pixels sky^2 + f / (electrons per nanomaggy): sky and read-out, sky (5,) in
    nanomaggies per pixel, then the photons of the source itself.
    """
    by_band = (slice(None),) + (None,) * (image.ndim - 1)
    photons = np.maximum(image, 0.0) * NMGY_PER_ELECTRON[by_band]
    return np.asarray(np.sqrt(n_pixels * sky[by_band] ** 2 + photons))


def asinh_magnitude(flux: Array) -> Array:
    """Return SDSS magnitudes of fluxes in nanomaggies; defined for negative fluxes too.

    m = -2.5/ln 10 [asinh(f / 2 b f0) + ln b] with f0 = 1e9 nanomaggies.
    """
    b = ASINH_SOFTENING
    return np.asarray(-2.5 / np.log(10) * (np.arcsinh(flux * 1e-9 / (2 * b)) + np.log(b)))


def asinh_magnitude_error(flux: Array, sigma: Array) -> Array:
    """Return the error of `asinh_magnitude` for a flux error sigma in nanomaggies."""
    b = ASINH_SOFTENING
    return np.asarray(2.5 / np.log(10) * sigma * 1e-9 / np.hypot(flux * 1e-9, 2 * b))
