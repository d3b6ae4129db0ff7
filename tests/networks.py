"""Small networks and samples for the tests of evaluations, whose answers are known."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advphotoz import GradientAttack, RedshiftBins
from advphotoz.evaluation import Evaluation, Row, evaluate

TWO = RedshiftBins(n=2)
FIVE = RedshiftBins(n=5)
WEIGHT = torch.tensor([1.0, -2.0, 0.5])
# In many dimensions an attack adds up and noise averages out.
WIDE = torch.tensor([1.0, -1.0]).repeat(50)
Batch = tuple[Tensor, ...]


class TwoBins(nn.Module):
    """Logits (w x, -w x): every norm-bounded maximum of the likelihood is known."""

    def __init__(self, weight: Tensor = WEIGHT) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, x: Tensor) -> Tensor:
        s = x @ self.weight
        return torch.stack([s, -s], dim=1)


class Net(nn.Module):
    """A small network on images and one context input, with BatchNorm and dropout."""

    def __init__(self, outputs: int = 5) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(6 * 9 + 1, outputs)

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        h = self.drop(self.norm(self.conv(x)).relu()).flatten(1)
        logits: Tensor = self.out(torch.cat([h, ebv[:, None]], dim=1))
        return logits


class Estimate(nn.Module):
    """One redshift per sample, 0.3 + w x / 10, as (N,) or as a column; there is no PDF."""

    def __init__(self, column: bool = False, weight: Tensor = WEIGHT) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.column = column

    def forward(self, x: Tensor) -> Tensor:
        # Row by row, so that a sample's output is the same to the last bit in any batch.
        z = 0.3 + (x * self.weight).sum(1) / 10
        return z[:, None] if self.column else z


@dataclass(frozen=True)
class Momentum(GradientAttack):
    """An attack of a user: the direction is a running mean of gradients."""

    steps: int = 10
    decay: float = 0.7

    def search(self, problem: Any, start: Tensor) -> Tensor:
        """Return the last point."""
        p, mean = start, torch.zeros_like(start)
        for _ in range(self.steps):
            _, gradient = problem.value_and_gradient(p)
            size = gradient.abs().flatten(1).sum(1).clamp(min=1e-30)
            mean = self.decay * mean + gradient / size.view(-1, *[1] * (gradient.ndim - 1))
            p = problem.step(p, mean, 2.5 / self.steps)
        return p


@dataclass(frozen=True)
class Spoiler:
    """An attack that changes its x in place, and draws from the global state."""

    def __call__(
        self, model: Any, x: Tensor, target: Tensor, context: Any = (), generator: Any = None
    ) -> Tensor:
        return x.add_(torch.rand_like(x))


def do_nothing(
    model: Any, x: Tensor, target: Tensor, context: Any = (), generator: Any = None
) -> Tensor:
    """Return the images as they came."""
    return x


def sides(n: int, margin: float = 0.0, weight: Tensor = WEIGHT) -> Batch:
    """Samples on both sides of w x = 0, |w x| at least the margin, with the truth to match."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, len(weight), generator=generator) / len(weight) ** 0.5
    s = x @ weight
    x = x + (margin * s.sign() / weight.square().sum())[:, None] * weight
    return x, torch.where(s > 0, 0.25, 0.75)


def images(n: int = 60) -> Batch:
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn(n, 2, 5, 5, generator=generator),
        torch.rand(n, generator=generator),
        torch.rand(n, generator=generator),
    )


def features(n: int = 60) -> Batch:
    """Three features and a redshift of its own per sample."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 3, generator=generator), torch.rand(n, generator=generator)


def split(batch: Batch, size: int) -> list[Batch]:
    return list(zip(*(tensor.split(size) for tensor in batch), strict=True))


def run(
    model: nn.Module, loader: Any, attacks: Any = (), readout: Any = TWO, **settings: Any
) -> Evaluation:
    quiet = {"progress": False, "bootstrap": 20, **settings}
    return evaluate(model, loader, attacks, readout, **quiet)


def numbers(row: Row) -> list[float]:
    return [v for v in dataclasses.astuple(row) if isinstance(v, float)]
