"""TRADES (Zhang et al. 2019): the clean loss, and how far an attack can move the PDF."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from advphotoz._model import untouched, unwrapped
from advphotoz.attacks.contract import Attack, attack_name, bind_objective
from advphotoz.batch import Batch
from advphotoz.objectives import Objective, per_sample
from advphotoz.redshift import RedshiftBins
from advphotoz.training.mixing import crafted

__all__ = ["TRADES"]


class TRADES:
    r"""The clean loss, plus beta times the divergence of the attacked PDF from the clean one.

    .. math::
        L = \frac{1}{N} \sum_i \left[ \ell(f_\theta(x_i), z_i) + \beta \max_{\delta_i}
        \mathrm{KL}\left(p_\theta(\cdot | x_i)\, \|\, p_\theta(\cdot | x_i + \delta_i)\right)
        \right]

    The first term asks for precision, the second that a perturbation does not move the answer,
    right or wrong; beta weighs them. The attack maximises the second, against the PDF of the image
    itself. There the divergence is zero, its minimum, and so is its gradient: the attack must start
    at random.

    The loss of a batch is one pass over the clean and the attacked images together, so that
    BatchNorm in train mode sees both (the authors make two passes).

    Parameters
    ----------
    objective : callable
        ``(output, target) -> (N,)``, the clean loss.
    bins : RedshiftBins
        The grid that the logits of the network stand for. A network with one redshift per sample
        has no PDF to compare, and mixtures have no divergence in closed form: train those by
        `MixedLoss`.
    attack : Attack
        The search, such as ``PGD(0.01, random_start=True)``, without an objective: it is given the
        divergence. The PDF of the clean image is taken in the mode in which it crafts.
    beta : float
        Weight of the divergence; 6 in the authors' experiments on CIFAR-10.

    Raises
    ------
    ValueError
        For an attack that does not start at random or has an objective, or a beta that is negative
        or not finite.
    TypeError
        For bins that are none, or an attack that takes no objective.

    References
    ----------
    Zhang et al. 2019 (arXiv:1901.08573).

    Examples
    --------
    >>> import torch
    >>> from advphotoz import PGD, CrossEntropy, RedshiftBins
    >>> from advphotoz.training import TRADES, Trainer
    >>> bins, model = RedshiftBins(0.0, 1.0, 180), torch.nn.Linear(3, 180)
    >>> loss = TRADES(CrossEntropy(bins), bins, PGD(0.01, steps=3, random_start=True))
    >>> trainer = Trainer(model, torch.optim.SGD(model.parameters(), lr=0.01), loss)
    >>> loader = [(torch.rand(8, 3), torch.rand(8))]
    >>> trainer.fit(loader, epochs=2, progress=False)[-1]["epoch"]
    2
    """

    def __init__(
        self, objective: Objective, bins: RedshiftBins, attack: Attack, beta: float = 6.0
    ) -> None:
        if not callable(objective) or isinstance(objective, type):
            raise TypeError(
                "objective must be a callable (output, target) -> (N,), such as "
                f"CrossEntropy(RedshiftBins(0, 1, 180)), got {objective!r}"
            )
        if not isinstance(bins, RedshiftBins):
            raise TypeError(
                f"TRADES compares PDFs on bins and needs the network's RedshiftBins, got {bins!r}; "
                "a network with another output is trained by MixedLoss"
            )
        self.beta = float(beta)
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"beta must be finite and not negative, got {beta!r}")
        self.objective, self.bins = objective, bins
        # A copy: one that changes from epoch to epoch changes for this training alone.
        self.attack = copy.copy(_check_attack(attack))

    def __call__(
        self, model: Callable[..., Any], batch: Batch, generator: torch.Generator
    ) -> Tensor:
        """Return the mean loss of the batch."""
        inner, n = unwrapped(model), len(batch.x)
        eval_mode = getattr(self.attack, "eval_mode", True)
        with torch.no_grad(), untouched(inner, batch.x.device, eval_mode):
            # Copies, since a network may write into its inputs.
            clean = self._log_pdf(inner(batch.x.clone(), *(c.clone() for c in batch.context)))

        def moved(output: Any, target: Tensor) -> Tensor:
            return divergence(clean, self._log_pdf(output))

        attacked = crafted(model, batch, bind_objective(self.attack, moved), generator)
        # One pass: a model wrapped for many processes allows one per step.
        inputs = zip((batch.x, *batch.context), (attacked.x, *attacked.context), strict=True)
        logits = self.bins.logits(model(*(torch.cat(pair) for pair in inputs)))
        loss = per_sample(self.objective, logits[:n], batch.target)
        log_pdf = logits.log_softmax(dim=-1)
        return (loss + self.beta * divergence(log_pdf[:n], log_pdf[n:])).mean()

    def start_epoch(self, epoch: int) -> None:
        """Tell an attack that changes from epoch to epoch."""
        tell = getattr(self.attack, "start_epoch", None)
        if tell is not None:
            tell(epoch)

    def finish_epoch(self) -> None:
        """Tell it that the epoch is over."""
        tell = getattr(self.attack, "finish_epoch", None)
        if tell is not None:
            tell()

    def _log_pdf(self, output: Any) -> Tensor:
        return self.bins.logits(output).log_softmax(dim=-1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Return :math:`\mathrm{KL}(p \| q) = \sum_k p_k \log (p_k / q_k)` of each row, (N,)."""
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def _check_attack(attack: Any) -> Attack:
    name = attack_name(attack)
    if isinstance(attack, type) or not callable(attack) or not hasattr(attack, "objective"):
        raise TypeError(
            "TRADES gives its attack the divergence to maximise, and needs one that takes an "
            f"objective, such as PGD(0.01, random_start=True), got {attack!r}"
        )
    if attack.objective is not None:
        raise ValueError(
            f"TRADES gives its attack the divergence to maximise, and {name} has an objective "
            "already; leave it out"
        )
    if getattr(attack, "takes_index", False):
        raise ValueError(
            f"TRADES keeps nothing from epoch to epoch, so that {name} would never begin where it "
            "ended; give it the attack inside, with random_start=True"
        )
    if not getattr(attack, "random_start", True):
        raise ValueError(
            f"{name} starts at the image itself, where the divergence is at its minimum and has no "
            "gradient, so that it would find nothing; write random_start=True"
        )
    checked: Attack = attack
    return checked
