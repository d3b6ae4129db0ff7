"""The noise of the sky in cutouts, estimated robustly, so that eps can be said in its units."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from advphotoz._arrays import as_numpy

__all__ = ["sky_noise"]

SHARE = 4  # a corner is a square of this fraction of the side
LEAST = 16  # pixels in a corner, below which its scatter says little
NORMAL = 1.482602218505602  # sigma of a normal distribution over its median absolute deviation


def sky_noise(images: Any) -> npt.NDArray[np.float64]:
    r"""Estimate the standard deviation of the sky per band, from the corners of cutouts.

    The corners are squares of a quarter of the side, where a galaxy in the middle is faintest. In
    each corner of each image and band, with n pixels x,

    .. math:: \hat\sigma = 1.4826\, \frac{n}{n - 0.8}\,
        \mathrm{median} |x - \mathrm{median}(x)|

    so that a sky level that is not zero does not count; the second factor is that of few pixels
    (Croux & Rousseeuw 1992). The median over corners and images is returned, so that neighbours
    count only where they fill corners in many images.

    It is how eps is said in units of the noise: ``LinfBall(0.4 * sky_noise(images))`` has one
    radius per band.

    Parameters
    ----------
    images : array or Tensor, (N, bands, height, width)
        Cutouts, some hundred are enough: ``data.image``, or
        ``data.subset(range(500)).load().image`` of those in a file.

    Returns
    -------
    ndarray, (bands,)
        float64, in the units of the images.

    Raises
    ------
    ValueError
        If the images are of another shape or too small, hold NaN or infinite pixels, or have no
        noise in a band (padded or thresholded images: most of their corners are equal).

    Notes
    -----
    It is the scatter of single pixels. Where pixels were resampled, neighbours are correlated and
    the noise of a sum of pixels is larger than this one says.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(0, [[[[0.1]], [[0.2]]]], (200, 2, 32, 32))
    >>> sky_noise(noise).round(3)
    array([0.1, 0.2])
    """
    pixels = as_numpy(images, "images")
    if pixels.ndim != 4 or 0 in pixels.shape:
        raise ValueError(
            "images must have the shape (N, bands, height, width) with none of them 0, got "
            f"{pixels.shape}"
        )
    height, width = (side // SHARE for side in pixels.shape[2:])
    n = height * width
    if n < LEAST:
        raise ValueError(
            f"a corner of images of {pixels.shape[2]} x {pixels.shape[3]} pixels holds {n}, fewer "
            f"than {LEAST}: too small to tell the sky from the galaxy; state the noise yourself"
        )
    ends = (slice(None, height), slice(-height, None)), (slice(None, width), slice(-width, None))
    corners = [pixels[:, :, rows, columns] for rows in ends[0] for columns in ends[1]]
    sky = np.stack(corners, 2).astype(np.float64).reshape(*pixels.shape[:2], 4, n)
    bad = np.asarray(~np.isfinite(sky).all(axis=(1, 2, 3)))
    if bad.any():
        raise ValueError(
            f"images must be finite, but {bad.sum()} of {len(bad)} are not, the first in row "
            f"{bad.argmax()}; leave them out"
        )
    deviation = np.abs(sky - np.median(sky, axis=3, keepdims=True))
    sigma = NORMAL * n / (n - 0.8) * np.median(deviation, axis=3)
    noise = np.median(sigma, axis=(0, 2))
    if not (noise > 0).all():
        raise ValueError(
            f"more than half of the pixels in the corners are equal in band "
            f"{int((noise <= 0).argmax())}: padded, masked or thresholded images have no sky; "
            "state their noise yourself"
        )
    return np.asarray(noise)
