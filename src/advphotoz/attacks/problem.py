"""The maximisation that a gradient attack faces (Campagne 2020, Eq. 4), without leaving a trace."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from advphotoz._deferred import deferred, refuse
from advphotoz._model import autocasting, untouched, unwrapped
from advphotoz.attacks.contract import ZeroGradientWarning, check_batch
from advphotoz.objectives import Objective, per_sample
from advphotoz.perturbations import PerturbationSet

__all__ = ["Problem", "opened"]


class Problem:
    r"""One batch, one model, one objective, one set: the objective as a function of p.

    .. math:: \max_{p} \; \ell\left(f_\theta(T_p(x)), z\right), \qquad \mathrm{size}(p) \le 1

    with T the transformation of the set. What a search is given; it notes which of the points that
    the search evaluated was best.

    Attributes
    ----------
    x : Tensor
        The images (N, C, ...), detached.
    context : tuple of Tensor
        The other inputs of the network.
    set : PerturbationSet
        What may change.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: tuple[Tensor, ...],
        perturbations: PerturbationSet,
        objective: Objective,
        look: Callable[[], None],
    ) -> None:
        self.x, self.context, self.set = x, context, perturbations
        self._model, self._target, self._objective = model, target, objective
        self._look, self._checked = look, False
        self._all_zero: list[Tensor] = []
        self._evaluated = 0
        self._best: tuple[Tensor, Tensor] | None = None

    def value(self, p: Tensor) -> Tensor:
        """Return what the attack maximises at p, one number per sample, (N,)."""
        with torch.no_grad():
            return self._value(p)

    def value_and_gradient(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Return that value and its gradient with respect to p, in the shape of p."""
        with torch.enable_grad():
            p = p.detach().requires_grad_()
            value = self._value(p)
            grad = None
            if value.requires_grad:
                (grad,) = torch.autograd.grad(value.sum(), p, allow_unused=True)
        if grad is None:
            raise ValueError(
                "the objective does not depend on the images in a differentiable way; a detach(), "
                "argmax() or NumPy call inside the model or the objective cuts the gradient"
            )
        p, value = p.detach(), value.detach()
        largest = grad.abs().flatten(1).amax(1)  # NaN where one entry is
        self._all_zero.append((largest == 0).all())
        number, not_finite = len(self._all_zero), ~torch.isfinite(largest)
        refuse(
            not_finite.any(),
            lambda: ValueError(
                f"the gradient is not finite for {int(not_finite.sum())} of {len(self.x)} samples "
                f"at gradient evaluation {number}; look for a square root or logarithm of zero, or "
                "an overflow of half precision, in the model or the objective"
            ),
        )
        if self._evaluated:  # the start is no candidate: it would hide a search that fails
            self._note(p, value)
        self._evaluated += 1
        return value, grad

    def step(self, p: Tensor, direction: Tensor, fraction: float | Tensor) -> Tensor:
        """Return p after a step of a fraction of the budget along a gradient, inside the set."""
        return self.set.step(self.x, p, direction, fraction)

    def search(
        self, search: Callable[[Problem, Tensor], Tensor], start: Tensor, best: bool, value: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Run one search from a start: where it ended, the value there, and whether it still rose.

        Parameters
        ----------
        search : callable
            Called with this problem and the start; returns the last point.
        start : Tensor
            Parameters inside the set.
        best : bool
            Return the best point that was evaluated, the last included, in place of the last.
        value : bool
            Whether the value at the end is needed; it may cost one more forward pass.
        """
        self._evaluated, self._best = 0, None
        last = search(self, start)
        before = self._best
        self._best = None
        if not value and (not best or before is None):
            return last, None, None
        at_last = self.value(last)
        if before is None:
            return last, at_last, None
        rising = at_last > before[1]
        if not best:
            return last, at_last, rising
        return *better(before, (last, at_last)), rising

    def check_gradients(self) -> None:
        """Warn if a gradient was zero in the whole batch."""
        if not self._all_zero:
            return
        zero = torch.stack(self._all_zero).tolist()
        if any(zero):
            warnings.warn(
                f"the gradient is zero everywhere in a batch of {len(self.x)} samples (gradient "
                f"evaluation {zero.index(True) + 1}): the attack has no direction to follow, and "
                "its weakness here does not show that the model is robust",
                ZeroGradientWarning,
                stacklevel=6,  # past contextlib and the attack: the caller's line
            )

    def _note(self, p: Tensor, value: Tensor) -> None:
        self._best = (p, value) if self._best is None else better(self._best, (p, value))

    def _value(self, p: Tensor) -> Tensor:
        # Copies, since a model or an objective may write into its inputs; apply makes new images,
        # but for a set that changes the context alone.
        x, context = self.set.apply(self.x, tuple(c.clone() for c in self.context), p)
        x = x.clone() if x is self.x else x
        value = per_sample(self._objective, self._model(x, *context), self._target.clone())
        if not self._checked:
            self._look()  # once, so that a batch that makes no sense costs one step and not all
            self._checked = True
        return value


def better(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Return, for each sample, the one of two (tensor, value) pairs whose value is larger.

    Of equals the first; a NaN stays, and is refused.
    """
    higher = b[1] > a[1]
    rows = higher.view(-1, *[1] * (a[0].ndim - 1))
    value = torch.maximum(a[1], b[1])
    nan = value.isnan()
    refuse(
        nan.any(),
        lambda: ValueError(
            f"the objective is NaN for {int(nan.sum())} of {len(nan)} samples under attack, so "
            "that there is no worst one; look for it in the objective"
        ),
    )
    return torch.where(rows, b[0], a[0]), value


@contextmanager
def opened(
    model: Callable[..., Any],
    x: Tensor,
    target: Tensor,
    context: Sequence[Tensor],
    perturbations: PerturbationSet,
    objective: Objective,
    *,
    eval_mode: bool = True,
    autocast: torch.dtype | None = None,
) -> Iterator[Problem]:
    """Open the maximisation that an attack faces, and close it without a trace.

    Inside the ``with`` block the model is frozen and in eval mode, and no gradient is recorded but
    by `Problem.value_and_gradient`; at its end model and random state are as they were, also on an
    error, and outputs or gradients that were not finite, or gradients all zero, are reported. No
    step waits for a GPU but the first, after which what the objective refuses is raised.
    """
    with torch.inference_mode(False), torch.no_grad():
        check_batch(x, target, context)
        perturbations.check(x, context)
        model = unwrapped(model)
        with ExitStack() as stack:
            # Around all steps: autocast keeps the weights that it has cast until its region ends.
            stack.enter_context(autocasting(x.device, autocast))
            stack.enter_context(untouched(model, x.device, eval_mode))
            # No waiting for a GPU inside the loop: what is wrong is read at the end.
            look = stack.enter_context(deferred())
            plain_context = tuple(_plain(value) for value in context)
            problem = Problem(
                model, _plain(x), _plain(target), plain_context, perturbations, objective, look
            )
            yield problem
        problem.check_gradients()


def _plain(x: Tensor) -> Tensor:
    """Detach, and copy a tensor made in inference mode, which autograd cannot use."""
    return x.clone() if x.is_inference() else x.detach()
