"""What a model is while it is crafted on or evaluated, and how it becomes again what it was."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

__all__ = ["autocasting", "check_autocast", "device_of", "evaluating", "to_device", "untouched"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set every submodule to eval, and each flag back at the end, also on an error.

    `model.train()` would not do: it also wakes layers that were frozen in eval mode on purpose.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def untouched(model: nn.Module, device: torch.device, eval_mode: bool) -> Iterator[None]:
    """Freeze the weights and set the mode; put flags, buffers and random state back at the end."""
    # Autocast keeps cast weights from step to step only where they require a gradient; it is not
    # computed, since torch.autograd.grad is asked for that of x alone.
    kept = 1 if torch.is_autocast_enabled(device.type) else math.inf
    trainable = [p for p in model.parameters() if p.requires_grad and p.ndim <= kept]
    with ExitStack() as stack:
        if eval_mode:
            stack.enter_context(evaluating(model))
        else:
            stack.enter_context(_statistics_kept(model))
            devices = [device] if device.type == "cuda" else []
            stack.enter_context(torch.random.fork_rng(devices))
        try:
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """Put every buffer back at the end: a forward pass in train mode moves BatchNorm's."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, before in buffers:
            buffer.copy_(before)


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer, the CPU where it has none."""
    for tensors in (model.parameters(), model.buffers()):
        for tensor in tensors:
            return tensor.device
    return torch.device("cpu")


def to_device(batch: object, device: torch.device) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """Split a batch ``(x, *context, target)`` and move it to a device."""
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        came = f"{len(batch)} of them" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(
            f"a batch must be a tuple (x, *context, target) of at least two tensors, got {came}"
        )
    for position, value in enumerate(batch):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"a batch must hold tensors, but item {position} is a {type(value).__name__}"
            )
    x, *context, target = (value.to(device, non_blocking=True) for value in batch)
    return x, tuple(context), target


def check_autocast(dtype: torch.dtype | None) -> torch.dtype | None:
    """Return the autocast dtype: None for full precision, or torch.bfloat16."""
    if dtype not in (None, torch.bfloat16):
        raise ValueError(
            f"autocast must be None (full precision) or torch.bfloat16, got {dtype}; "
            "float16 would need its loss scaled, and bfloat16 does not"
        )
    return dtype


def autocasting(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Return the autocast context for a device; a None dtype leaves the ambient setting alone."""
    if dtype is None:
        enabled = torch.is_autocast_enabled(device.type)
        return torch.autocast(device.type, torch.get_autocast_dtype(device.type), enabled)
    return torch.autocast(device.type, dtype)
