"""All that knows of processes: who else there is, what each reads, and what they have, gathered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import Self, override

from advphotoz._checks import check_at_least_one

__all__ = [
    "JointBatches",
    "Shard",
    "barrier",
    "broadcast",
    "gather",
    "gather_all",
    "joint_batch",
    "own_generator",
    "part_of_batch",
    "processes",
    "rank",
    "several",
]


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


class Shard(Sampler[int]):
    """The samples that this process evaluates: a block of them, none twice, in their order.

    A `torch.utils.data.DistributedSampler` repeats some samples where their number is no multiple
    of that of the processes, and each of those would count twice. The blocks of all processes, one
    after the other, are the data set, so that gathered results are in its order.

    Parameters
    ----------
    data : Sized
        The data set, with at least one sample per process.

    Raises
    ------
    ValueError
        If there are fewer samples than processes.

    Examples
    --------
    >>> list(Shard(range(5)))  # of one process: everything
    [0, 1, 2, 3, 4]
    """

    def __init__(self, data: Sized) -> None:
        world, number, n = processes(), rank(), len(data)
        if n < world:
            raise ValueError(f"{n} samples cannot be shared by {world} processes; start fewer")
        self.rows = range(n * number // world, n * (number + 1) // world)

    @override
    def __iter__(self) -> Iterator[int]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class JointBatches(Sampler[list[int]]):
    """Batches of all processes together, of which each gets its part: training as in one process.

    The order of an epoch depends on the seed and the epoch alone. Each `batch_size` samples of it
    are a batch; of the first process they are the first ones, and so on. The same batches are
    trained on by any number of processes that divides their size. The samples at the end of an
    epoch that fill no batch are left out of it; the next epoch leaves out others.

    Parameters
    ----------
    data : Sized
        The data set.
    batch_size : int
        Number of samples in a batch of all processes, a multiple of their number.
    seed : int
        Of the order; the same in all processes.

    Raises
    ------
    ValueError
        If the batch cannot be shared evenly, or there are fewer samples than a batch takes.

    Examples
    --------
    >>> batches = JointBatches(range(7), 3)
    >>> [len(batch) for batch in batches], len(batches)
    ([3, 3], 2)
    """

    def __init__(self, data: Sized, batch_size: int, seed: int = 0) -> None:
        check_at_least_one(batch_size, "batch_size")
        if batch_size % processes():
            raise ValueError(
                f"a batch of {batch_size} samples cannot be shared evenly by {processes()} "
                "processes; make batch_size, which is that of all together, a multiple of them"
            )
        if len(data) < batch_size:
            raise ValueError(f"{len(data)} samples do not fill a batch of {batch_size}")
        self.samples = len(data)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    @property
    def sampler(self) -> Self:
        """Itself: Lightning tells the sampler of a batch sampler which epoch begins."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch begins; the trainers do."""
        self.epoch = epoch

    @override
    def __iter__(self) -> Iterator[list[int]]:
        # Two words of a seed: an epoch of one seed is no epoch of another.
        generator = torch.Generator().manual_seed((int(self.seed) << 24) + self.epoch)
        order = torch.randperm(self.samples, generator=generator)
        part = self.batch_size // processes()
        for k in range(len(self)):
            first = k * self.batch_size + rank() * part
            yield order[first : first + part].tolist()

    def __len__(self) -> int:
        return self.samples // self.batch_size


_place: ContextVar[tuple[int, int] | None] = ContextVar("_place", default=None)


@contextmanager
def joint_batch(n: int) -> Iterator[tuple[int, int]]:
    """Say that n samples are this process's part of a batch of all; yield where they stand in it.

    All processes must call it. A trainer does so around each step, so that what is drawn for a
    batch, such as which samples are attacked, is drawn for the batch of all processes.

    Yields
    ------
    first, total : int
        The place of the first of the n samples, and the number of samples in the whole batch.
    """
    if not several():
        yield 0, n
        return
    sizes = gather_all(n)
    place = sum(sizes[: rank()]), sum(sizes)
    token = _place.set(place)
    try:
        yield place
    finally:
        _place.reset(token)


def part_of_batch(n: int) -> tuple[int, int]:
    """Return where n samples stand in the batch of all processes, and its size; else (0, n)."""
    return _place.get() or (0, n)


def own_generator(generator: torch.Generator) -> torch.Generator:
    """Return a generator of this process's own, made from one that is the same in all of them.

    The common one moves on by one draw, everywhere alike. A process alone keeps its generator.
    """
    if not several():
        return generator
    seed = int(torch.randint(2**62, (1,), generator=generator))
    return torch.Generator().manual_seed(seed + rank())
