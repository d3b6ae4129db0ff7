"""The galaxies of a survey, batch by batch, as often as a search asks for them.

Images are never kept. What is kept of each galaxy is a handful of numbers: its redshifts, its bin,
its part, and the gradient of its objective where nothing has changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from advphotoz import distributed
from advphotoz._checks import check_at_least_one
from advphotoz._model import autocasting
from advphotoz.attacks.problem import Problem, opened
from advphotoz.batch import Batch
from advphotoz.evaluation.run import NO_SAMPLES, Prepared, Settings, prepared
from advphotoz.evaluation.tally import Column
from advphotoz.objectives import Objective, SignedRedshift
from advphotoz.perturbations import PerturbationSet
from advphotoz.perturbations.contract import Parameter
from advphotoz.provenance import DataDigest, sample_digests
from advphotoz.redshift import Readout

__all__ = ["ALL", "Group", "Sample", "Watched", "groups_of", "surveyed"]

Array = npt.NDArray[Any]

ALL = "all"
PARTS = ("search", "measurement")
FEWEST = 2  # galaxies of a bin in either part, so that a mean has an error


class Watched:
    """An objective that remembers the redshifts of the outputs that it has seen last."""

    def __init__(self, objective: Objective, readout: Readout) -> None:
        self.objective, self.readout = objective, readout
        self.z_phot: Tensor | None = None

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """Return the objective of each sample."""
        with torch.no_grad():
            self.z_phot = self.readout.redshift(output).detach()
        return self.objective(output, target)


@dataclass(frozen=True, eq=False)
class Group:
    """Galaxies whose mean is looked at: all, or those of a tomographic bin, low <= z < high."""

    name: str
    low: float | None
    high: float | None
    members: npt.NDArray[np.bool_]


@dataclass(eq=False, repr=False)
class Sample:
    """A model, a loader and what the first pass found.

    Attributes
    ----------
    value : ndarray, (n,)
        The objective of the unchanged galaxies.
    gradient : ndarray, (n, K)
        Its gradient with respect to the parameters, where nothing is changed.
    z_phot, z_spec : ndarray, (n,)
        Redshifts of the unchanged galaxies.
    searched : ndarray of bool, (n,)
        Which galaxies the search sees; the shift is measured on the others.
    reads, gradients, forwards : float
        How often the loader was read, and how many gradients and forward passes were computed, in
        units of the whole sample.
    """

    model: nn.Module
    loader: Iterable[Any]
    set: PerturbationSet
    watched: Watched
    run: Prepared
    names: tuple[Parameter, ...] = ()
    value: Array = field(default_factory=lambda: np.empty(0))
    gradient: Array = field(default_factory=lambda: np.empty((0, 0)))
    z_phot: Array = field(default_factory=lambda: np.empty(0))
    z_spec: Array = field(default_factory=lambda: np.empty(0))
    searched: npt.NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))
    data: DataDigest = field(default_factory=DataDigest)
    batch_size: int = 0
    reads: int = 0
    _gradients: int = 0
    _forwards: int = 0

    @property
    def settings(self) -> Settings:
        """Return what is asked of every pass."""
        return self.run.settings

    @property
    def device(self) -> torch.device:
        """Return the device of the model."""
        return self.run.device(self.model)

    @property
    def gradients(self) -> float:
        """Return the number of gradients per galaxy."""
        return self._gradients / max(len(self.value), 1)

    @property
    def forwards(self) -> float:
        """Return the number of forward passes per galaxy, those of gradients not counted."""
        return self._forwards / max(len(self.value), 1)

    def look(self, bands: Sequence[str], split: float, gradient: bool = True) -> None:
        """Read everything once: redshifts, objective and gradient of the unchanged galaxies."""
        value, z_phot, z_spec = Column(), Column(), Column()
        columns: list[Column] = []
        searched: list[npt.NDArray[np.bool_]] = []
        for batch in self._batches("first pass"):
            digests = sample_digests((batch.x, *batch.context, batch.target))
            self.data.update(digests)
            self.batch_size = max(self.batch_size, len(batch.x))
            drawn = [int.from_bytes(d[7:14], "big") / 2**56 for d in digests]
            searched.append(np.array(drawn) < split)
            with self.opened(batch) as problem:
                p = self.set.identity(problem.x)
                if not columns:
                    self.names = self._named(problem.x, p, bands)
                    columns = [Column() for _ in self.names]
                if gradient:
                    found, grad = problem.value_and_gradient(p)
                    self._gradients += len(p)
                    for column, part in zip(columns, grad.T.cpu(), strict=True):
                        column.append(part)
                else:
                    found = problem.value(p)
                    self._forwards += len(p)
            value.append(found.cpu())
            z_phot.append(self.last_z_phot())
            z_spec.append(batch.target)
        if not len(value):
            raise ValueError(NO_SAMPLES)
        self.value, self.z_phot, self.z_spec = (
            column.values().numpy().astype(np.float64) for column in (value, z_phot, z_spec)
        )
        self._targets = z_spec.values().clone()
        self.searched = np.concatenate(searched)
        if gradient:
            stacked = [column.values().numpy().astype(np.float64) for column in columns]
            self.gradient = np.stack(stacked, axis=1)

    def batches(self, title: str) -> Iterator[tuple[npt.NDArray[np.int64], Batch]]:
        """Read everything once more, with the number of every galaxy; the order must be the same.

        Raises
        ------
        ValueError
            If the galaxies come in another order than before.
        """
        start = 0
        for batch in self._batches(title):
            stop = start + len(batch.x)
            if not torch.equal(batch.target.float(), self._targets[start:stop]):
                raise ValueError(
                    "the loader gives other galaxies, or another order, than at the first pass; it "
                    "is read several times: use a DataLoader with shuffle=False and no random "
                    "transformation, or a list of batches"
                )
            yield np.arange(start, stop), batch
            start = stop
        if start != len(self.value):
            raise ValueError(
                f"the loader gave {start} galaxies after {len(self.value)} at the first pass; it "
                "is read several times: pass a DataLoader or a list of batches, not an iterator"
            )

    @contextmanager
    def opened(self, batch: Batch) -> Iterator[Problem]:
        """Open a batch on the model's device."""
        x, context, target, _ = batch.to(self.device)
        with (
            autocasting(self.device, self.settings.autocast),
            opened(self.model, x, target, context, self.set, self.watched) as problem,
        ):
            yield problem

    def values(self, problem: Problem, p: Tensor) -> tuple[Array, Array]:
        """Return objective and redshifts of a batch under one parameter vector, (1, K)."""
        found = problem.value(p.to(self.set.identity(problem.x)).expand(len(problem.x), -1))
        self._forwards += len(problem.x)
        return found.cpu().double().numpy(), self.last_z_phot().double().numpy()

    def value_and_gradient(self, problem: Problem, p: Tensor) -> tuple[Array, Array]:
        """Return objective (N,) and gradient (N, K) of a batch under parameters (N, K)."""
        found, grad = problem.value_and_gradient(p.to(self.set.identity(problem.x)))
        self._gradients += len(p)
        return found.cpu().double().numpy(), grad.cpu().double().numpy()

    def last_z_phot(self) -> Tensor:
        """Return the redshifts of the last outputs, on the CPU."""
        assert self.watched.z_phot is not None
        return self.watched.z_phot.float().cpu()

    def _batches(self, title: str) -> Iterator[Batch]:
        self.reads += 1
        total = len(self.value) or None
        hidden = not self.settings.progress
        with tqdm(total=total, disable=hidden, desc=title, unit="galaxy") as bar:
            for number, given in enumerate(self.loader):
                batch = self.run.checked(given, number)
                if len(batch.x):
                    yield batch
                    bar.update(len(batch.x))

    def _named(self, x: Tensor, p: Tensor, bands: Sequence[str]) -> tuple[Parameter, ...]:
        if p.ndim != 2:
            raise ValueError(
                f"a survey shares a handful of parameters, (N, K), and those of {self.set!r} have "
                f"the shape {tuple(p.shape)}; take a physical set such as ZeroPoint(0.01)"
            )
        return self.set.parameters(x, bands)


