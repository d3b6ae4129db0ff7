"""Images of galaxies: profiles convolved with the point-spread function, then noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from advphotoz._checks import require
from advphotoz.datasets.simulation.population import (
    Source,
    draw_galaxy,
    draw_neighbours,
    draw_photometry,
)
from advphotoz.datasets.simulation.sdss import PIXEL, PSF_FWHM, Array, pixel_sigma

__all__ = ["draw_row", "draw_sources"]

TRUNCATION = 8
"""Half-light radii at which a bulge ends; the profile keeps its total flux."""


def _profile(source: Source) -> Any:
    """Return the GalSim profile of a source, of flux 1, shifted to its position."""
    galsim = require("galsim", "sim")
    if source.sersic == 0:
        shape = galsim.DeltaFunction()
    elif source.sersic == 1:
        shape = galsim.Exponential(half_light_radius=source.radius)
    else:
        shape = galsim.Sersic(
            source.sersic, half_light_radius=source.radius, trunc=TRUNCATION * source.radius
        )
    if source.axis_ratio < 1:
        shape = shape.shear(q=source.axis_ratio, beta=source.angle * galsim.degrees)
    return shape.shift(source.x, source.y)


def draw_sources(sources: Sequence[Source], fwhm: Array, size: int) -> npt.NDArray[np.float32]:
    """Draw sources without noise: (5, size, size) in nanomaggies, fwhm (5,) in arcsec."""
    galsim = require("galsim", "sim")
    profiles = [_profile(source) for source in sources]
    cube = np.empty((len(fwhm), size, size), np.float32)
    for band, width in enumerate(fwhm):
        psf = galsim.Moffat(beta=3.5, fwhm=width)
        sky = galsim.Sum([p * s.flux[band] for p, s in zip(profiles, sources, strict=True)])
        image = galsim.ImageF(cube[band], scale=PIXEL)
        # The measured width of the point-spread function includes the pixel already.
        galsim.Convolve(sky, psf).drawImage(image=image, method="no_pixel")
    return cube


def draw_row(seed: int, index: int, r_max: float, size: int) -> dict[str, npt.NDArray[Any]]:
    """Draw galaxy number index of a seed: its own random stream, so that no other one matters."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    galaxy = draw_galaxy(rng, r_max)
    mag, mag_err = draw_photometry(rng, galaxy)
    neighbours = draw_neighbours(rng, galaxy.ebv, size * PIXEL)
    fwhm = PSF_FWHM * np.exp(rng.normal(0, 0.1) + rng.normal(0, 0.03, 5))
    cube = draw_sources([galaxy.bulge, galaxy.disk, *neighbours], fwhm, size)
    noise = rng.standard_normal(cube.shape, dtype=np.float32) * pixel_sigma(cube)
    row = {
        "image": cube + noise,
        "ebv": galaxy.ebv,
        "z": galaxy.z,
        "mag": mag,
        "mag_err": mag_err,
        "flux": galaxy.flux,
    }
    return {name: np.asarray(value, np.float32) for name, value in row.items()}
