"""Training losses: what one batch costs. Algorithm 1's is here; another is one more class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from advphotoz._checks import check_fraction
from advphotoz.attacks.contract import Attack, bind_objective
from advphotoz.batch import Batch
from advphotoz.objectives import Objective, per_sample
from advphotoz.training.mixing import mixed

__all__ = ["MixedLoss", "TrainingLoss"]


class TrainingLoss(Protocol):
    """What a trainer minimises: one method.

    A loss that keeps something from batch to batch may also have ``start_epoch(epoch)``,
    ``finish_epoch()``, ``state_dict()`` and ``load_state_dict(state)``, which the trainer then
    calls; of processes that train together the first one's state is saved. One with a true
    ``needs_index`` is given no training batch without `Batch.index`.
    """

    def __call__(
        self, model: Callable[..., Any], batch: Batch, generator: torch.Generator
    ) -> Tensor:
        """Return the mean loss of a batch, a scalar whose gradient trains the model.

        Parameters
        ----------
        model : callable
            Called as ``model(x, *context)``, in the mode that the trainer has set.
        batch : Batch
            On the device of the model.
        generator : torch.Generator
            Where all random numbers come from.
        """
        ...


class MixedLoss:
    r"""The loss of Algorithm 1: a share of the batch is adversarial, the rest is clean.

    .. math:: L = \frac{1}{N} \sum_i \ell(f_\theta(x_i + \delta_i^*), z_i)

    with :math:`\delta_i^* = 0` for the rows that are not attacked; see `mix_adversarial`.

    Parameters
    ----------
    objective : callable
        ``(output, target) -> (N,)``.
    attack : Attack or None
        Crafts the adversarial rows; one without an objective takes this one. None, with fraction
        0: classical training.
    fraction : float
        Share of adversarial samples.

    Raises
    ------
    ValueError
        For a fraction outside [0, 1], or above 0 without an attack.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Algorithm 1 and Eqs. 10 and 11.
    """

    def __init__(self, objective: Objective, attack: Attack | None, fraction: float) -> None:
        if not callable(objective) or isinstance(objective, type):
            raise TypeError(
                "objective must be a callable (output, target) -> (N,), such as "
                f"CrossEntropy(RedshiftBins(0, 1, 180)), got {objective!r}"
            )
        self.objective = objective
        self.fraction = check_fraction(fraction)
        if attack is None and self.fraction > 0:
            raise ValueError(f"fraction is {fraction}, but there is no attack; pass one, or 0")
        self.attack = None if attack is None else bind_objective(attack, objective)
        self.needs_index = bool(getattr(attack, "takes_index", False)) and self.fraction > 0

    def __call__(
        self, model: Callable[..., Any], batch: Batch, generator: torch.Generator
    ) -> Tensor:
        """Return the mean loss of the mixed batch."""
        if self.attack is not None:
            batch = mixed(model, batch, self.attack, self.fraction, generator)
        output = model(batch.x, *batch.context)
        return per_sample(self.objective, output, batch.target).mean()

    def start_epoch(self, epoch: int) -> None:
        """Tell an attack that keeps something from epoch to epoch."""
        tell = getattr(self.attack, "start_epoch", None)
        if tell is not None:
            tell(epoch)

    def finish_epoch(self) -> None:
        """Tell it that the epoch is over."""
        tell = getattr(self.attack, "finish_epoch", None)
        if tell is not None:
            tell()

    def state_dict(self) -> dict[str, Any]:
        """Return what such an attack keeps; empty for any other."""
        ask = getattr(self.attack, "state_dict", None)
        return {} if ask is None else {"attack": ask()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give it back."""
        tell = getattr(self.attack, "load_state_dict", None)
        if (tell is None) != ("attack" not in state):
            raise ValueError(
                "the checkpoint and the attack do not fit: one keeps something from epoch to epoch "
                "(WarmStart), the other does not"
            )
        if tell is not None:
            tell(state["attack"])
