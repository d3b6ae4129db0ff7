"""The table of a network's layers, and what both networks need: widths, weights, input checks."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from advphotoz.models.fused import PaddedAveragePool2x2

__all__ = [
    "Layer",
    "append_ebv",
    "check_inputs",
    "check_width",
    "initialise",
    "layers",
    "scaled",
    "table",
]


class Layer(NamedTuple):
    """One row of the paper's Tables A1 and A2; shapes are without the batch dimension."""

    name: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    parameters: int


def layers(model: nn.Module) -> list[Layer]:
    """List the layers of a network in the order in which an image passes them.

    Parameters
    ----------
    model : Inception or CNN
        The network, whose attributes n_bands and image_size are the shape of its images. It is
        called once, on an image of zeros.

    Returns
    -------
    list of Layer
        One per row of Campagne 2020 (arXiv:2002.10154), Tables A1 and A2. A pooling layer that
        is passed three times has three rows; an inception cell follows its own layers.

    Examples
    --------
    >>> from advphotoz import models
    >>> models.layers(models.cnn(width=0.1))[-1]
    Layer(name='fc1', input_shape=(102,), output_shape=(180,), parameters=18540)
    """
    rows: list[Layer] = []

    def record(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            count = sum(p.numel() for p in module.parameters())
            shape = tuple(inputs[0].shape[1:])
            if isinstance(module, PaddedAveragePool2x2):  # the paper's table counts the padding
                shape = (shape[0], shape[1] + 1, shape[2] + 1)
            rows.append(Layer(name, shape, tuple(output.shape[1:]), count))

        return hook

    # A convolution and its PReLU, an nn.Sequential, are one row.
    named = [
        (name, module)
        for name, module in model.named_modules()
        if name and not isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Sequential)
    ]
    handles = [module.register_forward_hook(record(name)) for name, module in named]
    weight = next(model.parameters())
    n_bands, size = (int(getattr(model, name)) for name in ("n_bands", "image_size"))
    zeros = weight.new_zeros(1, n_bands, size, size)
    try:
        with torch.no_grad():
            model(zeros, weight.new_zeros(1))
    finally:
        for handle in handles:
            handle.remove()
    return rows


def table(model: nn.Module) -> str:
    """Print the layers of a network as the paper's Tables A1 and A2 do, with their total.

    Parameters
    ----------
    model : Inception or CNN
        The network, whose attributes n_bands and image_size are the shape of its images. It is
        called once, on an image of zeros.

    Returns
    -------
    str
        One line per layer: name, input shape, output shape, number of parameters.

    Examples
    --------
    >>> from advphotoz import models
    >>> print(models.table(models.cnn()))
    name   input_shape   output_shape  nb_params
    conv0  (5, 64, 64)   (64, 64, 64)       8064
    pool0  (64, 64, 64)  (64, 32, 32)          0
    conv1  (64, 32, 32)  (92, 34, 34)      53084
    pool1  (92, 34, 34)  (92, 17, 17)          0
    conv2  (92, 17, 17)  (128, 19, 19)    106112
    pool2  (128, 19, 19) (128, 10, 10)         0
    fc0    (12801)       (1024)         13109248
    fc1    (1024)        (180)            184500
    total                               13461008
    """

    def shape(values: tuple[int, ...]) -> str:
        return f"({', '.join(map(str, values))})"

    total = sum(p.numel() for p in model.parameters())
    cells = [("name", "input_shape", "output_shape", "nb_params")]
    cells += [
        (row.name, shape(row.input_shape), shape(row.output_shape), str(row.parameters))
        for row in layers(model)
    ]
    cells.append(("total", "", "", str(total)))
    widths = [max(len(row[i]) for row in cells) for i in range(4)]
    return "\n".join(
        f"{a:<{widths[0]}} {b:<{widths[1]}} {c:<{widths[2]}} {d:>{widths[3]}}"
        for a, b, c, d in cells
    )


def scaled(features: int, width: float) -> int:
    """Scale a number of channels or features, at least 1."""
    return max(1, round(features * width))


def check_width(width: Any) -> float:
    """Return a width factor as a float; refuse what is not a positive number."""
    if not math.isfinite(width) or width <= 0:
        raise ValueError(f"width must be a positive factor, 1 for the paper's size; got {width}.")
    return float(width)


def initialise(model: nn.Module) -> None:
    """Set weights to Xavier uniform and biases to 0.1 (Campagne 2020, Sec. 2), channels last.

    With weights in channels_last every convolution returns channels_last, whatever the memory
    format of its input: one input gradient of the Inception then took 0.77 s instead of 1.01 s in
    bfloat16 (two cores).
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.constant_(module.bias, 0.1)
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach().contiguous(memory_format=torch.channels_last)
            module.weight = nn.Parameter(weight)


def check_inputs(image: Any, ebv: Any, n_bands: int, image_size: int) -> None:
    """Refuse anything but images (N, n_bands, image_size, image_size) with one E(B-V) each."""
    for name, value in (("image", image), ("ebv", ebv)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}.")
        if not value.is_floating_point():
            raise TypeError(
                f"{name} must have a floating-point dtype; got {value.dtype}. "
                f"Convert it with {name}.float()."
            )
    expected = f"(N, {n_bands}, {image_size}, {image_size})"
    if image.ndim != 4:
        raise ValueError(
            f"image must have shape {expected}; got {tuple(image.shape)}. "
            "Add the batch dimension to a single cube with image[None]."
        )
    if image.shape[1] != n_bands:
        raise ValueError(
            f"image must have {n_bands} bands, shape {expected}; got {tuple(image.shape)}. Put "
            "the bands first, or build the model with n_bands of your data."
        )
    if image.shape[2:] != (image_size, image_size):
        raise ValueError(
            f"image must be {image_size} x {image_size} pixels, shape {expected}; got "
            f"{tuple(image.shape)}. Cut it out, or build the model with image_size of your data."
        )
    if ebv.shape not in ((len(image),), (len(image), 1)):
        raise ValueError(
            f"ebv must hold one E(B-V) per image, shape ({len(image)},) or ({len(image)}, 1); "
            f"got {tuple(ebv.shape)}."
        )


def append_ebv(features: Tensor, ebv: Tensor) -> Tensor:
    """Flatten the features, in channel, row, column order, and put E(B-V) last."""
    features = features.flatten(1)
    return torch.cat([features, ebv.reshape(-1, 1).to(features.dtype)], dim=1)
