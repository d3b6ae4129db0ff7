"""The same budget drawn at random: what a survey would see, beside the worst case."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from advphotoz._checks import check_at_least_one
from advphotoz._model import check_model
from advphotoz.evaluation import report
from advphotoz.metrics import wilson_interval
from advphotoz.objectives import Objective
from advphotoz.perturbations import PerturbationSet
from advphotoz.redshift import Readout
from advphotoz.survey.requirements import Requirement, as_requirement
from advphotoz.survey.sample import ALL, groups_of, surveyed
from advphotoz.survey.worst import check_split, made_with

__all__ = ["RandomSystematics", "random_systematics"]

KIND = "random systematics"


@dataclass(frozen=True, eq=False)
class RandomSystematics:
    """Shifts of the means under errors that were drawn at random, each shared by all galaxies.

    Attributes
    ----------
    groups : tuple of str
        All galaxies, then the bins.
    shifts : ndarray, (draws, groups)
        Change of the mean objective of each group.
    parameters : ndarray, (draws, K)
        What was drawn, in physical units.
    n : tuple of int
        Galaxies of each group.
    label : str
        Kind and size of the set.
    settings : mapping
        What it was made with, as plain values.
    """

    groups: tuple[str, ...]
    shifts: npt.NDArray[np.float64]
    parameters: npt.NDArray[np.float64]
    n: tuple[int, ...]
    label: str
    settings: Mapping[str, Any]

    def of(self, group: str) -> npt.NDArray[np.float64]:
        """Return the shifts of one group, (draws,)."""
        if group not in self.groups:
            raise KeyError(f"no group {group!r}; the groups are {list(self.groups)}")
        return self.shifts[:, self.groups.index(group)]

    def share(
        self, requirement: Requirement | str | float, group: str | None = None
    ) -> tuple[float, float, float]:
        """Return the share of draws that miss a requirement, with Wilson's interval.

        Parameters
        ----------
        requirement : Requirement, str or float
            Such as ``"Euclid"``, or a limit.
        group : str, optional
            One group. None: a draw misses it if any bin does (all galaxies, if there are no bins).
        """
        limit = as_requirement(requirement).limit
        bins = [k for k, name in enumerate(self.groups) if name != ALL] or [0]
        missed = np.abs(self.shifts[:, bins] if group is None else self.of(group)[:, None]) > limit
        count = int(missed.any(1).sum())
        low, high = wilson_interval(count, len(missed))
        return count / len(missed), float(low), float(high)

    def to_markdown(self, requirement: Requirement | str | float) -> str:
        """Return a table: scatter and largest shift of each group, and the share that misses."""
        limit = as_requirement(requirement)
        lines = []
        for k, name in enumerate(self.groups):
            values = 1e4 * self.shifts[:, k]
            missed, low, high = self.share(limit, name)
            lines.append(
                [
                    name,
                    str(self.n[k]),
                    f"{np.sqrt(np.square(values).mean()):.1f}",
                    f"{np.abs(values).max():.1f}",
                    f"{100 * missed:.0f} ({100 * low:.0f} to {100 * high:.0f})",
                ]
            )
        beyond = f"beyond {limit.limit:g} [%]"
        return report.markdown(["group", "n", "rms [1e-4]", "largest [1e-4]", beyond], lines)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON; see `Evaluation.save`."""
        body = {
            "settings": dict(self.settings),
            "label": self.label,
            "groups": list(self.groups),
            "n": list(self.n),
            "shifts": self.shifts.tolist(),
            "parameters": self.parameters.tolist(),
        }
        report.save_json(path, KIND, body)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RandomSystematics:
        """Read what `save` wrote; see `Evaluation.load`."""
        body = report.load_json(path, KIND)
        with report.whole(path, "random systematics"):
            return cls(
                tuple(body["groups"]),
                np.array(body["shifts"], dtype=np.float64),
                np.array(body["parameters"], dtype=np.float64),
                tuple(body["n"]),
                body["label"],
                body["settings"],
            )


def random_systematics(
    model: nn.Module,
    loader: Iterable[Any],
    perturbations: PerturbationSet,
    readout: Readout,
    bins: int | Sequence[float] | None = None,
    *,
    draws: int = 100,
    objective: Objective | None = None,
    split: float = 0.5,
    bands: Sequence[str] = (),
    autocast: torch.dtype | None = None,
    seed: int = 0,
    progress: bool = True,
) -> RandomSystematics:
    """Draw errors at random, each shared by all galaxies, and measure what they do to the means.

    A box is drawn uniformly, a `GaussianBudget` from its Gaussian. Every draw costs a forward pass;
    the data are read twice.

    Parameters
    ----------
    model, loader, perturbations, readout, bins, objective, split, bands, autocast, progress
        As for `worst_systematic`; the shifts are measured on the same galaxies, those that its
        search does not see. Give its ``result.edges`` as bins.
    draws : int
        Number of draws.
    seed : int
        Of the draws.

    Returns
    -------
    RandomSystematics
        Shifts per draw and group.

    Raises
    ------
    ValueError, TypeError
        As `worst_systematic`.

    Examples
    --------
    >>> from advphotoz import PointEstimate, ZeroPoint
    >>> class Colour(torch.nn.Module):
    ...     def forward(self, x):
    ...         flux = x.sum((2, 3))
    ...         return 0.5 * (flux[:, 0] / flux[:, 1]).log10()
    >>> batch = (1 + torch.rand(40, 2, 3, 3), torch.zeros(40))
    >>> drawn = random_systematics(
    ...     Colour(), [batch], ZeroPoint(0.01), PointEstimate(), draws=50, progress=False
    ... )
    >>> drawn.shifts.shape, bool(abs(drawn.shifts).max() <= 0.004 + 1e-6)
    ((50, 1), True)
    """
    check_model(model)
    check_at_least_one(draws, "draws")
    check_split(split)
    with surveyed(
        model, loader, perturbations, readout, objective, autocast, seed, progress
    ) as sample:
        sample.look(bands, split, gradient=False)
        groups = groups_of(sample, bins, parts=("measurement",))
        generator = torch.Generator().manual_seed(seed)
        points = None
        sums = np.zeros((draws, len(groups)))
        members = np.stack([g.members & ~sample.searched for g in groups], 1)
        for numbers, batch in sample.batches("draws"):
            rows = np.flatnonzero(~sample.searched[numbers])
            if not len(rows):
                continue
            with sample.opened(batch.rows(torch.from_numpy(rows))) as problem:
                if points is None:
                    one = problem.x[:1].cpu()
                    drawn = [perturbations.realisation(one, generator) for _ in range(draws)]
                    points = torch.cat(drawn)
                for k in range(draws):
                    value, _ = sample.values(problem, points[k : k + 1])
                    moved = value - sample.value[numbers[rows]]
                    sums[k] += moved @ members[numbers[rows]]
        assert points is not None
        settings = made_with(sample, perturbations, split=split, draws=draws)
    n = members.sum(0)
    return RandomSystematics(
        tuple(g.name for g in groups),
        sums / n,
        perturbations.physical(points.double()).numpy(),
        tuple(int(k) for k in n),
        perturbations.label,
        settings,
    )
