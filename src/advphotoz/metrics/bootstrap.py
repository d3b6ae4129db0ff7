"""Bootstrap standard error of any metric."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from advphotoz._arrays import as_numpy
from advphotoz._checks import check_at_least_one

__all__ = ["bootstrap_error"]


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
