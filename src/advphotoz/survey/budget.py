"""How small a calibration error must be, so that its worst case meets a requirement."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from advphotoz._checks import check_at_least_one
from advphotoz.evaluation import report
from advphotoz.perturbations import PerturbationSet
from advphotoz.redshift import Readout
from advphotoz.survey.report import WorstSystematic, shown
from advphotoz.survey.requirements import Requirement, as_requirement
from advphotoz.survey.worst import worst_systematic

__all__ = ["CalibrationBudget", "calibration_budget"]

KIND = "calibration budget"
CLOSE = 0.02  # of the requirement, relative: how well the worst case is made to meet it


@dataclass(frozen=True)
class CalibrationBudget:
    """By how much a budget must shrink.

    Attributes
    ----------
    requirement : Requirement
        What was to be met.
    factor : float
        What every budget is to be multiplied by; 1 where the full one meets the requirement.
    error : float
        Its standard error, from that of the shift.
    margin : float
        The requirement over the worst shift of the full budget; above 1 there is room.
    full, met : WorstSystematic
        The worst case of the full budget, and of the one that meets the requirement.
    """

    requirement: Requirement
    factor: float
    error: float
    margin: float
    full: WorstSystematic
    met: WorstSystematic

    __hash__ = None  # type: ignore[assignment]

    @property
    def words(self) -> str:
        """The result in words: ``zero point must be known to 4 mmag``."""
        start = self.full.in_words(self.requirement)
        if self.factor == 1:
            return (
                f"{start} In linear response the budget could grow {self.margin:.2g} times before "
                "it misses it."
            )
        return (
            f"{start} To meet it, every budget must shrink to {self.factor:.2g} ± "
            f"{self.error:.1g} of what it is: "
            f"{shown(self.met.parameters, self.met.budgets)} must be kept."
        )

    def __str__(self) -> str:
        return f"{self.words}\n\n{self.met}"

    def to_markdown(self) -> str:
        """Return words and tables as Markdown."""
        return f"{self.words}\n\n{self.met.to_markdown()}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON; see `Evaluation.save`."""
        body = {
            "requirement": dataclasses.asdict(self.requirement),
            "factor": self.factor,
            "error": self.error,
            "margin": self.margin,
            "full": self.full._body(),
            "met": self.met._body(),
            "words": self.words,
        }
        report.save_json(path, KIND, body)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CalibrationBudget:
        """Read what `save` wrote; see `Evaluation.load`."""
        body = report.load_json(path, KIND)
        with report.whole(path, "a calibration budget"):
            return cls.from_dict(body)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> CalibrationBudget:
        """Build it from what JSON gave back."""
        return cls(
            Requirement(**body["requirement"]),
            float(body["factor"]),
            float(body["error"]),
            float(body["margin"]),
            WorstSystematic.from_dict(body["full"]),
            WorstSystematic.from_dict(body["met"]),
        )


def calibration_budget(
    model: nn.Module,
    loader: Iterable[Any],
    perturbations: PerturbationSet,
    readout: Readout,
    requirement: Requirement | str | float,
    bins: int | Sequence[float] | None = None,
    *,
    rounds: int = 5,
    **settings: Any,
) -> CalibrationBudget:
    r"""Find the factor by which a budget must shrink until its worst case meets a requirement.

    .. math:: \max_{B,\, \pm} W_{B,\pm}(s) = \mathrm{limit}

    with W the worst shift of the mean of bin B within the set scaled by s. Each round searches
    anew within the scaled set and rescales by the requirement over what it found, until both agree
    to 2 %.

    Parameters
    ----------
    model, loader, perturbations, readout, bins
        As for `worst_systematic`. Without bins it is the mean of all galaxies that counts. A number
        of bins is turned into edges once.
    requirement : Requirement, str or float
        Such as ``"Euclid"``, a name of `REQUIREMENTS`, or a limit such as 0.002.
    rounds : int
        Largest number of rounds after the first.
    **settings
        Further arguments of `worst_systematic`.

    Returns
    -------
    CalibrationBudget
        ``result.words`` says it.

    Raises
    ------
    ValueError, TypeError
        As `worst_systematic`; for a requirement that is unknown or not positive; if the worst case
        does not settle within the rounds.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import PointEstimate, ZeroPoint
    >>> class Colour(torch.nn.Module):
    ...     def forward(self, x):
    ...         flux = x.sum((2, 3))
    ...         return 0.5 * (flux[:, 0] / flux[:, 1]).log10()
    >>> batch = (1 + torch.rand(40, 2, 3, 3), torch.zeros(40))
    >>> found = calibration_budget(
    ...     Colour(), [batch], ZeroPoint(0.01), PointEstimate(), 0.002, progress=False
    ... )
    >>> round(found.factor, 3), [round(mag, 4) for mag in found.met.budgets]
    (0.5, [0.005, 0.005])
    """
    limit = as_requirement(requirement)
    check_at_least_one(rounds, "rounds")
    full = worst_systematic(model, loader, perturbations, readout, bins, **settings)
    edges = full.edges if bins is not None else None
    shift = abs(full.worst.shift)
    margin = limit.limit / shift if shift else float("inf")
    factor, met = 1.0, full
    for _ in range(rounds):
        if margin >= 1 or abs(abs(met.worst.shift) / limit.limit - 1) <= CLOSE:
            break
        factor *= limit.limit / abs(met.worst.shift)
        scaled = perturbations.scaled(factor)
        met = worst_systematic(model, loader, scaled, readout, edges, **settings)
    else:
        if abs(abs(met.worst.shift) / limit.limit - 1) > CLOSE:
            raise ValueError(
                f"after {rounds} rounds the worst case, {abs(met.worst.shift):.3g}, does not meet "
                f"the limit {limit.limit:g} to {100 * CLOSE:g} %; take more rounds"
            )
    worst = met.worst
    error = factor * worst.error / abs(worst.shift) if worst.shift else 0.0
    return CalibrationBudget(limit, factor, error, margin, full, met)
