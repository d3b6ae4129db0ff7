"""What a training needs to go on to the last bit the same: random states and whole files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch

__all__ = [
    "loader_generator",
    "mean_loss",
    "random_state",
    "read_checkpoint",
    "set_random_state",
    "start_epoch",
]


def random_state() -> dict[str, Any]:
    """Return torch's global random states."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: dict[str, Any]) -> None:
    """Go back to torch's global random states."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def loader_generator(loader: object) -> torch.Generator | None:
    """Return the generator that a DataLoader or its sampler shuffles with, if it has one."""
    for holder in (loader, getattr(loader, "sampler", None)):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            return generator
    return None


def start_epoch(loader: object, epoch: int) -> None:
    """Tell a DistributedSampler which epoch begins; without it, it deals the same order again."""
    set_epoch = getattr(getattr(loader, "sampler", None), "set_epoch", None)
    if set_epoch is not None:
        set_epoch(epoch)


def read_checkpoint(path: str | os.PathLike[str], keys: Iterable[str]) -> dict[str, Any]:
    """Read a checkpoint of the trainer, or say that the file is none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = set(keys) - state.keys()
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is truncated or not a checkpoint of AdversarialTrainer "
            f"({type(error).__name__}); delete it to start over"
        ) from error
    if missing:
        raise ValueError(
            f"{path} is not a checkpoint of AdversarialTrainer: it lacks {sorted(missing)}"
        )
    checked: dict[str, Any] = state
    return checked


def mean_loss(losses: Iterable[tuple[int, float]], name: str) -> float:
    """Return the mean loss per sample from (batch size, mean loss) pairs."""
    total, count = 0.0, 0
    for size, loss in losses:
        total, count = total + size * loss, count + size
    if not count:
        raise ValueError(f"{name} yields no sample: an empty loader, or a generator already used")
    return total / count
