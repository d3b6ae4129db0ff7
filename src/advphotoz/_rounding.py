"""Floating-point arithmetic that rounds towards zero, so that a promised bound holds exactly.

`x + delta` rounds to nearest: a pixel of 10,000 plus 0.01 may land 0.0004 further away than asked.
The functions here move such a result one floating-point number back, so that the change that the
pixel really makes is never larger than the one that was allowed.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

__all__ = ["add_inward", "cast_inward", "compute_dtype", "round_down"]


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype to compute norms in: float32 for half precision, else that of x."""
    return x.dtype if x.dtype == torch.float64 else torch.float32


@cache  # asked for at every step of an attack
def round_down(value: float, dtype: torch.dtype) -> float:
    """Return the largest number of `dtype` that is not above `value` >= 0."""
    nearest = torch.tensor(value, dtype=dtype)
    if nearest.item() > value:
        nearest = torch.nextafter(nearest, torch.zeros_like(nearest))
    return float(nearest)


def cast_inward(delta: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert to a narrower dtype without making any entry larger in absolute value."""
    if delta.dtype == dtype:
        return delta
    narrow = delta.to(dtype)
    outward = narrow.to(delta.dtype).abs() > delta.abs()
    return torch.where(outward, torch.nextafter(narrow, torch.zeros_like(narrow)), narrow)


def add_inward(x: Tensor, delta: Tensor) -> Tensor:
    r"""Return x + delta with :math:`|\mathrm{result} - x| \le |\delta|` exactly, entry by entry.

    The difference is found without error as a rounded part and its remainder (Knuth's TwoSum), so
    that no wider dtype is needed on the device.
    """
    moved = x + delta
    change = moved - x
    virtual = change - moved
    remainder = (moved - (change - virtual)) - (x + virtual)
    size, limit = change.abs(), delta.abs()
    outward = (size > limit) | ((size == limit) & (remainder * change.sign() > 0))
    return torch.where(outward, torch.nextafter(moved, x), moved)
