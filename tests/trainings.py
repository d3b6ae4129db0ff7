"""Small trainings and what they are compared with, for the tests of training."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, TensorDataset

from advphotoz import PGD, AdversarialTrainer, CrossEntropy, LinfBall
from advphotoz.datasets import random_dihedral
from problems import BINS

OBJECTIVE = CrossEntropy(BINS)


class Small(nn.Module):
    """Convolution, BatchNorm and dropout on 5 bands of 8 x 8 pixels, and a second input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(3 * 64 + 1, BINS.n)

    def forward(self, x: torch.Tensor, ebv: torch.Tensor) -> torch.Tensor:
        hidden = self.dropout(torch.relu(self.norm(self.conv(x)))).flatten(1)
        return self.fc(torch.cat([hidden, ebv.view(-1, 1)], 1))


def samples(n: int = 24, size: int = 8, seed: int = 9) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 5, size, size, generator=generator)
    return TensorDataset(x, *torch.rand(2, n, generator=generator))


def loader(n: int = 24, batch_size: int = 8, seed: int = 1, **settings: Any) -> DataLoader[Any]:
    shuffle = torch.Generator().manual_seed(seed)
    return DataLoader(samples(n), batch_size, shuffle=True, generator=shuffle, **settings)


def make(seed: int = 0, **settings: Any) -> AdversarialTrainer:
    """Return a training with everything that draws random numbers or keeps a state."""
    torch.manual_seed(seed)
    model = Small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    settings = {
        "attack": PGD(LinfBall(0.1), steps=2, random_start=True),
        "fraction": 0.5,
        "objective": OBJECTIVE,
        "transform": random_dihedral,
        **settings,
    }
    schedule = settings.pop("schedule", None)
    scheduler = None if schedule is None else schedule(optimizer)
    return AdversarialTrainer(model, optimizer, scheduler=scheduler, **settings)


def same(a: Any, b: Any) -> bool:
    """Compare states bit for bit, NaN equal to NaN, and the seconds that they took left out."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return bool(a == b)


def different(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return which parts of two states differ."""
    return [key for key in sorted(a.keys() | b.keys()) if not same(a.get(key), b.get(key))]


def child_process(function: Callable[..., None], *args: Any) -> BaseProcess:
    """Return a process forked by a server that has torch loaded, which is quick and clean."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch._dynamo", "advphotoz"])
    return context.Process(target=function, args=args)


def train_for_kills(folder: Path, epochs: int) -> None:
    """Train with a checkpoint in a folder."""
    torch.set_num_threads(1)
    run = make(schedule=lambda optimizer: ReduceLROnPlateau(optimizer, patience=0))
    validation = list(loader(8, seed=2))
    run.fit(loader(16), validation, epochs, folder / "run.pt", progress=False)
