"""Callbacks of a trainer: what is done after a step or an epoch, and saved with it."""

from __future__ import annotations

import copy
import math
from typing import Any, Protocol

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from typing_extensions import override

from advphotoz import distributed
from advphotoz._checks import check_at_least_one
from advphotoz._model import unwrapped

__all__ = ["Callback", "EarlyStopping", "WeightAverage"]


class Training(Protocol):
    """What a callback may ask of a trainer."""

    model: nn.Module
    history: list[dict[str, float]]
    stop: bool


class Callback:
    """Something to do during a training; override what is needed.

    Its `state_dict` is saved in the checkpoint, so that a resumed training goes on the same; of
    processes that train together that of the first.

    Examples
    --------
    A log for TensorBoard, in four lines:

    >>> class Log(Callback):
    ...     def __init__(self, writer):
    ...         self.writer = writer
    ...     def after_epoch(self, trainer):
    ...         row = trainer.history[-1]
    ...         self.writer.add_scalar("valid loss", row["valid_loss"], row["epoch"])
    """

    def start(self, trainer: Training) -> None:
        """Prepare; called once, before the checkpoint is read."""

    def after_step(self, trainer: Training, loss: float) -> None:
        """Do something after every step of the optimizer, with the loss of the batch."""

    def after_epoch(self, trainer: Training) -> None:
        """Do something after every epoch, before the checkpoint is written.

        ``trainer.history[-1]`` is its row; ``trainer.stop = True`` ends the training.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a `state_dict`."""


class EarlyStopping(Callback):
    """End the training when the validation loss has not fallen for a number of epochs.

    Parameters
    ----------
    patience : int
        Epochs without a new lowest loss.
    min_delta : float
        How much lower counts as lower.
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0) -> None:
        check_at_least_one(patience, "patience")
        self.patience = patience
        self.min_delta = min_delta
        self.lowest = math.inf
        self.waited = 0

    @override
    def after_epoch(self, trainer: Training) -> None:
        loss = trainer.history[-1]["valid_loss"]
        if math.isnan(loss):
            raise ValueError(
                "EarlyStopping needs a validation loss, and there is none, or it is NaN: fit with "
                "a valid_loader"
            )
        if loss < self.lowest - self.min_delta:
            self.lowest, self.waited = loss, 0
        else:
            self.waited += 1
            trainer.stop = trainer.stop or self.waited >= self.patience

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"lowest": self.lowest, "waited": self.waited}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.lowest, self.waited = state["lowest"], state["waited"]


class WeightAverage(Callback):
    r"""An exponential moving average of the weights, by torch.optim.swa_utils.

    .. math:: \bar\theta \leftarrow \beta\, \bar\theta + (1 - \beta)\, \theta

    after every step, beginning with the weights after the first one; buffers such as BatchNorm's
    are averaged too.

    Parameters
    ----------
    decay : float
        :math:`\beta`, between 0 and 1.

    Attributes
    ----------
    averaged : AveragedModel or None
        The network with the averaged weights, ``averaged.module``; None before the training.

    References
    ----------
    Izmailov et al. 2018 (arXiv:1803.05407); for robust training Rebuffi et al. 2021
    (arXiv:2103.01946).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay must lie between 0 and 1, got {decay}")
        self.decay = decay
        self.averaged: AveragedModel | None = None

    @override
    def start(self, trainer: Training) -> None:
        if self.averaged is None:
            average: Any = get_ema_multi_avg_fn  # torch gives it no types
            network: Any = unwrapped(trainer.model)  # its names, not those of a wrapper
            self.averaged = AveragedModel(
                network, multi_avg_fn=average(self.decay), use_buffers=True
            )

    @override
    def after_step(self, trainer: Training, loss: float) -> None:
        assert self.averaged is not None
        network: Any = unwrapped(trainer.model)
        self.averaged.update_parameters(network)

    @override
    def after_epoch(self, trainer: Training) -> None:
        if self.averaged is not None:  # as the trainer does with the statistics themselves
            distributed.broadcast(self.averaged.buffers())

    def load_into(self, model: nn.Module) -> None:
        """Put the averaged weights into a network."""
        if self.averaged is None:
            raise ValueError("nothing is averaged yet: fit a trainer with this callback first")
        network: Any = unwrapped(model)
        network.load_state_dict(self.averaged.module.state_dict())

    @override
    def state_dict(self) -> dict[str, Any]:
        return {} if self.averaged is None else dict(self.averaged.state_dict())

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.averaged is None:
            raise ValueError("the average is prepared by fit, which reads the checkpoint itself")
        self.averaged.load_state_dict(copy.deepcopy(state))
