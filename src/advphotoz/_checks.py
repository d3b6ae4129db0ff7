"""Checks of what users hand over: each error says what was expected, what came, what to do."""

from __future__ import annotations

import importlib
import math
import numbers
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "check_at_least_one",
    "check_bounds",
    "check_finite",
    "check_fraction",
    "check_images",
    "check_radius",
    "check_rows",
    "require",
]


def require(module: str, extra: str) -> ModuleType:
    """Import an optional package, or say in one sentence which extra installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(
            f"this needs the optional package {package!r}, which is not installed: "
            f'pip install "advphotoz[{extra}]"'
        ) from error


def check_finite(x: Tensor, name: str) -> None:
    """Refuse NaN and infinite values, with their count and the first position."""
    if bool(x.sum().isfinite()):  # one pass; a sum that overflows says nothing yet
        return
    finite = torch.isfinite(x)
    if bool(finite.all()):
        return
    bad = (~finite).nonzero()
    first = tuple(bad[0].tolist())
    raise ValueError(
        f"{name} must be finite, but {len(bad)} of its {x.numel()} values are NaN or infinite, "
        f"the first at index {first}: {x[first].item()}; mask or replace them before this call"
    )


def check_images(x: Any, name: str = "x") -> None:
    """Refuse anything but a finite floating-point tensor of shape (N, C, ...)."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(
            f"{name} must have a floating-point dtype, got {x.dtype}: a perturbation below one "
            f"unit would be lost; convert with {name}.float()"
        )
    if x.ndim < 2:
        raise ValueError(
            f"{name} must have the shape (N, bands, ...), got {tuple(x.shape)}; "
            f"add the batch dimension with {name}[None]"
        )
    check_finite(x, name)


def check_rows(x: Tensor, tensors: dict[str, Any]) -> None:
    """Refuse what is not a tensor with one row per row of x, on x's device."""
    n = x.shape[0]
    for name, value in tensors.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        rows = value.shape[0] if value.ndim else "no"
        if rows != n:
            raise ValueError(
                f"{name} must have one row per sample: x has {n} rows, "
                f"{name} of shape {tuple(value.shape)} has {rows}"
            )
        if value.device != x.device:
            raise ValueError(
                f"{name} is on {value.device} and x on {x.device}; move it with .to(x.device)"
            )


def check_radius(eps: Any, name: str = "eps") -> float | tuple[float, ...]:
    """Return a radius as a float, or as a tuple of floats where one per band was given."""
    if isinstance(eps, Tensor) or hasattr(eps, "tolist"):
        eps = eps.tolist()
    if isinstance(eps, Sequence) and not isinstance(eps, str):
        if not eps:
            raise ValueError(f"{name} must hold one number per band, got an empty sequence")
        return tuple(_radius(value, name) for value in eps)
    return _radius(eps, name)


def _radius(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(
            f"{name} must be a number, or one number per band, got {value!r} "
            f"of type {type(value).__name__}"
        )
    radius = float(value)
    if not math.isfinite(radius) or radius < 0:
        raise ValueError(
            f"{name} must be finite and not negative, in the units of the image, got {value}"
        )
    return radius


def check_bounds(bounds: Any) -> tuple[float, float] | None:
    """Return stated pixel bounds as two floats with low < high; None stays None."""
    if bounds is None:
        return None
    try:
        low, high = (float(value) for value in bounds)
    except (TypeError, ValueError) as error:
        raise ValueError(f"bounds must be None or (low, high), got {bounds!r}") from error
    if not low < high:
        raise ValueError(f"bounds must be (low, high) with low < high, got {bounds!r}")
    return low, high


def check_at_least_one(value: Any, name: str) -> None:
    """Refuse anything but an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def check_fraction(value: Any, name: str = "fraction") -> float:
    """Return a share as a float in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number in [0, 1], got {value!r}")
    if not 0 <= float(value) <= 1:
        hint = f"; for {value} % write {float(value) / 100}" if 1 < float(value) <= 100 else ""
        raise ValueError(f"{name} must lie in [0, 1], got {value}{hint}")
    return float(value)
