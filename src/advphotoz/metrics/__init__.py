r"""Metrics of photometric redshifts, for NumPy arrays, tensors and lists alike.

Two families, both computed in float64:

- of point estimates ``(z_phot, z_spec)``, through
  :math:`\Delta z = (z_{phot} - z_{spec}) / (1 + z_{spec})`: the paper's (Campagne 2020,
  arXiv:2002.10154, Sec. 3.1) `bias`, `sigma_mad` and `outlier_fraction`; and those of LSST DESC
  (RAIL and qp) under names of their own, `median_bias`, `sigma_iqr`, `outlier_fraction_desc`.
- of PDFs ``(pdf, z_spec, bins)``: `pit`, `crps`, `cde_loss`, `nll`. A PDF is a row of
  probabilities of the redshift bins, as ``bins.pdf(logits)`` gives; the density is constant within
  a bin and the CDF therefore linear there. Rows must sum to 1 within 1e-3 and are divided by
  their sum in float64, which removes the rounding of a float32 softmax.

For either, `bootstrap_error` gives the standard error of a metric, `paired_change` that of its
change between two predictions for the same galaxies; `wilson_interval` is the interval of a share,
and `binned_outliers` has one per bin.

Bad input (shapes that differ, nothing at all, NaN, infinities, masked values, a z_spec outside
the bins, rows that are no PDF) raises a ValueError that says which.
"""

from __future__ import annotations

from advphotoz.metrics.binned import BinnedOutliers, binned_outliers
from advphotoz.metrics.bootstrap import bootstrap_error, paired_change
from advphotoz.metrics.pdf import cde_loss, crps, nll, pit
from advphotoz.metrics.point import (
    bias,
    delta_z,
    median_bias,
    outlier_fraction,
    outlier_fraction_desc,
    sigma_iqr,
    sigma_mad,
    wilson_interval,
)

__all__ = [
    "BinnedOutliers",
    "bias",
    "binned_outliers",
    "bootstrap_error",
    "cde_loss",
    "crps",
    "delta_z",
    "median_bias",
    "nll",
    "outlier_fraction",
    "outlier_fraction_desc",
    "paired_change",
    "pit",
    "sigma_iqr",
    "sigma_mad",
    "wilson_interval",
]
