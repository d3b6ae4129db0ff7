"""The conditions of one exposure: point-spread function, sky and calibration of one stamp.

No two stamps of a survey are taken alike; a `Conditions` without arguments is the ideal one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from advphotoz.datasets.simulation.sdss import PSF_FWHM, SKY_SIGMA, Array

__all__ = ["Conditions", "draw_conditions"]

CALIBRATION = np.array([0.02, 0.01, 0.01, 0.01, 0.01])
"""Scatter of the zero points in magnitudes, Padmanabhan et al. 2008 (ApJ 674, 1217)."""


@dataclass(frozen=True, eq=False)
class Conditions:
    """What the telescope and the sky did to one stamp; (5,) arrays have the bands ugriz."""

    fwhm: Array = field(default_factory=PSF_FWHM.copy)
    """(5,) of the core of the point-spread function, arcsec, pixel included."""
    beta: float = 3.5
    """Moffat exponent of the core."""
    wing: float = 0.0
    """Share of the light in a second Moffat profile, three times as wide as the core."""
    shear: Array = field(default_factory=lambda: np.zeros((5, 2)))
    """(5, 2) reduced shear (g1, g2) of the point-spread function."""
    sky: Array = field(default_factory=SKY_SIGMA.copy)
    """(5,) noise of an empty pixel in nanomaggies."""
    residual: Array = field(default_factory=lambda: np.zeros(5))
    """(5,) sky left in every pixel after its subtraction, nanomaggies."""
    calibration: Array = field(default_factory=lambda: np.ones(5))
    """(5,) factor on every flux by errors of the zero points."""


def draw_conditions(rng: np.random.Generator) -> Conditions:
    """Draw the conditions of one stamp; what the five bands share is drawn once."""
    sky = SKY_SIGMA * np.exp(rng.normal(0, 0.08) + rng.normal(0, 0.06, 5))
    return Conditions(
        fwhm=PSF_FWHM * np.exp(rng.normal(0, 0.1) + rng.normal(0, 0.03, 5)),
        # Half-integer: the Fourier transform is elementary, and drawing twice as fast as with 3.
        beta=float(rng.choice([2.5, 3.5])),
        wing=float(0.05 * np.exp(rng.normal(0, 0.4))),
        shear=rng.normal(0, 0.02, 2) + rng.normal(0, 0.01, (5, 2)),
        sky=sky,
        residual=0.04 * sky * rng.normal(0, 1, 5),
        calibration=10 ** (-0.4 * CALIBRATION * rng.normal(0, 1, 5)),
    )
