"""The results in a folder, read back: one place that knows where each step left its file."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from advphotoz.evaluation import Evaluation, RobustnessCurve, Row, TransferMatrix

__all__ = ["FACTORS", "Number", "Results", "difference", "in_units"]

FACTORS = {"bias": 1e4, "sigma_mad": 1e3, "eta": 100.0}
"""The paper's units: 1e-4, 1e-3 and percent."""


@dataclass(frozen=True)
class Number:
    """A value with its standard error, in the units of the paper's tables."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:.1f}\u00a0±\u00a0{self.error:.1f}"  # no line break in a table

    def __sub__(self, other: Number) -> Number:
        return Number(self.value - other.value, math.hypot(self.error, other.error))


def difference(a: Number, b: Number) -> float:
    """Return a - b in units of its error, independent errors assumed."""
    gap = a - b
    if not gap.value:
        return 0.0
    return gap.value / gap.error if gap.error else math.copysign(math.inf, gap.value)


class Results:
    """What a folder holds so far. A missing file raises KeyError: that table is not drawn yet."""

    def __init__(self, out: Path) -> None:
        self.out = out

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Return settings.json."""
        read: dict[str, Any] = json.loads((self.out / "settings.json").read_text("utf-8"))
        return read

    @cached_property
    def catalogue(self) -> dict[str, list[float]]:
        """Return z, r and g - r of the test galaxies."""
        read: dict[str, list[float]] = json.loads((self.out / "catalogue.json").read_text("utf-8"))
        return read

    def evaluation(self, name: str) -> Evaluation:
        """Return a network under the standard attacks."""
        return Evaluation.load(self._path("evaluations", name))

    def judged(self, name: str) -> Evaluation:
        """Return a network under the standard attack of the library."""
        return Evaluation.load(self._path("standard", name))

    def parameters(self, name: str) -> int:
        """Return the number of parameters of a network."""
        return int(self.evaluation(name).settings["networks"]["model"]["parameters"])

    def matrix(self, attack: str) -> TransferMatrix:
        """Return the images of one attack of Table 1, shown to the six."""
        return TransferMatrix.load(self._path("table1", attack.replace(" ", "-").replace(",", "")))

    def curve(self, name: str) -> RobustnessCurve:
        """Return a network's metrics against eps."""
        return RobustnessCurve.load(self._path("curves", name))

    def study(self, name: str) -> dict[str, Any]:
        """Return `colours`, changes of colour, or `landscape`, losses around galaxies."""
        read: dict[str, Any] = json.loads(self._path("", name).read_text("utf-8"))
        return read

    def seeds(self, name: str) -> list[str]:
        """Return the names of all finished trainings that differ from this one by their seed."""
        count = self.settings["scale"]["seeds"]
        names = ["Iref", "I0", "I1", "I2", "I3"][:count] if name == "Iref" else [name]
        if name != "Iref":
            names += [f"{name}-seed{seed}" for seed in range(1, count)]
        return [n for n in names if (self.out / "evaluations" / f"{n}.json").exists()]

    def number(self, name: str, row: str, metric: str) -> Number:
        """Return the mean over the seeds, and their standard deviation; else `in_units`."""
        names = self.seeds(name)
        if not names:
            raise KeyError(name)
        if len(names) == 1:
            return in_units(self.evaluation(names[0])[row], metric)
        values = [FACTORS[metric] * getattr(self.evaluation(n)[row], metric) for n in names]
        return Number(float(np.mean(values)), float(np.std(values, ddof=1)))

    def _path(self, folder: str, name: str) -> Path:
        path = self.out / folder / f"{name}.json"
        if not path.exists():
            raise KeyError(f"{folder}/{name}")
        return path


def in_units(row: Row, metric: str) -> Number:
    """Return one metric of a row in the paper's units.

    Its error is that of the bootstrap, for eta half the width of Wilson's interval.
    """
    factor = FACTORS[metric]
    half = (row.eta_high - row.eta_low) / 2
    error = half if metric == "eta" else getattr(row, f"{metric}_error")
    return Number(factor * getattr(row, metric), factor * error)
