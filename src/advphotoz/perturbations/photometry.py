r"""Errors of the photometric calibration: zero points.

Their parameters are in units of the budget, in a box :math:`|p_k| \le 1`, so that a step is a
fraction of the budget whatever its units.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import Self, override

from advphotoz._checks import check_radius
from advphotoz._random import Generator, draw
from advphotoz._rounding import compute_dtype
from advphotoz.perturbations.contract import PerturbationSet
from advphotoz.perturbations.pixels import per_band

__all__ = ["Box", "ZeroPoint"]

Context = tuple[Tensor, ...]


@dataclass(frozen=True)
class Box(PerturbationSet):
    r"""A set with one parameter per band, each within its budget: :math:`|p_b| \le 1`.

    A set of this kind says what its parameters do (`apply`) and is otherwise done.

    Parameters
    ----------
    budget : float or sequence of float
        The largest change, in physical units, for all bands or one per band. A band with a budget
        of zero does not change.
    """

    budget: float | Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", check_radius(self.budget, "budget"))

    @property
    @abstractmethod
    def unit(self) -> str:
        """What it is and its unit, for labels."""

    @property
    @override
    def label(self) -> str:
        b = self.budget
        number = f"{min(b):.4g} to {max(b):.4g}" if isinstance(b, Sequence) else f"{b:.4g}"
        name, _, unit = self.unit.rpartition(" ")
        return f"{name} {number} {unit}"

    @override
    def check(self, x: Tensor, context: Sequence[Tensor]) -> None:
        """Refuse images of another number of bands."""
        per_band(self.budget, x, x.dtype)

    @override
    def identity(self, x: Tensor) -> Tensor:
        return torch.zeros(x.shape[:2], dtype=compute_dtype(x), device=x.device)

    @override
    def project(self, x: Tensor, p: Tensor) -> Tensor:
        return p.clamp(-1, 1) * self._free(p)

    @override
    def steepest(self, grad: Tensor) -> Tensor:
        return grad.sign() * self._free(grad)

    @override
    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        drawn = draw(torch.rand, x.shape[:2], generator, x.device, compute_dtype(x))
        return self.project(x, drawn * 2 - 1)

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
        """Return the parameters in the unit of the budget, (N, bands)."""
        return p * per_band(self.budget, p, p.dtype)

    def _free(self, p: Tensor) -> Tensor:
        """Return 1 for the bands that may change, 0 for the others."""
        return (per_band(self.budget, p, p.dtype) > 0).to(p.dtype)


@dataclass(frozen=True)
class ZeroPoint(Box):
    r"""An error of each band's photometric zero point, of at most `budget` magnitudes.

    .. math:: x_b \leftarrow 10^{-0.4\, a_b}\, x_b, \qquad a_b = p_b\, m_b, \quad |p_b| \le 1

    A positive :math:`a_b` is fainter: magnitudes become :math:`m + a_b`. Pixels must be linear in
    flux, so that a stretch or a standardisation belongs inside the network.

    Parameters
    ----------
    budget : float or sequence of float
        :math:`m_b` in magnitudes, for all bands or one per band; 0.01 in griz and 0.02 in u for the
        SDSS.

    Raises
    ------
    ValueError
        For a budget that is negative or not finite; from an attack, for images of another number of
        bands.

    References
    ----------
    Padmanabhan et al. 2008 (arXiv:astro-ph/0703454), the calibration of the SDSS.

    Examples
    --------
    >>> import torch
    >>> x, p = torch.ones(1, 2, 1, 1), torch.tensor([[1.0, -1.0]])
    >>> brighter_and_fainter, _ = ZeroPoint(0.1).apply(x, (), p)
    >>> brighter_and_fainter.flatten()
    tensor([0.9120, 1.0965])
    """

    @property
    @override
    def unit(self) -> str:
        return "zero point mag"

    @override
    def apply(self, x: Tensor, context: Context, p: Tensor) -> tuple[Tensor, Context]:
        factor = (-0.4 * math.log(10) * self.physical(p)).exp()
        return (x * factor.view(*factor.shape, *[1] * (x.ndim - 2))).to(x.dtype), context
