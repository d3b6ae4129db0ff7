"""What an attack is: any callable that takes a model and a batch and returns a changed batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from advphotoz.objectives import Objective

__all__ = ["Attack", "ZeroGradientWarning", "bind_objective", "check_result"]

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
