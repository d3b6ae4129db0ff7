"""Adversarial training (Campagne 2020, Algorithm 1): a share of every batch is adversarial."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm  # not tqdm.auto, which starts a second iterator of the loader

from advphotoz import distributed
from advphotoz._checks import check_at_least_one
from advphotoz._files import check_folder
from advphotoz._model import (
    autocasting,
    check_autocast,
    check_model,
    device_of,
    evaluating,
    unwrapped,
)
from advphotoz.attacks.contract import Attack
from advphotoz.batch import Batch, parse_batch
from advphotoz.objectives import Objective
from advphotoz.provenance import weights_digest
from advphotoz.training.callbacks import Callback
from advphotoz.training.checkpoint import (
    check_storable,
    loader_generators,
    read_checkpoint,
    samplers,
    write_checkpoint,
)
from advphotoz.training.losses import MixedLoss, TrainingLoss
from advphotoz.training.mixing import check_indexed
from advphotoz.training.warm_start import Transform, transformed

__all__ = ["AdversarialTrainer", "Trainer"]

Scheduler = LRScheduler | ReduceLROnPlateau


class Trainer:
    """A training loop around any `TrainingLoss`, resumed to the last bit.

    `AdversarialTrainer` is the same with the loss of Algorithm 1.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(x, *context)``. Submodules set to eval while the model is in train mode
        (a frozen BatchNorm) stay so. A model wrapped in DistributedDataParallel is trained through
        the wrapper and attacked inside it.
    optimizer : torch.optim.Optimizer
        Holds the parameters to train.
    loss : TrainingLoss
        What a batch costs: ``loss(model, batch, generator)``.
    valid_loss : TrainingLoss, optional
        The same in validation. None: `loss`.
    scheduler : LRScheduler, optional
        `ReduceLROnPlateau` is given the validation loss, or the training loss where there is no
        validation, in the mean over all processes.
    scheduler_step : {"epoch", "step"}
        When the scheduler is stepped; one-cycle schedules step with every batch.
    transform : callable, optional
        ``(x, generator) -> x``, applied to each training batch before it is attacked, such as the
        paper's flips and rotations.
    autocast : torch.dtype, optional
        torch.bfloat16 runs the model in mixed precision, in crafting too. None: full precision.
    seed : int
        Seeds `generator`, from which transform, mixing and attack draw. Processes that train
        together draw from that of the first: which samples of their common batch are attacked does
        not depend on how many they are (see `advphotoz.distributed.JointBatches`).

    Attributes
    ----------
    epoch : int
        Number of epochs done.
    history : list of dict
        One row per epoch: epoch, train_loss, valid_loss, learning_rate, seconds.
    best_epoch : int or None
        The epoch of the best weights.
    stop : bool
        Set by a callback to end the training after the epoch, in all processes; set it to False to
        go on.

    Raises
    ------
    ValueError, TypeError
        For settings, a batch or a loss that make no sense; the message says what to do.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss: TrainingLoss,
        *,
        valid_loss: TrainingLoss | None = None,
        scheduler: Scheduler | None = None,
        scheduler_step: Literal["epoch", "step"] = "epoch",
        transform: Transform | None = None,
        autocast: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        self.model = check_model(model)
        self.optimizer = _check_optimizer(optimizer, model)
        self.loss = _check_callable(loss, "loss")
        self.valid_loss = loss if valid_loss is None else _check_callable(valid_loss, "valid_loss")
        if scheduler_step not in ("epoch", "step"):
            raise ValueError(f'scheduler_step must be "epoch" or "step", got {scheduler_step!r}')
        if scheduler_step == "step" and isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError('ReduceLROnPlateau needs the loss of an epoch: scheduler_step="epoch"')
        if scheduler is not None and scheduler.optimizer is not optimizer:
            raise ValueError(
                "the scheduler is of another optimizer, whose learning rate it would change; make "
                "it from the optimizer of this trainer"
            )
        self.scheduler = scheduler
        self.scheduler_step = scheduler_step
        self.transform = transform
        self.autocast = check_autocast(autocast)
        self.generator = torch.Generator().manual_seed(seed)
        self.history: list[dict[str, float]] = []
        self.best_epoch: int | None = None
        self.stop = False
        self._best_weights: dict[str, Tensor] | None = None
        self._callbacks: Sequence[Callback] = ()
        self._generators: dict[str, torch.Generator] = {}
        # What a checkpoint holds for a loader and for callbacks, until `fit` is given them.
        self._loader_states: dict[str, Tensor] | None = None
        self._callback_states: Sequence[tuple[str, Any]] | None = None

    @property
    def epoch(self) -> int:
        """Number of epochs done."""
        return len(self.history)

    def step(self, batch: Sequence[Any]) -> float:
        """Do one step on a batch ``(x, *context, target)``; return its mean loss."""
        here = _parsed(batch, "training").to(device_of(self.model))
        if getattr(self.loss, "needs_index", False):
            check_indexed(here)
        if self.transform is not None:
            draws = distributed.own_generator(self.generator)
            here = transformed(here, self.transform, draws)
        n = len(here.x)
        with (
            distributed.joint_batch(n) as (_, total),
            autocasting(here.x.device, self.autocast),
        ):
            loss = _check_loss(self.loss(self.model, here, self.generator))
        if not loss.requires_grad:
            raise ValueError(
                "the loss does not depend on the weights in a differentiable way; look for a "
                "detach(), a torch.no_grad() or a NumPy call in the network or the loss"
            )
        value = loss.item()  # the host waits, once per step, for the sake of the weights
        if not math.isfinite(value):
            raise ValueError(
                f"the training loss is {value} in epoch {self.epoch + 1}; the weights are those "
                "of the step before. Lower the learning rate, or look at the objective"
            )
        self.optimizer.zero_grad(set_to_none=True)
        # The wrapper takes the mean over processes, that over samples is meant.
        weight = n * distributed.processes() / total
        torch.autograd.backward(loss if weight == 1 else loss * weight)
        self.optimizer.step()
        if self.scheduler is not None and self.scheduler_step == "step":
            self.scheduler.step()
        for callback in self._callbacks:
            callback.after_step(self, value)
        return value

    def fit(
        self,
        train_loader: Iterable[Any],
        valid_loader: Iterable[Any] | None = None,
        epochs: int = 150,
        checkpoint: str | os.PathLike[str] | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> list[dict[str, float]]:
        """Train until `epochs` epochs are done in all, and return the history.

        Parameters
        ----------
        train_loader, valid_loader : iterable of batches
            Read once per epoch. The validation loss is taken with the same draws in every epoch;
            the weights where it is lowest are kept.
        epochs : int
            Total number, those done before (or before an interruption) included; 150 in the paper.
        checkpoint : path, optional
            Written after every epoch, and read at the start if it exists: an interrupted training
            goes on from its last whole epoch, to the last bit the same. Processes that train
            together share one file, which the first of them writes; at the end of an epoch all take
            its buffers (BatchNorm's statistics), as DistributedDataParallel does in every step.
        callbacks : sequence of Callback
            Called after steps and epochs, in this order.
        progress : bool
            Show a progress bar.

        Raises
        ------
        ValueError
            If a loader yields no batch, the loss is not finite, or the checkpoint cannot be read or
            is of another training.
        OSError
            If the checkpoint cannot be read, or its folder cannot be written to; before the first
            step.
        TypeError
            If a checkpoint could not hold what loss or callbacks keep.
        RuntimeError
            If processes that train together do not begin with the same epoch, weights and
            arguments, or one of them cannot begin.
        """
        check_at_least_one(epochs, "epochs")
        failed = None
        try:
            self._prepare(train_loader, valid_loader, checkpoint, callbacks)
        except Exception as error:  # raised in a moment: other processes would wait for this one
            failed = error
        asked = (epochs, valid_loader is not None, checkpoint is not None, len(self._callbacks))
        self._check_processes(asked, failed)
        if not self.model.training:
            self.model.train()
        while self.epoch < epochs and not self.stop:
            start = time.perf_counter()
            _start_epoch(train_loader, self.loss, self.epoch)
            name = f"epoch {self.epoch + 1}/{epochs}"
            with tqdm(train_loader, desc=name, disable=not progress, leave=False) as bar:
                train = _mean_loss(
                    ((_size(batch), self.step(batch)) for batch in bar), "train_loader"
                )
            finish = getattr(self.loss, "finish_epoch", None)
            if finish is not None:
                finish()
            distributed.broadcast(self.model.buffers())
            valid = None if valid_loader is None else self.validate(valid_loader)
            self._finish_epoch(train, valid, time.perf_counter() - start)
            if progress:
                tqdm.write(f"{name}: {_summary(self.history[-1])}")
            if checkpoint is not None:
                self._save_for_all(checkpoint)
        return self.history

    def validate(self, loader: Iterable[Any]) -> float:
        """Return the mean validation loss in eval mode, with draws that are the same each time.

        Processes that train together must all call it, each with its share of the samples.
        """
        generator = torch.Generator().manual_seed(0)
        device = device_of(self.model)
        model = unwrapped(self.model)  # the wrapper would wait for processes with more batches
        with evaluating(self.model), torch.no_grad():
            losses = []
            for given in loader:
                # Without its index: a sample of the validation set is none of the training set.
                batch = _parsed(given, "validation").to(device)._replace(index=None)
                with autocasting(device, self.autocast):
                    loss = _check_loss(self.valid_loss(model, batch, generator))
                losses.append((len(batch.x), loss))
            # Read when all are done: a GPU need not wait in between.
            return _mean_loss(((n, loss.item()) for n, loss in losses), "valid_loader")

    def load_best(self) -> None:
        """Put the best weights into the model: those of the lowest validation loss."""
        if self._best_weights is None:
            raise ValueError("no best weights are kept: fit with a valid_loader first")
        unwrapped(self.model).load_state_dict(self._best_weights)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed training needs to give the same weights, bit for bit.

        Model, optimizer, scheduler, history, best weights, what loss and callbacks keep, and random
        states: this trainer's generator, those of the training loader and its samplers, and
        torch's global one (dropout draws from it, and a shuffling loader without a generator).
        Python's and NumPy's are not in it.
        """
        return copy.deepcopy(self._state())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a `state_dict`; this sets torch's global random state too.

        Raises
        ------
        ValueError
            If it is that of another model, optimizer, scheduler or loss; the trainer is then as it
            was.
        """
        missing = sorted(self._state().keys() - state.keys())
        if missing:
            raise ValueError(f"this is not the state of a trainer: it lacks {missing}")
        for part in ("optimizer", "scheduler", "loss"):
            ours, theirs = type(getattr(self, part)).__name__, state["kinds"][part]
            if ours != theirs:
                raise ValueError(
                    f"the state is of a training with the {part} {theirs}, and this trainer has "
                    f"{ours}; build the trainer as it was, or start over"
                )
        rank, here = distributed.rank(), distributed.processes()
        if here == state["processes"] and rank not in state["random"]:
            raise ValueError(
                f"the state holds the random states of processes {sorted(state['random'])}, and "
                f"this is number {rank}; let fit(..., checkpoint=...) write one file for all"
            )
        before = self.state_dict()
        waiting = self._loader_states, self._callback_states
        try:
            self._restore(state, rank)
        except Exception as error:
            self._restore(before, rank)
            self._loader_states, self._callback_states = waiting
            raise ValueError(
                "the state does not fit this trainer, which is as it was "
                f"({type(error).__name__}: {error})"
            ) from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the `state_dict` to a file with its SHA-256, whole or not at all."""
        write_checkpoint(self._state(), path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read a file that `save` wrote (with ``weights_only=True``: it cannot run code).

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is damaged, no checkpoint, or that of another training.
        """
        state = read_checkpoint(path)
        try:
            self.load_state_dict(state)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _state(self) -> dict[str, Any]:
        """Return what `state_dict` holds, not copied."""
        loss: Any = self.loss
        called = [(type(each).__name__, each.state_dict()) for each in self._callbacks]
        return {
            "model": unwrapped(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "kinds": {
                "optimizer": type(self.optimizer).__name__,
                "scheduler": type(self.scheduler).__name__,
                "loss": type(self.loss).__name__,
            },
            "loss": loss.state_dict() if hasattr(loss, "state_dict") else {},
            "callbacks": self._callback_states if self._callback_states is not None else called,
            "history": self.history,
            "stop": self.stop,
            "best_epoch": self.best_epoch,
            "best_weights": self._best_weights,
            "processes": distributed.processes(),
            "random": {distributed.rank(): self._random_state()},
        }

    def _random_state(self) -> dict[str, Any]:
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        loader = {name: g.get_state() for name, g in self._generators.items()}
        return {
            "generator": self.generator.get_state(),
            "loader": loader if self._loader_states is None else self._loader_states,
            "cpu": torch.get_rng_state(),
            "cuda": cuda,
        }

    def _restore(self, state: dict[str, Any], rank: int) -> None:
        unwrapped(self.model).load_state_dict(state["model"])
        # Copies: torch keeps the tensors and lists that it is given, and writes into them.
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(copy.deepcopy(state["scheduler"]))
        loss: Any = self.loss
        if hasattr(loss, "load_state_dict"):
            loss.load_state_dict(state["loss"])
        self.history = [dict(row) for row in state["history"]]
        self.stop = bool(state["stop"])
        self.best_epoch = state["best_epoch"]
        self._best_weights = state["best_weights"]
        self._callback_states = state["callbacks"]
        random = _random_of(state["random"], rank)
        self._loader_states = random["loader"]
        self.generator.set_state(random["generator"])
        torch.set_rng_state(random["cpu"])
        if torch.cuda.is_available() and random["cuda"]:
            torch.cuda.set_rng_state_all(random["cuda"])

    def _prepare(
        self,
        train_loader: object,
        valid_loader: object,
        checkpoint: str | os.PathLike[str] | None,
        callbacks: Sequence[Callback],
    ) -> None:
        """Do all that `fit` does before the first step."""
        self._callbacks = _check_callbacks(callbacks)
        for callback in self._callbacks:
            callback.start(self)
        if checkpoint is not None:
            _check_resumable(train_loader)
            check_folder(Path(checkpoint).absolute().parent)
            if Path(checkpoint).exists():
                self.load(checkpoint)
        self._generators = loader_generators({"loader": train_loader, "valid_loader": valid_loader})
        self._give_states()
        if checkpoint is not None:
            check_storable(self._state())

    def _give_states(self) -> None:
        """Give the loaders and the callbacks what a checkpoint holds for them."""
        states, called = self._loader_states, self._callback_states
        if states is not None:
            if states.keys() != self._generators.keys():
                raise ValueError(
                    f"the checkpoint holds random states of {sorted(states)}, and the loaders have "
                    f"{sorted(self._generators)}; build the loaders as they were, or start over"
                )
            for name, generator in self._generators.items():
                generator.set_state(states[name])
        if called is not None:
            before, now = [name for name, _ in called], [type(c).__name__ for c in self._callbacks]
            if before != now:
                raise ValueError(
                    f"the checkpoint holds {len(before)} callbacks {before}, and fit was given "
                    f"{len(now)} {now}; give the same ones in the same order, or start over"
                )
            for callback, (_, state) in zip(self._callbacks, called, strict=True):
                callback.load_state_dict(state)
        self._loader_states = self._callback_states = None

    def _check_processes(self, asked: tuple[Any, ...], failed: Exception | None) -> None:
        """Raise what went wrong; refuse to train with processes that do not begin together."""
        if distributed.several():
            text = None if failed is None else f"{type(failed).__name__}: {failed}"
            told = distributed.gather_all((self.epoch, weights_digest(self.model), asked, text))
            # What is drawn for a batch is drawn for that of all processes.
            self.generator.set_state(distributed.gather_all(self.generator.get_state())[0])
        if failed is not None:
            raise failed
        if not distributed.several():
            return
        for number, (*_, text) in enumerate(told):
            if text is not None:
                raise RuntimeError(f"process {number} cannot begin, so that none does: {text}")
        epochs, weights, arguments, _ = zip(*told, strict=True)
        if len(set(epochs)) > 1 or len(set(weights)) > 1:
            raise RuntimeError(
                f"the processes would begin at different places: epochs {list(epochs)}, "
                f"{len(set(weights))} sets of weights; give all of them the same checkpoint file, "
                "or delete it everywhere"
            )
        if len(set(arguments)) > 1:
            raise RuntimeError(
                "the processes must call fit alike, and would wait for each other; (epochs, "
                "validates, has a checkpoint, number of callbacks) of each: "
                f"{list(arguments)}"
            )

    def _save_for_all(self, path: str | os.PathLike[str]) -> None:
        """Write one checkpoint for all processes: the first writes, with every random state."""
        state = self._state()
        if distributed.several():
            parts = distributed.gather_all(state["random"])
            state["random"] = {rank: kept for part in parts for rank, kept in part.items()}
        if distributed.rank() == 0:
            write_checkpoint(state, path)
        distributed.barrier()

    def _finish_epoch(self, train: float, valid: float | None, seconds: float) -> None:
        decisive = train if valid is None else valid
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(decisive)
        elif self.scheduler is not None and self.scheduler_step == "epoch":
            self.scheduler.step()
        seen = [row["valid_loss"] for row in self.history if not math.isnan(row["valid_loss"])]
        if valid is not None and valid < min(seen, default=math.inf):
            self.best_epoch = self.epoch + 1
            weights = unwrapped(self.model).state_dict()
            self._best_weights = {k: v.detach().cpu().clone() for k, v in weights.items()}
        self.history.append(
            {
                "epoch": self.epoch + 1,
                "train_loss": train,
                "valid_loss": float("nan") if valid is None else valid,
                "learning_rate": self.optimizer.param_groups[0]["lr"],
                "seconds": seconds,
            }
        )
        for callback in self._callbacks:
            callback.after_epoch(self)
        self.stop = any(distributed.gather_all(self.stop))


class AdversarialTrainer(Trainer):
    """Algorithm 1 for any module, device and number of inputs: a `Trainer` of its mixed loss.

    Parameters
    ----------
    model, optimizer
        As in `Trainer`. The paper: SGD, Adam or AdamW with a learning rate of 0.01, the Adam family
        with eps between 0.1 and 1.
    attack : Attack or None
        Crafts the adversarial samples, against the weights of the moment. An attack without an
        objective takes the trainer's. `WarmStart` begins where its last search on a sample ended.
        None, with fraction 0: classical training.
    fraction : float
        Share of adversarial samples in every batch, f_a in the paper.
    objective : callable
        ``(output, target) -> (N,)``; its mean is minimised. ``CrossEntropy(bins)`` is the paper's.
    valid_attack : Attack, optional
        Takes the attack's place in validation. None: the attack itself. One stronger than that of
        a single-step training sees it collapse, and `load_best` goes back to before.
    **settings
        As in `Trainer`: scheduler, scheduler_step, transform, autocast, seed.

    Notes
    -----
    Attacks craft with the model in eval mode unless they say otherwise
    (`GradientAttack.eval_mode`): dropout noise would hide the direction, and BatchNorm would tie a
    sample's perturbation to its batch.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Algorithm 1 and Eqs. 10 and 11.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import FGSM, AdversarialTrainer, CrossEntropy, RedshiftBins
    >>> model, objective = torch.nn.Linear(3, 180), CrossEntropy(RedshiftBins(0.0, 1.0, 180))
    >>> loader = [(torch.rand(8, 3), torch.rand(8))]
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    >>> trainer = AdversarialTrainer(model, optimizer, FGSM(0.01), 0.5, objective)
    >>> trainer.fit(loader, epochs=2, progress=False)[-1]["epoch"]
    2
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        attack: Attack | None,
        fraction: float,
        objective: Objective,
        *,
        valid_attack: Attack | None = None,
        **settings: Any,
    ) -> None:
        loss = MixedLoss(objective, attack, fraction)
        if valid_attack is not None and loss.fraction == 0:
            raise ValueError("fraction is 0, so that valid_attack would attack nothing; drop it")
        valid_loss = loss if valid_attack is None else MixedLoss(objective, valid_attack, fraction)
        super().__init__(model, optimizer, loss, valid_loss=valid_loss, **settings)


def _random_of(states: dict[int, dict[str, Any]], rank: int) -> dict[str, Any]:
    """Return the random states of a process; those of one that was not there are made anew."""
    if rank in states:
        return states[rank]
    first = states[min(states)]
    seed = int.from_bytes(hashlib.sha256(first["cpu"].numpy().tobytes()).digest()[:7], "big")
    fresh = torch.Generator().manual_seed(seed + rank)
    return {**first, "cpu": fresh.get_state(), "cuda": []}


def _check_optimizer(optimizer: Any, model: nn.Module) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {optimizer!r}")
    if isinstance(optimizer, LBFGS):
        raise TypeError(
            "LBFGS evaluates the loss several times per step, on a batch that an attack would "
            "change in between; take SGD, Adam or AdamW"
        )
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(id(p) in held for p in model.parameters()):
        raise ValueError(
            "the optimizer holds none of the model's parameters, so that nothing would be trained; "
            "make it from model.parameters(), after the model was moved or wrapped"
        )
    return optimizer


def _check_resumable(loader: Any) -> None:
    """Refuse a loader whose random state no checkpoint can hold."""
    if getattr(loader, "persistent_workers", False) and getattr(loader, "num_workers", 0):
        raise ValueError(
            "workers that live on from epoch to epoch keep random states that no checkpoint can "
            "hold, so that a resumed training would differ; make the DataLoader with "
            "persistent_workers=False, or fit without a checkpoint"
        )


def _start_epoch(loader: object, loss: Any, epoch: int) -> None:
    """Tell samplers which epoch begins (without it one of a DistributedSampler repeats its order).

    The loss is told too, if it wants to know.
    """
    for _, sampler in samplers(loader):
        set_epoch = getattr(sampler, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
    tell = getattr(loss, "start_epoch", None)
    if tell is not None:
        tell(epoch)


def _check_callable(loss: Any, name: str) -> Any:
    if not callable(loss) or isinstance(loss, type):
        raise TypeError(
            f"{name} must be called as {name}(model, batch, generator), such as "
            f"MixedLoss(objective, attack, fraction), got {loss!r}"
        )
    return loss


def _check_loss(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(
            f"a training loss must return the mean loss of the batch, a scalar tensor, got {came}; "
            "take .mean() of one value per sample"
        )
    return loss


def _check_callbacks(callbacks: Any) -> tuple[Callback, ...]:
    given = tuple(callbacks) if isinstance(callbacks, (list, tuple)) else (None,)
    if not all(isinstance(callback, Callback) for callback in given):
        raise TypeError(
            "callbacks must be a list of Callback, such as [EarlyStopping(10)], and one of your "
            f"own derived from it, got {callbacks!r}"
        )
    return given


def _parsed(given: Any, kind: str) -> Batch:
    batch = parse_batch(given)
    if not len(batch.x):
        raise ValueError(f"a {kind} batch holds no samples; leave empty batches out of the loader")
    return batch


def _size(batch: Any) -> int:
    return len(parse_batch(batch).x)


def _mean_loss(losses: Iterable[tuple[int, float]], name: str) -> float:
    """Return the mean loss per sample, over all processes, from (batch size, mean loss) pairs."""
    total, count = 0.0, 0
    for size, loss in losses:
        total, count = total + size * loss, count + size
    totals, counts = zip(*distributed.gather_all((total, count)), strict=True)
    if not sum(counts):
        raise ValueError(f"{name} yields no sample: an empty loader, or a generator already used")
    return float(sum(totals) / sum(counts))


def _summary(row: dict[str, float]) -> str:
    """Return a row of the history in words."""
    return (
        f"train loss {row['train_loss']:.4f}, valid loss {row['valid_loss']:.4f}, "
        f"learning rate {row['learning_rate']:.3g}, {row['seconds']:.0f} s"
    )
