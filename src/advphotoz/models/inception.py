"""The inception network of Pasquet et al. 2019 as Campagne 2020 trained it (Table A1)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from advphotoz._checks import check_at_least_one
from advphotoz.models.fused import AveragePool2x2, PaddedAveragePool2x2, PReLU, prelu
from advphotoz.models.layers import append_ebv, check_inputs, check_width, initialise, scaled

__all__ = ["Inception", "inception"]


class _Conv(nn.Sequential):
    """Size-preserving convolution and a PReLU with one weight per channel: one row of Table A1."""

    conv: nn.Conv2d
    prelu: PReLU

    def __init__(self, inputs: int, outputs: int, kernel: int, prelu_init: float) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        super().__init__(OrderedDict(conv=conv, prelu=PReLU(outputs, prelu_init)))


class _Cell(nn.Module):
    """Inception cell: 1x1, 3x3, 5x5 (not in i4) and pooled branches, concatenated."""

    def __init__(
        self,
        inputs: int,
        middle: int,
        outputs: int,
        prelu_init: float,
        count_include_pad: bool,
        branch_5x5: bool = True,
    ) -> None:
        super().__init__()
        self.s1_0 = _Conv(inputs, middle, 1, prelu_init)
        self.s2_0 = _Conv(middle, outputs, 3, prelu_init)
        self.s1_2 = _Conv(inputs, middle, 1, prelu_init)
        self.pool0 = PaddedAveragePool2x2(count_include_pad)
        if branch_5x5:
            self.s1_1 = _Conv(inputs, middle, 1, prelu_init)
            self.s2_1 = _Conv(middle, outputs, 5, prelu_init)
        self.branch_5x5 = branch_5x5
        self.s2_2 = _Conv(inputs, outputs, 1, prelu_init)
        self.outputs = (3 if branch_5x5 else 2) * outputs + middle

    @override
    def forward(self, x: Tensor) -> Tensor:
        s1_1 = [self.s1_1] if self.branch_5x5 else []
        y = _pointwise([self.s1_0, self.s1_2, *s1_1, self.s2_2], x)
        s2_0 = self.s2_0(next(y))
        pool0 = self.pool0(next(y))
        s2_1 = [self.s2_1(next(y))] if self.branch_5x5 else []
        return torch.cat([next(y), *s2_1, s2_0, pool0], dim=1)


def _pointwise(branches: list[_Conv], x: Tensor) -> Iterator[Tensor]:
    """Apply 1x1 convolutions and their PReLUs to the same x, merged into one convolution and PReLU.

    x is read once, and its gradient is one product instead of a sum of four. Where a branch was
    replaced or has a hook, the branches are called one by one.
    """
    if not all(map(_can_merge, branches)):
        return (branch(x) for branch in branches)
    weight = torch.cat([branch.conv.weight for branch in branches])
    bias = torch.cat([branch.conv.bias for branch in branches if branch.conv.bias is not None])
    slope = torch.cat([branch.prelu.weight for branch in branches])
    parts = torch.split(
        prelu(F.conv2d(x, weight, bias), slope),
        [branch.conv.out_channels for branch in branches],
        dim=1,
    )
    return iter(parts)


def _can_merge(branch: _Conv) -> bool:
    """Return whether a branch is still a 1x1 convolution with bias and a PReLU, without hooks."""
    modules = list(branch.modules())
    if [type(module) for module in modules] != [_Conv, nn.Conv2d, PReLU]:
        return False
    conv = branch.conv
    pointwise = conv.weight.shape[1:] == (conv.in_channels, 1, 1) and conv.bias is not None
    return pointwise and not any(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        for module in modules
    )


class Inception(nn.Module):
    """Inception network: image cube and E(B-V) in, logits on the redshift bins out.

    See :func:`inception` for the arguments.
    """

    def __init__(
        self,
        n_bands: int = 5,
        image_size: int = 64,
        n_bins: int = 180,
        fc0_features: int = 1096,
        i4_features: int = 128,
        i3_cells: int = 1,
        width: float = 1.0,
        prelu_init: float = 0.25,
        count_include_pad: bool = True,
        logits_relu: bool = False,
        stretch: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, value in (
            ("n_bands", n_bands),
            ("image_size", image_size),
            ("n_bins", n_bins),
            ("fc0_features", fc0_features),
            ("i4_features", i4_features),
            ("i3_cells", i3_cells),
        ):
            check_at_least_one(value, name)
        if i3_cells > 2:
            raise ValueError(
                f"i3_cells must be 1, or 2 as in the paper's Sec. 4.3; got {i3_cells}."
            )
        if image_size % 8:
            raise ValueError(
                f"image_size must be a multiple of 8, for three poolings by 2; got {image_size}. "
                f"Cut the images to {image_size // 8 * 8 or 8} pixels, or use models.cnn, which "
                "takes any size."
            )
        w = check_width(width)
        self.n_bands, self.image_size = n_bands, image_size
        self.logits_relu = logits_relu

        def cell(inputs: int, middle: int, outputs: int, branch_5x5: bool = True) -> _Cell:
            middle, outputs = scaled(middle, w), scaled(outputs, w)
            return _Cell(inputs, middle, outputs, prelu_init, count_include_pad, branch_5x5)

        self.stretch = stretch
        self.conv0 = _Conv(n_bands, scaled(64, w), 5, prelu_init)
        self.pool0 = AveragePool2x2()  # no parameters: one module for all three poolings
        self.i0 = cell(scaled(64, w), 48, 64)
        self.i1 = cell(self.i0.outputs, 64, 92)
        self.i2 = cell(self.i1.outputs, 92, 128)
        self.i3 = cell(self.i2.outputs, 92, 128)
        self.i3b = cell(self.i3.outputs, 92, 128) if i3_cells == 2 else None
        self.i4 = cell(self.i3.outputs, 92, i4_features, branch_5x5=False)
        features = self.i4.outputs * (image_size // 8) ** 2 + 1  # and ebv
        self.fc0 = nn.Linear(features, scaled(fc0_features, w))
        self.fc1 = nn.Linear(scaled(fc0_features, w), scaled(1096, w))
        self.fc2 = nn.Linear(scaled(1096, w), n_bins)
        initialise(self)

    @override
    def forward(self, image: Tensor, ebv: Tensor) -> Tensor:
        """Return logits (N, n_bins) of an image (N, n_bands, size, size) and ebv (N,) or (N, 1)."""
        check_inputs(image, ebv, self.n_bands, self.image_size)
        if self.stretch is not None:
            image = self.stretch(image)
        x = self.pool0(self.conv0(image))
        x = self.i0(x)
        x = self.pool0(self.i1(x))
        x = self.i2(x)
        x = self.i3(x)
        if self.i3b is not None:
            x = self.i3b(x)
        x = self.i4(self.pool0(x))
        x = self.fc0(append_ebv(x, ebv)).relu()
        x = self.fc1(x).relu()
        logits: Tensor = self.fc2(x)
        return logits.relu() if self.logits_relu else logits


def inception(
    n_bands: int = 5,
    image_size: int = 64,
    n_bins: int = 180,
    fc0_features: int = 1096,
    i4_features: int = 128,
    i3_cells: int = 1,
    width: float = 1.0,
    prelu_init: float = 0.25,
    count_include_pad: bool = True,
    logits_relu: bool = False,
    stretch: nn.Module | None = None,
) -> Inception:
    """Build the paper's Inception network, Campagne 2020 (arXiv:2002.10154), Table A1.

    With the defaults 27,596,372 parameters. Sec. 4.3 has two larger ones:
    ``fc0_features=2000`` with 48,722,852 and ``i4_features=256`` with 45,720,660. Weights start
    Xavier uniform, biases at 0.1 (Sec. 2).

    Parameters
    ----------
    n_bands, image_size : int
        Shape of the images, (n_bands, image_size, image_size); the size a multiple of 8.
    n_bins : int
        Number of redshift bins, and of logits.
    fc0_features : int
        Outputs of fc0 and inputs of fc1. fc1 keeps 1096 outputs, as the paper's total demands.
    i4_features : int
        Outputs of i4.s2_2 and i4.s2_0. The paper's text widens s2_2 only, its total needs both.
    i3_cells : int
        1, or 2 for a second cell like i3 after it, named i3b (Sec. 4.3).
    width : float
        Factor on every number of channels and features but n_bands and n_bins.
    prelu_init : float
        Start of every PReLU weight: PyTorch's 0.25. Pasquet et al.'s TensorFlow code has 0.
    count_include_pad : bool
        Whether the zeros that pad the pooling within a cell (one row below, one column to the
        right) count in its average, as in `torch.nn.AvgPool2d`. Pasquet et al.'s code leaves
        them out: False.
    logits_relu : bool
        Whether a ReLU follows the logits, as in the code released with the paper. Off by default:
        it zeroes about four in ten logits at the start, and can hide gradients from an attack.
    stretch : Module, optional
        Put before the first layer, such as :class:`AsinhStretch`. None: pixels as they are, as in
        the paper.

    Returns
    -------
    Inception
        ``model(image, ebv) -> logits``.

    Raises
    ------
    TypeError, ValueError
        If a count is not an integer of at least 1, i3_cells is above 2, image_size is no multiple
        of 8, or width is not positive; when called, if image or ebv do not fit.

    Examples
    --------
    >>> model = inception(image_size=16, width=0.1)
    >>> model(torch.zeros(2, 5, 16, 16), torch.zeros(2)).shape
    torch.Size([2, 180])
    """
    return Inception(
        n_bands,
        image_size,
        n_bins,
        fc0_features,
        i4_features,
        i3_cells,
        width,
        prelu_init,
        count_include_pad,
        logits_relu,
        stretch,
    )
