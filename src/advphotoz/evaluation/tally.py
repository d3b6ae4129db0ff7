"""What one network said about one attack's images: gathered batch by batch, merged, and read."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import Self

__all__ = ["Column", "Tally"]

COLUMNS = ("z_phot", "objective", "pit", "own", "own_before")
PDF = "pdf"  # a column of rows of probabilities, where they are asked for
SUMS = ("nll", "crps", "cde_loss", "size", "rising")
LARGEST = ("linf", "l2")


class Column:
    """One float32 number, or row, per sample, on the CPU in one block, which doubles when full.

    Not a list of small tensors: each would lie between large blocks of the network's, and what is
    freed on both sides could not be joined. `evaluate` then grew by 10 kB per galaxy.
    """

    def __init__(self) -> None:
        self._block = torch.empty(0)
        self._used = 0

    def __len__(self) -> int:
        return self._used

    def append(self, values: Tensor) -> None:
        """Add the numbers of a batch, shape (N,), or its rows, shape (N, n)."""
        if not len(values):
            return
        end = self._used + len(values)
        if end > len(self._block):
            block = torch.empty(max(end, 2 * len(self._block), 1024), *values.shape[1:])
            if self._used:
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


class Tally:
    """Columns, sums and maxima over samples.

    Columns are kept where medians or paired errors need every sample: the redshift, the objective
    that is reported, the PIT, and the objective of the attack itself where that is another, under
    attack (``own``) and before (``own_before``). All else is summed, or its largest value kept.

    Examples
    --------
    >>> first, second = Tally(), Tally()
    >>> first.update({"z_phot": torch.tensor([0.1, 0.2]), "linf": torch.tensor([0.01, 0.01])})
    >>> second.update({"z_phot": torch.tensor([0.3]), "linf": torch.tensor([0.02])})
    >>> first.merge(second)
    >>> first.n, first.columns["z_phot"].values()
    (3, tensor([0.1000, 0.2000, 0.3000]))
    """

    def __init__(self) -> None:
        self.n = 0
        self.columns: dict[str, Column] = {}
        self.sums: dict[str, float] = {}
        self.largest: dict[str, float] = {}

    def update(self, measured: Mapping[str, Tensor]) -> None:
        """Add a batch: tensors (N,) of any device, copied to the CPU in one go; PDFs (N, n)."""
        if PDF in measured:
            self.columns.setdefault(PDF, Column()).append(measured[PDF].float().cpu())
        names = [name for name in measured if name != PDF]
        block = torch.stack([measured[name].float() for name in names]).cpu()
        self.n += block.shape[1]
        for name, values in zip(names, block, strict=True):
            if name in COLUMNS:
                self.columns.setdefault(name, Column()).append(values)
            elif name in SUMS:
                self.sums[name] = self.sums.get(name, 0.0) + float(values.double().sum())
            else:
                assert name in LARGEST, name
                self.largest[name] = max(self.largest.get(name, 0.0), float(values.max()))

    def merge(self, other: Self) -> None:
        """Add the samples of another tally behind those of this one."""
        self.n += other.n
        for name, column in other.columns.items():
            self.columns.setdefault(name, Column()).append(column.values())
        for name, total in other.sums.items():
            self.sums[name] = self.sums.get(name, 0.0) + total
        for name, value in other.largest.items():
            self.largest[name] = max(self.largest.get(name, 0.0), value)

    def column(self, name: str) -> Tensor:
        """Return a column; ``own`` is the reported objective where the attack has no other."""
        if name == "own" and "own" not in self.columns:
            name = "objective"
        return self.columns[name].values()

    def mean(self, name: str) -> float | None:
        """Return the mean of a sum or column over the samples; None where there is none."""
        if name in self.columns:
            return self.columns[name].mean()
        return None if name not in self.sums else self.sums[name] / self.n
