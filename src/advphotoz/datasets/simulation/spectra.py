"""Template spectra, and their fluxes through redshift, Galactic dust and the SDSS filters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from advphotoz._checks import require
from advphotoz.datasets.simulation.sdss import BANDS, Array

__all__ = ["REST", "Tables", "band_flux", "blackbody", "tables", "template"]

REST = np.arange(900.0, 12000.0, 5.0)
"""Wavelengths of the templates, in Angstrom, in the rest frame."""
OBSERVED = np.arange(2900.0, 11300.0, 10.0)
"""Wavelengths that the SDSS curves cover, in Angstrom."""
REPAIR_AT = np.array([2600, 3000, 3300, 3600, 3900, 4200, 4600, 5100, 5700, 6500, 7500, 8800.0])
REPAIR_MAG = np.array(
    [
        [-0.25, -0.26, -0.21, -0.01, 0.07, 0.08, 0.02, -0.03, 0.00, -0.05, 0.01, 0.02],
        [0.11, 0.08, 0.05, -0.03, -0.13, -0.07, 0.08, 0.05, 0.00, 0.08, 0.02, -0.10],
        [0.04, 0.04, 0.02, 0.00, 0.00, 0.06, 0.09, 0.03, 0.00, 0.12, 0.06, 0.06],
        [0.04, 0.04, 0.02, 0.00, 0.00, 0.06, 0.09, 0.03, 0.00, 0.12, 0.06, 0.06],
    ]
)
"""Magnitudes by which E, Sbc, Scd, Im are brightened at REPAIR_AT (Angstrom, rest frame).

As shipped, the elliptical is up to 0.11 too red in g-r and 0.2 too blue in u-g, the spirals too
blue in r-i. The values are a least-squares fit to the median colours of real galaxies in slices of
redshift: the red sequence for E, galaxies of the template's own u-r for Sbc and Scd. Too few real
ones are as blue as Im, which takes the values of Scd. docs/galaxies.md has the figures.
"""


@dataclass(frozen=True, eq=False)
class Tables:
    """What is computed once per process."""

    log_templates: Array
    """(4, len(REST)) natural logarithm of f_lambda for E, Sbc, Scd, Im, any normalisation."""
    weights: Array
    """(5, len(OBSERVED)) so that (weights * f_lambda).sum(1) is proportional to an AB flux."""
    reddening: Array
    """(len(OBSERVED),) A(lambda) in magnitudes for E(B-V) = 1."""
    z: Array
    """Redshifts at which the next three are given."""
    distance_modulus: Array
    """Magnitudes."""
    kpc_per_arcsec: Array
    """Proper kiloparsecs."""
    volume: Array
    """Comoving volume per unit redshift, any normalisation."""


@cache
def tables() -> Tables:
    """Read the templates and curves that GalSim and speclite ship; needs the extra `sim`."""
    galsim = require("galsim", "sim")
    filters = require("speclite.filters", "sim")
    units = require("astropy.units", "sim")
    cosmology = require("astropy.cosmology", "sim").FlatLambdaCDM(H0=70, Om0=0.3)
    dust = require("dust_extinction.parameter_averages", "sim").F99(Rv=3.1)

    logs = []
    for name, repair in zip(("E", "Sbc", "Scd", "Im"), REPAIR_MAG, strict=True):
        path = Path(galsim.meta_data.share_dir) / "SEDs" / f"CWW_{name}_ext.sed"
        wavelength, flux = np.loadtxt(path, unpack=True)
        brighter = np.interp(np.log(REST), np.log(REPAIR_AT), repair)
        logs.append(np.log(np.interp(REST, wavelength, flux)) + 0.4 * np.log(10) * brighter)

    curves = filters.load_filters(*(f"sdss2010-{band}" for band in BANDS))
    response = np.array([np.interp(OBSERVED, c.wavelength, c.response) for c in curves])
    # AB: photons counted, over those of a source of constant f_nu.
    weights = response * OBSERVED / (response / OBSERVED).sum(axis=1, keepdims=True)

    z = np.linspace(0.005, 0.5, 397)
    return Tables(
        log_templates=np.array(logs),
        weights=weights,
        # 0.86: Schlafly & Finkbeiner 2011 (ApJ 737, 103) on the scale of the SFD map's E(B-V).
        reddening=0.86 * 3.1 * np.asarray(dust(OBSERVED * units.AA)),
        z=z,
        distance_modulus=np.asarray(cosmology.distmod(z).value),
        kpc_per_arcsec=np.asarray(cosmology.angular_diameter_distance(z).value) * 1e3 / 206265,
        volume=np.asarray(cosmology.differential_comoving_volume(z).value),
    )


def template(t: float) -> Array:
    """Return ln f_lambda of type t in [0, 3]: 0 E, 1 Sbc, 2 Scd, 3 Im, between them the mean."""
    logs = tables().log_templates
    low = min(int(t), 2)
    return np.asarray(logs[low] * (1 - t + low) + logs[low + 1] * (t - low))


def blackbody(temperature: float) -> Array:
    """Return ln f_lambda of a black body, temperature in kelvin: good enough for a star."""
    x = 1.438777e8 / (REST * temperature)
    return np.asarray(-5 * np.log(REST) - np.log(np.expm1(x)))


def band_flux(log_sed: Array, z: float, ebv: float) -> Array:
    """Return the AB fluxes (5,) of a rest-frame spectrum seen at z behind E(B-V) = ebv.

    f_b = int R_b f_lambda lambda dlambda / int R_b dlambda / lambda, up to a constant that
    depends on z but not on ebv.
    """
    t = tables()
    dimming = 0.4 * np.log(10) * ebv * t.reddening
    seen = np.exp(np.interp(OBSERVED / (1 + z), REST, log_sed) - dimming)
    # A sum, not a matrix product: its rounding does not depend on the number of BLAS threads.
    return np.asarray((t.weights * seen).sum(axis=1))
