"""What a survey's worst case is: numbers, tables of them, and files that hold everything."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advphotoz.evaluation import report
from advphotoz.perturbations import Parameter
from advphotoz.survey.requirements import Requirement, as_requirement
from advphotoz.survey.sample import ALL

__all__ = ["MeanShift", "WorstSystematic", "in_unit", "shown", "stated"]

KIND = "worst systematic"
SCALES = {"mag": (1e3, "mmag"), "arcsec": (1e3, "mas"), "(relative)": (100.0, "%")}


@dataclass(frozen=True)
class MeanShift:
    r"""The worst that one shared error does to the mean of one group of galaxies, in one direction.

    All shifts are changes of the mean objective, by default of the mean of
    :math:`\Delta z = (z_{phot} - z_{spec}) / (1 + z_{spec})`, against the same galaxies unchanged.

    Attributes
    ----------
    group : str
        ``all``, or the bin.
    low, high : float or None
        Edges of the bin, in the prediction for unchanged images; None for all galaxies.
    z_mean : float
        Mean true redshift of the galaxies that the shift is measured on.
    sign : int
        1: the search looked for the largest mean, -1: for the smallest.
    n_searched, n : int
        Galaxies that the search saw, and others that the shift is measured on.
    p : tuple of float
        The parameters that were found, as the set has them.
    parameters : tuple of float
        The same in physical units.
    size : float
        How much of the budget they use, 1 being all.
    found : float
        The shift of the galaxies that the search saw.
    shift, error : float
        The shift of the others, and its paired standard error.
    reassigned, reassigned_error : float or None
        The shift of the mean of the bin when galaxies are assigned to bins by the shifted
        prediction, as a survey would: some leave and some enter. None where no galaxy stays.
    linear : float
        What the linear response predicts for these parameters, on the galaxies of `shift`.
    bound : float
        The largest that the linear response allows in the set, on the galaxies of `found`; in
        closed form, for a box the sum of :math:`|g_k|`, for an ellipsoid the norm of g.
    response : tuple of float or None
        The gradient g of the mean with respect to each parameter in its physical unit; None for a
        parameter without budget.
    contributions : tuple of float
        By how much each parameter contributes to the bound; they sum to it.
    gap : float
        How much more the linear response at the end of the search promises; 0 at an optimum.
    converged : bool
        Whether that is below the tolerance.
    trace : tuple of float
        The best shift after each step of the search.
    """

    group: str
    low: float | None
    high: float | None
    z_mean: float
    sign: int
    n_searched: int
    n: int
    p: tuple[float, ...]
    parameters: tuple[float, ...]
    size: float
    found: float
    shift: float
    error: float
    reassigned: float | None
    reassigned_error: float | None
    linear: float
    bound: float
    response: tuple[float | None, ...]
    contributions: tuple[float, ...]
    gap: float
    converged: bool
    trace: tuple[float, ...]

    @property
    def nonlinearity(self) -> float:
        """What the search found over the bound of the linear response: 1 where it is linear."""
        return self.found / self.bound if self.bound else float("nan")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MeanShift:
        """Build it from what JSON gave back."""
        return cls(**{f.name: _read(values[f.name], f.name) for f in dataclasses.fields(cls)})


@dataclass(frozen=True)
class WorstSystematic:
    """The worst error that a survey shares, for all galaxies and for each bin, in both directions.

    ``str(result)`` is a text table with what the numbers say in words.

    Attributes
    ----------
    shifts : tuple of MeanShift
        All galaxies first, then the bins; of each the larger mean, then the smaller.
    parameters : tuple of Parameter
        What the parameters are.
    budgets : tuple of float
        The largest physical value that each can take.
    label : str
        Kind and size of the set.
    settings : mapping
        What it was made with, and on what, as plain values; among them how often the data were
        read (``reads``), and the ``gradients`` and ``forwards`` computed per galaxy.
    """

    shifts: tuple[MeanShift, ...]
    parameters: tuple[Parameter, ...]
    budgets: tuple[float, ...]
    label: str
    settings: Mapping[str, Any]

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, WorstSystematic):
            return NotImplemented
        same: bool = report.plain(self._body()) == report.plain(other._body())
        return same

    @property
    def bins(self) -> tuple[MeanShift, ...]:
        """Return the shifts of the bins; that of all galaxies where there are no bins."""
        return tuple(s for s in self.shifts if s.group != ALL) or self.shifts

    @property
    def edges(self) -> tuple[float, ...] | None:
        """Return the edges of the bins, None where there are none."""
        lows = [s.low for s in self.shifts if s.low is not None and s.sign == 1]
        highs = [s.high for s in self.shifts if s.high is not None]
        return (*lows, highs[-1]) if lows else None

    @property
    def worst(self) -> MeanShift:
        """Return the largest shift of a bin."""
        return max(self.bins, key=lambda s: abs(s.shift))

    @property
    def all_converged(self) -> bool:
        """Whether every search has converged."""
        return all(s.converged for s in self.shifts)

    def of(self, group: str = ALL, sign: int = 1) -> MeanShift:
        """Return one shift by its group and sign."""
        for s in self.shifts:
            if (s.group, s.sign) == (group, sign):
                return s
        groups = list(dict.fromkeys(s.group for s in self.shifts))
        raise KeyError(f"no group {group!r} with the sign {sign}; the groups are {groups}")

    def in_words(self, requirement: Requirement | str | float) -> str:
        """Say how the worst case compares with a requirement, and what it comes from."""
        limit, worst = as_requirement(requirement), self.worst
        times = abs(worst.shift) / limit.limit
        verdict = "meets" if times <= 1 else "misses"
        moved = f"{1e4 * worst.shift:+.1f} ± {1e4 * worst.error:.1f} e-4"
        return (
            f"Within {shown(self.parameters, self.budgets)}, the mean dz of {_where(worst)} "
            f"shifts by up to {moved}, {times:.2g} times what {stated(limit)} allows "
            f"({1e4 * limit.limit:g}e-4): the worst case {verdict} it. "
            f"{dominant(worst, self.parameters)}"
        )

    def __str__(self) -> str:
        notes = [self._note(), *(["", *self._warnings()] if self._warnings() else [])]
        tables = [
            report.text(HEADER, [self._cells(s) for s in self.shifts]),
            report.text(RESPONSE_HEADER, self._response()),
        ]
        return "\n".join([tables[0], *notes, "", tables[1], RESPONSE_NOTE])

    def to_markdown(self) -> str:
        """Return the tables as Markdown, with what has not converged above them."""
        warned = "".join(f"**{line}**\n\n" for line in self._warnings())
        first = report.markdown(HEADER, [self._cells(s) for s in self.shifts])
        second = report.markdown(RESPONSE_HEADER, self._response())
        return f"{warned}{first}\n\n{self._note()}\n\n{second}\n\n{RESPONSE_NOTE}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON; see `Evaluation.save`."""
        report.save_json(path, KIND, self._body())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WorstSystematic:
        """Read what `save` wrote; see `Evaluation.load`."""
        body = report.load_json(path, KIND)
        with report.whole(path, "a worst systematic"):
            return cls.from_dict(body)

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> WorstSystematic:
        """Build it from what JSON gave back."""
        return cls(
            tuple(MeanShift.from_dict(s) for s in body["shifts"]),
            tuple(Parameter(*p) for p in body["parameters"]),
            tuple(float(b) for b in body["budgets"]),
            body["label"],
            body["settings"],
        )

    def _body(self) -> dict[str, Any]:
        return {
            "settings": dict(self.settings),
            "label": self.label,
            "parameters": [list(p) for p in self.parameters],
            "budgets": list(self.budgets),
            "shifts": [dataclasses.asdict(s) for s in self.shifts],
        }

    def _cells(self, s: MeanShift) -> list[str]:
        again = (
            "n/a"
            if s.reassigned is None or s.reassigned_error is None
            else _pm(s.reassigned, s.reassigned_error)
        )
        return [
            s.group,
            "+" if s.sign > 0 else "-",
            str(s.n),
            _pm(s.shift, s.error),
            again if s.group != ALL else "",
            f"{1e4 * s.found:+.1f}",
            f"{1e4 * s.bound:+.1f}",
            f"{s.nonlinearity:.2f}",
            largest(s, self.parameters),
        ]

    def _response(self) -> list[list[str]]:
        """Return a line per parameter, from the shift of the group that is worst."""
        worst = self.worst
        lines = []
        for k, (parameter, budget) in enumerate(zip(self.parameters, self.budgets, strict=True)):
            response = worst.response[k]
            lines.append(
                [
                    parameter.name,
                    in_unit(budget, parameter.unit),
                    "" if response is None else _micro(response, parameter.unit),
                    f"{1e4 * worst.contributions[k]:+.2f}",
                    f"{100 * worst.contributions[k] / worst.bound:.0f}" if worst.bound else "",
                    in_unit(worst.parameters[k], parameter.unit, sign=True),
                ]
            )
        return lines

    def _note(self) -> str:
        first, s = self.shifts[0], self.settings
        found = f"found on {first.n_searched} galaxies, measured on {first.n} others"
        cost = (
            f"the data were read {s['reads']} times, with {s['gradients']:.3g} gradients and "
            f"{s['forwards']:.3g} further forward passes per galaxy"
            if "reads" in s
            else ""
        )
        return (
            f"{self.label}, shared by all galaxies; shifts of the mean of dz in 1e-4, {found}; ± "
            f"is the paired standard error; {cost}. Where the search found less than the linear "
            "bound it has not converged or the response saturates; where more, it is not linear."
        )

    def _warnings(self) -> list[str]:
        late = [f"{s.group} {'+' if s.sign > 0 else '-'}" for s in self.shifts if not s.converged]
        if not late:
            return []
        return [f"Not converged: {', '.join(late)}; take more steps."]


