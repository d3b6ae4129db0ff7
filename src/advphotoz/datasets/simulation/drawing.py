"""Images of galaxies: profiles convolved with the point-spread function, then noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from advphotoz._checks import require
from advphotoz.datasets.simulation.observing import Conditions, draw_conditions
from advphotoz.datasets.simulation.population import (
    Source,
    draw_galaxy,
    draw_neighbours,
    draw_photometry,
)
from advphotoz.datasets.simulation.sdss import PIXEL, pixel_sigma

__all__ = ["draw_row", "draw_sources"]

WING_BETA, WING_WIDTH = 3.5, 3.0
"""Of the wing of the point-spread function: Moffat exponent, and FWHM over that of the core."""
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


def _psf(conditions: Conditions, band: int) -> Any:
    """Return the GalSim profile of a band's point-spread function: a core, and a wing round it."""
    galsim = require("galsim", "sim")
    width = conditions.fwhm[band]
    psf = galsim.Moffat(beta=conditions.beta, fwhm=width)
    if conditions.wing > 0:
        wing = galsim.Moffat(beta=WING_BETA, fwhm=WING_WIDTH * width)
        psf = galsim.Sum(psf.withFlux(1 - conditions.wing), wing.withFlux(conditions.wing))
    g1, g2 = conditions.shear[band]
    return psf.shear(g1=g1, g2=g2) if g1 or g2 else psf


def draw_sources(
    sources: Sequence[Source], conditions: Conditions, size: int
) -> npt.NDArray[np.float32]:
    """Draw sources through the point-spread function, no noise: (5, size, size), nanomaggies."""
    galsim = require("galsim", "sim")
    profiles = [_profile(source) for source in sources]
    cube = np.empty((len(conditions.fwhm), size, size), np.float32)
    for band in range(len(cube)):
        psf = _psf(conditions, band)
        sky = galsim.Sum([p * s.flux[band] for p, s in zip(profiles, sources, strict=True)])
        image = galsim.ImageF(cube[band], scale=PIXEL)
        # The measured width of the point-spread function includes the pixel already.
        galsim.Convolve(sky, psf).drawImage(image=image, method="no_pixel")
    return cube


def draw_row(seed: int, index: int, r_max: float, size: int) -> dict[str, npt.NDArray[Any]]:
    """Draw galaxy number index of a seed: its own random stream, so that no other one matters."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
    galaxy = draw_galaxy(rng, r_max)
    conditions = draw_conditions(rng)
    mag, mag_err = draw_photometry(rng, galaxy, conditions)
    neighbours = draw_neighbours(rng, galaxy.ebv, size * PIXEL)
    by_band = (slice(None), None, None)
    cube = draw_sources([galaxy.bulge, galaxy.disk, *neighbours], conditions, size)
    cube *= conditions.calibration[by_band].astype(np.float32)
    noise = rng.standard_normal(cube.shape, dtype=np.float32) * pixel_sigma(cube, conditions.sky)
    row = {
        "image": cube + noise + conditions.residual[by_band],
        "ebv": galaxy.ebv,
        "z": galaxy.z,
        "mag": mag,
        "mag_err": mag_err,
        "flux": galaxy.flux,
    }
    return {name: np.asarray(value, np.float32) for name, value in row.items()}
