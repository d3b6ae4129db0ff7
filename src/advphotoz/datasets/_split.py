"""How a sample is dealt into parts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

__all__ = ["deal"]


def deal(rows: int, fractions: Sequence[float], seed: int) -> list[Tensor]:
    """Deal the numbers below `rows` at random into parts of the given shares, each into one."""
    ends = np.cumsum(fractions)
    if not fractions or min(fractions) <= 0 or not abs(ends[-1] - 1) < 1e-6:
        raise ValueError(f"fractions must be positive and add up to 1, got {fractions}")
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    bounds = [0, *(round(float(end) * rows) for end in ends)]
    parts = [order[low:high] for low, high in pairwise(bounds)]
    if not all(len(part) for part in parts):
        raise ValueError(f"{rows} galaxies cannot be split into {fractions}: a part would be empty")
    return parts
