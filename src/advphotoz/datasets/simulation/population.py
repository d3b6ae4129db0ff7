"""The galaxy population: redshift, luminosity, type, colours, size and shape, drawn at random.

Every function draws from the generator it is given and from nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from advphotoz.datasets.simulation.observing import Conditions
from advphotoz.datasets.simulation.sdss import (
    PIXEL,
    Array,
    asinh_magnitude,
    asinh_magnitude_error,
    pixel_sigma,
)
from advphotoz.datasets.simulation.spectra import (
    REST,
    band_flux,
    blackbody,
    deviation,
    tables,
    template,
    with_emission_lines,
)

__all__ = ["Galaxy", "Source", "draw_galaxy", "draw_neighbours", "draw_photometry"]

M_STAR, ALPHA = -21.21, -1.05
"""r-band luminosity function of Blanton et al. 2003 (ApJ 592, 819), h = 0.7."""
EVOLUTION = 0.7
"""Magnitudes per unit redshift by which galaxies were brighter; 1.6 in the paper, see the docs."""
FLOOR = 0.0023
"""Relative error of a flux below which the real catalogue's hardly fall."""
NEIGHBOURS_PER_ARCMIN2 = 9.0
"""Stars and galaxies with 15 < r < 22 at high Galactic latitude."""


@dataclass(frozen=True, eq=False)
class Source:
    """One component on the sky."""

    flux: Array
    """(5,) nanomaggies."""
    sersic: float
    """Sersic index: 1 an exponential disk, 0 a point."""
    radius: float = 0.0
    """Half-light radius along the mean axis, arcsec."""
    axis_ratio: float = 1.0
    angle: float = 0.0
    """Of the major axis, degrees."""
    x: float = 0.0
    """From the centre of the stamp, arcsec."""
    y: float = 0.0


@dataclass(frozen=True, eq=False)
class Galaxy:
    """The galaxy in the middle of a stamp."""

    z: float
    ebv: float
    bulge: Source
    disk: Source

    @property
    def flux(self) -> Array:
        """(5,) nanomaggies, reddened, noiseless, all of the light."""
        return self.bulge.flux + self.disk.flux


@cache
def _cumulative(r_max: float) -> tuple[Array, Array, Array]:
    """Return (cumulative probability over the flattened (z, M) grid, M, r of shape (z, M))."""
    t = tables()
    magnitude = np.linspace(-24.5, -16.0, 171)
    luminosity = 10 ** (-0.4 * (magnitude - M_STAR))
    density = luminosity ** (ALPHA + 1) * np.exp(-luminosity)
    # M is in the band of z = 0.1, where K = -2.5 log10 1.1; around it a mean K correction.
    k = -0.104 + 0.95 * (t.z - 0.1)
    r = magnitude + (t.distance_modulus + k - EVOLUTION * (t.z - 0.1))[:, None]
    p = np.where((r > 13.5) & (r < r_max), density * t.volume[:, None], 0.0)
    total = np.cumsum(p)
    return total / total[-1], magnitude, r


def line_width(kind: float, relative: float) -> float:
    """Return the typical equivalent width of H alpha in a disk, in Angstrom.

    From 1.5 in E to some 70 in Im of luminosity L*; integrated spectra have 0 in E and S0, with
    [N II] 20 to 150 in late spirals and irregulars (Kennicutt 1998, ARA&A 36, 189). kind is the
    number of the template, relative M - M*.
    """
    return float(np.interp(kind, [0, 1, 2, 3], [1.5, 15, 35, 70]) * 10 ** (0.12 * relative))


def line_ratios(relative: float) -> Array:
    """Return the typical ([O III] 5007, [N II] 6584) over H alpha: metals rise with luminosity."""
    return np.array([0.2, 0.4]) * 10 ** (np.array([0.12, -0.12]) * relative)


