"""All that knows of processes: who else there is, and what they have, gathered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import torch.distributed as dist
from torch import Tensor
from typing_extensions import Self

__all__ = ["barrier", "broadcast", "gather", "gather_all", "processes", "rank", "several"]


class Mergeable(Protocol):
    """What can be gathered: a picklable object that adds another of its kind to itself."""

    def merge(self, other: Self) -> None:
        """Add what the other holds."""
        ...


T = TypeVar("T", bound=Mergeable)
V = TypeVar("V")


def processes() -> int:
    """Return the number of processes that work together, 1 for a process alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def several() -> bool:
    """Return whether this process trains or evaluates together with others."""
    return processes() > 1


def rank() -> int:
    """Return the number of this process, 0 where it is alone."""
    return dist.get_rank() if several() else 0


def gather_all(value: V) -> list[V]:
    """Return the values of all processes, in the order of their ranks."""
    if not several():
        return [value]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, value)
    return parts


def broadcast(tensors: Iterable[Tensor]) -> None:
    """Give every process the values of the first one, in place."""
    if several():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def barrier() -> None:
    """Wait for all processes."""
    if several():
        dist.barrier()


def gather(part: T) -> T:
    """Merge the parts of all processes, in the order of their ranks; every process gets the whole.

    Exact, medians included, since columns are gathered and not averaged. Without an initialised
    process group it is the part itself.

    Parameters
    ----------
    part : Tally, DataDigest, or any picklable object with ``merge``
        What this process has; it is not changed where there are several.
    """
    whole, *others = gather_all(part)
    for other in others:
        whole.merge(other)
    return whole
