"""A schedule of eps: an attack that grows to its full size over the first epochs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from typing_extensions import Self

from advphotoz._checks import check_at_least_one, check_fraction
from advphotoz._random import Generator
from advphotoz.attacks.contract import (
    Attack,
    Found,
    attack_name,
    bind_objective,
    check_returns_all,
    objective_of,
    perturbations_of,
    run_attack,
    scaled,
)
from advphotoz.objectives import Objective
from advphotoz.perturbations import PerturbationSet

__all__ = ["EpsSchedule"]


class EpsSchedule:
    r"""An attack whose set grows to its full size over the first epochs of a training.

    .. math:: \varepsilon_t = \varepsilon\, \min\left(1,\ s + (1 - s)\, \frac{t + 1}{T}\right)

    in epoch t, counted from 0: of T epochs the last is the first with all of eps. Between the
    epochs, and so in validation, the attack has its full size, so that the validation losses of all
    epochs compare. It holds nothing but the epoch, which the trainer tells it: a resumed training
    is the same to the last bit.

    Parameters
    ----------
    attack : Attack
        One that states its set and can be scaled, such as ``PGD(0.01)``; for training.
    epochs : int
        T.
    start : float
        s, the share of eps from which it grows, in [0, 1].

    Raises
    ------
    TypeError
        For an attack that cannot be scaled.

    References
    ----------
    Cai et al. 2018 (arXiv:1805.04807) so let the number of steps grow.

    Examples
    --------
    >>> from advphotoz import FGSM
    >>> attack = EpsSchedule(FGSM(0.01), epochs=10)
    >>> attack.start_epoch(4)
    >>> attack.current.set
    LinfBall(eps=0.005, bounds=None)
    >>> attack.finish_epoch()
    >>> attack.current.set
    LinfBall(eps=0.01, bounds=None)
    """

    def __init__(self, attack: Attack, epochs: int, start: float = 0.0) -> None:
        check_at_least_one(epochs, "epochs")
        if perturbations_of(attack) is None or scaled(attack, 1.0) is None:
            raise TypeError(
                "only an attack that states its set and has scaled(factor) can grow, and "
                f"{attack!r} does not; take one of the library, or derive yours from GradientAttack"
            )
        self.attack, self.epochs = attack, epochs
        self.start = check_fraction(start, "start")
        self.current: Any = attack

    def start_epoch(self, epoch: int) -> None:
        """Take the size of an epoch, counted from 0."""
        factor = self.start + (1 - self.start) * (epoch + 1) / self.epochs
        self.current = self.attack if factor >= 1 else scaled(self.attack, factor)

    def finish_epoch(self) -> None:
        """Take the full size."""
        self.current = self.attack

    @property
    def set(self) -> PerturbationSet | None:
        """What may change at full size."""
        return perturbations_of(self.attack)

    @property
    def objective(self) -> Objective | None:
        """What the attack maximises."""
        return objective_of(self.attack)

    @property
    def name(self) -> str:
        """That of the attack, ``growing`` before it."""
        return f"growing {attack_name(self.attack)}"

    @property
    def random_start(self) -> bool:
        """Whether the attack starts at random."""
        return bool(getattr(self.attack, "random_start", True))

    @property
    def eval_mode(self) -> bool:
        """Whether it crafts with the model in eval mode."""
        return bool(getattr(self.attack, "eval_mode", True))

    def bind(self, objective: Objective) -> Self:
        """Return the same with an objective, its own if it has one, in the same epoch."""
        bound = copy.copy(self)
        bound.attack = bind_objective(self.attack, objective)
        bound.current = bind_objective(self.current, objective)
        return bound

    def __call__(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: Generator = None,
    ) -> Tensor:
        """Return the adversarial images of the attack at its size of the moment."""
        check_returns_all(self.set)
        images: Tensor = self.current(model, x, target, context, generator)
        return images

    def find(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: Generator = None,
    ) -> Found:
        """Return what a call returns, with all that the attack tells, see `Found`."""
        return run_attack(self.current, model, x, target, tuple(context), generator, generator)
