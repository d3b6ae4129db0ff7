"""A reference without convolutions: fluxes within a few Gaussian apertures, and a perceptron."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from advphotoz._checks import check_at_least_one, check_radius

__all__ = ["SDSS_EXTINCTION", "AperturePerceptron"]

SDSS_EXTINCTION = (4.239, 3.303, 2.285, 1.698, 1.263)
"""Extinction in ugriz in magnitudes per E(B-V) (Schlafly & Finkbeiner 2011, arXiv:1012.4804)."""


class AperturePerceptron(nn.Module):
    r"""A perceptron on fluxes within Gaussian apertures around the centre of the same pixels.

    .. math::
        f_{b,w} = \frac{\sum_x e^{-r^2 / 2 w^2}\, I_b(x)}{\sum_x e^{-r^2 / 2 w^2}}, \qquad
        m_{b,w} = \mathrm{asinh}\left(\frac{f_{b,w}}{2 n_{b,w}}\right) + 0.4 \ln 10\; R_b\, E(B - V)

    with n the noise of the aperture flux and R the extinction. The inputs of the perceptron are m
    and its differences between neighbouring bands, the colours. It is the bar for a network of
    images: one that is less precise than a dozen fluxes from its own pixels has not finished
    training. An error of at most eps in every pixel changes f by at most eps.

    Parameters
    ----------
    sky_noise : sequence of float
        Noise of an empty pixel per band, in the units of the image.
    extinction : sequence of float
        R_b, magnitudes per E(B-V); zeros for images that are dereddened.
    image_size : int
        Side of the images in pixels.
    n_bins : int
        Number of redshift bins, and of logits.
    widths : sequence of float
        w of the apertures in pixels.
    hidden : int
        Features of each of the two hidden layers.

    Raises
    ------
    ValueError
        If sky_noise and extinction have not the same length, or a number is not positive.

    References
    ----------
    Lupton, Gunn & Szalay 1999 (AJ 118, 1406) for asinh magnitudes.

    Examples
    --------
    >>> model = AperturePerceptron(sky_noise=[0.02] * 5, image_size=32)
    >>> model(torch.zeros(2, 5, 32, 32), torch.zeros(2)).shape
    torch.Size([2, 180])
    """

    def __init__(
        self,
        sky_noise: Sequence[float],
        extinction: Sequence[float] = SDSS_EXTINCTION,
        image_size: int = 64,
        n_bins: int = 180,
        widths: Sequence[float] = (1.0, 2.0, 4.0),
        hidden: int = 128,
    ) -> None:
        super().__init__()
        for name, count in (("image_size", image_size), ("n_bins", n_bins), ("hidden", hidden)):
            check_at_least_one(count, name)
        noise, radii = (
            check_radius(list(sky_noise), "sky_noise"),
            check_radius(list(widths), "widths"),
        )
        assert isinstance(noise, tuple)
        assert isinstance(radii, tuple)
        if min(noise) <= 0 or min(radii) <= 0:
            raise ValueError(
                f"sky_noise and widths must be positive, got {sky_noise!r} and {widths!r}"
            )
        if len(extinction) != len(noise):
            raise ValueError(
                f"extinction needs one number per band, as sky_noise has: {len(noise)}, got "
                f"{len(extinction)}; give zeros for images that are dereddened"
            )
        self.n_bands, self.image_size = len(noise), image_size
        axis = torch.arange(image_size, dtype=torch.float64) - (image_size - 1) / 2
        square = axis.square()[:, None] + axis.square()
        weights = torch.stack([(-square / (2 * w**2)).exp().flatten() for w in radii])
        weights /= weights.sum(1, keepdim=True)
        aperture_noise = torch.tensor(noise, dtype=torch.float64)[:, None] * weights.norm(dim=1)
        reddening = 0.4 * math.log(10) * torch.tensor(list(extinction), dtype=torch.float64)
        self.weights: Tensor
        self.noise: Tensor
        self.reddening: Tensor
        self.register_buffer("weights", weights.float())
        self.register_buffer("noise", aperture_noise.float())
        self.register_buffer("reddening", reddening.float())
        inputs = (2 * self.n_bands - 1) * len(radii)
        self.layers = nn.Sequential(
            nn.BatchNorm1d(inputs, affine=False),  # puts the magnitudes on one scale
            nn.Linear(inputs, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, n_bins),
        )

    def magnitudes(self, image: Tensor, ebv: Tensor) -> Tensor:
        """Return the dereddened asinh magnitudes (N, bands, apertures), brighter is larger."""
        expected = (self.n_bands, self.image_size, self.image_size)
        if image.shape[1:] != expected:
            raise ValueError(f"images must be (N, {expected}), got {tuple(image.shape)}")
        # Photometry needs its digits: bfloat16 would round a flux to 0.4 %.
        with torch.autocast(image.device.type, enabled=False):
            flux = image.float().flatten(2) @ self.weights.T
            stretched = (flux / (2 * self.noise)).asinh()
            return stretched + (ebv.float().view(-1, 1) * self.reddening)[..., None]

    @override
    def forward(self, image: Tensor, ebv: Tensor) -> Tensor:
        """Return logits (N, n_bins) of an image (N, bands, size, size) and ebv (N,)."""
        magnitudes = self.magnitudes(image, ebv)
        colours = magnitudes[:, :-1] - magnitudes[:, 1:]
        features = torch.cat([magnitudes.flatten(1), colours.flatten(1)], 1)
        logits: Tensor = self.layers(features)
        return logits
