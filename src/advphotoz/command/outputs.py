"""What a command writes: nothing is overwritten unless asked, nothing is half written."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from typing_extensions import override

from advphotoz.training import Callback
from advphotoz.training.callbacks import Training

__all__ = ["EpochLines", "add_force", "check_new", "progress", "say"]


class EpochLines(Callback):
    """A line per epoch in a log, where no progress bar is shown."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    @override
    def after_epoch(self, trainer: Training) -> None:
        if progress():  # the bar writes them
            return
        row = trainer.history[-1]
        say(
            f"epoch {row['epoch']:.0f}/{self.epochs}: train loss {row['train_loss']:.4f}, "
            f"valid loss {row['valid_loss']:.4f}, {row['seconds']:.0f} s"
        )


def add_force(parser: argparse._ActionsContainer) -> None:
    """Add the option that allows files to be replaced."""
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def check_new(force: bool, *paths: Path | None) -> None:
    """Refuse, before any work, to replace a file, or to write where no file can be."""
    for path in paths:
        if path is None:
            continue
        if path.is_dir():
            raise FileExistsError(f"{path} is a folder; name a file")
        if path.exists() and not force:
            raise FileExistsError(f"{path} exists; --force replaces it")


def progress() -> bool:
    """Whether to show progress: on a terminal, not in a log."""
    return sys.stderr.isatty()


def say(text: str) -> None:
    """Print a result."""
    print(text, flush=True)  # noqa: T201
