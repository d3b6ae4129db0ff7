r"""The worst error that a survey shares: one parameter vector for all galaxies.

.. math:: \max_{\mathrm{size}(p) \le 1}\; \pm \frac{1}{|B|} \sum_{i \in B} \left[
    \ell\left(f_\theta(T_p(x_i)), z_i\right) - \ell\left(f_\theta(x_i), z_i\right) \right]

It is a maximisation over a handful of numbers. Samples are independent, so that one backward pass
over a batch gives the gradient of every galaxy's objective with respect to its own copy of p, and
with it that of the mean of every bin; the searches of all bins advance together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from advphotoz._checks import check_at_least_one
from advphotoz._model import check_model
from advphotoz.evaluation.report import quote
from advphotoz.objectives import Objective
from advphotoz.perturbations import PerturbationSet
from advphotoz.provenance import command, machine, versions, weights_digest
from advphotoz.redshift import Readout
from advphotoz.survey.report import MeanShift, WorstSystematic
from advphotoz.survey.sample import Group, Sample, groups_of, surveyed

__all__ = ["budgets_of", "check_split", "made_with", "worst_systematic"]

Array = npt.NDArray[Any]
SMALLEST = 1e-3  # share of a step below which a search ends
NOTHING = 1e-6  # a gain of the mean that is not worth a step; requirements are above 1e-3


def worst_systematic(
    model: nn.Module,
    loader: Iterable[Any],
    perturbations: PerturbationSet,
    readout: Readout,
    bins: int | Sequence[float] | None = None,
    *,
    objective: Objective | None = None,
    steps: int = 10,
    tolerance: float = 1e-3,
    split: float = 0.5,
    bands: Sequence[str] = (),
    autocast: torch.dtype | None = None,
    seed: int = 0,
    progress: bool = True,
) -> WorstSystematic:
    r"""Find the error, shared by all galaxies, that shifts the mean of each bin most.

    The search begins at the corner that the gradient names, the maximiser of the linear response in
    the set. It goes on by steps along the gradient, projected on the set, whose length is one over
    the curvature seen last (a spectral projected gradient), and to the corner of the gradient where
    there was none; a step that does not raise the mean is shortened. It ends where the gradient
    promises less than `tolerance` of what was reached, or less than 1e-6. A galaxy is in a bin by
    its unchanged prediction; the report also gives the shift with galaxies assigned anew by the
    shifted prediction.

    The shift is found on one part of the galaxies and measured on the rest. Images are read batch
    by batch, again at every step, and never kept.

    Parameters
    ----------
    model : Module
        Called as ``model(x, *context)``; frozen, in eval mode, and left as it was.
    loader : iterable of batches
        ``(x, *context, target)``; read several times, and must give the same galaxies in the same
        order. Pixels are linear in flux: a stretch belongs inside the network.
    perturbations : PerturbationSet
        What the survey's calibration allows: `ZeroPoint`, `SkyLevel`, `Compose` of several, a
        `GaussianBudget`.
    readout : Readout
        How the output becomes a redshift.
    bins : int or sequence of float, optional
        Edges of tomographic bins in the predicted redshift, infinite ones included, or a number of
        bins, each to hold as many galaxies. None: all galaxies only.
    objective : callable, optional
        ``(output, target) -> (N,)``, the value whose mean is shifted. None:
        ``SignedRedshift(readout)``, the signed dz.
    steps : int
        Largest number of steps of a search, each of which reads the data once.
    tolerance : float
        Relative; see above.
    split : float
        Share of the galaxies that the search sees, chosen by the SHA-256 of each galaxy.
    bands : sequence of str
        Names of the bands, for the tables: ``"ugriz"``.
    autocast : torch.dtype, optional
        ``torch.bfloat16`` runs the model in mixed precision.
    seed : int
        Of what a model draws in eval mode, if it does.
    progress : bool
        Show progress bars.

    Returns
    -------
    WorstSystematic
        Shifts with paired errors, parameters in physical units, the linear response and its bound.

    Raises
    ------
    ValueError
        If a bin holds too few galaxies, the loader's order changes, or a batch makes no sense.
    TypeError
        If the model is no Module, the set none, or the readout none.

    References
    ----------
    Birgin, Martínez & Raydan 2000 (SIAM J. Optim. 10, 1196), spectral projected gradients.

    Examples
    --------
    A network that sees only the colour of two bands, dz = 0.1 log10(f1 / f2). Zero points of 0.01
    mag with opposite signs are worst, and shift it by 0.1 times 0.4 times 0.02:

    >>> import torch
    >>> from advphotoz import PointEstimate, ZeroPoint
    >>> class Colour(torch.nn.Module):
    ...     def forward(self, x):
    ...         flux = x.sum((2, 3))
    ...         return 0.1 * (flux[:, 0] / flux[:, 1]).log10()
    >>> batch = (1 + torch.rand(40, 2, 3, 3), torch.zeros(40))
    >>> worst = worst_systematic(
    ...     Colour(), [batch], ZeroPoint(0.01), PointEstimate(), progress=False
    ... )
    >>> largest = worst.of("all", sign=1)
    >>> round(largest.shift, 7), [round(mag, 4) for mag in largest.parameters]
    (0.0008, [-0.01, 0.01])
    """
    check_model(model)
    check_at_least_one(steps, "steps")
    check_split(split)
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance}")
    with surveyed(
        model, loader, perturbations, readout, objective, autocast, seed, progress
    ) as sample:
        sample.look(bands, split)
        groups = groups_of(sample, bins)
        searches = [_Search.of(sample, group, sign) for group in groups for sign in (1, -1)]
        for number in range(steps):
            active = [s for s in searches if s.next_point(sample, tolerance)]
            if not active:
                break
            _advance(sample, active, f"step {number + 1}")
        for s in searches:
            s.finish(sample, tolerance)
        moved = _measure(sample, searches)
        budgets, jacobian = budgets_of(perturbations, len(sample.names))
        shifts = tuple(
            _shift(sample, s, *found, budgets, jacobian)
            for s, found in zip(searches, moved, strict=True)
        )
        more = {"split": split, "steps": steps, "tolerance": tolerance}
        settings = made_with(sample, perturbations, **more)
    return WorstSystematic(
        shifts, sample.names, tuple(budgets.tolist()), perturbations.label, settings
    )


@dataclass(eq=False)
class _Search:
    """The maximisation of one group's mean in one direction; values and gradients carry the sign.

    Attributes
    ----------
    p, value, gradient
        The best point so far, the mean there, and its gradient.
    corner : Tensor
        The maximiser of that gradient in the set.
    reach : float
        Length of a step along the gradient: one over the curvature seen last, infinite where there
        was none.
    aim : Tensor
        Where such a step leads, inside the set; the corner for one of infinite length.
    fraction : float
        Of the way from p to the aim, where the next point lies.
    """

    group: Group
    sign: int
    rows: npt.NDArray[np.bool_]
    p: Tensor
    value: float
    gradient: Tensor
    start: float
    response: Array
    reach: float = math.inf
    corner: Tensor = field(default_factory=lambda: torch.empty(0))
    aim: Tensor = field(default_factory=lambda: torch.empty(0))
    fraction: float = 1.0
    trial: Tensor = field(default_factory=lambda: torch.empty(0))
    gap: float = math.inf
    converged: bool = False
    trace: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, sample: Sample, group: Group, sign: int) -> _Search:
        """Start where nothing is changed; value and gradient there are known."""
        rows = group.members & sample.searched
        response = sample.gradient[rows].mean(0)
        start = sign * float(sample.value[rows].mean())
        p = torch.zeros(1, len(response), dtype=torch.float64)
        gradient = torch.from_numpy(sign * response)[None]
        return cls(group, sign, rows, p, start, gradient, start, response)

    def next_point(self, sample: Sample, tolerance: float) -> bool:
        """Choose the next point; return whether there is one."""
        self.look_ahead(sample, tolerance)
        if self.converged or self.fraction < SMALLEST:
            return False
        self.aim = self.corner
        if math.isfinite(self.reach):
            ahead = self.p + self.reach * self.gradient
            self.aim = sample.set.project(ahead, ahead)
        ahead = self.p + self.fraction * (self.aim - self.p)
        self.trial = sample.set.project(ahead, ahead)
        return True

    def look_ahead(self, sample: Sample, tolerance: float) -> None:
        """Compute what the gradient still promises."""
        self.corner = sample.set.steepest(self.gradient)
        self.gap = float((self.gradient * (self.corner - self.p)).sum())
        self.converged = self.gap <= max(tolerance * (self.value - self.start), NOTHING)

    def arrived(self, value: float, gradient: Array) -> None:
        """Take the next point if it is better; or else go less far, where the slopes meet."""
        there = torch.from_numpy(gradient)[None]
        way = self.trial - self.p
        here, ahead = (float((g * way).sum()) for g in (self.gradient, there))
        if value > self.value:
            # The spectral step of Barzilai & Borwein.
            bend = (here - ahead) / float(way.square().sum())
            self.reach = 1 / bend if bend > 0 else math.inf
            self.p, self.value, self.gradient, self.fraction = self.trial, value, there, 1.0
        else:
            share = here / (here - ahead) if here > 0 > ahead else 0.5
            self.fraction *= min(max(share, 0.1), 0.5)
        self.trace.append(self.value - self.start)

    def finish(self, sample: Sample, tolerance: float) -> None:
        """Compute what the gradient promises at the end."""
        self.look_ahead(sample, tolerance)


def _advance(sample: Sample, searches: Sequence[_Search], title: str) -> None:
    """Compute mean and gradient of every search at its next point, in one pass over the data."""
    sums = np.zeros((len(searches), 1 + len(sample.names)))
    points = torch.cat([s.trial for s in searches])
    rows_of = [s.rows for s in searches]
    for numbers, batch in sample.batches(title):
        chosen = [np.flatnonzero(rows[numbers]) for rows in rows_of]
        which = np.concatenate([np.full(len(c), k) for k, c in enumerate(chosen)])
        rows = np.concatenate(chosen)
        for part in np.array_split(np.arange(len(rows)), max(1, -(-len(rows) // len(numbers)))):
            if not len(part):
                continue
            with sample.opened(batch.rows(torch.from_numpy(rows[part]))) as problem:
                p = points[torch.from_numpy(which[part])]
                value, gradient = sample.value_and_gradient(problem, p)
            np.add.at(sums, which[part], np.column_stack([value, gradient]))
    for s, total in zip(searches, sums, strict=True):
        mean = s.sign * total / s.rows.sum()
        s.arrived(float(mean[0]), mean[1:])


def _measure(sample: Sample, searches: Sequence[_Search]) -> list[tuple[Array, Array]]:
    """Return objective and redshift of every galaxy under what each search found, (n,) each."""
    found = [(np.full_like(sample.value, np.nan), sample.z_phot.copy()) for _ in searches]
    for numbers, batch in sample.batches("measurement"):
        rows = np.flatnonzero(~sample.searched[numbers])
        if not len(rows):
            continue
        with sample.opened(batch.rows(torch.from_numpy(rows))) as problem:
            for (value, z_phot), s in zip(found, searches, strict=True):
                value[numbers[rows]], z_phot[numbers[rows]] = sample.values(problem, s.p)
    return found


def _shift(
    sample: Sample, s: _Search, value: Array, z_phot: Array, budgets: Tensor, jacobian: Tensor
) -> MeanShift:
    measured = ~sample.searched
    members = s.group.members & measured
    moved = value[members] - sample.value[members]
    again, again_error = _reassigned(sample, s.group, value, z_phot, measured)
    p = s.p[0].numpy()
    response = sample.gradient[members].mean(0)
    corner = sample.set.steepest(torch.from_numpy(s.sign * s.response)[None])[0].double()
    physical = torch.linalg.pinv(jacobian) @ torch.from_numpy(s.response)
    change = jacobian.T @ corner
    return MeanShift(
        group=s.group.name,
        low=s.group.low,
        high=s.group.high,
        z_mean=float(sample.z_spec[members].mean()),
        sign=s.sign,
        n_searched=int(s.rows.sum()),
        n=int(members.sum()),
        p=tuple(p.tolist()),
        parameters=tuple(sample.set.physical(s.p)[0].tolist()),
        size=float(sample.set.size(s.p)[0]),
        found=s.sign * (s.value - s.start),
        shift=float(moved.mean()),
        error=float(moved.std(ddof=1) / math.sqrt(len(moved))),
        reassigned=again,
        reassigned_error=again_error,
        linear=float(response @ p),
        bound=float(torch.from_numpy(s.response) @ corner),
        response=tuple(float(g) if b > 0 else None for g, b in zip(physical, budgets, strict=True)),
        contributions=tuple((physical * change).tolist()),
        gap=s.gap,
        converged=s.converged,
        trace=tuple(s.sign * t for t in s.trace),
    )


def _reassigned(
    sample: Sample, group: Group, value: Array, z_phot: Array, measured: npt.NDArray[np.bool_]
) -> tuple[float | None, float | None]:
    """Return the shift of the mean when members are chosen anew, with its paired error.

    The difference of two means over samples that overlap; its error is that of the sum of the
    influence of every galaxy on it.
    """
    if group.low is None or group.high is None:
        return None, None
    before = group.members[measured]
    after = (z_phot[measured] >= group.low) & (z_phot[measured] < group.high)
    if not after.any():
        return None, None
    old, new = sample.value[measured], value[measured]
    means = old[before].mean(), new[after].mean()
    influence = np.where(after, new - means[1], 0) / after.sum()
    influence -= np.where(before, old - means[0], 0) / before.sum()
    return float(means[1] - means[0]), float(np.sqrt(np.square(influence).sum()))


def budgets_of(perturbations: PerturbationSet, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest physical value of every parameter in the set, (K,), and d physical / dp.

    Physical values are linear in p, so that the largest one is its linear maximiser's.
    """
    jacobian = perturbations.physical(torch.eye(count, dtype=torch.float64))
    rows = jacobian.T.contiguous()
    return (rows * perturbations.steepest(rows)).sum(1), jacobian


def check_split(split: float) -> None:
    """Refuse a split that leaves a part empty."""
    if not 0 < split < 1:
        raise ValueError(
            f"split must lie between 0 and 1, the share of the galaxies to search on, got {split}"
        )


def made_with(sample: Sample, perturbations: PerturbationSet, **more: Any) -> dict[str, Any]:
    """Return what is needed to repeat a result, as plain values, for the file."""
    model, s = sample.model, sample.settings
    return {
        "network": {
            "class": type(model).__name__,
            "parameters": sum(p.numel() for p in model.parameters()),
            "sha256": weights_digest(model),
        },
        "perturbations": quote(perturbations),
        "readout": quote(s.readout),
        "objective": quote(s.objective),
        "autocast": None if s.autocast is None else str(s.autocast),
        "seed": s.seed,
        "samples": sample.data.count,
        "batch_size": sample.batch_size,
        "data_sha256_sum": sample.data.hexdigest(),
        "reads": sample.reads,
        "gradients": sample.gradients,
        "forwards": sample.forwards,
        "versions": versions(),
        "machine": machine(sample.device),
        "command": command(),
        **more,
    }
