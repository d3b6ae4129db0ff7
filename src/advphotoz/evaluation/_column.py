"""One number per sample, gathered batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Column"]


class Column:
    """Float32 numbers on the CPU in one block, which doubles when it is full.

    Not a list of small tensors: each would lie between large blocks of the network's, and what is
    freed on both sides could not be joined. `evaluate` then grew by 10 kB per galaxy.
    """

    def __init__(self) -> None:
        self._block = torch.empty(1024)
        self._used = 0

    def append(self, values: Tensor) -> None:
        """Add the numbers of a batch, shape (N,)."""
        end = self._used + len(values)
        if end > len(self._block):
            block = torch.empty(max(end, 2 * len(self._block)))
            block[: self._used] = self.values()
            self._block = block
        self._block[self._used : end] = values
        self._used = end

    def values(self) -> Tensor:
        """Return all numbers so far."""
        return self._block[: self._used]

    def mean(self) -> float:
        """Return their mean."""
        return float(self.values().double().mean())