HEADER = (
    "group",
    "sign",
    "n",
    "shift [1e-4]",
    "re-assigned",
    "found",
    "linear bound",
    "found / bound",
    "largest contribution",
)
RESPONSE_HEADER = (
    "parameter",
    "budget",
    "response",
    "contribution [1e-4]",
    "share [%]",
    "worst value",
)
RESPONSE_NOTE = (
    "Of the worst bin: the linear response of its mean dz, in 1e-6 per thousandth of the unit (per "
    "mmag, per mas) or per percent, what each parameter contributes to the linear bound, and its "
    "value in the worst case."
)


def in_unit(value: float, unit: str, sign: bool = False) -> str:
    """Return a physical value with a unit that suits calibrations: mmag, mas, per cent."""
    scale, name = SCALES.get(unit, (1.0, unit))
    return f"{scale * value:{'+' if sign else ''}.3g} {name}".strip()


def shown(names: Sequence[Parameter], values: Sequence[float]) -> str:
    """Return values effect by effect, those of one size together: ``zero point 5 mmag (u 10)``."""
    parts = []
    for effect in dict.fromkeys((n.effect, n.unit) for n in names):
        pairs = [
            (n.part, v) for n, v in zip(names, values, strict=True) if (n.effect, n.unit) == effect
        ]
        texts = [in_unit(v, effect[1]) for _, v in pairs]
        usual = max(dict.fromkeys(texts), key=texts.count)
        others = [f"{p} {t}" for (p, _), t in zip(pairs, texts, strict=True) if t != usual]
        parts.append(f"{effect[0]} {usual}" + (f" ({', '.join(others)})" if others else ""))
    return "; ".join(parts)


