"""Outliers by bins of a catalogue quantity: who goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from advphotoz._checks import check_at_least_one
from advphotoz.metrics.point import _vector, delta_z, wilson_interval

__all__ = ["BinnedOutliers", "binned_outliers"]

Array = npt.NDArray[np.float64]


class BinnedOutliers(NamedTuple):
    """The fraction of outliers in each of B bins.

    Attributes
    ----------
    edges : ndarray, (B + 1,)
        Of the bins, in the units of the quantity.
    mean : ndarray, (B,)
        Of the quantity in each bin; NaN where a bin is empty, as all that follows.
    n : ndarray, (B,)
        Number of samples.
    eta : ndarray, (B,)
        Fraction of outliers, in [0, 1].
    low, high : ndarray, (B,)
        Its interval of one standard deviation (68 %), with ``low <= eta <= high``.
    """

    edges: Array
    mean: Array
    n: npt.NDArray[np.int64]
    eta: Array
    low: Array
    high: Array


def binned_outliers(
    values: Any,
    z_phot: Any,
    z_spec: Any,
    edges: int | Sequence[float] = 8,
    threshold: float = 0.05,
) -> BinnedOutliers:
    r"""Fraction of samples with :math:`|\Delta z|` above the threshold, in bins of a quantity.

    The interval is that of :func:`wilson_interval` at one standard deviation.

    Parameters
    ----------
    values : array, Tensor or list, (N,)
        The quantity: a redshift, a magnitude, a colour.
    z_phot, z_spec : array, Tensor or list, (N,)
        Estimated and true redshifts.
    edges : int or sequence of float
        Edges of the bins, increasing, the last one included; or a number of bins, each to hold
        the same number of samples.
    threshold : float
        Of an outlier, in units of dz.

    Returns
    -------
    BinnedOutliers
        Arrays, one value per bin.

    Raises
    ------
    ValueError
        As :func:`~advphotoz.metrics.outlier_fraction`; if lengths differ, edges do not increase,
        or a value lies outside them.

    Examples
    --------
    >>> r = [16.0, 16.5, 17.0, 17.5]
    >>> found = binned_outliers(r, [0.1, 0.1, 0.1, 0.3], [0.1] * 4, edges=[16, 17, 18])
    >>> found.n, found.eta
    (array([2, 2]), array([0. , 0.5]))
    """
    quantity = _vector(values, "values")
    wrong = np.abs(delta_z(z_phot, z_spec)) > threshold
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, in units of dz; got {threshold}.")
    if len(quantity) != len(wrong):
        raise ValueError(
            f"values must hold one number per redshift; got {len(quantity)} and {len(wrong)}."
        )
    limits = _edges(edges, quantity)
    outside = (quantity < limits[0]) | (quantity > limits[-1])
    if outside.any():
        raise ValueError(
            f"{outside.sum()} of {len(outside)} values lie outside the edges, {limits[0]:.6g} to "
            f"{limits[-1]:.6g}: they span {quantity.min():.6g} to {quantity.max():.6g}. Widen the "
            "edges, or remove these samples from values, z_phot and z_spec alike."
        )
    bins = len(limits) - 1
    index = np.minimum(np.searchsorted(limits, quantity, side="right") - 1, bins - 1)
    n = np.bincount(index, minlength=bins)
    wrong_n = np.bincount(index, wrong, bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 in empty bins is NaN
        mean, eta = np.bincount(index, quantity, bins) / n, wrong_n / n
    low, high = np.full((2, bins), np.nan)
    filled = n > 0
    low[filled], high[filled] = wilson_interval(wrong_n[filled], n[filled])
    return BinnedOutliers(limits, mean, n, eta, low, high)


def _edges(edges: Any, quantity: Array) -> Array:
    if np.ndim(edges) == 0:
        check_at_least_one(edges, "edges")
        limits = np.quantile(quantity, np.linspace(0, 1, edges + 1))
    else:
        limits = _vector(edges, "edges")
    if len(limits) < 2 or (np.diff(limits) <= 0).any():
        raise ValueError(
            f"edges must be at least two and increase; got {limits.tolist()}. Where these come "
            "from a number of bins, too many values are equal: give the edges themselves."
        )
    return limits
