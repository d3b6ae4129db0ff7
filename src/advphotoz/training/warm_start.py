"""Warm starts: what an attack found for a sample is where the next attack on it begins."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset
from typing_extensions import Self

from advphotoz import distributed
from advphotoz._checks import check_at_least_one
from advphotoz._random import Generator
from advphotoz.attacks.contract import (
    Attack,
    Found,
    bind_objective,
    check_returns_all,
    perturbations_of,
)
from advphotoz.batch import Batch, Indexed, SampleIndex
from advphotoz.objectives import Objective
from advphotoz.perturbations import PerturbationSet

__all__ = ["IndexedDataset", "WarmStart", "transformed"]

SHARED_AT_ONCE = 1024  # samples: 84 MB of images of 5 x 64 x 64
Transform = Callable[[Tensor, Any], Tensor]  # of images and a generator or None


class WarmStart:
    r"""An attack that begins, for every training sample, where its last search on it ended.

    .. math:: \delta_i^{(t)} = A_{\theta_t}\left(x_i, z_i;\ \delta_i^{(t - 1)}\right)

    From epoch to epoch the weights :math:`\theta_t` change little, and what misled them still
    does: one or two steps per epoch add up to the many of a search that starts over every time.
    A sample that is not drawn in an epoch keeps its perturbation. For training only; the training
    set must be an `IndexedDataset`. In validation, and called without an index, the attack starts
    as usual.

    Parameters
    ----------
    attack : GradientAttack, or any attack whose `find` takes a `start`
        Such as ``PGD(LinfBall(0.01), steps=2)``.
    samples : int
        Number of training samples.
    epochs : int
        Everything is forgotten after so many epochs, since what misled an early network misleads a
        later one less; 10 in the authors' code.

    Attributes
    ----------
    parameters : Tensor or None
        bfloat16 on the CPU, (samples, ...), the parameters of the set, NaN where there are none
        yet: for pixels 2 bytes per pixel and band, 4.1 GB for 100,000 images of 5 x 64 x 64. None
        before the first attack. Rounded to 0.4 %; the attack brings its start into the set. Pixels
        follow a transform of the images; other parameters, such as zero points, do not.

    Raises
    ------
    TypeError
        For an attack that takes no start.
    ValueError
        From a call, for an index outside the samples, or images of another shape than before.

    References
    ----------
    Zheng et al. 2020 (arXiv:1912.11969), where it is called ATTA.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import PGD, LinfBall
    >>> from advphotoz.batch import SampleIndex
    >>> x, index, z = torch.zeros(1, 2), SampleIndex(torch.tensor([7])), torch.zeros(1)
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[3.0, -4.0]])
    >>> step = PGD(LinfBall(1.0), 1, step_size=0.25, objective=lambda output, z: output[:, 0])
    >>> warm = WarmStart(step, samples=10)
    >>> for epoch in range(3):
    ...     warm.start_epoch(epoch)
    ...     x_adv = warm(model, x, z, index=index)
    >>> x_adv
    tensor([[ 0.7500, -0.7500]])
    """

    takes_index = True

    def __init__(self, attack: Attack, samples: int, epochs: int = 10) -> None:
        check_at_least_one(samples, "samples")
        check_at_least_one(epochs, "epochs")
        find = getattr(attack, "find", None)
        if find is None or "start" not in inspect.signature(find).parameters:
            raise TypeError(
                "only an attack that takes a start can begin where it ended, and "
                f"{attack!r} takes none; take PGD, or derive yours from GradientAttack"
            )
        self.attack = attack
        self.samples = samples
        self.epochs = epochs
        # Both shared with what `bind` returns.
        self._memory: list[Tensor | None] = [None]
        self._fresh: set[int] = set()  # samples whose parameters other processes do not have yet

    @property
    def parameters(self) -> Tensor | None:
        """What every sample's search found last."""
        return self._memory[0]

    @property
    def set(self) -> PerturbationSet | None:
        """What may change; None if the attack does not say."""
        return perturbations_of(self.attack)

    @property
    def objective(self) -> Objective | None:
        """What the attack maximises."""
        found: Objective | None = getattr(self.attack, "objective", None)
        return found

    @property
    def name(self) -> str:
        """That of the attack, ``warm`` before it."""
        return f"warm {getattr(self.attack, 'name', type(self.attack).__name__)}"

    def bind(self, objective: Objective) -> Self:
        """Return the same with an objective, its own if it has one; both share the memory."""
        bound = copy.copy(self)
        bound.attack = bind_objective(self.attack, objective)
        return bound

    def start_epoch(self, epoch: int) -> None:
        """Forget everything if this epoch, counted from 0, is a multiple of `epochs`."""
        if self.parameters is not None and epoch % self.epochs == 0:
            self.parameters.fill_(math.nan)

    def finish_epoch(self) -> None:
        """Give what was found in this epoch to all processes, since each sees others in the next.

        Processes that train together must all call it.
        """
        rows = sorted(self._fresh)
        self._fresh.clear()
        for first in range(0, max(distributed.gather_all(len(rows))), SHARED_AT_ONCE):
            mine = rows[first : first + SHARED_AT_ONCE]
            values = None if self.parameters is None else self.parameters[mine]
            for numbers, found in distributed.gather_all((mine, values)):
                if numbers and found is not None:
                    self._room(found)[numbers] = found

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept."""
        return {"parameters": self.parameters, "samples": self.samples}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a `state_dict`."""
        if state["samples"] != self.samples:
            raise ValueError(
                f"the checkpoint keeps starts for {state['samples']} samples, and this WarmStart "
                f"for {self.samples}"
            )
        self._memory[0] = copy.deepcopy(state["parameters"])
        self._fresh.clear()

    def __call__(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: Generator = None,
        index: SampleIndex | None = None,
    ) -> Tensor:
        """Return the adversarial images, and keep what was found for the samples of the index."""
        check_returns_all(self.set)
        if index is None:
            return self.attack(model, x, target, context, generator)
        images: Tensor = self.find(model, x, target, context, generator, index, value=False).x
        return images

    def find(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: Generator = None,
        index: SampleIndex | None = None,
        value: bool = True,
    ) -> Found:
        """Return what a call returns, with all that the attack tells, see `Found`."""
        find: Any = self.attack.find  # type: ignore[attr-defined]  # checked in __init__
        if index is None:
            usual: Found = find(model, x, target, context, generator, value=value)
            return usual
        rows = index.number.reshape(len(x)).cpu()
        wrong = (rows < 0) | (rows >= self.samples)
        if bool(wrong.any()):
            raise ValueError(
                f"there is room for {self.samples} samples, but a batch holds number "
                f"{int(rows[wrong][0])}; make it WarmStart(attack, len(data)) of the indexed data"
            )
        with torch.inference_mode(False), torch.no_grad():
            start = None
            if self.parameters is not None:
                start = self._read(x, rows, index.pixels)
            found: Found = find(model, x, target, context, generator, start=start, value=value)
            assert found.parameters is not None  # an attack that takes a start returns its end
            self._keep(x, found.parameters, rows, index.pixels)
        return found

    def _read(self, x: Tensor, rows: Tensor, pixels: Tensor | None) -> Tensor:
        """Return the starts, their pixels where the transform put them."""
        assert self.parameters is not None
        start = self.parameters[rows].to(x.device, x.dtype)
        if pixels is None or start.shape[1:] != x.shape[1:]:
            return start
        flat = start.view(*x.shape[:2], -1)
        return flat.gather(2, pixels.expand(-1, x.shape[1], -1)).view(x.shape)

    def _keep(self, x: Tensor, found: Tensor, rows: Tensor, pixels: Tensor | None) -> None:
        """Keep what was found, its pixels where the data set has them."""
        kept = self._room(found)
        if kept.shape[1:] != found.shape[1:]:
            raise ValueError(
                f"starts of shape {tuple(kept.shape[1:])} are kept, and a batch has "
                f"{tuple(found.shape[1:])}: all images must have one shape"
            )
        if pixels is not None and found.shape[1:] == x.shape[1:]:
            flat = found.reshape(*found.shape[:2], -1)
            back = torch.empty_like(flat)
            found = back.scatter_(2, pixels.expand_as(flat), flat).view(found.shape)
        # One by one: of a sample that is twice in a batch the last is kept, on every machine.
        for row, values in zip(rows.tolist(), found.to("cpu", torch.bfloat16), strict=True):
            kept[row] = values
        if distributed.several():
            self._fresh.update(rows.tolist())

    def _room(self, found: Tensor) -> Tensor:
        """Return what is kept of every sample, NaN before the first."""
        kept = self._memory[0]
        if kept is None:
            shape = (self.samples, *found.shape[1:])
            kept = self._memory[0] = torch.full(shape, math.nan, dtype=torch.bfloat16)
        return kept


