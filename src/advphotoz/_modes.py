"""Train and eval flags, put back as they were, one submodule at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

__all__ = ["autocasting", "check_autocast", "device_of", "evaluating", "to_device"]


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
