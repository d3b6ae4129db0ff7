"""The fast gradient sign method (Campagne 2020, Section 3.3, which writes FSGM): one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advphotoz._checks import check_bounds, check_radius
from advphotoz._modes import check_autocast
from advphotoz.attacks.attack import Bounds
from advphotoz.attacks.pgd import PGD
from advphotoz.balls import LinfBall
from advphotoz.objectives import Objective

__all__ = ["FGSM"]


@dataclass(frozen=True)
class FGSM:
    r"""The fast gradient sign method: one step of size eps along the sign of the gradient.

    .. math:: \delta^* = \varepsilon\, \mathrm{sign}\left(\nabla_x\, \ell(f_\theta(x), z)\right)

    exact for a linear model, and a cheap first look at any other.

    Parameters
    ----------
    eps : float or sequence of float
        Size of the change of every pixel, in the units of the image, or one per band; 0.01 in the
        paper.
    targeted, bounds, objective, eval_mode, autocast
        As in `PGD`.

    Raises
    ------
    ValueError, TypeError
        As `PGD`.

    Warns
    -----
    ZeroGradientWarning
        Where the gradient is zero in a whole batch.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Eq. 5; Goodfellow et al. 2014 (arXiv:1412.6572).

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

    eps: float | Sequence[float]
    targeted: bool = False
    bounds: Bounds = None
    objective: Objective | None = None
    eval_mode: bool = True
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", check_radius(self.eps))
        object.__setattr__(self, "bounds", check_bounds(self.bounds))
        check_autocast(self.autocast)

    def __call__(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the adversarial images for x of shape (N, C, ...); the generator is not used."""
        one_step = PGD(
            LinfBall(self.eps),
            steps=1,
            step_size=self.eps,
            targeted=self.targeted,
            bounds=self.bounds,
            objective=self.objective,
            eval_mode=self.eval_mode,
            autocast=self.autocast,
        )
        return one_step(model, x, target, context, generator)
