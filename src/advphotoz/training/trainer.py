"""Adversarial training (Campagne 2020, Algorithm 1): a share of every batch is adversarial."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from tqdm import tqdm  # not tqdm.auto, which starts a second iterator of the loader

from advphotoz._checks import check_at_least_one, check_fraction
from advphotoz._files import replacing
from advphotoz._modes import autocasting, check_autocast, device_of, evaluating, to_device
from advphotoz.attacks.attack import Attack, bind_objective
from advphotoz.objectives import CrossEntropy, Objective
from advphotoz.training._epoch import mean_loss, start_epoch, step_scheduler, summary
from advphotoz.training._resume import loader_generator, read_checkpoint, restore, state_of
from advphotoz.training.carry import Carry, Transform
from advphotoz.training.mixing import mix_adversarial

__all__ = ["AdversarialTrainer"]

Batch = Sequence[Tensor]


class AdversarialTrainer:
    """A training loop around `mix_adversarial`, for any module, device and number of inputs.

    Parameters
    ----------
    model : torch.nn.Module
        Called as ``model(x, *context)``. Submodules set to eval while the model is in train mode
        (a frozen BatchNorm) stay so. A model wrapped in DistributedDataParallel is trained through
        the wrapper and attacked inside it.
    optimizer : torch.optim.Optimizer
        Holds the parameters to train. The paper: SGD, Adam or AdamW with a learning rate of 0.01,
        the Adam family with eps between 0.1 and 1.
    attack : Attack or None
        Crafts the adversarial samples, against the weights of the moment. An attack without an
        objective takes the trainer's. None, with fraction 0: classical training.
    fraction : float
        Share of adversarial samples in every batch, f_a in the paper.
    objective : callable, optional
        ``(output, target) -> (N,)``; its mean is minimised. None: ``CrossEntropy()``, the paper's.
    scheduler : LRScheduler, optional
        Stepped once per epoch; `ReduceLROnPlateau` is given the validation loss, or the training
        loss where there is no validation.
    transform : callable, optional
        ``(x, generator) -> x``, applied to each training batch before it is attacked, such as the
        paper's flips and rotations.
    autocast : torch.dtype, optional
        torch.bfloat16 runs the model in mixed precision, in crafting too. None: full precision.
    seed : int
        Seeds `generator`, from which transform, mixing and attack draw.
    valid_attack : Attack, optional
        Takes the attack's place in validation. None: the attack itself. One stronger than that of
        a single-step training sees it collapse, and `load_best` goes back to before.
    carry : Carry, optional
        Gives the attack each sample's last perturbation as its start; the training set must be
        `numbered`. In validation the attack starts as usual.

    Attributes
    ----------
    epoch : int
        Number of epochs done.
    history : list of dict
        One row per epoch: epoch, train_loss, valid_loss, learning_rate, seconds.
    best_epoch : int or None
        The epoch of the best weights.

    Raises
    ------
    ValueError, TypeError
        For a fraction outside [0, 1], an unknown autocast, a batch or loss that makes no sense.

    Notes
    -----
    Attacks craft with the model in eval mode unless they say otherwise (`PGD.eval_mode`): dropout
    noise would hide the direction, and BatchNorm would tie a sample's perturbation to its batch.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Algorithm 1 and Eqs. 10 and 11.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import FGSM, AdversarialTrainer
    >>> model = torch.nn.Linear(3, 180)
    >>> loader = [(torch.rand(8, 3), torch.rand(8))]
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    >>> trainer = AdversarialTrainer(model, optimizer, FGSM(0.01), fraction=0.5)
    >>> trainer.fit(loader, epochs=2, progress=False)[-1]["epoch"]
    2
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        attack: Attack | None,
        fraction: float,
        objective: Objective | None = None,
        scheduler: LRScheduler | ReduceLROnPlateau | None = None,
        transform: Transform | None = None,
        autocast: torch.dtype | None = None,
        seed: int = 0,
        valid_attack: Attack | None = None,
        carry: Carry | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.fraction = check_fraction(fraction)
        self.objective: Objective = CrossEntropy() if objective is None else objective
        if attack is None and self.fraction > 0:
            raise ValueError(f"fraction is {fraction}, but there is no attack; pass one, or 0")
        if valid_attack is not None and self.fraction == 0:
            raise ValueError("fraction is 0, so that valid_attack would attack nothing; drop it")
        self.attack = None if attack is None else bind_objective(attack, self.objective)
        valid_attack = attack if valid_attack is None else valid_attack
        self.valid_attack = None if attack is None else bind_objective(valid_attack, self.objective)
        self.carry = carry
        self._train_attack = self.attack
        if carry is not None:
            if self.attack is None:
                raise ValueError("there is no attack that could start at what is carried; pass one")
            self._train_attack = carry.attack(self.attack)
        self.scheduler = scheduler
        self.transform = transform
        self.autocast = check_autocast(autocast)
        self.generator = torch.Generator().manual_seed(seed)
        self.history: list[dict[str, float]] = []
        self.best_epoch: int | None = None
        self._best_weights: dict[str, Tensor] | None = None
        self._loader_generator: torch.Generator | None = None
        self._loader_state: Tensor | None = None

    @property
    def epoch(self) -> int:
        """Number of epochs done."""
        return len(self.history)

    def step(self, batch: Batch) -> float:
        """Do one step of Algorithm 1 on a batch ``(x, *context, target)``; return its mean loss."""
        x, context, target = to_device(batch, device_of(self.model))
        batch = (x, *context, target)
        if self.carry is not None:
            batch = self.carry.transformed(batch, self.transform, self.generator)
        elif self.transform is not None:
            batch = (self.transform(x, self.generator), *context, target)
        loss = self._loss(batch, self._train_attack, self.generator, carried=self.carry is not None)
        value = loss.item()  # the host waits, once per step, for the sake of the weights
        if not math.isfinite(value):
            raise ValueError(
                f"the training loss is {value} in epoch {self.epoch + 1}; the weights are those "
                "of the step before. Lower the learning rate, or look at the objective"
            )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimizer.step()
        return value

    def fit(
        self,
        train_loader: Iterable[Batch],
        valid_loader: Iterable[Batch] | None = None,
        epochs: int = 150,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> list[dict[str, float]]:
        """Train until `epochs` epochs are done in all, and return the history.

        Parameters
        ----------
        train_loader, valid_loader : iterable of batches
            Read once per epoch. The validation loss is that of batches mixed like the training's,
            with the same draws in every epoch; the weights where it is lowest are kept.
        epochs : int
            Total number, those done before (or before an interruption) included; 150 in the paper.
        checkpoint : path, optional
            Written after every epoch, and read at the start if it exists: an interrupted training
            goes on from its last whole epoch, to the last bit the same.
        progress : bool
            Show a progress bar.

        Raises
        ------
        ValueError
            If a loader yields no batch, the loss is not finite, or the checkpoint cannot be read.
        """
        check_at_least_one(epochs, "epochs")
        if checkpoint is not None and Path(checkpoint).exists():
            self.load(checkpoint)
        self._loader_generator = loader_generator(train_loader)
        if self._loader_state is not None and self._loader_generator is not None:
            self._loader_generator.set_state(self._loader_state)
        self._loader_state = None
        if not self.model.training:
            self.model.train()
        while self.epoch < epochs:
            start = time.perf_counter()
            start_epoch(train_loader, self.epoch)
            if self.carry is not None:
                self.carry.start_epoch(self.epoch)
            name = f"epoch {self.epoch + 1}/{epochs}"
            with tqdm(train_loader, desc=name, disable=not progress, leave=False) as bar:
                train = mean_loss(
                    ((len(batch[0]), self.step(batch)) for batch in bar), "train_loader"
                )
            valid = None if valid_loader is None else self.validate(valid_loader)
            self._finish_epoch(train, valid, time.perf_counter() - start)
            if progress:
                tqdm.write(f"{name}: {summary(self.history[-1])}")
            if checkpoint is not None:
                self.save(checkpoint)
        return self.history

    def validate(self, loader: Iterable[Batch]) -> float:
        """Return the mean loss in eval mode over batches mixed with `valid_attack`, draws fixed."""
        generator = torch.Generator().manual_seed(0)
        device = device_of(self.model)
        with evaluating(self.model), torch.no_grad():
            batches = (to_device(batch, device) for batch in loader)
            attack = self.valid_attack
            losses = [(len(x), self._loss((x, *c, z), attack, generator)) for x, c, z in batches]
            # Read when all are done: a GPU need not wait in between.
            return mean_loss(((n, loss.item()) for n, loss in losses), "valid_loader")

    def load_best(self) -> None:
        """Put the best weights into the model: those of the lowest validation loss."""
        if self._best_weights is None:
            raise ValueError("no best weights are kept: fit with a valid_loader first")
        self.model.load_state_dict(self._best_weights)

    def state_dict(self) -> dict[str, Any]:
        """Return all that a resumed training needs to give the same weights, bit for bit.

        Model, optimizer, scheduler, history, best weights, what is carried, this trainer's
        generator, that of the training loader, and torch's global random state (dropout draws from
        it, and a shuffling loader without a generator). Python's and NumPy's are not in it.
        """
        return copy.deepcopy(state_of(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a `state_dict`; this sets torch's global random state too."""
        restore(self, state)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the `state_dict` to a file, whole or not at all."""
        with replacing(path) as temporary:
            torch.save(state_of(self), temporary)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read a file that `save` wrote (with ``weights_only=True``: it cannot run code)."""
        self.load_state_dict(read_checkpoint(path, state_of(self).keys()))

    def _loss(
        self, batch: Batch, attack: Attack | None, generator: torch.Generator, carried: bool = False
    ) -> Tensor:
        with autocasting(batch[0].device, self.autocast):
            if attack is not None:
                batch = mix_adversarial(self.model, batch, attack, self.fraction, generator)
            x, *context, target = batch
            output = self.model(x, *(context[:-1] if carried else context))
        return self.objective(output.float(), target).mean()

    def _finish_epoch(self, train: float, valid: float | None, seconds: float) -> None:
        step_scheduler(self.scheduler, train if valid is None else valid)
        seen = [row["valid_loss"] for row in self.history if not math.isnan(row["valid_loss"])]
        if valid is not None and valid < min(seen, default=math.inf):
            self.best_epoch = self.epoch + 1
            weights = self.model.state_dict()
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
