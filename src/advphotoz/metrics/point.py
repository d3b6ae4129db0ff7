"""Metrics of point estimates, the paper's and those of LSST DESC; the interval of a share."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from advphotoz._arrays import as_numpy

__all__ = [
    "bias",
    "delta_z",
    "median_bias",
    "outlier_fraction",
    "outlier_fraction_desc",
    "sigma_iqr",
    "sigma_mad",
    "wilson_interval",
]

Array: TypeAlias = npt.NDArray[np.float64]

ONE_SIGMA = math.erf(1 / math.sqrt(2))  # 0.6827: the normal distribution within one sigma


def delta_z(z_phot: Any, z_spec: Any) -> Array:
    r"""Scaled redshift errors.

    .. math:: \Delta z = (z_{phot} - z_{spec}) / (1 + z_{spec})

    (Campagne 2020, Sec. 3.1.)

    Parameters
    ----------
    z_phot, z_spec : array, Tensor or list, (N,)
        Estimated and true redshifts.

    Returns
    -------
    ndarray, (N,)
        float64.

    Raises
    ------
    ValueError
        If the shapes differ or are not (N,), N is 0, a value is NaN, infinite or masked, or a
        z_spec is not above -1.

    Examples
    --------
    >>> delta_z([0.1, 0.5], [0.25, 0.5])
    array([-0.12,  0.  ])
    """
    estimate, truth = (_vector(z, name) for z, name in ((z_phot, "z_phot"), (z_spec, "z_spec")))
    if estimate.shape != truth.shape:
        raise ValueError(
            f"z_phot and z_spec must have the same length; got {len(estimate)} and {len(truth)}."
        )
    if truth.min() <= -1:
        raise ValueError(f"z_spec must lie above -1; got {truth.min():.6g}.")
    return np.asarray((estimate - truth) / (1 + truth))


def bias(z_phot: Any, z_spec: Any) -> float:
    r"""Mean of dz, the paper's bias (it reports 1e4 times it).

    Shapes and errors are those of :func:`delta_z`.

    Examples
    --------
    >>> round(bias([0.1, 0.5], [0.25, 0.5]), 6)
    -0.06
    """
    return float(delta_z(z_phot, z_spec).mean())


def sigma_mad(z_phot: Any, z_spec: Any) -> float:
    r"""Scaled median absolute deviation of dz (the paper reports 1e3 times it).

    .. math:: \sigma_{MAD} = 1.4826\, \mathrm{median} |\Delta z - \mathrm{median}(\Delta z)|

    The paper prints it without the outer median; Pasquet et al.'s script has 1.48. Shapes and
    errors are those of :func:`delta_z`.

    Examples
    --------
    >>> round(sigma_mad([0.1, 0.2, 0.4], [0.0, 0.0, 0.0]), 6)
    0.14826
    """
    dz = delta_z(z_phot, z_spec)
    return float(1.4826 * np.median(np.abs(dz - np.median(dz))))


def outlier_fraction(z_phot: Any, z_spec: Any, threshold: float = 0.05) -> float:
    r"""Fraction of samples with :math:`|\Delta z|` above the threshold, the paper's eta.

    It is a fraction in [0, 1]; the paper reports percent. Shapes and errors are those of
    :func:`delta_z`; a threshold that is not positive is refused too.

    Examples
    --------
    >>> outlier_fraction([0.1, 0.5], [0.25, 0.5])
    0.5
    """
    if not threshold > 0:
        raise ValueError(f"threshold must be positive, in units of dz; got {threshold}.")
    return float((np.abs(delta_z(z_phot, z_spec)) > threshold).mean())


def median_bias(z_phot: Any, z_spec: Any) -> float:
    """Median of dz, the point bias of LSST DESC (qp's PointBias).

    Shapes and errors are those of :func:`delta_z`.

    Examples
    --------
    >>> median_bias([0.1, 0.2, 0.9], [0.0, 0.0, 0.0])
    0.2
    """
    return float(np.median(delta_z(z_phot, z_spec)))


def sigma_iqr(z_phot: Any, z_spec: Any) -> float:
    r"""Scaled interquartile range of dz, the scatter of LSST DESC (qp's PointSigmaIQR).

    .. math:: \sigma_{IQR} = (q_{75} - q_{25}) / 1.349

    Shapes and errors are those of :func:`delta_z`.

    Examples
    --------
    >>> round(sigma_iqr([0.0, 0.1, 0.2], [0.0, 0.0, 0.0]) * 1.349, 6)
    0.1
    """
    low, high = np.percentile(delta_z(z_phot, z_spec), [25.0, 75.0])
    return float((high - low) / 1.349)


def outlier_fraction_desc(z_phot: Any, z_spec: Any) -> float:
    r"""Outliers as LSST DESC counts them (qp's PointOutlierRate).

    The fraction with :math:`|\Delta z| > \max(0.06, 3 \sigma_{IQR})`. Shapes and errors are those
    of :func:`delta_z`.

    Examples
    --------
    >>> outlier_fraction_desc([0.0, 0.0, 0.0, 0.0, 0.9], [0.0] * 5)
    0.2
    """
    threshold = max(0.06, 3 * sigma_iqr(z_phot, z_spec))
    return outlier_fraction(z_phot, z_spec, threshold)


def wilson_interval(count: Any, n: Any, level: float = ONE_SIGMA) -> tuple[Any, Any]:
    r"""Confidence interval of a share, of which ``count`` of ``n`` samples were found.

    Wilson's (1927) score interval, which Brown, Cai & DasGupta (2001) recommend: all p with
    :math:`|k/n - p| \le z \sqrt{p (1 - p) / n}`. It stays in [0, 1], contains the share
    :math:`k/n`, and is not of zero length where no sample, or every one, is counted:

    .. math::
        \frac{1}{n + z^2} \left[ k + \frac{z^2}{2}
        \pm z \sqrt{\frac{k (n - k)}{n} + \frac{z^2}{4}} \right],
        \qquad z = \Phi^{-1}\left(\frac{1 + \mathrm{level}}{2}\right)

    Parameters
    ----------
    count : int, or array, Tensor or list, any shape
        Number k of samples counted, from 0 to n. It is a number, not a share.
    n : int, or array, Tensor or list, of a shape that broadcasts with it
        Number of samples, at least 1.
    level : float
        Probability content, between 0 and 1. The default is that of one standard deviation,
        0.6827, so that z is 1.

    Returns
    -------
    low, high : float, or ndarray where an array was given
        Ends of the interval, ``0 <= low <= count / n <= high <= 1``.

    Raises
    ------
    ValueError
        If a number is not whole or masked, n is less than 1, count is not from 0 to n, or level
        not between 0 and 1.

    Examples
    --------
    >>> low, high = wilson_interval(5, 100)
    >>> round(low, 4), round(high, 4)
    (0.0323, 0.0766)
    >>> wilson_interval([0, 10], 10, level=0.95)
    (array([0.    , 0.7225]), array([0.2775, 1.    ]))
    """
    k, total = (as_numpy(value).astype(np.float64) for value in (count, n))
    if not (np.isfinite(total).all() and (total >= 1).all() and (total % 1 == 0).all()):
        raise ValueError(f"n must be a number of samples, whole and at least 1; got {n}.")
    if not (np.isfinite(k).all() and ((k >= 0) & (k <= total) & (k % 1 == 0)).all()):
        raise ValueError(
            f"count must be a number of samples, whole and from 0 to n; got {count} of {n}. For a "
            "share give the number that it stands for."
        )
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, such as 0.95; got {level}.")
    z2 = NormalDist().inv_cdf((1 - level) / 2) ** 2

    def lower_end(k: Array) -> Array:
        # The product of the two ends is k^2 / (n (n + z^2)). To divide by the upper one avoids the
        # difference of nearly equal numbers, and is exactly 0 where k is.
        upper_sum = k + z2 / 2 + np.sqrt(z2 * (k * (total - k) / total + z2 / 4))
        return np.asarray(k**2 / (total * upper_sum))

    low, high = lower_end(k), 1 - lower_end(total - k)
    return (low, high) if low.ndim else (float(low), float(high))


def _vector(values: Any, name: str) -> Array:
    array = as_numpy(values).astype(np.float64)
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{name} must have shape (N,) with N at least 1; got {array.shape}.")
    bad = ~np.isfinite(array)
    if bad.any():
        raise ValueError(
            f"{name} must be finite; {bad.sum()} of {bad.size} values are NaN or infinite, the "
            f"first at {bad.argmax()}. Remove these samples from z_phot and z_spec alike."
        )
    return array
