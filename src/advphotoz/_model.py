"""What a network is while it is attacked or evaluated, and how it becomes again what it was."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

__all__ = [
    "autocasting",
    "check_autocast",
    "check_model",
    "device_of",
    "evaluating",
    "untouched",
    "unwrapped",
]

M = TypeVar("M", bound=Callable[..., Any])

_users: dict[int, tuple[int, int]] = {}  # id of a model -> (thread, how many times entered)
_lock = threading.Lock()


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
def untouched(model: Any, device: torch.device, eval_mode: bool = True) -> Iterator[None]:
    """Freeze the weights and set the mode; put everything back at the end, also on an error.

    Put back are the modes of all submodules, `requires_grad`, every buffer and the global random
    state: a network may move statistics, count calls or draw numbers in eval mode too. What is no
    module has no state that could be seen, but for the random one.

    Raises
    ------
    RuntimeError
        If another thread is using the same model: both would see the other's changes.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        if not isinstance(model, nn.Module):
            yield
            return
        with _used_here(model), _buffers_kept(model), _frozen(model, device):
            if eval_mode:
                with evaluating(model):
                    yield
            else:
                yield


@contextmanager
def _used_here(model: nn.Module) -> Iterator[None]:
    """Note that this thread uses the model, or refuse if another one does."""
    key, here = id(model), threading.get_ident()
    with _lock:
        thread, depth = _users.get(key, (here, 0))
        if thread != here:
            raise RuntimeError(
                "this model is being attacked or evaluated in another thread, and modes and "
                "buffers of a model are shared by all threads; give each thread a copy of it "
                "(copy.deepcopy(model)), or take turns"
            )
        _users[key] = (here, depth + 1)
    try:
        yield
    finally:
        with _lock:
            if depth:
                _users[key] = (here, depth)
            else:
                del _users[key]


@contextmanager
def _frozen(model: nn.Module, device: torch.device) -> Iterator[None]:
    # Autocast keeps cast weights from step to step only where they require a gradient; it is not
    # computed, since torch.autograd.grad is asked for that of the perturbation alone.
    kept = 1 if torch.is_autocast_enabled(device.type) else math.inf
    trainable = [p for p in model.parameters() if p.requires_grad and p.ndim <= kept]
    try:
        for parameter in trainable:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """Put every buffer back: those written to, those bound anew, those added or removed."""
    before = [
        (module, {n: (b, None if b is None else b.clone()) for n, b in module._buffers.items()})
        for module in model.modules()
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, buffers in before:
                module._buffers.clear()
                for name, (buffer, kept) in buffers.items():
                    module._buffers[name] = buffer
                    if buffer is not None and kept is not None and not _same(buffer, kept):
                        buffer.copy_(kept)


def _same(a: Tensor, b: Tensor) -> bool:
    if a.device.type == "cpu" and a.shape == b.shape:
        return torch.equal(a, b)
    return False  # on a GPU copying is cheaper than waiting for the answer


def check_model(model: Any) -> nn.Module:
    """Refuse what has no eval mode: dropout and BatchNorm would spoil the numbers."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; wrap a function in a "
            "Module, so that it can be put in eval mode"
        )
    return model


def unwrapped(model: M) -> M:
    """Take a DistributedDataParallel wrapper off: torch.autograd.grad does not work through it."""
    inner: Any = model.module if isinstance(model, DistributedDataParallel) else model
    network: M = inner
    return network


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter or buffer, the CPU where it has none."""
    for tensors in (model.parameters(), model.buffers()):
        for tensor in tensors:
            return tensor.device
    return torch.device("cpu")


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
