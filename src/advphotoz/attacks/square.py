"""A search without gradients: Square Attack's scheme (Andriushchenko et al. 2020) in any set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from advphotoz._checks import check_at_least_one
from advphotoz._random import Generator
from advphotoz.attacks.contract import Budget, Found, check_generator, check_returns_all
from advphotoz.attacks.gradient import as_set
from advphotoz.attacks.problem import Problem, better, opened
from advphotoz.objectives import Objective
from advphotoz.perturbations import PerturbationSet

__all__ = ["Square"]

FIRST_SHARE = 0.8  # of the image that the first squares cover
HALVED_AT = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 candidates


@dataclass(frozen=True)
class Square:
    r"""A random search: propose a change, keep it where the objective rises.

    Of a `LinfBall` of images this is Square Attack: it begins with vertical stripes of
    :math:`\pm\varepsilon`, and each candidate sets one square, at a random place, to
    :math:`\pm\varepsilon_b` in every band b. The share of the image that a square covers begins at
    0.8 and is halved on the paper's schedule. In an `L2Ball` a candidate moves the norm of one
    square into another; in a set of a few physical parameters it is a random step, of a size that
    shrinks on the same schedule. What a set proposes is its own (``set.propose``).

    No gradient is asked for, so that it takes any callable as the model: one of another framework
    behind a function, one that rounds, one whose gradient lies. Where it finds more than a search
    along gradients, they are masked, and an evaluation says so.

    Parameters
    ----------
    perturbations : PerturbationSet, float or sequence of float
        What may change; a number, or one per band, is the radius of a `LinfBall`.
    queries : int
        Number of candidates, each a forward pass; 5,000 in AutoAttack.
    objective : callable, optional
        ``(output, target) -> (N,)``, what to maximise; it need not have a gradient. None: the
        caller's (that of a trainer or of `evaluate`).

    Raises
    ------
    ValueError, TypeError
        For settings or a batch that make no sense, or a call without an objective; the message
        says what to do.

    References
    ----------
    Andriushchenko et al. 2020 (arXiv:1912.00049), Algorithms 1 and 2. Squares here lie anywhere in
    the image, for each sample on its own. The L2 version is a plain one of our own after their
    Algorithm 3: its squares hold a positive and a negative half of sines in place of pyramids.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import Square
    >>> attack = Square(0.5, queries=50, objective=lambda output, target: output)
    >>> total = lambda x: x.sum((1, 2, 3)).round()  # no gradient
    >>> seed = torch.Generator().manual_seed(0)
    >>> x_adv = attack(total, torch.zeros(1, 1, 4, 4), torch.zeros(1), generator=seed)
    >>> bool(x_adv.sum() > 4), x_adv.abs().max()
    (True, tensor(0.5000))
    """

    perturbations: PerturbationSet | float | Sequence[float]
    queries: int = 1000
    objective: Objective | None = dataclasses.field(default=None, kw_only=True)

    follows_gradients: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "perturbations", as_set(self.perturbations, "Square"))
        check_at_least_one(self.queries, "queries")

    def __call__(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: Generator = None,
    ) -> Tensor:
        """Return the adversarial images for x of shape (N, C, ...), target (N,)."""
        check_returns_all(self.set)
        return self.find(model, x, target, context, generator).x

    def find(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: Generator = None,
    ) -> Found:
        """Return what a call returns, with parameters, objective, and whether it still rose."""
        if self.objective is None:
            raise ValueError(
                "Square has no objective, so that it does not know what to make worse; give it "
                "one, such as objective=CrossEntropy(RedshiftBins(0, 1, 180)), or let a trainer "
                "or evaluate give it theirs"
            )
        check_generator(generator)
        with opened(model, x, target, context, self.set, self.objective) as problem:
            if not len(x):
                none = problem.x.new_zeros(0)
                p = self.set.identity(problem.x)
                return Found(problem.x.clone(), problem.context, p, none, none, none.bool())
            p, value, rising = self._search(problem, generator)
            x_adv, changed = self.set.place(problem.x, problem.context, p)
            return Found(x_adv, changed, p, self.set.size(p), value, rising)

    @property
    def set(self) -> PerturbationSet:
        """What may change."""
        assert isinstance(self.perturbations, PerturbationSet)
        return self.perturbations

    @property
    def name(self) -> str:
        """Such as ``Square-1000 0.01``."""
        return f"Square-{self.queries} {self.set.label}"

    @property
    def budget(self) -> Budget:
        """What it asks of the network."""
        return Budget(gradients=0, forward=self.queries)

    def bind(self, objective: Objective) -> Self:
        """Return this search with an objective, its own if it has one."""
        return self if self.objective is not None else self._with(objective=objective)

    def scaled(self, factor: float) -> Self:
        """Return this search with its set scaled."""
        return self._with(perturbations=self.set.scaled(factor))

    def deepened(self) -> Self:
        """Return this search with twice the candidates."""
        return self._with(queries=2 * self.queries)

    def _with(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)

    def _search(self, problem: Problem, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return the best candidate, its value, and whether the last one was the best."""
        p = self.set.propose(problem.x, None, FIRST_SHARE, generator)
        value = problem.value(p)
        rising = torch.zeros_like(value, dtype=torch.bool)
        for number in range(1, self.queries):
            share = _share(number, self.queries)
            candidate = self.set.propose(problem.x, p, share, generator)
            found = problem.value(candidate)
            rising = found > value
            p, value = better((p, value), (candidate, found))
        return p, value, rising


def _share(number: int, queries: int) -> float:
    """Return the share of the image that candidate `number` covers, on the paper's schedule."""
    scaled = int(number / queries * 10_000)
    return FIRST_SHARE / 2.0 ** sum(scaled > limit for limit in HALVED_AT)
