"""Several attacks as one: each sample keeps the worst images that any of them found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advphotoz.attacks.attack import Attack, bind_objective, check_result
from advphotoz.attacks.problem import posed
from advphotoz.objectives import Objective

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
        their own maximise it too. None: the caller's (that of a trainer or of `evaluate`); called
        directly, cross-entropy on the paper's bins, ``CrossEntropy()``.

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
            if getattr(attack, "targeted", False):
                raise ValueError(
                    f"WorstOf keeps the largest objective, and {attack!r} lowers it; take the "
                    "objective TowardRedshift in place of targeted=True"
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
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the worst images for x of shape (N, C, ...), target (N,)."""
        found = []
        for attack in self.attacks:
            # A copy, so that an attack that works in place spoils neither x nor the others.
            images: Any = attack(model, x.clone(), target, context, generator)
            found.append(check_result(images, x, repr(attack)))
        with posed(model, x, target, context, objective=self.objective) as problem:
            return problem.worst(found)