def draw_galaxy(rng: np.random.Generator, r_max: float) -> Galaxy:
    """Draw one galaxy of a sample limited at r < r_max before Galactic reddening."""
    t = tables()
    cumulative, magnitudes, r_of = _cumulative(r_max)
    i, j = np.unravel_index(
        int(np.searchsorted(cumulative, rng.random(), side="right")), r_of.shape
    )
    z = float(t.z[i] + rng.uniform(-0.5, 0.5) * (t.z[1] - t.z[0]))
    r = float(min(r_of[i, j] + rng.uniform(-0.025, 0.025), r_max))
    relative = magnitudes[j] - M_STAR  # bright galaxies are negative
    ebv = float(np.clip(rng.gamma(1.8, 0.02), 0.004, 0.3))

    early = rng.random() < np.clip(0.53 - 0.12 * relative - 0.3 * (z - 0.1), 0.05, 0.9)
    tilt = np.log(REST / 5500)
    if early:
        kind = rng.uniform(0, 0.6)
        disk = template(kind)
        share = rng.beta(5, 2)
    else:
        # Of the disk's own dust, at 5500 Angstrom; luminous galaxies have more of it.
        depth = 1.6 * min(rng.exponential(0.16), 0.5) * 10 ** (-0.15 * relative)
        mean = 1.6 + 0.35 * relative + (z - 0.1)
        kind = float(np.clip(rng.normal(mean, 0.6), 0.3, 3))
        disk = template(kind)
        disk = disk - depth * (REST / 5500) ** -0.7
        share = rng.beta(1.2, 4)
    disk = disk + rng.normal(0, 0.1) * tilt + deviation(rng)
    bulge = template(0) + rng.normal(0, 0.1) * tilt + deviation(rng)
    width = line_width(kind, relative) * np.exp(rng.normal(0, 0.5))
    o3, n2 = line_ratios(relative) * np.exp(rng.normal(0, [0.5, 0.2]))
    disk = with_emission_lines(disk, float(width), float(o3), float(n2))

    total = 10 ** (0.4 * (22.5 - r))
    fluxes = []
    for spectrum, part in ((bulge, share), (disk, 1 - share)):
        unreddened = band_flux(spectrum, z, 0.0)[2]
        fluxes.append(band_flux(spectrum, z, ebv) / unreddened * part * total)

    luminosity = 10 ** (-0.4 * relative)
    kpc = (3.8 * luminosity**0.5 if early else 5.0 * luminosity**0.3) * np.exp(rng.normal(0, 0.3))
    radius = float(kpc / np.interp(z, t.z, t.kpc_per_arcsec))
    q, angle = float(rng.uniform(0.25, 1)), float(rng.uniform(0, 180))
    x, y = rng.uniform(-0.5, 0.5, 2) * PIXEL
    # GalSim builds a table per Sersic index: a short list of them is twelve times faster.
    index = float(rng.choice([2.5, 3.0, 3.5, 4.0]))
    return Galaxy(
        z,
        ebv,
        Source(fluxes[0], index, max(0.45 * radius, 0.15), float(np.sqrt(q)), angle, x, y),
        Source(fluxes[1], 1.0, max(radius, 0.2), q, angle, x, y),
    )


def draw_neighbours(rng: np.random.Generator, ebv: float, side: float) -> list[Source]:
    """Draw the stars and faint galaxies that share a stamp of the given side in arcsec."""
    sources = []
    for _ in range(rng.poisson(NEIGHBOURS_PER_ARCMIN2 * (side / 60) ** 2)):
        # Counts that rise as 10^(0.35 m) between the magnitudes 15 and 22.
        r = 22 + np.log10(1 - rng.random() * (1 - 10 ** (-0.35 * 7))) / 0.35
        x, y = rng.uniform(-0.5, 0.5, 2) * side
        if rng.random() < 0.3:
            colour = band_flux(blackbody(rng.uniform(3500, 7000)), 0.0, ebv)
            index, radius, q, angle = 0.0, 0.0, 1.0, 0.0
        else:
            colour = band_flux(template(rng.uniform(0, 3)), rng.uniform(0.05, 0.5), ebv)
            index = 1.0
            radius, q, angle = rng.uniform(0.4, 1.5), rng.uniform(0.3, 1), rng.uniform(0, 180)
        flux = colour / colour[2] * 10 ** (0.4 * (22.5 - r))
        sources.append(Source(flux, index, radius, q, angle, x, y))
    return sources


def draw_photometry(
    rng: np.random.Generator, galaxy: Galaxy, conditions: Conditions
) -> tuple[Array, Array]:
    """Draw the observed magnitudes (5,) of a galaxy and return them with their errors (5,).

    Fitting a profile known in advance collects the noise of 4 pi s^2 / pixel^2 pixels, where s is
    the Gaussian width of the profile seen through the point-spread function. Real errors of a fit
    whose size and shape are free are larger: here those of 1.5 times the area, and never below
    FLOOR. Errors of calibration and the residual of the sky move the flux and no error tells.
    """
    share = galaxy.disk.flux[2] / galaxy.flux[2]
    radius = share * galaxy.disk.radius + (1 - share) * galaxy.bulge.radius
    width2 = (conditions.fwhm / 2.355) ** 2 + (radius / 1.177) ** 2
    n_pixels = 6 * np.pi * width2 / PIXEL**2
    seen = conditions.calibration * galaxy.flux
    sigma = np.hypot(pixel_sigma(seen, conditions.sky, n_pixels), FLOOR * seen)
    flux = seen + n_pixels * conditions.residual + rng.normal(0, 1, 5) * sigma
    return asinh_magnitude(flux), asinh_magnitude_error(flux, sigma)
