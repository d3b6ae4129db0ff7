r"""What a perturbation set is: what may change in one galaxy, and by how much.

A search moves a parameter p, one row per sample, of whatever shape the set chooses: the pixels of
an image that is added, or a handful of numbers such as one zero point per band. The set says what p
does to a batch (`apply`), how large it is (`size`, 1 on the boundary), how to bring it back inside
(`project`), which way to step (`steepest`) and how to draw one (`sample`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self

from advphotoz._random import Generator, draw
from advphotoz._rounding import compute_dtype

__all__ = ["Parameter", "PerturbationSet", "log_steps", "per_sample_factor", "span"]


class Parameter(NamedTuple):
    """What one parameter of a set is, for the tables of a report.

    Attributes
    ----------
    effect : str
        The effect that it belongs to, such as ``zero point``.
    part : str
        Of what: a band, or an axis and a band; empty where there is only one.
    unit : str
        Of its physical value, such as ``mag``.
    """

    effect: str
    part: str
    unit: str

    @property
    def name(self) -> str:
        """Such as ``zero point u``."""
        return f"{self.effect} {self.part}".strip()


class PerturbationSet(ABC):
    """The contract of a set; :func:`advphotoz.testing.check_set` tests it.

    A set is a frozen value: settings, no tensor, no state. Samples are independent: everything has
    leading size N, and row i of a result depends on row i of the arguments alone.

    Attributes
    ----------
    changes_context : bool
        Whether `apply` changes an input of the network beside the image. A plain call of an attack
        returns images alone, and refuses such a set.
    label : str
        Its kind and size for the tables of a report, such as ``0.01``.
    """

    changes_context: ClassVar[bool] = False

    @property
    @abstractmethod
    def label(self) -> str:
        """Kind and size in a few characters."""

    def check(self, x: Tensor, context: Sequence[Tensor]) -> None:  # noqa: B027
        """Refuse images that the set does not fit, such as the wrong number of bands."""

    @abstractmethod
    def identity(self, x: Tensor) -> Tensor:
        """Return the parameter that changes nothing, (N, ...), on the device of x."""

    @abstractmethod
    def apply(
        self, x: Tensor, context: tuple[Tensor, ...], p: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the changed batch; differentiable with respect to p, x itself is not modified."""

    def place(
        self, x: Tensor, context: tuple[Tensor, ...], p: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the changed batch as it is handed out: in the dtype and memory format of x.

        Pixel balls round here, so that their radius holds exactly for the result.
        """
        moved, others = self.apply(x, context, p)
        return torch.empty_like(x).copy_(moved), others

    @abstractmethod
    def project(self, x: Tensor, p: Tensor) -> Tensor:
        """Return the nearest parameter inside the set, ``size(project(x, p)) <= 1``."""

    @abstractmethod
    def steepest(self, grad: Tensor) -> Tensor:
        r"""Return the maximiser of :math:`\langle g, u \rangle` over ``size(u) <= 1``."""

    @abstractmethod
    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Draw parameters uniformly in the set, for images x."""

    @abstractmethod
    def size(self, p: Tensor) -> Tensor:
        """Measure parameters, (N,): 0 at the identity, 1 on the boundary."""

    @abstractmethod
    def scaled(self, factor: float) -> Self:
        """Return the set with every budget multiplied."""

    def step(self, x: Tensor, p: Tensor, direction: Tensor, fraction: float | Tensor) -> Tensor:
        r"""Return :math:`\mathcal{P}[p + \alpha\, u(d)]`, a step of a fraction of the budget.

        Parameters
        ----------
        x, p : Tensor
            Images and parameters.
        direction : Tensor
            A gradient, in the shape of p.
        fraction : float or Tensor (N,)
            :math:`\alpha`, 1 being the whole budget; one number, or one per sample.
        """
        return self.project(x, p + per_sample_factor(fraction, p) * self.steepest(direction))

    def propose(
        self, x: Tensor, p: Tensor | None, share: float, generator: Generator = None
    ) -> Tensor:
        """Draw a candidate for a search without gradients, inside the set.

        A set whose parameters have a shape, such as pixels, proposes changes of its own kind.

        Parameters
        ----------
        x : Tensor
            Images.
        p : Tensor or None
            The parameters to change; None for a first candidate.
        share : float
            How much of p changes, in (0, 1]; a search lowers it as it goes. Here p moves by a draw
            from the set times a step between 2 and 2 `share`, uniform in its logarithm, and is
            brought back inside.
        generator : Generator
            What is drawn from.
        """
        drawn = self.sample(x, generator)
        if p is None:
            return drawn
        return self.project(x, p + per_sample_factor(log_steps(x, share, generator), p) * drawn)

    def physical(self, p: Tensor) -> Tensor:
        """Return parameters in physical units, for a report."""
        return p

    def parameters(self, x: Tensor, bands: Sequence[str] = ()) -> tuple[Parameter, ...]:
        """Name the parameters of one galaxy, for a report.

        Parameters
        ----------
        x : Tensor, (N, C, ...)
            Images.
        bands : sequence of str
            Names of their bands. Empty: they are numbered from 1.
        """
        count = self.identity(x[:1]).numel()
        return tuple(Parameter(type(self).__name__, str(k + 1), "") for k in range(count))

    def realisation(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Draw an error as the calibration makes it, (N, ...); a uniform draw by default.

        A set whose budget is a standard deviation draws from the Gaussian, beyond its boundary too.
        """
        return self.sample(x, generator)


def span(budget: float | Sequence[float]) -> str:
    """Return a budget in a few characters; of several numbers the smallest and the largest."""
    values = budget if isinstance(budget, Sequence) else (budget,)
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def log_steps(x: Tensor, share: float, generator: Generator) -> Tensor:
    """Draw one step per sample between 2 and 2 share, uniform in its logarithm, (N,)."""
    unit = draw(torch.rand, (len(x),), generator, x.device, compute_dtype(x))
    return 2 * share**unit


def per_sample_factor(fraction: float | Tensor, p: Tensor) -> Any:
    """Return a factor in a shape that multiplies p: a number, or (N, 1, ...)."""
    if isinstance(fraction, Tensor) and fraction.ndim:
        return fraction.to(p.dtype).view(-1, *[1] * (p.ndim - 1))
    return fraction