def groups_of(
    sample: Sample, bins: int | Sequence[float] | None, parts: Sequence[str] = PARTS
) -> tuple[Group, ...]:
    """Return all galaxies and those of each bin of the unchanged prediction.

    Raises
    ------
    ValueError
        If edges do not increase, or a bin holds too few galaxies in one of the parts.
    """
    z = sample.z_phot
    groups = [Group(ALL, None, None, np.ones(len(z), bool))]
    edges = [] if bins is None else _edges(bins, z)
    for low, high in pairwise(edges):
        if math.isinf(low) and math.isinf(high):
            continue  # all galaxies
        name = f"below {high:.3g}" if math.isinf(low) else f"{low:.3g} to {high:.3g}"
        name = f"above {low:.3g}" if math.isinf(high) else name
        groups.append(Group(name, low, high, (z >= low) & (z < high)))
    which = dict(zip(PARTS, (sample.searched, ~sample.searched), strict=True))
    for group in groups:
        for part in parts:
            count = int((group.members & which[part]).sum())
            if count < FEWEST:
                raise ValueError(
                    f"the group {group.name!r} holds {count} galaxies for the {part}, of "
                    f"{int(which[part].sum())} in all, and a mean with an error needs {FEWEST}; "
                    "take wider bins or more galaxies"
                )
    return tuple(groups)


def _edges(bins: int | Sequence[float], z: Array) -> list[float]:
    if isinstance(bins, (int, np.integer)):
        check_at_least_one(bins, "bins")
        inner = np.quantile(z, np.linspace(0, 1, int(bins) + 1)[1:-1]).tolist()
        edges = [-math.inf, *inner, math.inf]
    else:
        edges = [float(edge) for edge in bins]
    if len(edges) < 2 or not all(low < high for low, high in pairwise(edges)):
        raise ValueError(
            "bins must be edges in the predicted redshift, at least two and increasing, or their "
            f"number; got {edges}"
        )
    return edges


@contextmanager
def surveyed(
    model: nn.Module,
    loader: Iterable[Any],
    perturbations: PerturbationSet,
    readout: Readout,
    objective: Objective | None,
    autocast: torch.dtype | None,
    seed: int,
    progress: bool,
) -> Iterator[Sample]:
    """Prepare a model for a survey, and put everything back at the end."""
    if not isinstance(perturbations, PerturbationSet):
        raise TypeError(
            f"a survey needs a perturbation set, such as ZeroPoint(0.01), got {perturbations!r}"
        )
    if distributed.several():
        raise RuntimeError(
            "the survey question is answered by one process; call it on one of them, on all data"
        )
    objective = SignedRedshift(readout) if objective is None else objective
    settings = Settings.of(readout, objective, autocast, seed, progress, 0)
    with prepared([model], settings) as run:
        yield Sample(model, loader, perturbations, Watched(objective, readout), run)
