"""Operations with PyTorch's values and gradients, whose backward pass it does slowly on a CPU.

The kernel behind PReLU sums up the weight's gradient even where nobody wants it, and the poolings
scatter what can be gathered. On a CPU whose bfloat16 products are fast (AMX), what is not a
convolution takes two thirds of an input gradient of the Inception, at the memory's rate.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Halve", "PReLU", "Smooth", "prelu"]


class PReLU(nn.PReLU):
    """`torch.nn.PReLU` with one weight per channel and a faster backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        return prelu(x, self.weight)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """Return max(x, 0) + w min(x, 0), w one weight per channel."""
    if torch.is_grad_enabled():
        y: Tensor = _PReLU.apply(x, weight)  # type: ignore[no-untyped-call]
        return y
    return _PReLU.forward(x, weight)


class Halve(nn.Module):
    """Average 2x2 pixels, stride 2; the last row and column of an odd side by themselves."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.shape[-1] % 2 == 0 and x.shape[-2] % 2 == 0:
            y: Tensor = _Halve.apply(x)  # type: ignore[no-untyped-call]
            return y
        return F.avg_pool2d(x, 2, ceil_mode=True)


class Smooth(nn.Module):
    """Average each pixel with its right, lower and lower right neighbours; the size stays.

    Beyond the last row and column are zeros, or, where they are not to count, nothing.
    """

    def __init__(self, pad_counted: bool = True) -> None:
        super().__init__()
        self.pad_counted = pad_counted

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            y: Tensor = _Smooth.apply(x, self.pad_counted)  # type: ignore[no-untyped-call]
            return y
        return _Smooth.forward(x, self.pad_counted)


class _PReLU(torch.autograd.Function):
    """y = max(x, 0) + w min(x, 0)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(x.dtype)
        rows = _rows(x)
        if rows is None:
            return torch.prelu(x, weight)
        return _image(torch.prelu(rows, weight.repeat(x.shape[3])), x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        slope, to_weight = weight.to(x.dtype), None
        rows = _rows(x)
        if rows is None:
            if ctx.needs_input_grad[1]:
                others = (0, *range(2, x.ndim))
                to_weight = (grad * x.clamp(max=0)).sum(others, dtype=weight.dtype)
            return _bend(grad, x, slope.view(1, -1, *[1] * (x.ndim - 2))), to_weight
        grad = grad.permute(0, 2, 3, 1).reshape(rows.shape)  # copies the slice of a larger one
        if ctx.needs_input_grad[1]:
            per_pixel = (grad * rows.clamp(max=0)).sum(0).view(x.shape[3], -1)
            to_weight = per_pixel.sum(0, dtype=weight.dtype)
        return _image(_bend(grad, rows, slope.repeat(x.shape[3])), x), to_weight


def _bend(grad: Tensor, x: Tensor, slope: Tensor) -> Tensor:
    """Return the gradient where x > 0, elsewhere the gradient times the slope."""
    passed = torch.ops.aten.threshold_backward(grad, x, 0)
    return torch.lerp(passed, grad, slope)


def _rows(x: Tensor) -> Tensor | None:
    """View channels_last images as (N H, W C), or return None where memory is laid out otherwise.

    Kernels run along the last dimension, in vectors of 32 numbers in bfloat16, and do what is left
    over one by one: 92 channels cost six times as much as a row of 64 pixels of 92 channels each.
    """
    if x.ndim != 4 or not (last := x.permute(0, 2, 3, 1)).is_contiguous():
        return None
    n, height, width, channels = last.shape
    return last.view(n * height, width * channels)


def _image(rows: Tensor, like: Tensor) -> Tensor:
    """Undo :func:`_rows`."""
    n, channels, height, width = like.shape
    return rows.view(n, height, width, channels).permute(0, 3, 1, 2)


class _Halve(torch.autograd.Function):
    """Each of four pixels receives a quarter of the gradient: a nearest-neighbour upsampling."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return F.interpolate(grad * 0.25, scale_factor=2.0, mode="nearest")


class _Smooth(torch.autograd.Function):
    """The transpose of the average is the average with the left and upper neighbours."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, pad_counted: bool) -> Tensor:
        y = F.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=pad_counted)
        return y[..., 1:, 1:]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: Tensor) -> None:
        ctx.pad_counted = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if not ctx.pad_counted:  # the last row and column are averages of half as many pixels
            weight = grad.new_ones(grad.shape[-2:])
            weight[-1] *= 2
            weight[:, -1] *= 2
            grad = grad * weight
        return F.avg_pool2d(grad, 2, stride=1, padding=1)[..., :-1, :-1], None
