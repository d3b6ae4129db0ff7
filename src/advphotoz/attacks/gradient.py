"""The one base class of gradient attacks: everything around a search but the search itself."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import Self

from advphotoz._checks import check_at_least_one
from advphotoz._model import check_autocast
from advphotoz._random import Generator
from advphotoz.attacks.contract import Found, check_generator, check_returns_all
from advphotoz.attacks.problem import Problem, better, opened
from advphotoz.objectives import Objective
from advphotoz.perturbations import LinfBall, PerturbationSet

__all__ = ["GradientAttack", "as_set"]


@dataclass(frozen=True)
class GradientAttack(ABC):
    """An attack that follows gradients: write `search`, and the rest is done.

    A subclass is a frozen dataclass with settings of its own and one method. It then takes part in
    everything that the attacks of this library do: trainers, evaluations and all their checks,
    robustness curves, `WorstOf`.

    Parameters
    ----------
    perturbations : PerturbationSet, float or sequence of float
        What may change. A number means ``LinfBall`` of that radius.
    random_start : bool
        Start from a uniform draw in the set, not from the unchanged image. In the paper it changed
        little.
    restarts : int
        Number of searches; each sample keeps the one that ended with the largest objective. From
        the second on, a search starts from a random draw.
    keep : {"best", "last"}
        What a search returns: the best of the points that it evaluated, never the start, or the
        last one, the paper's way. The value at the last point costs one more forward pass.
    objective : callable, optional
        ``(output, target) -> (N,)``, what to maximise. None: the caller's (that of a trainer or of
        `evaluate`); an attack that has none cannot be called directly.
    eval_mode : bool
        Craft with the model in eval mode, so that dropout is off and a sample's perturbation does
        not depend on the rest of its batch. False: craft in the mode that the model is in;
        BatchNorm statistics and the random state are put back afterwards.
    autocast : torch.dtype, optional
        torch.bfloat16 runs the model in mixed precision, the objective and the perturbation stay
        in full. None: the caller's, which is full precision outside of any autocast region.

    Raises
    ------
    ValueError, TypeError
        For settings or a batch that make no sense, or a call without an objective; the message
        says what to do.

    Warns
    -----
    ZeroGradientWarning
        Where the gradient is zero in a whole batch.

    Examples
    --------
    Normalised gradient ascent, one step:

    >>> import torch
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class OneStep(GradientAttack):
    ...     fraction: float = 1.0
    ...     def search(self, problem, start):
    ...         value, gradient = problem.value_and_gradient(start)
    ...         return problem.step(start, gradient, self.fraction)
    >>> attack = OneStep(0.5, objective=lambda output, target: output[:, 0])
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[3.0, -4.0]])
    >>> attack(model, torch.zeros(1, 2), torch.zeros(1))
    tensor([[ 0.5000, -0.5000]])
    """

    perturbations: PerturbationSet | float | Sequence[float]
    random_start: bool = field(default=False, kw_only=True)
    restarts: int = field(default=1, kw_only=True)
    keep: Literal["best", "last"] = field(default="best", kw_only=True)
    objective: Objective | None = field(default=None, kw_only=True)
    eval_mode: bool = field(default=True, kw_only=True)
    autocast: torch.dtype | None = field(default=None, kw_only=True)

    follows_gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "perturbations", as_set(self.perturbations, type(self).__name__))
        check_at_least_one(self.restarts, "restarts")
        if self.keep not in ("best", "last"):
            raise ValueError(f'keep must be "best" or "last", got {self.keep!r}')
        check_autocast(self.autocast)
        steps = getattr(self, "steps", None)
        if steps is not None:
            check_at_least_one(steps, "steps")

    @abstractmethod
    def search(self, problem: Problem, start: Tensor) -> Tensor:
        """Return the last point of a search from `start`, parameters of the set, (N, ...).

        Ask ``problem.value_and_gradient(p)`` for the objective and its gradient at p, and
        ``problem.step(p, direction, fraction)`` for the next point inside the set.
        """

    def __call__(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: Generator = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the adversarial images for x of shape (N, C, ...), target (N,).

        The first search starts at the parameters `start`, brought into the set; where they are NaN,
        as it would without.
        """
        check_returns_all(self.set)
        return self._run(model, x, target, context, generator, start, value=False).x

    def find(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: Generator = None,
        start: Tensor | None = None,
        value: bool = True,
    ) -> Found:
        """Return what a call returns, with parameters, objective, and whether it still rose.

        ``value=False`` leaves out what would cost one more forward pass.
        """
        return self._run(model, x, target, context, generator, start, value)

    @property
    def set(self) -> PerturbationSet:
        """What may change."""
        assert isinstance(self.perturbations, PerturbationSet)
        return self.perturbations

    @property
    def name(self) -> str:
        """Kind, number of steps and set, such as ``PGD-10 0.01``."""
        steps = getattr(self, "steps", None)
        times = f" x {self.restarts}" if self.restarts > 1 else ""
        kind = type(self).__name__ + ("" if steps is None else f"-{steps}")
        return f"{kind}{times} {self.set.label}"

    def bind(self, objective: Objective) -> Self:
        """Return this attack with an objective, its own if it has one."""
        return self if self.objective is not None else self._with(objective=objective)

    def scaled(self, factor: float) -> Self:
        """Return this attack with its set scaled."""
        return self._with(perturbations=self.set.scaled(factor))

    def deepened(self) -> Self | None:
        """Return this attack with twice the steps; None if it has no number of steps."""
        steps = getattr(self, "steps", None)
        return None if steps is None else self._with(steps=2 * steps)

    def _with(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)

    def _run(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor],
        generator: Generator,
        start: Tensor | None,
        value: bool,
    ) -> Found:
        if self.objective is None:
            raise ValueError(
                f"{type(self).__name__} has no objective, so that it does not know what to make "
                "worse; give it one, such as objective=CrossEntropy(RedshiftBins(0, 1, 180)), or "
                "let a trainer or evaluate give it theirs"
            )
        check_generator(generator)
        with opened(
            model,
            x,
            target,
            context,
            self.set,
            self.objective,
            eval_mode=self.eval_mode,
            autocast=self.autocast,
        ) as problem:
            if not len(x):
                p = self.set.identity(problem.x)
                none = problem.x.new_zeros(0)
                return Found(problem.x.clone(), problem.context, p, none, none, none.bool())
            ended, rising = self._search(problem, generator, start, value)
            x_adv, changed = self.set.place(problem.x, problem.context, ended[0])
            size = self.set.size(ended[0]) if value else None
            return Found(x_adv, changed, ended[0], size, ended[1], rising)

    def _search(
        self, problem: Problem, generator: Generator, start: Tensor | None, value: bool
    ) -> tuple[tuple[Tensor, Any], Tensor | None]:
        """Run every search; return the best end, its value, and whether it still rose."""
        value = value or self.restarts > 1
        kept: tuple[Tensor, Any] | None = None
        risen: Tensor | None = None
        for number in range(self.restarts):
            first = number == 0
            draws = self.random_start or not first
            p = self.set.sample(problem.x, generator) if draws else self.set.identity(problem.x)
            if first and start is not None:
                p = self._given(problem, start, p)
            end, at_end, rising = problem.search(self.search, p, self.keep == "best", value)
            if kept is None:
                kept, risen = (end, at_end), rising
                continue
            assert at_end is not None
            if risen is not None and rising is not None:
                risen = torch.where(at_end > kept[1], rising, risen)
            kept = better(kept, (end, at_end))
        assert kept is not None
        return kept, risen

    def _given(self, problem: Problem, start: Tensor, usual: Tensor) -> Tensor:
        if start.shape != usual.shape:
            raise ValueError(
                f"start must hold parameters of the set, of shape {tuple(usual.shape)}, "
                f"got {tuple(start.shape)}"
            )
        start = start.to(usual)
        return self.set.project(problem.x, torch.where(start.isnan(), usual, start))


def as_set(value: Any, name: str) -> PerturbationSet:
    """Return a perturbation set: a number, or one per band, is the radius of a `LinfBall`."""
    if isinstance(value, PerturbationSet):
        return value
    if isinstance(value, (int, float, Tensor)) or hasattr(value, "tolist"):
        return LinfBall(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return LinfBall(value)
    raise TypeError(
        f"{name} needs a perturbation set, such as LinfBall(0.01) or L2Ball(0.31), or the radius "
        f"of a LinfBall; got {value!r}"
    )
