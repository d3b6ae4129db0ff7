"""How fast a model gives way: its metrics against the size of the perturbation."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from advphotoz._checks import check_radius
from advphotoz._model import check_model, unwrapped
from advphotoz.attacks import Attack
from advphotoz.attacks.contract import bind_objective
from advphotoz.evaluation import report
from advphotoz.evaluation.evaluate import check_name
from advphotoz.evaluation.report import Row, make_row, provenance
from advphotoz.evaluation.run import CLEAN, Settings, prepared
from advphotoz.objectives import Objective
from advphotoz.redshift import Readout

__all__ = ["CurvePoint", "RobustnessCurve", "robustness_curve"]

KIND = "robustness curve"


@dataclass(frozen=True)
class CurvePoint:
    """Metrics under one attack at one eps; at eps = 0 those of the clean images."""

    name: str
    eps: float
    row: Row


@dataclass(frozen=True)
class RobustnessCurve:
    """Metrics of one model against eps, for one or more kinds of attack.

    ``str(curve)`` is a text table in the paper's units.

    Attributes
    ----------
    points : tuple of CurvePoint
        By attack, then by rising eps from 0.
    settings : mapping
        What it was made with, as plain values.
    """

    points: tuple[CurvePoint, ...]
    settings: Mapping[str, Any]

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RobustnessCurve):
            return NotImplemented
        same: bool = report.plain(self._body()) == report.plain(
            other._body()
        )  # NaN equals NaN here
        return same

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the attacks, in the order given."""
        return tuple(dict.fromkeys(point.name for point in self.points))

    def line(self, name: str, metric: str = "eta") -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return eps and one metric, a field of `Row`, of one attack as float64 arrays.

        Raises
        ------
        KeyError
            If there is no such attack.
        ValueError
            If there is no such metric, or it was not computed.
        """
        if name not in self.names:
            raise KeyError(f"no attack {name!r}; the attacks are {list(self.names)}")
        points = [point for point in self.points if point.name == name]
        values = report.numbers_of([point.row for point in points], metric)
        return np.array([point.eps for point in points]), np.array(values, dtype=np.float64)

    def __str__(self) -> str:
        table = report.text(["attack", "eps", *report.TEXT_HEADER], self._lines())
        attacked = {f"{p.name} at {p.eps:.10g}": p.row for p in self.points if p.eps}
        note = report.note([point.row for point in self.points])
        return f"{table}\n{note}\n{report.unchecked(attacked)}"

    def to_markdown(self) -> str:
        """Return the table as Markdown."""
        return report.markdown(["attack", "eps", *report.MARKDOWN_HEADER], self._lines())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON; see `Evaluation.save`."""
        report.save_json(path, KIND, self._body())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RobustnessCurve:
        """Read what `save` wrote; see `Evaluation.load`."""
        body = report.load_json(path, KIND)
        with report.whole(path, "a robustness curve"):
            points = (
                CurvePoint(p["name"], float(p["eps"]), Row.from_dict(p["row"]))
                for p in body["points"]
            )
            return cls(tuple(points), body["settings"])

    def _lines(self) -> list[list[str]]:
        return [[p.name, f"{p.eps:.10g}", *report.cells(p.row)[1:]] for p in self.points]

    def _body(self) -> dict[str, Any]:
        points = [dataclasses.asdict(point) for point in self.points]
        return {"settings": dict(self.settings), "points": points}


def robustness_curve(
    model: nn.Module,
    loader: Iterable[Any],
    attacks: Mapping[str, Callable[[float], Attack]],
    eps: Sequence[float],
    readout: Readout,
    *,
    objective: Objective | None = None,
    autocast: torch.dtype | None = None,
    seed: int = 0,
    progress: bool = True,
    bootstrap: int = 200,
) -> RobustnessCurve:
    """Measure a model under attacks of growing size, in one pass over the data.

    Parameters
    ----------
    model, loader, readout, objective, autocast, seed, progress, bootstrap
        As in `evaluate`.
    attacks : mapping of str to callable
        For each name a function that makes an attack from an eps, such as
        ``{"FGSM": FGSM, "PGD-10": PGD}``, or ``attack.scaled`` for the eps of which 1 is the attack
        itself.
    eps : sequence of float
        Sizes in the units of the image. The clean images, eps = 0, are always added.

    Returns
    -------
    RobustnessCurve
        One point per attack and eps, and the clean point at the head of each attack's line.

    Raises
    ------
    ValueError, TypeError
        As `evaluate`, and if `attacks` holds attacks in place of functions that make them, or eps
        holds a number twice.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import FGSM, RedshiftBins
    >>> from advphotoz.evaluation import robustness_curve
    >>> model, batch = torch.nn.Linear(2, 4), (torch.randn(8, 2), torch.rand(8))
    >>> curve = robustness_curve(
    ...     model, [batch], {"FGSM": FGSM}, [0.1, 0.2], RedshiftBins(n=4), progress=False
    ... )
    >>> curve.line("FGSM", "linf")[0]
    array([0. , 0.1, 0.2])
    """
    model = unwrapped(check_model(model))
    settings = Settings.of(readout, objective, autocast, seed, progress, bootstrap)
    sizes = _sizes(eps)
    if not attacks or not hasattr(attacks, "items"):
        raise TypeError(
            'attacks must be a mapping of names to functions of eps, such as {"FGSM": FGSM}'
        )
    made = {
        (check_name(name, "an attack"), size): bind_objective(
            _make(name, factory, size), settings.objective
        )
        for name, factory in attacks.items()
        for size in sizes
    }
    with prepared([model], settings) as run:
        crafted = {key: (model, attack) for key, attack in made.items()}
        done = run.one_pass(loader, {"": model}, crafted, "robustness curve")
    z_spec, clean = done.z_spec.values().numpy(), done.clean[""]
    start = make_row(CLEAN, None, z_spec, clean, clean, settings)
    points: list[CurvePoint] = []
    for name in attacks:
        points.append(CurvePoint(name, 0.0, start))
        for size in sizes:
            attack, tally = made[name, size], done.attacked[(name, size), ""]
            row = make_row(name, attack, z_spec, tally, clean, settings)
            points.append(CurvePoint(name, size, row))
    named = {f"{name} at {size!r}": attack for (name, size), attack in made.items()}
    return RobustnessCurve(tuple(points), provenance({"model": model}, named, settings, done))


def _sizes(eps: Sequence[float]) -> list[float]:
    """Return the sizes above zero, in rising order."""
    sizes = check_radius(eps)
    if not isinstance(sizes, tuple):
        raise TypeError(f"eps must be a sequence of numbers, got {eps!r}; write [{eps!r}]")
    if len(set(sizes)) != len(sizes):
        raise ValueError(f"eps must not hold a number twice, got {list(sizes)}")
    return sorted(size for size in sizes if size > 0)


def _make(name: str, factory: Any, size: float) -> Attack:
    """Return the attack that a factory makes, or say that it is none."""
    try:
        attack: Any = factory(size)
    except TypeError as error:
        raise TypeError(
            f"attacks[{name!r}] must make an attack from an eps, as FGSM does or "
            f"lambda eps: PGD(LinfBall(eps)); calling it with {size} failed: {error}"
        ) from error
    if not callable(attack):
        raise TypeError(f"attacks[{name!r}]({size}) must be an attack, got {attack!r}")
    made: Attack = attack
    return made
