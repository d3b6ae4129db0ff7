"""Template spectra, and their fluxes through redshift, Galactic dust and the SDSS filters."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from advphotoz._checks import require
from advphotoz.datasets.simulation.sdss import BANDS, Array

__all__ = [
    "REST",
    "Tables",
    "band_flux",
    "blackbody",
    "deviation",
    "tables",
    "template",
    "with_emission_lines",
]

REST = np.arange(900.0, 12000.0, 5.0)
"""Wavelengths of the templates, in Angstrom, in the rest frame."""
OBSERVED = np.arange(2900.0, 11300.0, 10.0)
"""Wavelengths that the SDSS curves cover, in Angstrom."""
REPAIR_AT = np.array([2600, 3000, 3300, 3600, 3900, 4200, 4600, 5100, 5700, 6500, 7500, 8800.0])
REPAIR_MAG = np.array(
    [
        [-0.34, -0.28, -0.20, -0.01, 0.09, 0.08, 0.02, -0.03, 0.00, -0.04, 0.01, 0.03],
        [0.11, 0.08, 0.04, -0.06, -0.12, -0.07, 0.04, 0.04, 0.00, 0.02, 0.00, -0.12],
        [0.04, 0.02, -0.01, -0.05, -0.03, 0.02, 0.04, 0.01, 0.00, -0.01, 0.02, 0.03],
        [0.04, 0.02, -0.01, -0.05, -0.03, 0.02, 0.04, 0.01, 0.00, -0.01, 0.02, 0.03],
    ]
)
"""Magnitudes by which E, Sbc, Scd, Im are brightened at REPAIR_AT (Angstrom, rest frame).

As shipped, the elliptical is up to 0.11 too red in g-r and 0.2 too blue in u-g, the spirals too
blue in r-i. The values are a least-squares fit to the median colours of real galaxies, every second
one of a catalogue, in slices of redshift: the red sequence for E, galaxies of the template's own
u-r for Sbc and Scd. Too few real ones are as blue as Im, which takes the values of Scd.
docs/galaxies.md has the figures.
"""

DEVIATES_AT = np.array([2600, 3100, 3700, 4400, 5250, 6250, 7450, 8900, 10600.0])
DEVIATION = np.array([0.08, 0.06, 0.04, 0.018, 0.01, 0.01, 0.01, 0.01, 0.01])
"""Scatter of ln f_lambda about the templates at DEVIATES_AT (Angstrom, rest frame)."""
LINE_WIDTH = 8.0
"""Gaussian sigma in Angstrom: far narrower than a filter, wide enough for the grids here."""


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


def deviation(rng: np.random.Generator) -> Array:
    """Draw a smooth departure from a template, to be added to its ln f_lambda.

    Independent at the knots DEVIATES_AT and linear in ln lambda between them; the amplitude is
    lognormal, so that some galaxies are much odder than others.
    """
    size = DEVIATION * np.exp(rng.normal(0, 0.4))
    knots = rng.normal(0, 1, len(size)) * size
    return np.asarray(np.interp(np.log(REST), np.log(DEVIATES_AT), knots))


def _line(wavelength: float, flux: float) -> Array:
    """Return f_lambda of an emission line of that flux."""
    x = (REST - wavelength) / LINE_WIDTH
    return np.asarray(flux * np.exp(-0.5 * x**2) / (np.sqrt(2 * np.pi) * LINE_WIDTH))


_BALMER = _line(3728, 0.5) + _line(4861, 0.25) + _line(6563, 1.0) + _line(6724, 0.35)
_O3 = _line(5007, 1.0) + _line(4959, 1 / 3)
_N2 = _line(6584, 1.0) + _line(6548, 1 / 3)


def with_emission_lines(log_sed: Array, width: float, o3: float, n2: float) -> Array:
    """Return ln f_lambda with the lines of H II regions added.

    width is the equivalent width of H alpha in Angstrom, o3 and n2 the fluxes of [O III] 5007 and
    [N II] 6584 over that of H alpha. H beta, 0.25, is a Balmer decrement of 2.86 with A_V of about
    1; [O II], 0.5, and [S II], 0.35, are round values for spirals.
    """
    profile = width * (_BALMER + o3 * _O3 + n2 * _N2)
    return log_sed + np.log1p(profile * np.exp(np.interp(6563, REST, log_sed) - log_sed))


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
