"""Write an attack of your own: any callable of the right signature is one.

    python examples/own_attack.py

The example is the momentum method of Dong et al. 2018 (arXiv:1710.06081): PGD along a running mean
of normalised gradients. `posed` takes care of the model's state and of bad input, a ball of the
geometry; what is left to write is the method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advphotoz import FGSM, PGD, LinfBall, RedshiftBins
from advphotoz.attacks import place, posed
from advphotoz.balls import Ball
from advphotoz.evaluation import evaluate
from advphotoz.objectives import Objective
from advphotoz.testing import check_attack


@dataclass(frozen=True)
class Momentum:
    """Projected gradient descent along a running mean of the gradients."""

    ball: Ball
    steps: int = 10
    step_size: float = 0.001
    decay: float = 1.0
    objective: Objective | None = None  # None: that of the trainer or of evaluate

    def __call__(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the adversarial images."""
        with posed(model, x, target, context, objective=self.objective) as problem:
            x = problem.x
            delta, mean = torch.zeros_like(x), torch.zeros_like(x)
            for _ in range(self.steps):
                gradient = problem.gradient(place(x, delta))
                size = gradient.flatten(1).abs().mean(1).clamp_min(1e-30)
                mean = self.decay * mean + gradient / size.view(-1, *[1] * (x.ndim - 1))
                delta = self.ball.project(delta + self.step_size * self.ball.steepest(mean))
            return place(x, delta)


def main() -> None:
    """Check the contract, then compare with the built-in attacks on a small network."""
    attack = Momentum(LinfBall(0.01))
    check_attack(attack)  # raises AssertionError where the contract is broken
    print(f"{attack} keeps the contract")

    torch.manual_seed(0)
    bins = RedshiftBins(0.0, 1.0, 20)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(80, 20))
    batch = (torch.randn(64, 5, 4, 4), torch.rand(64))
    attacks = {"FGSM": FGSM(0.01), "PGD-10": PGD(LinfBall(0.01)), "momentum": attack}
    print(evaluate(model, [batch], attacks, bins=bins, progress=False))


if __name__ == "__main__":
    main()
