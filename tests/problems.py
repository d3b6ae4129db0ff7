"""One table of problems; every attack is run against each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advphotoz import CrossEntropy, RedshiftBins
from advphotoz.objectives import Objective

BINS = RedshiftBins(0.0, 1.0, 20)


class Problem(NamedTuple):
    """A model, a batch for it, and what to maximise."""

    model: nn.Module
    x: Tensor
    z: Tensor
    context: tuple[Tensor, ...]
    objective: Objective


class Linear(nn.Module):
    """f(x) = w.x + b over the flattened sample: best perturbations are known."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weight).flatten(1).sum(1)


class TwoInputs(nn.Module):
    """Convolution, BatchNorm, dropout, and a second input that must stay beside its image."""

    def __init__(self, bands: int = 5, size: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(bands, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(6 * size * size + 1, BINS.n)
        with torch.no_grad():
            self.norm.running_mean.normal_()
            self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        hidden = self.dropout(torch.relu(self.norm(self.conv(x))))
        return self.fc(torch.cat([hidden.flatten(1), ebv.view(-1, 1)], 1))


def linear() -> Problem:
    model = Linear(5, 8, 8)
    x = 100 * torch.randn(4, 5, 8, 8)
    return Problem(model, x, torch.zeros(4), (), lambda output, target: output - target)


def two_inputs(bands: int = 5, size: int = 16) -> Problem:
    x = 30 * torch.randn(6, bands, size, size) - 5
    context = (torch.rand(6),)
    return Problem(TwoInputs(bands, size), x, torch.rand(6), context, CrossEntropy(BINS))


def four_bands() -> Problem:
    return two_inputs(bands=4, size=23)


def magnitudes() -> Problem:
    model = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, BINS.n))
    return Problem(model, 18 + torch.randn(7, 5), torch.rand(7), (), CrossEntropy(BINS))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "linear": linear,
    "two-inputs": two_inputs,
    "4-bands-23-pixels": four_bands,
    "magnitudes": magnitudes,
}
