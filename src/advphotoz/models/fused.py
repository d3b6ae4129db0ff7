"""Layers with faster forward or backward passes than PyTorch's own, and the same values.

An attack computes hundreds of input gradients, and on a CPU the layers between the convolutions
take most of the time: two thirds of a bfloat16 input gradient of the Inception (two cores of an
Intel Xeon with AMX, docs/benchmarks.md). Three of them are written anew here:

- :class:`PReLU`: PyTorch's backward pass computes the gradient of the weight even where nobody
  asks for it, and is slow where the channels are no multiple of the vector length.
- :class:`AveragePool2x2` and :class:`PaddedAveragePool2x2`: PyTorch's backward pass scatters
  every gradient to its four pixels; a nearest-neighbour upsampling, and another average pooling,
  compute the same without a scatter.

With them, merged 1x1 convolutions (models/inception.py) and weights in channels_last, a PGD
attack in float32 on that machine processes 6.1 images per second, and 5.2 on the same network
built of PyTorch's own layers.
Values and gradients, first and second, are those of the PyTorch operations that each docstring
names (tests/test_model_ops.py). Where no gradient is recorded only PyTorch's own operations run,
so that a network can be traced and exported.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

__all__ = ["AveragePool2x2", "PReLU", "PaddedAveragePool2x2", "prelu"]


class PReLU(nn.PReLU):
    """`torch.nn.PReLU` with one weight per channel and a faster backward pass."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return prelu(x, self.weight)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """Return max(x, 0) + w min(x, 0), w one weight per channel."""
    if torch.is_grad_enabled():
        y: Tensor = _PReLU.apply(x, weight)  # type: ignore[no-untyped-call]
        return y
    return _PReLU.forward(x, weight)


class AveragePool2x2(nn.Module):
    """`torch.nn.AvgPool2d(2, ceil_mode=True)`: the mean of each 2x2 window, stride 2.

    On an odd side the last window is the mean of the pixels that exist.
    """

    @override
    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.shape[-1] % 2 == 0 and x.shape[-2] % 2 == 0:
            y: Tensor = _AveragePool2x2.apply(x)  # type: ignore[no-untyped-call]
            return y
        return F.avg_pool2d(x, 2, ceil_mode=True)


class PaddedAveragePool2x2(nn.Module):
    """2x2 average pooling of stride 1, padded by one row below and one column to the right.

    The image keeps its size: each pixel becomes the mean of itself and of its right, lower and
    lower right neighbours. As in `torch.nn.AvgPool2d`, count_include_pad says whether the zeros of
    the padding count in the mean.
    """

    def __init__(self, count_include_pad: bool = True) -> None:
        super().__init__()
        self.count_include_pad = count_include_pad

    @override
    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            y: Tensor = _PaddedAveragePool2x2.apply(  # type: ignore[no-untyped-call]
                x, self.count_include_pad
            )
            return y
        return _PaddedAveragePool2x2.forward(x, self.count_include_pad)


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
            return _scaled_below_zero(grad, x, slope.view(1, -1, *[1] * (x.ndim - 2))), to_weight
        grad = grad.permute(0, 2, 3, 1).reshape(
            rows.shape
        )  # copies where grad is a slice of channels
        if ctx.needs_input_grad[1]:
            per_pixel = (grad * rows.clamp(max=0)).sum(0).view(x.shape[3], -1)
            to_weight = per_pixel.sum(0, dtype=weight.dtype)
        below = _scaled_below_zero(grad, rows, slope.repeat(x.shape[3]))
        return _image(below, x), to_weight


def _scaled_below_zero(grad: Tensor, x: Tensor, slope: Tensor) -> Tensor:
    """Return the gradient where x > 0, elsewhere the gradient times the slope."""
    passed = torch.ops.aten.threshold_backward(grad, x, 0)
    return torch.lerp(passed, grad, slope)


def _rows(x: Tensor) -> Tensor | None:
    """View channels_last images as (N H, W C); return None for another memory format.

    Kernels run along the last dimension in vectors, of 32 numbers in bfloat16, and compute the
    remainder number by number. Measured per number, 92 channels cost six times as much as a row
    of 64 pixels of 92 channels each.
    """
    if x.ndim != 4 or not (last := x.permute(0, 2, 3, 1)).is_contiguous():
        return None
    n, height, width, channels = last.shape
    return last.view(n * height, width * channels)


def _image(rows: Tensor, like: Tensor) -> Tensor:
    """Undo :func:`_rows`."""
    n, channels, height, width = like.shape
    return rows.view(n, height, width, channels).permute(0, 3, 1, 2)


class _AveragePool2x2(torch.autograd.Function):
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


class _PaddedAveragePool2x2(torch.autograd.Function):
    """The transpose of the average is the average with the left and upper neighbours."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, count_include_pad: bool) -> Tensor:
        y = F.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=count_include_pad)
        return y[..., 1:, 1:]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: Tensor) -> None:
        ctx.count_include_pad = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        if not ctx.count_include_pad:  # the last row and column are means of half as many pixels
            weight = grad.new_ones(grad.shape[-2:])
            weight[-1] *= 2
            weight[:, -1] *= 2
            grad = grad * weight
        return F.avg_pool2d(grad, 2, stride=1, padding=1)[..., :-1, :-1], None
