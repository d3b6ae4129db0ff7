"""Operations with PyTorch's values and gradients, whose backward pass it does slowly on a CPU.

In the profile of one input gradient of the Inception (bfloat16, batch 64, two cores), PReLU took
24 % and the poolings 4 %: the kernel behind PReLU sums up the weight's gradient even where nobody
wants it, and the poolings scatter what can be gathered.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Halve", "PReLU", "Smooth"]


class PReLU(nn.PReLU):
    """`torch.nn.PReLU` with one weight per channel and a faster backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            y: Tensor = _PReLU.apply(x, self.weight)  # type: ignore[no-untyped-call]
            return y
        return super().forward(x)


class Halve(nn.Module):
    """Average 2x2 pixels, stride 2; the last row and column of an odd side by themselves."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.shape[-1] % 2 == 0 and x.shape[-2] % 2 == 0:
            y: Tensor = _Halve.apply(x)  # type: ignore[no-untyped-call]
            return y
        return F.avg_pool2d(x, 2, ceil_mode=True)


class Smooth(nn.Module):
    """Average 2x2 pixels, stride 1: one row and one column fewer."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            y: Tensor = _Smooth.apply(x)  # type: ignore[no-untyped-call]
            return y
        return F.avg_pool2d(x, 2, stride=1)


class _PReLU(torch.autograd.Function):
    """y = max(x, 0) + w min(x, 0)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return torch.prelu(x, weight.to(x.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        slope = weight.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2))
        # The gradient where x > 0, else 0; then moved by the slope towards the gradient.
        passed = torch.ops.aten.threshold_backward(grad, x, 0)
        to_weight = None
        if ctx.needs_input_grad[1]:
            others = (0, *range(2, x.ndim))
            to_weight = (grad * x.clamp(max=0)).sum(others, dtype=weight.dtype)
        return torch.lerp(passed, grad, slope), to_weight


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
    """The transpose of the average is the average of the gradient, with zeros all around."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2, stride=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(grad, (1, 1, 1, 1)), 2, stride=1)
