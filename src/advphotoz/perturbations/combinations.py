"""Combinations: several effects in a stated order, and Gaussian budgets in place of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from typing_extensions import Self, override

from advphotoz._arrays import constants_like
from advphotoz._checks import check_radius
from advphotoz._random import Generator, draw
from advphotoz._rounding import compute_dtype
from advphotoz.perturbations.contract import Parameter, PerturbationSet
from advphotoz.perturbations.pixels import L2Ball

__all__ = ["Compose", "GaussianBudget"]

Context = tuple[Tensor, ...]
BALL = L2Ball(1.0)


class _Counted(Protocol):
    """A set with a handful of parameters in units of their budget, (N, count)."""

    def count(self, x: Tensor) -> int: ...


@dataclass(frozen=True, init=False, repr=False)
class Compose(PerturbationSet):
    r"""Several effects in a stated order, each within its own budget.

    .. math:: T_p = T^{(n)}_{p_n} \circ \cdots \circ T^{(1)}_{p_1}, \qquad
        \mathrm{size}(p) = \max_k \mathrm{size}_k(p_k)

    The first set given acts first: ``Compose(ZeroPoint(0.01), SkyLevel(0.002))`` adds a sky level
    to an image that was scaled, and not the other way round. The parameters stand one behind the
    other, in the order of the sets.

    Parameters
    ----------
    *sets : PerturbationSet
        At least one, each with a handful of parameters in units of its budget: `ZeroPoint` and all
        others that are a `Box`, `GaussianBudget`, another `Compose`. No pixel balls, whose
        parameters are images.

    Raises
    ------
    TypeError
        For anything else.

    Examples
    --------
    >>> import torch
    >>> from advphotoz.perturbations import SkyLevel, ZeroPoint
    >>> both = Compose(ZeroPoint(0.1), SkyLevel(0.5))
    >>> both
    Compose(ZeroPoint(budget=0.1), SkyLevel(budget=0.5))
    >>> both.apply(torch.ones(1, 1, 1, 1), (), torch.tensor([[1.0, 1.0]]))[0].flatten()
    tensor([1.4120])
    """

    sets: tuple[Any, ...]

    def __init__(self, *sets: PerturbationSet) -> None:
        for one in sets:
            _check_counted(one, "Compose")
        if not sets:
            raise TypeError("Compose needs at least one set: Compose(ZeroPoint(0.01), ...)")
        object.__setattr__(self, "sets", sets)
        object.__setattr__(self, "changes_context", any(s.changes_context for s in sets))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.sets))})"

    @property
    @override
    def label(self) -> str:
        return ", then ".join(s.label for s in self.sets)

    def count(self, x: Tensor) -> int:
        """Return the number of parameters of one galaxy."""
        return sum(s.count(x) for s in self.sets)

    @override
    def check(self, x: Tensor, context: Sequence[Tensor]) -> None:
        for s in self.sets:
            s.check(x, context)

    @override
    def identity(self, x: Tensor) -> Tensor:
        return torch.cat([s.identity(x) for s in self.sets], 1)

    @override
    def apply(self, x: Tensor, context: Context, p: Tensor) -> tuple[Tensor, Context]:
        for s, part in zip(self.sets, self.split(p), strict=True):
            x, context = s.apply(x, context, part)
        return x, context

    @override
    def project(self, x: Tensor, p: Tensor) -> Tensor:
        parts = zip(self.sets, self.split(p), strict=True)
        return torch.cat([s.project(x, part) for s, part in parts], 1)

    @override
    def steepest(self, grad: Tensor) -> Tensor:
        parts = zip(self.sets, self.split(grad), strict=True)
        return torch.cat([s.steepest(part) for s, part in parts], 1)

    @override
    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        return torch.cat([s.sample(x, generator) for s in self.sets], 1)

    @override
    def propose(
        self, x: Tensor, p: Tensor | None, share: float, generator: Generator = None
    ) -> Tensor:
        parts = [None] * len(self.sets) if p is None else self.split(p)
        pairs = zip(self.sets, parts, strict=True)
        return torch.cat([s.propose(x, part, share, generator) for s, part in pairs], 1)

    @override
    def realisation(self, x: Tensor, generator: Generator = None) -> Tensor:
        return torch.cat([s.realisation(x, generator) for s in self.sets], 1)

    def sizes(self, p: Tensor) -> tuple[Tensor, ...]:
        """Measure the parameters of each set, (N,) each."""
        return tuple(s.size(part) for s, part in zip(self.sets, self.split(p), strict=True))

    @override
    def size(self, p: Tensor) -> Tensor:
        return torch.stack(self.sizes(p)).amax(0)

    @override
    def scaled(self, factor: float) -> Self:
        return type(self)(*(s.scaled(factor) for s in self.sets))

    @override
    def physical(self, p: Tensor) -> Tensor:
        parts = zip(self.sets, self.split(p), strict=True)
        return torch.cat([s.physical(part) for s, part in parts], 1)

    @override
    def parameters(self, x: Tensor, bands: Sequence[str] = ()) -> tuple[Parameter, ...]:
        return tuple(name for s in self.sets for name in s.parameters(x, bands))

    def split(self, p: Tensor) -> tuple[Tensor, ...]:
        """Return the parameters of each set."""
        for bands in range(1, p.shape[1] + 1):  # p does not say how many there are
            like = p.new_empty(0, bands)
            counts = [s.count(like) for s in self.sets]
            if sum(counts) == p.shape[1]:
                return tuple(torch.split(p, counts, 1))
        raise ValueError(
            f"{self!r} has parameters for no number of bands that would be {p.shape[1]} in all"
        )


@dataclass(frozen=True)
class GaussianBudget(PerturbationSet):
    r"""A budget that is a Gaussian of given covariance, as calibrations state it.

    .. math:: a = n\, C^{1/2}\, p, \qquad \mathrm{size}(p) = \|p\|_2, \qquad
        \mathrm{size}(p) \le 1 \iff a^T C^{-1} a \le n^2

    The parameters are whitened, so that ``size <= 1`` is exact and a search steps along the
    gradient in the metric of the covariance. :math:`C^{1/2}` is the symmetric square root.

    Parameters
    ----------
    effects : PerturbationSet
        What the errors do, and their unit: a `Box` or a `Compose` of such.
    covariance : sequence of sequences of float, optional
        C, in units of the budgets of `effects`: for ``ZeroPoint(0.001)`` in millimagnitudes
        squared. None: errors are independent, and the budgets are their standard deviations.
    nsigma : float
        n, the radius of the ellipsoid.

    Raises
    ------
    ValueError
        If the covariance is not a symmetric matrix without negative eigenvalues; from an attack, if
        it is of another size than the parameters.

    Examples
    --------
    >>> import torch
    >>> from advphotoz.perturbations import ZeroPoint
    >>> budget = GaussianBudget(ZeroPoint(0.001), [[25.0, 24.0], [24.0, 25.0]])
    >>> along = torch.tensor([[1.0, 1.0]]) / 2**0.5
    >>> budget.physical(along), budget.size(along)  # mag; 5 mmag each, nearly the same
    (tensor([[0.0049, 0.0049]]), tensor([1.]))
    """

    effects: Any
    covariance: Sequence[Sequence[float]] | None = None
    nsigma: float = 1.0

    def __post_init__(self) -> None:
        _check_counted(self.effects, "GaussianBudget")
        nsigma = check_radius(self.nsigma, "nsigma")
        if isinstance(nsigma, tuple):
            raise TypeError(f"nsigma must be one number, got {self.nsigma}")
        object.__setattr__(self, "nsigma", nsigma)
        object.__setattr__(self, "changes_context", self.effects.changes_context)
        if self.covariance is not None:
            object.__setattr__(self, "covariance", _matrix(self.covariance))

    @property
    @override
    def label(self) -> str:
        return f"{self.effects.label}, Gaussian, {self.nsigma:g} sigma"

    def count(self, x: Tensor) -> int:
        """Return the number of parameters of one galaxy."""
        count: int = self.effects.count(x)
        return count

    @override
    def check(self, x: Tensor, context: Sequence[Tensor]) -> None:
        self.effects.check(x, context)
        count, rows = self.count(x), self.covariance
        if rows is not None and len(rows) != count:
            raise ValueError(
                f"the covariance is {len(rows)} x {len(rows)}, but {self.effects!r} has {count} "
                f"parameters for images of the shape {tuple(x.shape)}"
            )

    @override
    def identity(self, x: Tensor) -> Tensor:
        identity: Tensor = self.effects.identity(x)
        return identity

    @override
    def apply(self, x: Tensor, context: Context, p: Tensor) -> tuple[Tensor, Context]:
        changed: tuple[Tensor, Context] = self.effects.apply(x, context, self._errors(p))
        return changed

    @override
    def project(self, x: Tensor, p: Tensor) -> Tensor:
        return BALL.project(p, p)

    @override
    def steepest(self, grad: Tensor) -> Tensor:
        return BALL.steepest(grad)

    @override
    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        return BALL.sample(self.identity(x), generator)

    @override
    def realisation(self, x: Tensor, generator: Generator = None) -> Tensor:
        """Draw from the Gaussian, (N, count); beyond the boundary too."""
        shape, dtype = (len(x), self.count(x)), compute_dtype(x)
        drawn = draw(torch.randn, shape, generator, x.device, dtype)
        return drawn / self.nsigma if self.nsigma else torch.zeros_like(drawn)

    @override
    def size(self, p: Tensor) -> Tensor:
        return BALL.norm(p)

    @override
    def scaled(self, factor: float) -> Self:
        return replace(self, nsigma=factor * self.nsigma)

    @override
    def physical(self, p: Tensor) -> Tensor:
        physical: Tensor = self.effects.physical(self._errors(p))
        return physical

    @override
    def parameters(self, x: Tensor, bands: Sequence[str] = ()) -> tuple[Parameter, ...]:
        names: tuple[Parameter, ...] = self.effects.parameters(x, bands)
        return names

    def _errors(self, p: Tensor) -> Tensor:
        """Return the errors in units of the budgets of the effects."""
        if self.covariance is None:
            return self.nsigma * p
        root = constants_like(_root(self.covariance), p)
        # Not a matrix product, which autocast would round to half precision.
        return self.nsigma * (p[:, None, :] * root).sum(-1)


def _check_counted(value: Any, name: str) -> None:
    if not isinstance(value, PerturbationSet) or not callable(getattr(value, "count", None)):
        raise TypeError(
            f"{name} takes sets with a handful of parameters in units of their budget, such as "
            f"ZeroPoint(0.01) or another Box, got {value!r}"
        )


def _matrix(rows: Any) -> tuple[tuple[float, ...], ...]:
    """Return a covariance as tuples of floats, or say what is wrong with it."""
    try:
        matrix = torch.as_tensor(rows, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"covariance must be a square matrix of numbers: {error}") from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"covariance must be a square matrix, got shape {tuple(matrix.shape)}")
    if not bool(matrix.isfinite().all()) or not torch.allclose(matrix, matrix.T, rtol=1e-9, atol=0):
        raise ValueError("covariance must be finite and symmetric")
    values = torch.linalg.eigvalsh(matrix)
    if float(values.min()) < -1e-10 * float(values.max().clamp(min=0)) or float(values.max()) < 0:
        raise ValueError(
            f"covariance must have no negative eigenvalue, got {values.min().item():.3g}: no "
            "errors have such a covariance"
        )
    return tuple(tuple(row) for row in matrix.tolist())


def _root(covariance: Any) -> Tensor:
    values, vectors = torch.linalg.eigh(torch.tensor(covariance, dtype=torch.float64))
    root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    return root
