"""Gradient alignment: the sign that a single-step training has collapsed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from advphotoz import distributed
from advphotoz._checks import check_fraction
from advphotoz._model import device_of, unwrapped
from advphotoz._random import Generator
from advphotoz.attacks.contract import check_batch, check_generator
from advphotoz.attacks.gradient import as_set
from advphotoz.attacks.problem import opened
from advphotoz.batch import parse_batch
from advphotoz.objectives import Objective
from advphotoz.perturbations import PerturbationSet
from advphotoz.training.callbacks import Callback, Training

__all__ = ["CollapseWarning", "GradientAlignment", "gradient_alignment"]

KEY = "gradient_alignment"


class CollapseWarning(UserWarning):
    """The gradients within the set have lost their common direction.

    A single-step attack then goes astray, and a training with it no longer defends from anything
    but this one step.
    """


def gradient_alignment(
    model: Callable[..., Any],
    x: Tensor,
    target: Tensor,
    context: Sequence[Tensor],
    perturbations: PerturbationSet | float,
    objective: Objective,
    generator: Generator = None,
) -> Tensor:
    r"""Cosine between the gradients at an image and at a random point of its set.

    .. math:: \cos\left(\nabla_x\, \ell(f_\theta(x), z),\ \nabla_x\, \ell(f_\theta(x + \eta), z)
        \right), \qquad \eta \sim U[-\varepsilon, \varepsilon]

    1 for a model that is linear within the set, about 0 where one step says nothing about what
    the next would find.

    Parameters
    ----------
    model : callable
        Called as ``model(x, *context)``, in eval mode; left as it was.
    x, target, context
        A batch: (N, C, ...), (N,), and the other inputs.
    perturbations : PerturbationSet or float
        Where the random point lies; a number means ``LinfBall`` of that radius. The gradients are
        those with respect to the parameters of the set, which are the pixels for a ball.
    objective : callable
        ``(output, target) -> (N,)``.
    generator : Generator, optional
        Draws the point.

    Returns
    -------
    Tensor, (N,)
        float32; 0 where one of the two gradients is zero.

    References
    ----------
    Andriushchenko & Flammarion 2020 (arXiv:2007.02617).

    Examples
    --------
    >>> import torch
    >>> first = lambda output, target: output[:, 0]
    >>> x, z = torch.zeros(1, 2), torch.zeros(1)
    >>> gradient_alignment(torch.nn.Linear(2, 1), x, z, (), 0.1, first)
    tensor([1.])
    """
    within = as_set(perturbations, "gradient_alignment")
    check_generator(generator)
    with opened(model, x, target, context, within, objective) as problem:
        points = within.identity(problem.x), within.sample(problem.x, generator)
        here, there = (_direction(problem.value_and_gradient(p)[1]) for p in points)
        return (here * there).sum(1).clamp(-1, 1)


class GradientAlignment(Callback):
    r"""Watch the alignment of gradients on one batch, and warn when a training collapses.

    A single-step training can collapse within an epoch ("catastrophic overfitting"): the network
    bends its loss within the ball so that the one step leads astray. Losses under that step do not
    show it; the alignment, `gradient_alignment`, falls towards zero. After every epoch its mean
    over the batch is written into the trainer's history, as ``gradient_alignment``, and a
    `CollapseWarning` given when it has fallen below a threshold.

    The points are drawn alike in every epoch, so that a resumed training is the same to the last
    bit; it costs two gradients of the batch.

    Parameters
    ----------
    batch : sequence of Tensor
        ``(x, *context, target)``, a fixed one, such as ``next(iter(valid_loader))``. Of processes
        that train together each may have its own; the mean is that over all.
    objective : callable
        ``(output, target) -> (N,)``, that of the training.
    perturbations : PerturbationSet or float
        The set of the attack; a number means ``LinfBall`` of that radius.
    warn_below : float
        The threshold, in [0, 1]; our choice. Look at the history of a training that went well.

    References
    ----------
    Andriushchenko & Flammarion 2020 (arXiv:2007.02617).

    Examples
    --------
    >>> import torch
    >>> from advphotoz import FGSM, AdversarialTrainer, CrossEntropy, RedshiftBins
    >>> from advphotoz.training import GradientAlignment
    >>> model, objective = torch.nn.Linear(3, 180), CrossEntropy(RedshiftBins(0.0, 1.0, 180))
    >>> loader = [(torch.rand(8, 3), torch.rand(8))]
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    >>> trainer = AdversarialTrainer(model, optimizer, FGSM(0.01), 0.5, objective)
    >>> watch = GradientAlignment(loader[0], objective, 0.01)
    >>> history = trainer.fit(loader, epochs=2, callbacks=[watch], progress=False)
    >>> history[-1]["gradient_alignment"] > 0.99
    True
    """

    def __init__(
        self,
        batch: Sequence[Tensor],
        objective: Objective,
        perturbations: PerturbationSet | float,
        warn_below: float = 0.2,
    ) -> None:
        self.batch = parse_batch(batch)
        check_batch(self.batch.x, self.batch.target, self.batch.context)
        self.objective = objective
        self.perturbations = as_set(perturbations, "GradientAlignment")
        self.warn_below = check_fraction(warn_below, "warn_below")

    @override
    def after_epoch(self, trainer: Training) -> None:
        model = unwrapped(trainer.model)
        x, context, target, _ = self.batch.to(device_of(trainer.model))
        seed = torch.Generator().manual_seed(0)
        cosines = gradient_alignment(
            model, x, target, context, self.perturbations, self.objective, seed
        )
        parts = distributed.gather_all((float(cosines.sum()), len(cosines)))
        totals, counts = zip(*parts, strict=True)
        value = float(sum(totals) / sum(counts))
        before = [row[KEY] for row in trainer.history if KEY in row]
        trainer.history[-1][KEY] = value
        # Once for every fall.
        if value < self.warn_below <= (before[-1] if before else math.inf):
            warnings.warn(
                f"the gradients within {self.perturbations!r} have an alignment of {value:.2f} in "
                f"epoch {len(trainer.history)} (below {self.warn_below:g}): one step no longer "
                "tells where the objective rises. If the training attacks by a single step, it "
                "has collapsed, and attacks of many steps will find what it does not; validate "
                "under PGD, and go back with load_best(), or take NoiseFGSM, more steps, or a "
                "smaller learning rate",
                CollapseWarning,
                stacklevel=2,
            )


def _direction(gradient: Tensor) -> Tensor:
    """Return unit vectors (N, pixels) in float32; zero where the gradient is."""
    flat = gradient.flatten(1).float()
    # The largest entry first: the squares of a tiny gradient would underflow.
    largest = flat.abs().amax(1, keepdim=True)
    flat = flat / torch.where(largest > 0, largest, 1.0)
    norm = flat.norm(dim=1, keepdim=True)
    return flat / torch.where(norm > 0, norm, 1.0)
