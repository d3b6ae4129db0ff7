"""Write an attack of your own: a search of a few lines, and the base class does the rest.

    python examples/own_attack.py

The example is the momentum method of Dong et al. 2018 (arXiv:1710.06081): PGD along a running mean
of normalised gradients. `GradientAttack` takes care of the model's state, of bad input, of restarts
and of the best point; the perturbation set of the geometry. What is left to write is the method.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advphotoz import FGSM, PGD, GradientAttack, RedshiftBins, ZeroPoint, evaluate
from advphotoz.attacks import Problem
from advphotoz.testing import check_attack


@dataclass(frozen=True)
class Momentum(GradientAttack):
    """Projected gradient descent along a running mean of the gradients."""

    steps: int = 10
    decay: float = 1.0

    def search(self, problem: Problem, start: Tensor) -> Tensor:
        """Return the last point; the base class keeps the best."""
        p, mean = start, torch.zeros_like(start)
        for _ in range(self.steps):
            _, gradient = problem.value_and_gradient(p)
            size = gradient.flatten(1).abs().mean(1).clamp_min(1e-30)
            mean = self.decay * mean + gradient / size.view(-1, *[1] * (gradient.ndim - 1))
            p = problem.step(p, mean, 2.5 / self.steps)
        return p


def main() -> None:
    """Check the contract, then compare with the built-in attacks on a small network."""
    for attack in (Momentum(0.01), Momentum(ZeroPoint([0.02, 0.01, 0.01, 0.01, 0.02]))):
        check_attack(attack)  # raises AssertionError where the contract is broken
        print(f"{attack.name} keeps the contract")

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(80, 20))
    batch = (torch.randn(64, 5, 4, 4), torch.rand(64))
    attacks = [FGSM(0.01), PGD(0.01), Momentum(0.01)]
    print(evaluate(model, [batch], attacks, RedshiftBins(0.0, 1.0, 20), progress=False))


if __name__ == "__main__":
    main()
