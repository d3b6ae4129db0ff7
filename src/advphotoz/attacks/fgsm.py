"""The fast gradient sign method (Campagne 2020, Section 3.3, which writes FSGM): one step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from advphotoz.attacks.gradient import GradientAttack
from advphotoz.attacks.problem import Problem

__all__ = ["FGSM"]


@dataclass(frozen=True)
class FGSM(GradientAttack):
    r"""The fast gradient sign method: one step of the whole budget along the gradient.

    .. math:: \delta^* = \varepsilon\, \mathrm{sign}\left(\nabla_x\, \ell(f_\theta(x), z)\right)

    for a radius, that is a `LinfBall`; exact for a linear model, and a cheap first look at any
    other. In another set it takes the step that is steepest there.

    Parameters
    ----------
    perturbations : float, sequence of float, or PerturbationSet
        Size of the change of every pixel, in the units of the image, or one per band; 0.01 in the
        paper.
    **settings
        As in `GradientAttack`.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Eq. 5; Goodfellow et al. 2014 (arXiv:1412.6572).
    Derived in :ref:`theory-fgsm`.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import FGSM
    >>> attack = FGSM(0.5, objective=lambda output, target: output[:, 0])
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[3.0, -4.0]])
    >>> attack(model, torch.ones(1, 2), torch.zeros(1))
    tensor([[1.5000, 0.5000]])
    """

    @override
    def search(self, problem: Problem, start: Tensor) -> Tensor:
        """Return the point one step away."""
        _, gradient = problem.value_and_gradient(start)
        return problem.step(start, gradient, 1.0)
