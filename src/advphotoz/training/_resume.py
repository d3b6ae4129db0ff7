"""What a training needs to go on to the last bit the same: random states and whole files."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from advphotoz.training.trainer import AdversarialTrainer

__all__ = ["loader_generator", "read_checkpoint", "restore", "state_of"]


def state_of(trainer: AdversarialTrainer) -> dict[str, Any]:
    """Return what a trainer's `state_dict` holds, not copied."""
    scheduler, loader = trainer.scheduler, trainer._loader_generator
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    state = {
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": None if scheduler is None else scheduler.state_dict(),
        "history": trainer.history,
        "best_epoch": trainer.best_epoch,
        "best_weights": trainer._best_weights,
        "generator": trainer.generator.get_state(),
        "loader_generator": trainer._loader_state if loader is None else loader.get_state(),
        "random_state": {"cpu": torch.get_rng_state(), "cuda": cuda},
    }
    return state if trainer.carry is None else {**state, "carry": trainer.carry.delta}


def restore(trainer: AdversarialTrainer, state: dict[str, Any]) -> None:
    """Bring a trainer, and torch's global random states, back to a `state_dict`."""
    trainer.model.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    if trainer.scheduler is not None:
        trainer.scheduler.load_state_dict(state["scheduler"])
    trainer.history = [dict(row) for row in state["history"]]
    trainer.best_epoch = state["best_epoch"]
    trainer._best_weights = state["best_weights"]
    trainer.generator.set_state(state["generator"])
    trainer._loader_state = state["loader_generator"]
    if trainer.carry is not None:
        trainer.carry.delta = copy.deepcopy(state["carry"])
    torch.set_rng_state(state["random_state"]["cpu"])
    if torch.cuda.is_available() and state["random_state"]["cuda"]:
        torch.cuda.set_rng_state_all(state["random_state"]["cuda"])


def loader_generator(loader: object) -> torch.Generator | None:
    """Return the generator that a DataLoader or its sampler shuffles with, if it has one."""
    for holder in (loader, getattr(loader, "sampler", None)):
        generator = getattr(holder, "generator", None)
        if isinstance(generator, torch.Generator):
            return generator
    return None


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
