"""Simulated SDSS galaxies, from the luminosity function to noisy pixels.

`sample` holds `simulate` and its cache; `workers` divides the work among processes; `drawing` turns
sources into pixels; `population` draws the galaxies and `observing` the conditions of an exposure;
`spectra` gives fluxes; `sdss` holds the constants of the survey. Imports run in that order.
"""

from __future__ import annotations

from advphotoz.datasets.simulation.sample import simulate

__all__ = ["simulate"]
