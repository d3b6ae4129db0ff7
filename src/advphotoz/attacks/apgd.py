"""Auto-PGD (Croce & Hein 2020): a search that finds its own step, for each sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from advphotoz.attacks.contract import Budget
from advphotoz.attacks.gradient import GradientAttack
from advphotoz.attacks.problem import Problem

__all__ = ["APGD"]

FIRST_STEP = 2.0  # of the budget
MOMENTUM = 0.75  # weight of the new step; the rest is that of the last change
ENOUGH = 0.75  # share of the steps of a window above which the step is kept


@dataclass(frozen=True)
class APGD(GradientAttack):
    r"""Auto-PGD: ascent with momentum, whose step is halved where the objective stops rising.

    .. math:: q &= \mathcal{P}\left[p_k + \eta\, u(\nabla \ell(p_k))\right] \\
        p_{k+1} &= \mathcal{P}\left[p_k + 0.75\,(q - p_k) + 0.25\,(p_k - p_{k-1})\right]

    with :math:`u` the steepest direction of the set. The step :math:`\eta` starts at twice the
    budget. At checkpoints, the first after 22 % of the steps and then in windows that shrink by 3 %
    of them to 6 %, a sample's step is halved and its search goes on from its best point, if

    1. at most 75 % of the steps of the window raised its objective, or
    2. the step was not halved at the last checkpoint, and its best value has not risen since.

    There is no step size to choose, each sample has its own, and the objective may be negative.
    Other than in the authors' code, the first step counts as a rise only where the objective is
    larger than at the start (the code compares it with zero), and the start is never returned.

    Parameters
    ----------
    perturbations : PerturbationSet, float or sequence of float
        What may change, such as ``LinfBall(0.01)``; a number means just that.
    steps : int
        Number of steps, and of gradients; the value at the last point costs a forward pass.
    **settings
        As in `GradientAttack`: random_start, restarts, keep, objective, eval_mode, autocast.

    References
    ----------
    Croce and Hein 2020 (arXiv:2003.01690), Algorithm 1. Where their text and their code differ
    (the text halves below 75 %, the code at 75 % too; checkpoints are rounded down), this is the
    code.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import APGD, LinfBall
    >>> attack = APGD(LinfBall(0.5), objective=lambda output, target: output[:, 0])
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[3.0, -4.0]])
    >>> attack(model, torch.zeros(1, 2), torch.zeros(1))
    tensor([[ 0.5000, -0.5000]])
    """

    steps: int = 20

    @property
    def budget(self) -> Budget:
        """What it asks of the network."""
        return Budget(gradients=self.steps * self.restarts, forward=self.restarts)

    @override
    def search(self, problem: Problem, start: Tensor) -> Tensor:
        """Return the last point."""
        value, gradient = problem.value_and_gradient(start)
        # The start may be the best point to go on from, though it is never returned.
        best, best_value, best_gradient = start, value, gradient
        value_then = value  # the best one at the last checkpoint
        fraction = torch.full_like(value, FIRST_STEP)
        halved = torch.ones_like(value, dtype=torch.bool)
        rises, taken = torch.zeros_like(value), 0
        window, shrink, shortest = (max(int(s * self.steps), 1) for s in (0.22, 0.03, 0.06))
        before = p = start
        for number in range(self.steps):
            ahead = problem.step(p, gradient, fraction)
            if number:
                mixed = p + MOMENTUM * (ahead - p) + (1 - MOMENTUM) * (p - before)
                ahead = problem.set.project(problem.x, mixed)
            before, p = p, ahead
            if number == self.steps - 1:
                break
            value_before = value
            value, gradient = problem.value_and_gradient(p)
            rises, taken = rises + (value > value_before), taken + 1
            higher = value > best_value
            best, best_value = _chosen(higher, p, best), torch.maximum(value, best_value)
            best_gradient = _chosen(higher, gradient, best_gradient)
            if taken < window:
                continue
            halved = (rises <= ENOUGH * window) | (~halved & (best_value <= value_then))
            fraction = torch.where(halved, fraction / 2, fraction)
            p, gradient = _chosen(halved, best, p), _chosen(halved, best_gradient, gradient)
            value_then, rises, taken = best_value, torch.zeros_like(rises), 0
            window = max(window - shrink, shortest)
        return p


def _chosen(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Return one of two tensors (N, ...) for each sample."""
    return torch.where(rows.view(-1, *[1] * (yes.ndim - 1)), yes, no)
