"""Noise-FGSM (de Jorge et al. 2022): one step from a noisy image, for training."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from typing_extensions import Self, override

from advphotoz.attacks.gradient import GradientAttack, as_set
from advphotoz.attacks.problem import Problem
from advphotoz.perturbations import PerturbationSet

__all__ = ["NoiseFGSM"]

NOISE, STEP = 2, 1  # in units of eps, the authors'


@dataclass(frozen=True)
class NoiseFGSM(GradientAttack):
    r"""Noise-FGSM: noise of twice eps, then a step of eps along the gradient there, not clipped.

    .. math::
        \eta \sim U[-2 \varepsilon, 2 \varepsilon], \qquad \delta^* = \eta +
        \varepsilon\, \mathrm{sign}\left(\nabla_x\, \ell(f_\theta(x + \eta), z)\right)

    An attack for training at the cost of `FGSM`: with the noise, and without a projection back
    into the ball of eps, single-step training collapses less easily. What it returns reaches
    3 eps, and its `set` says so: ``LinfBall(3 * eps)``. As a test of robustness it is weak, since
    most of it is noise; do not evaluate with it.

    Parameters
    ----------
    perturbations : float, sequence of float, or PerturbationSet
        eps, the change to be robust to: the radius of a `LinfBall`, or another set.
    **settings
        As in `GradientAttack`. It always starts at random.

    Raises
    ------
    ValueError
        For ``random_start=False``, which would leave the noise out.

    References
    ----------
    de Jorge et al. 2022 (arXiv:2202.01181).

    Examples
    --------
    >>> import torch
    >>> from advphotoz.attacks import NoiseFGSM
    >>> attack = NoiseFGSM(0.01, objective=lambda output, target: output[:, 0])
    >>> attack.set
    LinfBall(eps=0.03, bounds=None)
    >>> model = torch.nn.Linear(1000, 1, bias=False)
    >>> seed = torch.Generator().manual_seed(0)
    >>> x_adv = attack(model, torch.zeros(1, 1000), torch.zeros(1), generator=seed)
    >>> 0.029 < x_adv.abs().max().item() <= 0.03
    True
    """

    random_start: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.random_start:
            raise ValueError("noise-FGSM is its noise: leave random_start as it is, or take FGSM")

    @property
    @override
    def set(self) -> PerturbationSet:
        """What may change in all: three times `perturbations`."""
        return as_set(self.perturbations, "NoiseFGSM").scaled(NOISE + STEP)

    @override
    def scaled(self, factor: float) -> Self:
        return self._with(perturbations=as_set(self.perturbations, "NoiseFGSM").scaled(factor))

    @override
    def search(self, problem: Problem, start: Tensor) -> Tensor:
        """Return the point one step away from a start, which is shrunk to the size of the noise."""
        noise = start * (NOISE / (NOISE + STEP))
        _, gradient = problem.value_and_gradient(noise)
        return problem.step(noise, gradient, STEP / (NOISE + STEP))
