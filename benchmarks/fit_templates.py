"""Fit the corrections of the spectral templates: REPAIR_MAG in datasets/simulation/spectra.py.

    python benchmarks/fit_templates.py [--data ../shared/data]

Smooth corrections at REPAIR_AT, zero at 5700 Angstrom, bring the colours of a template to the
median colours of real galaxies in slices of redshift 0.02 wide: the red sequence for E (as
0.915 E + 0.085 Sbc, the mean of the simulated early types), galaxies of the template's own u-r for
Sbc and Scd, with the emission lines of a galaxy of M*. Only every second galaxy is fitted: the
others are for benchmarks/compare_galaxies.py. (The two files themselves are not alike: at the same
redshift, galaxies of the second are redder by 0.06 to 0.14 in the median of u-g.)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from advphotoz.datasets.simulation import spectra
from advphotoz.datasets.simulation.population import line_ratios, line_width
from advphotoz.datasets.simulation.spectra import (
    REPAIR_AT,
    REST,
    band_flux,
    tables,
    with_emission_lines,
)

LN_PER_MAG = 0.4 * np.log(10)


def correction(magnitudes: np.ndarray) -> np.ndarray:
    return LN_PER_MAG * np.interp(np.log(REST), np.log(REPAIR_AT), magnitudes)


def colours(log_sed: np.ndarray, z: float) -> np.ndarray:
    """Return u-g, g-r, r-i, i-z of a spectrum at z."""
    return 2.5 * np.diff(np.log10(band_flux(log_sed, z, 0.0)))


def red_sequence(real: np.ndarray) -> np.ndarray:
    """Return the galaxies near the mode of g-r out of one slice of redshift."""
    height, edges = np.histogram(real[:, 7], np.arange(0.6, 1.6, 0.02))
    mode = edges[np.argmax(np.convolve(height, np.ones(5), "same"))] + 0.01
    return real[np.abs(real[:, 7] - mode) < 0.07]


def fit(real: np.ndarray, log_sed: np.ndarray, share: float, other: np.ndarray, kind: int) -> None:
    red = kind == 0
    lines = (line_width(kind, 0.0), *line_ratios(0.0))

    goals = []
    for low in np.arange(0.02, 0.26, 0.02):
        there = real[(real[:, 0] >= low) & (real[:, 0] < low + 0.02)]
        if red:
            near = red_sequence(there)
        else:
            u_r = colours(log_sed, float(np.median(there[:, 0])))[:2].sum()
            near = there[np.abs(there[:, 6] + there[:, 7] - u_r) < 0.12]
        if len(near) >= 9:
            goals.append((np.median(near[:, 0]), len(near), np.median(near[:, 6:10], axis=0)))

    def residuals(magnitudes: np.ndarray) -> np.ndarray:
        mended = share * (log_sed + correction(magnitudes)) + (1 - share) * other
        if not red:
            mended = with_emission_lines(mended, *lines)
        misses = [
            (colours(mended, z) - goal) * np.sqrt(min(n, 200) / 200) / 0.01 for z, n, goal in goals
        ]
        smooth = 10 * np.diff(magnitudes, 2)
        return np.concatenate([*misses, smooth, 1.2 * magnitudes])

    solution = least_squares(residuals, np.zeros(len(REPAIR_AT))).x
    print(np.round(solution - solution[list(REPAIR_AT).index(5700)], 2).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    folder = parser.parse_args().data
    files = [np.loadtxt(folder / f"SDSS_MGS.{part}") for part in ("train", "test")]
    real = np.concatenate(files)[::2]

    spectra.REPAIR_MAG = np.zeros_like(spectra.REPAIR_MAG)  # start from what GalSim ships
    e, sbc, scd, _ = tables().log_templates
    print("E, Sbc, Scd at", REPAIR_AT.tolist(), "Angstrom, magnitudes:")
    fit(real, e, 0.915, sbc, kind=0)
    fit(real, sbc, 1.0, sbc, kind=1)
    fit(real, scd, 1.0, scd, kind=2)


if __name__ == "__main__":
    main()
