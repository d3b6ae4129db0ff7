"""A stretch of the pixels before the first layer: linear near the sky, logarithmic where bright."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from advphotoz._checks import check_radius

__all__ = ["AsinhStretch"]


class AsinhStretch(nn.Module):
    r"""The asinh stretch of each band, in units of its sky noise.

    .. math:: x_b \leftarrow \mathrm{asinh}\left(\frac{x_b}{s\, \sigma_b}\right)

    (Lupton, Gunn & Szalay 1999, AJ 118, 1406.) Fluxes span four orders of magnitude, and a network
    that is given them as they are learns from the few brightest pixels. The stretch belongs inside
    the network: attacks go through it, and their eps stays in the units of the image. It has no
    parameters, and its gradient, :math:`1 / \sqrt{x^2 + s^2 \sigma^2}`, is finite everywhere.

    Parameters
    ----------
    sky_noise : float or sequence of float
        :math:`\sigma_b`, noise of an empty pixel in the units of the image, for all bands or one
        per band.
    softening : float
        s, where linear turns logarithmic, in units of the sky noise.

    Raises
    ------
    ValueError
        If a number is not positive and finite; when called, for another number of bands.

    Examples
    --------
    Put first by the builders, ``cnn(stretch=AsinhStretch([0.043, 0.016, 0.023, 0.039, 0.18]))``, or
    before anyone's network:

    >>> network = nn.Sequential(AsinhStretch(0.1), nn.Flatten(), nn.Linear(8, 3))
    >>> network(torch.ones(1, 2, 2, 2)).shape
    torch.Size([1, 3])
    """

    def __init__(self, sky_noise: float | Sequence[float], softening: float = 10.0) -> None:
        super().__init__()
        noise = check_radius(sky_noise, "sky_noise")
        values = torch.tensor(noise if isinstance(noise, tuple) else (noise,), dtype=torch.float64)
        if not 0 < softening < math.inf or not bool((values > 0).all()):
            raise ValueError(
                f"sky_noise and softening must be positive, got {sky_noise!r} and {softening!r}"
            )
        self.scale: Tensor
        self.register_buffer("scale", (softening * values).float())

    @override
    def forward(self, image: Tensor) -> Tensor:
        """Return the stretched image, (N, bands, ...)."""
        bands = len(self.scale)
        if bands > 1 and image.shape[1] != bands:
            raise ValueError(
                f"the stretch has a sky noise for each of {bands} bands, but the images have "
                f"{image.shape[1]} (shape {tuple(image.shape)})"
            )
        return (image / self.scale.to(image.dtype).view(1, -1, *[1] * (image.ndim - 2))).asinh()
