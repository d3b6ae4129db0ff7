"""What an attack is: any callable that takes a model and a batch and returns a changed batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from advphotoz._checks import check_images, check_rows
from advphotoz.objectives import Objective

__all__ = [
    "Attack",
    "Bounds",
    "ZeroGradientWarning",
    "bind_objective",
    "check_batch",
    "check_result",
]

Bounds = tuple[float, float] | None

T = TypeVar("T")


class Attack(Protocol):
    """The signature of an attack; a function of this signature is one too.

    It returns a detached tensor of x's shape, dtype, device and memory format, and leaves the model
    and the global state as they were. `advphotoz.testing.check_attack` tests all of it.
    """

    def __call__(
        self,
        model: Callable[..., Any],
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return adversarial images for the images x of shape (N, C, ...)."""
        ...


class ZeroGradientWarning(UserWarning):
    """The gradient is zero in a whole batch, so that a gradient attack does nothing.

    A saturated or clipped output is the usual cause. It does not show that the model is robust.
    """


def bind_objective(attack: T, objective: Objective) -> T:
    """Give an attack that has no objective of its own its caller's; leave any other as it is."""
    if (
        dataclasses.is_dataclass(attack)
        and not isinstance(attack, type)
        and getattr(attack, "objective", objective) is None
    ):
        return dataclasses.replace(attack, objective=objective)
    return attack


def check_batch(x: Any, target: Any, context: Any, bounds: Bounds = None) -> None:
    """Refuse a batch that no attack can work on; see the messages."""
    check_images(x)
    if isinstance(context, Tensor) or not isinstance(context, Sequence):
        raise TypeError("context must be a tuple of tensors: write context=(ebv,)")
    named = {f"context[{i}]": value for i, value in enumerate(context)}
    check_rows(x, {"target": target, **named})
    if bounds is not None:
        outside = (x < bounds[0]) | (x > bounds[1])
        if bool(outside.any()):
            raise ValueError(
                f"x must lie inside the stated bounds {bounds}, but {int(outside.sum())} of its "
                f"{x.numel()} pixels do not (range {x.min().item():.6g} to {x.max().item():.6g}); "
                "widen the bounds, or leave them out: pixels are unbounded by default"
            )


def check_result(found: Any, x: Tensor, name: str) -> Tensor:
    """Return what an attack gave for x, detached; refuse anything but images like x."""
    if not isinstance(found, Tensor) or found.shape != x.shape or found.dtype != x.dtype:
        came = (
            f"{found.dtype} of shape {tuple(found.shape)}"
            if isinstance(found, Tensor)
            else type(found).__name__
        )
        raise ValueError(
            f"the attack {name} must return images like x, {x.dtype} of shape "
            f"{tuple(x.shape)}, got {came}"
        )
    return found.detach()