def stated(requirement: Requirement) -> str:
    """Return a requirement by its name, with a mark where its figure was not read in the source."""
    unread = "" if requirement.read_there else ", a figure quoted and not read in its source"
    return f"{requirement.name} (|shift| <= {requirement.limit:g}{unread})"


def shares(shift: MeanShift, parameters: Sequence[Parameter]) -> tuple[dict[str, float], str]:
    """Return the share of each effect in the linear bound, and the largest parameter."""
    by_effect: dict[str, float] = {}
    for parameter, part in zip(parameters, shift.contributions, strict=True):
        by_effect[parameter.effect] = by_effect.get(parameter.effect, 0.0) + part
    total = shift.bound or 1.0
    return {name: part / total for name, part in by_effect.items()}, largest(shift, parameters)


def dominant(shift: MeanShift, parameters: Sequence[Parameter]) -> str:
    """Say which effect and which parameter contribute most."""
    by_effect, one = shares(shift, parameters)
    effect = max(by_effect, key=lambda name: abs(by_effect[name]))
    most = f"{effect} makes {100 * by_effect[effect]:.0f} % of it, " if len(by_effect) > 1 else ""
    return f"In linear response {most}the largest single part is {one}."


def largest(shift: MeanShift, parameters: Sequence[Parameter]) -> str:
    """Return the parameter that contributes most, with its share."""
    if not shift.bound:
        return "none"
    k = max(range(len(parameters)), key=lambda i: abs(shift.contributions[i]))
    return f"{parameters[k].name} ({100 * shift.contributions[k] / shift.bound:.0f} %)"


def _where(shift: MeanShift) -> str:
    return "all galaxies" if shift.group == ALL else f"the bin {shift.group}"


def _pm(value: float, error: float) -> str:
    return f"{1e4 * value:+.1f} ± {1e4 * error:.1f}"


def _micro(response: float, unit: str) -> str:
    per = 1e-2 if unit == "(relative)" else 1e-3
    return f"{1e6 * per * response:+.3g}"


def _read(value: Any, name: str) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return float(value) if isinstance(value, str) and name != "group" else value
