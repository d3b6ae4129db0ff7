"""A batch: ``(x, *context, target)`` as a loader yields it, and the tuple that it is inside."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Batch", "Indexed", "SampleIndex", "parse_batch"]


class SampleIndex(NamedTuple):
    """Where the samples of a batch come from.

    Attributes
    ----------
    number : Tensor, (N,)
        int64, the position of each sample in its data set.
    pixels : Tensor or None, (N, 1, H W)
        int64: pixel k of an image came from this pixel of the stored one. None: none has moved.
    """

    number: Tensor
    pixels: Tensor | None = None


class Indexed(NamedTuple):
    """A sample or batch with its position in the data set, as `IndexedDataset` yields it."""

    sample: Any
    index: Any


class Batch(NamedTuple):
    """Images, the other inputs of the network, true redshifts: all of leading size N.

    Attributes
    ----------
    x : Tensor, (N, C, ...)
        Images, or vectors of features.
    context : tuple of Tensor
        What the network gets beside them, such as E(B-V).
    target : Tensor, (N,)
        True redshifts.
    index : SampleIndex or None
        Where the samples come from, where the data set says so.
    """

    x: Tensor
    context: tuple[Tensor, ...]
    target: Tensor
    index: SampleIndex | None = None  # type: ignore[assignment]  # hides tuple.index

    def to(self, device: torch.device) -> Batch:
        """Move everything to a device; a float64 target becomes float32 on any but the CPU."""
        target = self.target
        if target.dtype == torch.float64 and device.type != "cpu":
            target = target.float()  # some devices have no float64
        x, target, *context = (
            value.to(device, non_blocking=True) for value in (self.x, target, *self.context)
        )
        return Batch(x, tuple(context), target, self.index)

    def rows(self, rows: Tensor | slice) -> Batch:
        """Return some of the samples."""
        index = self.index
        if index is not None:
            where = rows.to(index.number.device) if isinstance(rows, Tensor) else rows
            pixels = None if index.pixels is None else index.pixels[rows]
            index = SampleIndex(index.number[where], pixels)
        context = tuple(value[rows] for value in self.context)
        return Batch(self.x[rows], context, self.target[rows], index)


def parse_batch(batch: object) -> Batch:
    """Read what a loader yields, ``(x, *context, target)``, or say why it is no batch.

    Raises
    ------
    TypeError
        For anything but a tuple or list of at least two tensors.

    Examples
    --------
    >>> import torch
    >>> parse_batch((torch.zeros(2, 5), torch.ones(2), torch.tensor([0.1, 0.2]))).target
    tensor([0.1000, 0.2000])
    """
    if isinstance(batch, Batch):
        return batch
    index = None
    if isinstance(batch, Indexed):
        indexed = batch
        batch, index = indexed.sample, SampleIndex(indexed.index)
    if isinstance(batch, dict):
        raise TypeError(
            f"a batch must be a tuple (x, *context, target), got a dict with the keys "
            f"{list(batch)[:8]}; wrap the loader: datasets.MappedLoader(loader, "
            'lambda b: (b["image"], b["ebv"], b["z"]))'
        )
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        came = f"{len(batch)} of them" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(
            f"a batch must be a tuple (x, *context, target) of at least two tensors, got {came}"
        )
    for position, value in enumerate(batch):
        if isinstance(value, dict):
            raise TypeError(
                f"a batch must be a tuple (x, *context, target) of tensors, but item {position} is "
                f"a dict with the keys {list(value)[:8]}: a list of samples that nobody has "
                "stacked; leave the DataLoader its collate_fn, or wrap the loader: "
                "datasets.MappedLoader(loader, function), with a function that stacks them"
            )
        if not isinstance(value, Tensor):
            raise TypeError(
                f"a batch must hold tensors, but item {position} is a {type(value).__name__}"
            )
    x, *context, target = batch
    if index is not None and not _is_index(index.number, len(x) if x.ndim else -1):
        raise TypeError(
            "the index of a batch must be an int64 tensor (N,), the position of each sample in its "
            f"data set, as IndexedDataset yields it; got {index.number!r}"
        )
    return Batch(x, tuple(context), target, index)


def _is_index(number: Any, n: int) -> bool:
    return isinstance(number, Tensor) and number.dtype == torch.int64 and number.shape == (n,)
