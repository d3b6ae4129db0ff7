"""Several attacks as one: each sample keeps the worst images that any of them found."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from advphotoz._checks import check_at_least_one
from advphotoz._model import untouched, unwrapped
from advphotoz._random import Generator, SampleGenerators
from advphotoz.attacks.contract import (
    Attack,
    Budget,
    Found,
    attack_name,
    bind_objective,
    check_batch,
    check_returns_all,
    deepened,
    follows_gradients,
    perturbations_of,
    run_attack,
    scaled,
)
from advphotoz.attacks.problem import better
from advphotoz.models import AverageOverDraws
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
    title : str
        A name for tables in place of the list of attacks.
    enough : float, optional
        A sample whose objective is above this is left alone: with the images of the attacks so
        far, unchanged where it is so from the start. None: every sample meets every attack.
    draws : int
        For a network that is random in eval mode: attacks and comparison see its mean output over
        this many draws (`AverageOverDraws`), and so follow the gradient of the expectation.

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
    title: str = field(default="", kw_only=True)
    enough: float | None = field(default=None, kw_only=True)
    draws: int = field(default=1, kw_only=True)

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
        check_at_least_one(self.draws, "draws")
        if self.enough is not None:
            object.__setattr__(self, "enough", float(self.enough))
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
        if self.draws > 1:
            model = AverageOverDraws(unwrapped(model), self.draws)  # type: ignore[arg-type]
        worst = None if self.enough is None else _unchanged(model, x, target, context, objective)
        for number, attack in enumerate(self.attacks):
            rows = None
            if worst is not None and self.enough is not None:
                assert worst.value is not None
                rows = (worst.value <= self.enough).nonzero()[:, 0]
                if not len(rows):
                    break
            found = _on_rows(attack, model, x, target, context, generator, objective, rows)
            if worst is not None and rows is not None:
                found = _filled(found, rows, worst)
            # The unchanged image is no candidate: it would hide an attack that fails.
            worst = found if worst is None or number == 0 else _worse(worst, found)
        assert worst is not None
        return worst

    @property
    def set(self) -> PerturbationSet | None:
        """What may change, where all attacks agree on it."""
        sets = [perturbations_of(attack) for attack in self.attacks]
        return sets[0] if all(found == sets[0] for found in sets) else None

    @property
    def name(self) -> str:
        """Such as ``worst of FGSM 0.01, 2 PGD-10 0.01``, or the title and the set."""
        if self.title:
            return f"{self.title} {self.set.label}" if self.set is not None else self.title
        counts = Counter(attack_name(attack) for attack in self.attacks)
        parts = (f"{n} {name}" if n > 1 else name for name, n in counts.items())
        return "worst of " + ", ".join(parts)

    @property
    def follows_gradients(self) -> bool | None:
        """Whether any of the attacks does; None if that is not known."""
        known = [follows_gradients(attack) for attack in self.attacks]
        return True if True in known else None if None in known else False

    @property
    def budget(self) -> Budget | None:
        """What it asks of the network, the comparison included; None if an attack does not say."""
        told = [getattr(attack, "budget", None) for attack in self.attacks]
        parts = [part for part in told if part is not None]
        if len(parts) < len(told):
            return None
        compared = len(parts) + (self.enough is not None)
        return Budget(
            self.draws * sum(part.gradients for part in parts),
            self.draws * (sum(part.forward for part in parts) + compared),
        )

    def only(self, gradients: bool) -> Self | None:
        """Return the same with those attacks alone that follow gradients, or that do not.

        Noise, which does not search, is neither. None where none is left.
        """
        chosen = tuple(a for a in self.attacks if follows_gradients(a) is gradients)
        return self._with(attacks=chosen, title="", enough=None) if chosen else None

    def bind(self, objective: Objective) -> Self:
        """Return the same with an objective, its own if it has one."""
        return self if self.objective is not None else self._with(objective=objective)

    def scaled(self, factor: float) -> Self | None:
        """Return the same with every attack's set scaled; None if one of them states no set."""
        return self._each(lambda attack: scaled(attack, factor), everyone=True)

    def deepened(self) -> Self | None:
        """Return the same with twice the steps of every attack that has steps; None if none has.

        It has no title: that belongs to the attacks as they are.
        """
        more = self._each(deepened, everyone=False)
        return None if more is None else more._with(title="")

    def _each(self, change: Callable[[Any], Any], everyone: bool) -> Self | None:
        changed = [change(attack) for attack in self.attacks]
        known = [attack is not None for attack in changed]
        if not (all(known) if everyone else any(known)):
            return None
        pairs = zip(changed, self.attacks, strict=True)
        return self._with(attacks=tuple(old if new is None else new for new, old in pairs))

    def _with(self, **changes: Any) -> Self:
        return dataclasses.replace(self, **changes)


def _unchanged(
    model: Callable[..., Any],
    x: Tensor,
    target: Tensor,
    context: tuple[Tensor, ...],
    objective: Objective,
) -> Found:
    """Return the images as they are, with their objective."""
    check_batch(x, target, context)
    zero = torch.zeros(len(x), device=x.device)
    clean = Found(x.clone(), tuple(c.clone() for c in context), None, zero, None, zero.bool())
    return clean._replace(value=_value(model, clean, target, objective))


def _on_rows(
    attack: Attack,
    model: Callable[..., Any],
    x: Tensor,
    target: Tensor,
    context: tuple[Tensor, ...],
    generator: Generator,
    objective: Objective,
    rows: Tensor | None,
) -> Found:
    """Run an attack on some samples, all for None; return what it found, with the objective."""
    if rows is not None:
        x, target, context = x[rows], target[rows], tuple(c[rows] for c in context)
        if isinstance(generator, SampleGenerators):
            generator = generator.rows(rows.tolist())
    found = _run(attack, model, x, target, context, generator)
    value = _value(model, found, target, objective)
    return found._replace(parameters=None, value=value)


def _filled(found: Found, rows: Tensor, others: Found) -> Found:
    """Return what was found for some samples, and for all others what was known."""
    x = others.x.index_copy(0, rows, found.x)
    context = tuple(
        old.index_copy(0, rows, new) for old, new in zip(others.context, found.context, strict=True)
    )
    size, value, rising = (
        None if old is None or new is None else old.index_copy(0, rows, new.to(old.dtype))
        for old, new in (
            (others.size, found.size),
            (others.value, found.value),
            (others.rising, found.rising),
        )
    )
    return Found(torch.empty_like(others.x).copy_(x), context, None, size, value, rising)


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
