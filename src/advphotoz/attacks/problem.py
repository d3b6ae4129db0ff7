"""The maximisation that a gradient attack faces (Campagne 2020, Eq. 4), without leaving a trace."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from advphotoz._deferred import deferred, refuse
from advphotoz._modes import autocasting, untouched
from advphotoz._rounding import add_inward
from advphotoz.attacks.attack import Bounds, ZeroGradientWarning, check_batch
from advphotoz.objectives import CrossEntropy, Objective

__all__ = ["Problem", "place", "posed"]


def place(x: Tensor, delta: Tensor, bounds: Bounds = None) -> Tensor:
    r"""Return x + delta, rounded so that no pixel moves further than delta says.

    Parameters
    ----------
    x, delta : Tensor
        Images (N, C, ...) and a perturbation of the same shape, dtype and device.
    bounds : (float, float), optional
        Pixel values to stay within, which x does already. None: unbounded.

    Returns
    -------
    Tensor
        In x's memory format, with :math:`|\mathrm{result} - x| \le |\delta|` exactly;
        plain addition rounds to nearest, and moves a pixel of 10,000 by up to 0.0005 more.

    Examples
    --------
    >>> import torch
    >>> place(torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, -0.5]]), bounds=(-2, 2))
    tensor([[ 1.5000, -2.0000]])
    """
    moved = add_inward(x, delta)
    if bounds is not None:
        moved = moved.clamp(*bounds)
    return moved if moved.stride() == x.stride() else torch.empty_like(x).copy_(moved)


class Problem:
    """One batch, one model, one objective: its value and its input gradient, per sample.

    Made by `posed`, for use inside its ``with`` block.

    Attributes
    ----------
    x : Tensor
        The images (N, C, ...), detached.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: tuple[Tensor, ...],
        objective: Objective,
        targeted: bool,
        look: Callable[[], None],
    ) -> None:
        self.x = x
        self._model, self._target, self._context = model, target, context
        self._objective, self._sign = objective, -1.0 if targeted else 1.0
        self._look, self._checked = look, False
        self._all_zero: list[Tensor] = []

    def value(self, x: Tensor) -> Tensor:
        """Return what the attack maximises, one number per sample, shape (N,)."""
        with torch.no_grad():
            return self._value(x)

    def worst(self, candidates: Iterable[Tensor]) -> Tensor:
        """Return, for each sample, the candidate on which that value is largest."""
        worst, highest = torch.empty_like(self.x), None
        for found in candidates:
            value = self.value(found) if len(found) else found.new_zeros(0)
            if highest is None:
                worst.copy_(found)
                highest = value
                continue
            higher = (value > highest).view(-1, *[1] * (found.ndim - 1))
            worst.copy_(torch.where(higher, found, worst))
            highest = torch.maximum(value, highest)  # NaN stays NaN
        if highest is not None:
            nan = highest.isnan()
            refuse(
                nan.any(),
                lambda: ValueError(
                    f"the objective is NaN for {int(nan.sum())} of {len(nan)} samples under "
                    "attack, so that there is no worst one; look for it in the objective"
                ),
            )
        return worst

    def gradient(self, x: Tensor) -> Tensor:
        """Return the gradient of that value with respect to each sample, in the shape of x."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = self._value(x)
            grad = None
            if value.requires_grad:
                (grad,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
        if grad is None:
            raise ValueError(
                "the objective does not depend on x in a differentiable way; a detach(), argmax() "
                "or NumPy call inside the model or the objective cuts the gradient"
            )
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
        return grad

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
                stacklevel=5,  # past posed, contextlib and the attack: the caller's line
            )

    def _value(self, x: Tensor) -> Tensor:
        output = self._model(x, *self._context)
        if isinstance(output, Tensor) and output.dtype in (torch.float16, torch.bfloat16):
            output = output.float()
        with torch.autocast(x.device.type, enabled=False):
            value: Any = self._objective(output, self._target)
        if not isinstance(value, Tensor) or value.shape != (len(x),):
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"an objective must return one value per sample, shape ({len(x)},), got {came}; "
                "write reduction='none' where a loss would average"
            )
        if not self._checked:
            self._look()  # once, so that a batch that makes no sense costs one step and not all
            self._checked = True
        signed: Tensor = self._sign * value
        return signed


@contextmanager
def posed(
    model: Callable[..., Any],
    x: Tensor,
    target: Tensor,
    context: Sequence[Tensor] = (),
    *,
    objective: Objective | None = None,
    targeted: bool = False,
    bounds: Bounds = None,
    eval_mode: bool = True,
    autocast: torch.dtype | None = None,
) -> Iterator[Problem]:
    r"""Pose the maximisation that a gradient attack faces, for PGD and for attacks of your own.

    .. math::
        \delta^*(x) = \mathrm{argmax}_{\|\delta\| \le \varepsilon}\, \ell(f_\theta(x + \delta), z)

    Inside the ``with`` block the model is frozen and in eval mode, and no gradient is recorded but
    by `Problem.gradient`; at its end model and random state are as they were, also on an error, and
    outputs or gradients that were not finite, or gradients all zero, are reported. No step waits
    for a GPU but the first, after which what the objective refuses is raised.

    Parameters
    ----------
    model : callable
        Called as ``model(x, *context)``; a DistributedDataParallel wrapper is taken off.
    x : Tensor
        Images (N, C, ...), floating-point and finite.
    target, context : Tensor, sequence of Tensor
        One row per image, never perturbed.
    objective, targeted, bounds, eval_mode, autocast
        As in `PGD`.

    Yields
    ------
    Problem
        Its `x`, `gradient` and `value` at any x, per sample, and the `worst` of several.

    Raises
    ------
    ValueError, TypeError
        For a batch, model output or objective that makes no sense; the message says what to do.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Eq. 4.

    Examples
    --------
    >>> import torch
    >>> from advphotoz.attacks import posed
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> x, target = torch.zeros(1, 2), torch.zeros(1)
    >>> with posed(model, x, target, objective=lambda output, z: output[:, 0]) as problem:
    ...     gradient = problem.gradient(problem.x)
    >>> torch.equal(gradient, model.weight)
    True
    """
    with torch.inference_mode(False), torch.no_grad():
        check_batch(x, target, context, bounds)
        if isinstance(model, DistributedDataParallel):
            model = model.module  # torch.autograd.grad does not work through the wrapper
        with ExitStack() as stack:
            # Around all steps: autocast keeps the weights that it has cast until its region ends.
            stack.enter_context(autocasting(x.device, autocast))
            if isinstance(model, nn.Module):
                stack.enter_context(untouched(model, x.device, eval_mode))
            problem = Problem(
                model,
                _plain(x),
                _plain(target),
                tuple(_plain(value) for value in context),
                objective or CrossEntropy(),
                targeted,
                # No waiting for a GPU inside the loop: what is wrong is read at the end.
                stack.enter_context(deferred()),
            )
            yield problem
        problem.check_gradients()


def _plain(x: Tensor) -> Tensor:
    """Detach, and copy a tensor made in inference mode, which autograd cannot use."""
    return x.clone() if x.is_inference() else x.detach()
