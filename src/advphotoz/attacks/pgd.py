"""Projected gradient descent (Campagne 2020, Section 3.4): repeated small steps inside a ball."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advphotoz._checks import check_at_least_one, check_bounds, check_radius
from advphotoz._modes import check_autocast
from advphotoz.attacks.attack import Bounds
from advphotoz.attacks.problem import Problem, place, posed
from advphotoz.balls import Ball, L2Ball, per_band
from advphotoz.objectives import Objective

__all__ = ["PGD", "ascend", "l2_pgd"]


@dataclass(frozen=True)
class PGD:
    r"""Projected gradient descent: climb the objective, never leaving the ball.

    .. math:: \delta \leftarrow \mathcal{P}_\varepsilon\left[\delta + \alpha\, u(g)\right], \qquad
        g = \nabla_\delta\, \ell(f_\theta(x + \delta), z)

    with :math:`u(g) = \mathrm{sign}(g)` for an `LinfBall` and :math:`g / \|g\|_2` for an `L2Ball`
    (L2-PGD). It returns the last iterate. Also known as the Basic Iterative Method when it starts
    at zero.

    Parameters
    ----------
    ball : Ball
        The allowed perturbations, such as ``LinfBall(0.01)``.
    steps : int
        Number of gradient steps; 10 in the paper, which also tried 20 and 30.
    step_size : float or sequence of float, optional
        :math:`\alpha` in the units of the image, or one per band. None: eps / 10, the paper's
        choice, with which 10 steps just reach the boundary. Madry et al. 2018 take larger steps,
        about 2.5 eps / steps.
    random_start : bool
        Start from a uniform draw in the ball, not from zero. In the paper it changed little.
    restarts : int
        Number of searches; each sample keeps the last iterate on which the objective is largest.
        From the second on, a search starts from a random draw.
    targeted : bool
        Lower the objective towards the given target, instead of raising it.
    bounds : (float, float), optional
        Pixel values to stay within. None: pixels are unbounded.
    objective : callable, optional
        ``(output, target) -> (N,)``, what to maximise. None: the caller's (that of a trainer or of
        `evaluate`); called directly, cross-entropy on the paper's bins, ``CrossEntropy()``.
    eval_mode : bool
        Craft with the model in eval mode, so that dropout is off and a sample's perturbation does
        not depend on the rest of its batch. False: craft in the mode that the model is in;
        BatchNorm statistics and the random state are put back afterwards.
    autocast : torch.dtype, optional
        torch.bfloat16 runs the model in mixed precision, the objective and the perturbation stay
        in full. None: the caller's, which is full precision outside of any autocast region.

    Raises
    ------
    ValueError, TypeError
        For settings or a batch that make no sense; the message says what to do.

    Warns
    -----
    ZeroGradientWarning
        Where the gradient is zero in a whole batch.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Eqs. 7 to 9; Madry et al. 2018 (arXiv:1706.06083).

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

    ball: Ball
    steps: int = 10
    step_size: float | Sequence[float] | None = None
    random_start: bool = False
    restarts: int = 1
    targeted: bool = False
    bounds: Bounds = None
    objective: Objective | None = None
    eval_mode: bool = True
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.ball, Ball):
            raise TypeError(
                f"PGD needs a ball, such as LinfBall(0.01) or L2Ball(0.31), got {self.ball!r}"
            )
        check_at_least_one(self.steps, "steps")
        check_at_least_one(self.restarts, "restarts")
        object.__setattr__(self, "bounds", check_bounds(self.bounds))
        check_autocast(self.autocast)
        if self.step_size is not None:
            object.__setattr__(self, "step_size", check_radius(self.step_size, "step_size"))
            if _stands_still(self.step_size, self.ball.eps):
                raise ValueError(
                    f"step_size must be positive wherever eps is, got {self.step_size} for the "
                    f"eps {self.ball.eps}; leave it out for eps / 10"
                )

    def __call__(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Return the adversarial images for x of shape (N, C, ...), target (N,).

        The first search starts at the perturbation `start`, in the shape of x, brought into the
        ball; where it is NaN, as it would without.
        """
        with posed(
            model,
            x,
            target,
            context,
            objective=self.objective,
            targeted=self.targeted,
            bounds=self.bounds,
            eval_mode=self.eval_mode,
            autocast=self.autocast,
        ) as problem:
            if not len(x):
                return problem.x.clone()
            if self.restarts == 1:
                return self._search(problem, generator, self.random_start, start)
            return problem.worst(
                self._search(problem, generator, True)
                if number
                else self._search(problem, generator, self.random_start, start)
                for number in range(self.restarts)
            )

    def _search(
        self,
        problem: Problem,
        generator: torch.Generator | None,
        random_start: bool,
        given: Tensor | None = None,
    ) -> Tensor:
        x, ball = problem.x, self.ball
        start = ball.sample(x, generator) if random_start else torch.zeros_like(x)
        if given is not None:
            if given.shape != x.shape:
                raise ValueError(
                    f"start must be a perturbation in the shape of x, {tuple(x.shape)}, "
                    f"got {tuple(given.shape)}"
                )
            given = given.to(x)
            start = ball.project(torch.where(given.isnan(), start, given))
        return ascend(problem.gradient, x, ball, start, self.steps, self._step(), self.bounds)

    def _step(self) -> float | Sequence[float]:
        if self.step_size is not None:
            return self.step_size
        eps = self.ball.eps
        return tuple(e / 10 for e in eps) if isinstance(eps, Sequence) else eps / 10


def _stands_still(step_size: Any, eps: Any) -> bool:
    """Return whether a step of zero is asked for where the ball has room to move."""
    steps, radii = (v if isinstance(v, Sequence) else (v,) for v in (step_size, eps))
    n = max(len(steps), len(radii))
    pairs = zip((*steps,) * (n // len(steps)), (*radii,) * (n // len(radii)), strict=False)
    return any(step == 0 < radius for step, radius in pairs)


def ascend(
    gradient: Callable[[Tensor], Tensor],
    x: Tensor,
    ball: Ball,
    start: Tensor,
    steps: int,
    step_size: float | Sequence[float],
    bounds: Bounds = None,
) -> Tensor:
    """Follow the gradient for a number of steps inside the ball, and return the last x + delta.

    Parameters
    ----------
    gradient : callable
        Gradient of the objective at x + delta, in the shape of x.
    x, start : Tensor
        Images (N, C, ...) and the first perturbation, in the same shape and inside the ball.
    ball, steps, step_size, bounds
        As in `PGD`.
    """
    step = per_band(step_size, x, x.dtype)
    delta = start
    for _ in range(steps):
        direction = ball.steepest(gradient(x + delta))
        delta = ball.project(torch.addcmul(delta, step, direction))
        if bounds is not None:
            delta = delta.clamp(bounds[0] - x, bounds[1] - x)
    return place(x, delta, bounds)


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
    Campagne 2020 (arXiv:2002.10154), Eqs. 8 and 9.

    Examples
    --------
    >>> l2_pgd(0.3097).ball
    L2Ball(eps=0.3097, per_band=False)
    """
    return PGD(L2Ball(eps, per_band=per_band), steps=steps, **settings)
