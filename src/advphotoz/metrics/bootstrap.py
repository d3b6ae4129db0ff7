"""Bootstrap standard errors, of any metric and of its change between two predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from advphotoz._arrays import as_numpy
from advphotoz._checks import check_at_least_one

__all__ = ["bootstrap_error", "paired_change"]


def bootstrap_error(
    metric: Callable[..., float],
    *arrays: Any,
    n_resamples: int = 200,
    seed: int = 0,
    **kwargs: Any,
) -> float:
    """Bootstrap standard error of a metric: its scatter over resamples of the rows.

    Parameters
    ----------
    metric : callable
        Called as ``metric(*resampled, **kwargs)``; returns one number.
    *arrays : array, Tensor or list
        Its arrays, of one length N; the same rows are drawn, with replacement, from all.
    n_resamples : int
        Number of resamples, at least 2.
    seed : int
        Of ``numpy.random.default_rng``; the same seed gives the same result.
    **kwargs
        Further arguments of the metric, such as ``bins`` or ``threshold``.

    Returns
    -------
    float
        Standard deviation of the metric, with n_resamples - 1 in the denominator.

    Raises
    ------
    ValueError
        If there is no array, lengths differ, N or n_resamples is less than 2, or the metric
        refuses its input.
    TypeError
        If n_resamples is not an integer, or the metric returns more than one number.

    Examples
    --------
    >>> from advphotoz.metrics import bias
    >>> bootstrap_error(bias, [0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    0.0
    """
    check_at_least_one(n_resamples, "n_resamples")
    rows = [as_numpy(values) for values in arrays]
    lengths = [len(values) if values.ndim else 0 for values in rows]
    if not rows or len(set(lengths)) != 1 or lengths[0] < 2 or n_resamples < 2:
        raise ValueError(
            "A bootstrap needs arrays of one length of at least 2, and at least 2 resamples; got "
            f"lengths {lengths} and n_resamples={n_resamples}."
        )
    metric(*rows, **kwargs)  # errors name rows as the caller has them
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(n_resamples):
        index = rng.integers(lengths[0], size=lengths[0])
        value = np.asarray(metric(*(array[index] for array in rows), **kwargs))
        if value.ndim:
            raise TypeError(
                f"The metric must return one number; got an array of shape {value.shape}. Wrap "
                "it in a function that reduces it."
            )
        values.append(float(value))
    return float(np.std(values, ddof=1))


def paired_change(
    metric: Callable[..., float],
    z_phot: Any,
    z_phot_reference: Any,
    z_spec: Any,
    n_resamples: int = 200,
    seed: int = 0,
    **kwargs: Any,
) -> tuple[float, float]:
    r"""Change of a metric between two predictions for the same galaxies, with its standard error.

    .. math:: \Delta m = m(z_{phot}, z_{spec}) - m(z_{phot}^{reference}, z_{spec})

    Its error is the scatter of :math:`\Delta m` over resamples of the galaxies, drawn for both
    predictions together (a paired bootstrap, Efron & Tibshirani 1993). What both have in common,
    such as the galaxies that are hard for every network, cancels. The errors of the two metrics by
    themselves cannot say this: added in quadrature they take the predictions for independent, and
    exceed the error of the change several times where both agree on most galaxies.

    Parameters
    ----------
    metric : callable
        Called as ``metric(z_phot, z_spec, **kwargs)``; returns one number.
    z_phot, z_phot_reference : array, Tensor or list, (N, ...)
        The two predictions, of attacked and clean images or of two networks: redshifts (N,), or
        PDFs (N, n) for a metric of PDFs. Row i of both belongs to galaxy i.
    z_spec : array, Tensor or list, (N,)
        True redshifts.
    n_resamples, seed : int
        As for :func:`bootstrap_error`.
    **kwargs
        Further arguments of the metric, such as ``threshold``.

    Returns
    -------
    change, error : float
        In the units of the metric; a positive change means that it is larger than for the
        reference.

    Raises
    ------
    ValueError, TypeError
        As :func:`bootstrap_error`.

    Examples
    --------
    >>> from advphotoz.metrics import bias
    >>> change, error = paired_change(bias, [0.2, 0.4, 0.1], [0.1, 0.3, 0.0], [0.0, 0.0, 0.0])
    >>> round(change, 6), round(error, 6)
    (0.1, 0.0)
    """

    def change(z_phot: Any, z_phot_reference: Any, z_spec: Any) -> Any:
        return metric(z_phot, z_spec, **kwargs) - metric(z_phot_reference, z_spec, **kwargs)

    rows = [as_numpy(values) for values in (z_phot, z_phot_reference, z_spec)]
    error = bootstrap_error(change, *rows, n_resamples=n_resamples, seed=seed)
    return float(change(*rows)), error
