r"""Boxes: a handful of physical parameters, each in units of its budget, :math:`|p_k| \le 1`.

A step is so a fraction of the budget whatever its units, and magnitudes and arcseconds mix.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self, override

from advphotoz._checks import check_radius
from advphotoz._random import Generator, draw
from advphotoz._rounding import compute_dtype
from advphotoz.perturbations.contract import (
    Parameter,
    PerturbationSet,
    log_steps,
    per_sample_factor,
    span,
)
from advphotoz.perturbations.pixels import per_band

__all__ = ["Box", "band_names"]


@dataclass(frozen=True)
class Box(PerturbationSet):
    r"""A set with a few parameters, each within its budget: :math:`|p_k| \le 1`.

    A set of this kind says what its parameters do (`apply`) and what they are called (`unit`), and
    is otherwise done. There is one parameter per band, or one per axis and band where `axes` names
    several (those of the first axis come first), unless `count` says otherwise.

    Parameters
    ----------
    budget : float or sequence of float
        The largest change, in physical units, for all parameters, or one per band. One with a
        budget of zero does not change.
    """

    axes: ClassVar[tuple[str, ...]] = ("",)

    budget: float | Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", check_radius(self.budget, "budget"))

    @property
    @abstractmethod
    def unit(self) -> str:
        """What it is and its unit, for labels: ``zero point mag``."""

    def count(self, x: Tensor) -> int:
        """Return the number of parameters of one galaxy."""
        return len(self.axes) * x.shape[1]

    @override
    def parameters(self, x: Tensor, bands: Sequence[str] = ()) -> tuple[Parameter, ...]:
        effect, _, unit = self.unit.rpartition(" ")
        count = self.count(x)
        if count == len(self.axes) * x.shape[1]:
            parts = [f"{axis} {b}".strip() for axis in self.axes for b in band_names(x, bands)]
        else:
            parts = [""] if count == 1 else [str(k + 1) for k in range(count)]
        return tuple(Parameter(effect, part, unit) for part in parts)

    @property
    @override
    def label(self) -> str:
        name, _, unit = self.unit.rpartition(" ")
        return f"{name} {span(self.budget)} {unit}"

    @override
    def check(self, x: Tensor, context: Sequence[Tensor]) -> None:
        """Refuse images that have not as many parameters as the budget."""
        self._budgets(self.identity(x[:1]))

    @override
    def identity(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), self.count(x), dtype=compute_dtype(x), device=x.device)

    @override
    def project(self, x: Tensor, p: Tensor) -> Tensor:
        return p.clamp(-1, 1) * self._free(p)

    @override
    def steepest(self, grad: Tensor) -> Tensor:
        return grad.sign() * self._free(grad)

    @override
    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        drawn = draw(torch.rand, (len(x), self.count(x)), generator, x.device, compute_dtype(x))
        return self.project(x, drawn * 2 - 1)

    @override
    def propose(
        self, x: Tensor, p: Tensor | None, share: float, generator: Generator = None
    ) -> Tensor:
        """Move a `share` of the parameters, at least one of each galaxy; see the contract."""
        drawn = self.sample(x, generator)
        if p is None:
            return drawn
        count = max(round(share * self.count(x)), 1)
        unit = draw(torch.rand, drawn.shape, generator, x.device, drawn.dtype)
        moved = unit <= unit.kthvalue(count, dim=1, keepdim=True)[0]
        step = per_sample_factor(log_steps(x, share, generator), p)
        return self.project(x, torch.where(moved, p + step * drawn, p))

    @override
    def size(self, p: Tensor) -> Tensor:
        return p.abs().amax(1)

    @override
    def scaled(self, factor: float) -> Self:
        b = self.budget
        more = tuple(factor * v for v in b) if isinstance(b, Sequence) else factor * b
        return replace(self, budget=more)

    @override
    def physical(self, p: Tensor) -> Tensor:
        """Return the parameters in the unit of the budget, (N, count)."""
        return p * self._budgets(p)

    def _budgets(self, p: Tensor) -> Tensor:
        """Return the budget of every parameter, in a shape that multiplies p."""
        axes = len(self.axes)
        if axes == 1 or not isinstance(self.budget, Sequence):
            return per_band(self.budget, p, p.dtype)
        return per_band(self.budget, p[:, : p.shape[1] // axes], p.dtype).repeat(1, axes)

    def _free(self, p: Tensor) -> Tensor:
        """Return 1 for the parameters that may change, 0 for the others."""
        return (self._budgets(p) > 0).to(p.dtype)


def band_names(x: Tensor, bands: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the bands of images, their numbers where no names are given."""
    if not bands:
        return tuple(str(k + 1) for k in range(x.shape[1]))
    if len(bands) != x.shape[1]:
        raise ValueError(
            f"{len(bands)} names of bands were given, {', '.join(bands)}, but the images have "
            f"{x.shape[1]} bands (shape {tuple(x.shape)}, bands along dimension 1)"
        )
    return tuple(bands)