class IndexedDataset(Dataset[Indexed]):
    """A data set whose samples know their position, for `WarmStart`.

    Parameters
    ----------
    dataset : Dataset
        Sample k is ``(x, *context, target)``; it becomes ``Indexed((x, *context, target), k)``,
        which a DataLoader batches like any other and the trainers understand.

    Raises
    ------
    TypeError
        For an iterable data set, whose samples have no position, and for samples that are no
        tuples.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> data = TensorDataset(torch.zeros(4, 5), torch.ones(4))
    >>> next(iter(DataLoader(IndexedDataset(data), 3))).index
    tensor([0, 1, 2])
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        if isinstance(dataset, IterableDataset):
            raise TypeError(
                "the samples of an iterable data set have no position; take a map-style one"
            )
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Indexed:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Indexed]:
        """Return the samples of a batch, read in one go where the data set can do that."""
        fetch = getattr(self.dataset, "__getitems__", None)
        samples = fetch(indices) if fetch else [self.dataset[index] for index in indices]
        for sample in samples:
            if not isinstance(sample, (tuple, list)):
                raise TypeError(
                    "a sample of the data set must be a tuple (x, *context, target), got a "
                    f"{type(sample).__name__}; wrap the data set in one that yields tuples"
                )
        return [
            Indexed(tuple(sample), int(index))
            for index, sample in zip(indices, samples, strict=True)
        ]


def transformed(batch: Batch, transform: Transform | None, generator: torch.Generator) -> Batch:
    """Transform the images of a batch; where samples are indexed, note where each pixel came from.

    Parameters
    ----------
    batch : Batch
        What is transformed.
    transform : callable or None
        ``(x, generator) -> x``. For an indexed batch it must move whole pixels, in all bands alike,
        as `random_dihedral` does: a last band of pixel numbers goes through it with the images.
    generator : torch.Generator
        Handed on to the transform.
    """
    if transform is None:
        return batch
    x, index = batch.x, batch.index
    if index is None:
        return batch._replace(x=transform(x, generator))
    pixels = math.prod(x.shape[2:])
    # float32 at least: it counts to 4096 x 4096 pixels, bfloat16 to 16 x 16.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    numbers = torch.arange(pixels, device=x.device, dtype=wide.dtype).view(1, 1, *x.shape[2:])
    both = transform(torch.cat([wide, numbers.expand(len(x), -1, *x.shape[2:])], 1), generator)
    moved = both[:, :-1]
    came_from = both[:, -1:].reshape(len(x), 1, -1)
    if moved.shape != x.shape or not _is_permutation(came_from, pixels):
        raise ValueError(
            "a kept perturbation must follow the pixels of its image, but the transform "
            f"{transform!r} changes, drops or repeats some of them; leave that to the data set, or "
            "train without WarmStart"
        )
    tracked = SampleIndex(index.number, came_from.long())
    return batch._replace(x=torch.empty_like(x).copy_(moved), index=tracked)


def _is_permutation(came_from: Tensor, pixels: int) -> bool:
    index = came_from.nan_to_num(0).clamp(0, pixels - 1).long()
    seen = torch.zeros_like(index, dtype=torch.bool).scatter_(-1, index, True)
    return bool(seen.all() & (index == came_from).all())
