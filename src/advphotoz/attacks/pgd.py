"""Projected gradient descent (Campagne 2020, Section 3.4): repeated small steps inside a set."""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from typing_extensions import override

from advphotoz.attacks.gradient import GradientAttack
from advphotoz.attacks.problem import Problem
from advphotoz.perturbations import L2Ball

__all__ = ["PGD", "l2_pgd"]

PAPER_STEP = 0.1  # of eps


@dataclass(frozen=True)
class PGD(GradientAttack):
    r"""Projected gradient descent: climb the objective, never leaving the set.

    .. math:: \delta \leftarrow \mathcal{P}_\varepsilon\left[\delta + \alpha\, u(g)\right], \qquad
        g = \nabla_\delta\, \ell(f_\theta(x + \delta), z)

    with :math:`u(g) = \mathrm{sign}(g)` for a `LinfBall` and :math:`g / \|g\|_2` for an `L2Ball`
    (L2-PGD). Also known as the Basic Iterative Method when it starts at zero. The paper's version
    is ``PGD(LinfBall(0.01), step_size="paper", keep="last")``.

    Parameters
    ----------
    perturbations : PerturbationSet, float or sequence of float
        What may change, such as ``LinfBall(0.01)``; a number means just that.
    steps : int
        Number of gradient steps; 10 in the paper, which also tried 20 and 30.
    step_size : float, "paper" or None
        :math:`\alpha` as a fraction of the budget (of eps, for a ball). None: 2.5 / steps, with
        which any number of steps can cross the set (Madry et al. 2018). "paper": 0.1, with which 10
        steps just reach the boundary and fewer do not.
    **settings
        As in `GradientAttack`: random_start, restarts, keep, objective, eval_mode, autocast.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Eqs. 7 to 9; Madry et al. 2018 (arXiv:1706.06083).
    Written out in :ref:`theory-pgd`.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import LinfBall, PGD
    >>> attack = PGD(LinfBall(0.5), objective=lambda output, target: output[:, 0])
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[3.0, -4.0]])
    >>> attack(model, torch.zeros(1, 2), torch.zeros(1))
    tensor([[ 0.5000, -0.5000]])
    """

    steps: int = 10
    step_size: float | Literal["paper"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        size: Any = self.step_size
        if size is None or (isinstance(size, str) and size == "paper"):
            return
        if isinstance(size, bool) or not isinstance(size, numbers.Real):
            raise TypeError(
                f'step_size must be a fraction of the budget, "paper" or None, got {size!r}'
            )
        if not 0 < float(size) < math.inf:
            raise ValueError(
                f"step_size must be a positive fraction of the budget, got {size}; leave it out "
                "for 2.5 / steps"
            )
        object.__setattr__(self, "step_size", float(size))

    @override
    def search(self, problem: Problem, start: Tensor) -> Tensor:
        """Return the last point."""
        p, fraction = start, self._fraction()
        for _ in range(self.steps):
            _, gradient = problem.value_and_gradient(p)
            p = problem.step(p, gradient, fraction)
        return p

    def _fraction(self) -> float:
        if self.step_size is None:
            return 2.5 / self.steps
        return PAPER_STEP if isinstance(self.step_size, str) else self.step_size


def l2_pgd(
    eps: float | Sequence[float], steps: int = 40, *, per_band: bool = False, **settings: Any
) -> PGD:
    r"""Return L2-PGD, which is ``PGD(L2Ball(eps), steps=40)``, the paper's number of steps.

    Parameters
    ----------
    eps : float or sequence of float
        L2 radius in the units of the image; `l2_eps_from_linf` scales an L-infinity radius.
    steps : int
        Number of gradient steps.
    per_band : bool
        As in `L2Ball`: a norm per band, not one over the whole sample.
    **settings
        As in `PGD`.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Eqs. 8 and 9; written out in :ref:`theory-l2`.

    Examples
    --------
    >>> l2_pgd(0.3097).set
    L2Ball(eps=0.3097, bounds=None, per_band=False)
    """
    return PGD(L2Ball(eps, per_band=per_band), steps=steps, **settings)
