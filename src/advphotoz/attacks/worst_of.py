"""Several attacks as one: each sample keeps the worst images that any of them found."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from advphotoz._model import untouched, unwrapped
from advphotoz._random import Generator, SampleGenerators
from advphotoz.attacks.contract import (
    Attack,
    Found,
    attack_name,
    bind_objective,
    check_returns_all,
    deepened,
    perturbations_of,
    run_attack,
    scaled,
)
from advphotoz.attacks.problem import better
from advphotoz.objectives import Objective, per_sample
from advphotoz.perturbations import PerturbationSet

__all__ = ["WorstOf"]


@dataclass(frozen=True)
class WorstOf:
    r"""The worst of several attacks, for each sample on its own.

    .. math:: x^* = \mathrm{argmax}_{x' \in \{A_1(x), \dots, A_k(x)\}}\, \ell(f_\theta(x'), z)

    A model is as robust as the strongest attack on it, and which attack that is differs from
    sample to sample. The images lie in the union of the attacks' balls.

    Parameters
    ----------
    attacks : sequence of Attack
        Any attacks, run in this order; they share the generator. Of equals the first is kept.
    objective : callable, optional
        ``(output, target) -> (N,)``, what is compared, in eval mode. Attacks that have none of
        their own maximise it too. None: the caller's (that of a trainer or of `evaluate`).

    Raises
    ------
    ValueError, TypeError
        For attacks that are none, images of another shape or dtype than x, an objective that is
        NaN, or what one of the attacks refuses; the message says what to do.

    Warns
    -----
    ZeroGradientWarning
        As its attacks.

    References
    ----------
    Croce and Hein 2020 (arXiv:2003.01690), whose AutoAttack so combines four attacks.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import FGSM, UniformNoise, WorstOf
    >>> first = lambda output, target: output[:, 0]
    >>> attack = WorstOf((UniformNoise(0.5), FGSM(0.5)), objective=first)
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[3.0, -4.0]])
    >>> attack(model, torch.ones(1, 2), torch.zeros(1))
    tensor([[1.5000, 0.5000]])
    """

    attacks: Sequence[Attack]
    objective: Objective | None = None

    def __post_init__(self) -> None:
        if callable(self.attacks) or not isinstance(self.attacks, Sequence):
            raise TypeError(
                f"WorstOf needs a sequence of attacks, such as (FGSM(0.01), PGD(LinfBall(0.01))), "
                f"got {self.attacks!r}"
            )
        if not self.attacks:
            raise ValueError("WorstOf needs at least one attack, got an empty sequence")
        for attack in self.attacks:
            if not callable(attack) or isinstance(attack, type):
                raise TypeError(
                    "each of the attacks must be callable as attack(model, x, target, context, "
                    f"generator), got {attack!r}"
                )
        ours = self.objective
        bound = self.attacks if ours is None else [bind_objective(a, ours) for a in self.attacks]
        object.__setattr__(self, "attacks", tuple(bound))

    def __call__(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: Generator = None,
    ) -> Tensor:
        """Return the worst images for x of shape (N, C, ...), target (N,)."""
        for attack in self.attacks:
            check_returns_all(perturbations_of(attack))
        return self.find(model, x, target, context, generator).x

    def find(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: Generator = None,
    ) -> Found:
        """Return the worst for each sample, with its objective and how much room it uses."""
        objective = self.objective
        if objective is None:
            raise ValueError(
                "WorstOf has no objective to compare by; give it one, such as "
                "objective=CrossEntropy(RedshiftBins(0, 1, 180)), or let a trainer or evaluate "
                "give it theirs"
            )
        context = tuple(context)
        worst: Found | None = None
        for attack in self.attacks:
            found = _run(attack, model, x, target, context, generator)
            value = _value(model, found, target, objective)
            found = found._replace(parameters=None, value=value)
            worst = found if worst is None else _worse(worst, found)
        assert worst is not None
        return worst

    @property
    def set(self) -> PerturbationSet | None:
        """What may change, where all attacks agree on it."""
        sets = [perturbations_of(attack) for attack in self.attacks]
        return sets[0] if all(found == sets[0] for found in sets) else None

    @property
    def name(self) -> str:
        """Such as ``worst of FGSM 0.01, 2 PGD-10 0.01``."""
        counts = Counter(attack_name(attack) for attack in self.attacks)
        parts = (f"{n} {name}" if n > 1 else name for name, n in counts.items())
        return "worst of " + ", ".join(parts)

    def bind(self, objective: Objective) -> Self:
        """Return the same with an objective, its own if it has one."""
        return self if self.objective is not None else self._with(objective=objective)

    def scaled(self, factor: float) -> Self | None:
        """Return the same with every attack's set scaled; None if one of them states no set."""
        return self._each(lambda attack: scaled(attack, factor), everyone=True)

    def deepened(self) -> Self | None:
        """Return the same with twice the steps of every attack that has steps; None if none has."""
        return self._each(deepened, everyone=False)

    def _each(self, change: Callable[[Any], Any], everyone: bool) -> Self | None:
        changed = [change(attack) for attack in self.attacks]
        known = [attack is not None for attack in changed]
        if not (all(known) if everyone else any(known)):
            return None
        pairs = zip(changed, self.attacks, strict=True)
        return self._with(attacks=tuple(old if new is None else new for new, old in pairs))

    def _with(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)


def _run(
    attack: Attack,
    model: Callable[..., Any],
    x: Tensor,
    target: Tensor,
    context: tuple[Tensor, ...],
    generator: Generator,
) -> Found:
    if isinstance(generator, SampleGenerators) and not hasattr(attack, "find"):
        # A bare callable draws for the batch as a whole.
        seed = torch.randint(2**62, (1,), generator=generator.generators[0]).item()
        batch_generator = torch.Generator().manual_seed(int(seed))
        return run_attack(attack, model, x, target, context, generator, batch_generator)
    return run_attack(attack, model, x, target, context, generator, generator)


def _value(model: Callable[..., Any], found: Found, target: Tensor, objective: Objective) -> Tensor:
    """Return the objective of the images that were found, (N,)."""
    x = found.x
    if not len(x):
        return x.new_zeros(0)
    model = unwrapped(model)
    with torch.inference_mode(False), torch.no_grad(), untouched(model, x.device):
        output = model(x.clone(), *(value.clone() for value in found.context))
        return per_sample(objective, output, target)


def _worse(a: Found, b: Found) -> Found:
    """Return, for each sample, the one of two with the larger objective; of equals the first."""
    assert a.value is not None
    assert b.value is not None
    x, value = better((a.x, a.value), (b.x, b.value))
    rows = b.value > a.value
    context = tuple(
        torch.where(rows.view(-1, *[1] * (old.ndim - 1)), new, old)
        for old, new in zip(a.context, b.context, strict=True)
    )
    size, rising = (
        None if old is None or new is None else torch.where(rows, new, old)
        for old, new in ((a.size, b.size), (a.rising, b.rising))
    )
    same_format = torch.empty_like(a.x).copy_(x)
    return Found(same_format, context, None, size, value, rising)
