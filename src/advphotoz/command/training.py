"""How the commands train: one cycle of the learning rate, a line per epoch, a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from advphotoz import AdversarialTrainer, Attack
from advphotoz.command.outputs import EpochLines, progress
from advphotoz.objectives import Objective

__all__ = ["fit"]


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: tuple[Any, Any],
    attack: Attack | None,
    fraction: float,
    objective: Objective,
    *,
    epochs: int,
    batch: int,
    valid_batch: int,
    transform: Callable[..., Tensor] | None,
    autocast: torch.dtype | None,
    seed: int,
    checkpoint: Path,
) -> AdversarialTrainer:
    """Train on the first of two data sets, validate on the second, from the last epoch on."""
    train, valid = data
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, optimizer.defaults["lr"], total_steps=epochs * -(-len(train) // batch)
    )
    trainer = AdversarialTrainer(
        model,
        optimizer,
        attack,
        fraction,
        objective,
        scheduler=scheduler,
        scheduler_step="step",
        transform=transform,
        autocast=autocast,
        seed=seed,
    )
    shuffle = torch.Generator().manual_seed(seed)
    trainer.fit(
        DataLoader(train, batch, shuffle=True, generator=shuffle),
        DataLoader(valid, valid_batch),
        epochs,
        checkpoint=checkpoint,
        callbacks=[EpochLines(epochs)],
        progress=progress(),
    )
    return trainer
