"""What an attack is, and what an evaluation or a trainer may ask of one.

Any callable that takes a model and a batch and returns a changed batch is an attack. One that is
written on `GradientAttack` also names itself, states its perturbation set, takes an objective, and
gives deeper and larger versions of itself; the functions here ask for that, and return None where
an attack cannot be asked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import torch
from torch import Tensor

from advphotoz._checks import check_images, check_rows
from advphotoz._random import Generator, SampleGenerators
from advphotoz.objectives import Objective
from advphotoz.perturbations import PerturbationSet

__all__ = [
    "Attack",
    "Budget",
    "Found",
    "ZeroGradientWarning",
    "attack_name",
    "bind_objective",
    "check_batch",
    "check_generator",
    "check_result",
    "check_returns_all",
    "deepened",
    "follows_gradients",
    "objective_of",
    "perturbations_of",
    "run_attack",
    "scaled",
]

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
        generator: Any = None,
    ) -> Tensor:
        """Return adversarial images for the images x of shape (N, C, ...)."""
        ...


class Found(NamedTuple):
    """What a search found, beside the images.

    Attributes
    ----------
    x : Tensor, (N, C, ...)
        The changed images.
    context : tuple of Tensor
        The other inputs of the network; changed only by a set that says so.
    parameters : Tensor or None, (N, ...)
        What the set was applied with; None where several sets took part.
    size : Tensor or None, (N,)
        How much of its room each perturbation uses, 1 being the boundary.
    value : Tensor or None, (N,)
        The objective there.
    rising : Tensor or None, (N,)
        Whether the last point was better than every one before: the search had not ended. None for
        a single step.
    """

    x: Tensor
    context: tuple[Tensor, ...]
    parameters: Tensor | None = None
    size: Tensor | None = None
    value: Tensor | None = None
    rising: Tensor | None = None


class Budget(NamedTuple):
    """What an attack asks of the network for one sample, at most.

    Attributes
    ----------
    gradients : int
        Forward passes that are followed by a backward pass to the images.
    forward : int
        Forward passes alone.
    """

    gradients: int
    forward: int


class ZeroGradientWarning(UserWarning):
    """The gradient is zero in a whole batch, so that a gradient attack does nothing.

    A saturated or clipped output is the usual cause. It does not show that the model is robust.
    """


def bind_objective(attack: T, objective: Objective) -> T:
    """Give an attack that has no objective of its own its caller's; leave any other as it is.

    Raises
    ------
    TypeError
        If the attack has an ``objective`` of None and no way to give it one.
    """
    bind = getattr(attack, "bind", None)
    if bind is not None:
        return cast(T, bind(objective))
    if getattr(attack, "objective", objective) is not None:
        return attack
    if dataclasses.is_dataclass(attack) and not isinstance(attack, type):
        return dataclasses.replace(attack, objective=objective)
    raise TypeError(
        f"{attack!r} has no objective, and no bind(objective) that would give it the caller's; "
        "derive it from GradientAttack, make it a dataclass, or give it an objective"
    )


def attack_name(attack: Any) -> str:
    """Return an attack's name for itself, such as ``PGD-10 0.01``, or that of the function."""
    name = getattr(attack, "name", None)
    return str(name or getattr(attack, "__name__", type(attack).__name__))


def perturbations_of(attack: Any) -> PerturbationSet | None:
    """Return the set that an attack searches; None if it states none."""
    found = getattr(attack, "set", None)
    return found if isinstance(found, PerturbationSet) else None


def objective_of(attack: Any) -> Objective | None:
    """Return what an attack maximises; None if it does not say so."""
    return getattr(attack, "objective", None)


def follows_gradients(attack: Any) -> bool | None:
    """Return whether an attack asks the network for gradients; None if it does not say so."""
    found = getattr(attack, "follows_gradients", None)
    return None if found is None else bool(found)


def deepened(attack: Any) -> Any:
    """Return the attack with twice the steps; None if it has no number of steps."""
    ask = getattr(attack, "deepened", None)
    return None if ask is None else ask()


def scaled(attack: Any, factor: float) -> Any:
    """Return the attack with its set scaled; None if it states no set."""
    ask = getattr(attack, "scaled", None)
    return None if ask is None else ask(factor)


def run_attack(
    attack: Any,
    model: Callable[..., Any],
    x: Tensor,
    target: Tensor,
    context: tuple[Tensor, ...],
    generator: Generator,
    batch_generator: Generator,
) -> Found:
    """Run an attack and return all that it tells: a `Found` where it has `find`, else its images.

    An attack with `find` draws from `generator`, which may be one per sample; any other from
    `batch_generator`, since it knows no other kind.
    """
    # Copies, so that an attack that works in place spoils neither the batch nor other attacks.
    given, truth, others = x.clone(), target.clone(), tuple(value.clone() for value in context)
    find = getattr(attack, "find", None)
    if find is not None:
        found: Found = find(model, given, truth, others, generator)
        check_result(found.x, x, attack_name(attack))
        return found
    images = attack(model, given, truth, others, batch_generator)
    return Found(check_result(images, x, attack_name(attack)), context)


def check_batch(x: Any, target: Any, context: Any) -> None:
    """Refuse a batch that no attack can work on; see the messages."""
    check_images(x)
    if isinstance(context, Tensor) or not isinstance(context, Sequence):
        raise TypeError("context must be a tuple of tensors: write context=(ebv,)")
    named = {f"context[{i}]": value for i, value in enumerate(context)}
    check_rows(x, {"target": target, **named})


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


def check_returns_all(perturbations: PerturbationSet | None) -> None:
    """Refuse a set that changes more than the images, which are all that a plain call returns."""
    if perturbations is not None and perturbations.changes_context:
        raise ValueError(
            f"{perturbations!r} changes an input of the network beside the image, which a plain "
            "call cannot return; take attack.find(...), evaluate or a trainer"
        )


def check_generator(generator: Generator) -> Generator:
    """Refuse what no random numbers can be drawn from."""
    if generator is not None and not isinstance(generator, (torch.Generator, SampleGenerators)):
        raise TypeError(f"generator must be a torch.Generator, got {generator!r}")
    return generator
