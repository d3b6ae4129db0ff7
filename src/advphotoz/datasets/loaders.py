"""Loaders whose batches have another form than `(x, *context, target)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

__all__ = ["MappedLoader"]

ATTRIBUTES = frozenset(
    "dataset sampler batch_sampler batch_size generator num_workers persistent_workers".split()
)
"""What is read of a DataLoader: the trainer saves the state of its generator, for example."""


class MappedLoader:
    """A view of a loader that applies a function to each batch.

    Loaders of many surveys yield dicts or tuples in another order. The rest of the library takes
    batches `(x, *context, target)`.

    Parameters
    ----------
    loader : iterable
        A `torch.utils.data.DataLoader`, or anything that can be iterated over more than once. Its
        `len()`, and the attributes `dataset`, `sampler`, `batch_sampler`, `batch_size`,
        `generator`, `num_workers` and `persistent_workers` that it has, are those of the view.
    function : callable
        Takes a batch of the loader and returns a tuple or list `(x, *context, target)`. It runs
        in the process that iterates, not in the workers of the loader.

    Attributes
    ----------
    loader, function
        As given.

    Raises
    ------
    TypeError
        If the loader cannot be iterated over more than once, the function cannot be called, or,
        in the iteration, the function returns anything but a tuple or list.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import DataLoader
    >>> rows = [{"image": torch.zeros(5, 8, 8), "z": torch.tensor(0.1 * k)} for k in range(4)]
    >>> loader = MappedLoader(DataLoader(rows, batch_size=2), lambda b: (b["image"], b["z"]))
    >>> for x, z in loader:
    ...     print(tuple(x.shape), z)
    (2, 5, 8, 8) tensor([0.0000, 0.1000])
    (2, 5, 8, 8) tensor([0.2000, 0.3000])
    >>> len(loader), loader.batch_size
    (2, 2)
    """

    def __init__(self, loader: Iterable[Any], function: Callable[[Any], Sequence[Tensor]]) -> None:
        if isinstance(loader, Iterator) or not isinstance(loader, Iterable):
            raise TypeError(
                "loader must be iterable more than once, such as a DataLoader or a list of "
                f"batches, got {type(loader).__name__}"
            )
        if not callable(function):
            raise TypeError(f"function must be callable, got {type(function).__name__}")
        self.loader = loader
        self.function = function

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        for batch in self.loader:
            mapped = self.function(batch)
            if not isinstance(mapped, (tuple, list)):
                raise TypeError(
                    "function must return a tuple or list (x, *context, target), got "
                    f"{type(mapped).__name__}"
                )
            yield mapped

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if name in ATTRIBUTES:
            return getattr(self.loader, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
