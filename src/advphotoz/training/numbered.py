"""A data set whose samples know their number, so that something can be kept for each of them."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset, IterableDataset

__all__ = ["numbered"]


def numbered(dataset: Dataset[Any]) -> Dataset[tuple[Any, ...]]:
    """Return the data set with each sample's number before its target, for `Carry`.

    Parameters
    ----------
    dataset : Dataset
        Sample k is ``(x, *context, target)``; it becomes ``(x, *context, k, target)``.

    Raises
    ------
    TypeError
        For an iterable data set, whose samples have no number.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> data = TensorDataset(torch.zeros(4, 5), torch.ones(4))
    >>> next(iter(DataLoader(numbered(data), 3)))[1]
    tensor([0, 1, 2])
    """
    if isinstance(dataset, IterableDataset):
        raise TypeError("the samples of an iterable data set have no numbers; take a map-style one")
    return _Numbered(dataset)


class _Numbered(Dataset[tuple[Any, ...]]):
    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Any, ...]]:
        """Return the samples of a batch, read in one go where the data set can do that."""
        fetch = getattr(self._dataset, "__getitems__", None)
        samples = fetch(indices) if fetch else [self._dataset[index] for index in indices]
        return [
            (*sample[:-1], int(index), sample[-1])
            for index, sample in zip(indices, samples, strict=True)
        ]
