"""Choosing rows of a data set: by positions, by a mask, or by a random split."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advphotoz._arrays import as_numpy, read_array

__all__ = ["random_split", "row_numbers"]


def row_numbers(indices: Any, rows: int) -> Tensor:
    """Return the rows, of those from 0 to `rows` - 1, that positions or a mask choose, as int64.

    Parameters
    ----------
    indices : array, tensor or sequence of int or bool
        Positions in any order, from the end where negative, or a mask of shape (rows,).
    rows : int
        Number of rows that there are.

    Raises
    ------
    IndexError
        If a position does not exist, or a mask has another length.
    TypeError
        If the values are neither integers nor booleans.
    ValueError
        If no row is chosen, the shape is not (n,), or a value is masked.
    """
    if indices is None or isinstance(indices, (slice, str)):
        raise TypeError(
            "indices must be a list, array or tensor of integers or booleans, got "
            f"{indices!r}; write a slice as range(start, stop)"
        )
    if isinstance(indices, Tensor):
        array = as_numpy(indices, "indices")
    else:
        array = read_array(indices, "indices")
    none = f"indices must choose at least one galaxy, by a list or a mask, got {{}} of {rows}"
    if array.ndim != 1:
        raise ValueError(none.format(array.shape))
    if array.dtype.kind == "b":
        if len(array) != rows:
            raise IndexError(
                f"a mask must have one value per galaxy: its length {len(array)} does not match "
                f"the {rows} galaxies"
            )
        chosen = np.flatnonzero(array)
    else:
        if len(array) and array.dtype.kind not in "iu":  # an empty list has the dtype float64
            raise TypeError(
                f"indices must be integers or booleans, got {array.dtype}; convert positions with "
                ".astype(int)"
            )
        chosen = array.astype(np.int64)
        wrong = (chosen < -rows) | (chosen >= rows)
        if wrong.any():
            raise IndexError(f"position {chosen[wrong][0]} is out of range for {rows} galaxies")
        chosen = np.where(chosen < 0, chosen + rows, chosen)
    if not len(chosen):
        raise ValueError(none.format((0,)))
    return torch.from_numpy(chosen)


def random_split(rows: int, fractions: Sequence[float], seed: int) -> list[Tensor]:
    """Split the row numbers from 0 to `rows` - 1 at random into disjoint parts.

    Raises
    ------
    TypeError
        If a fraction is no number, or the seed no integer.
    ValueError
        If the fractions do not add up to 1, or one of the parts would be empty.
    """
    for fraction in fractions:
        if isinstance(fraction, bool) or not isinstance(fraction, Real):
            raise TypeError(f"fractions must be numbers such as 0.8, 0.2, got {fraction!r}")
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed must be an integer, got {seed!r}")
    ends = np.cumsum(fractions)
    if not fractions or min(fractions) <= 0 or not abs(ends[-1] - 1) < 1e-6:
        raise ValueError(f"fractions must be positive and add up to 1, got {fractions}")
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(int(seed)))
    bounds = [0, *(round(float(end) * rows) for end in ends)]
    parts = [order[low:high] for low, high in pairwise(bounds)]
    if not all(len(part) for part in parts):
        raise ValueError(f"{rows} galaxies cannot be split into {fractions}: a part would be empty")
    return parts
