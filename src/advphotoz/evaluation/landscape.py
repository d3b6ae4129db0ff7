"""The objective around a sample: along a line in the space of images, or in a plane of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advphotoz._checks import check_at_least_one, check_finite
from advphotoz._model import check_model, device_of, untouched
from advphotoz.attacks.contract import check_batch
from advphotoz.batch import Batch
from advphotoz.objectives import Objective, per_sample

__all__ = ["loss_landscape"]


def loss_landscape(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    directions: Sequence[Tensor],
    radii: Any,
    objective: Objective,
    context: Sequence[Tensor] = (),
    batch_size: int = 128,
) -> Tensor:
    r"""Return each sample's objective along one direction, or in the plane of two.

    .. math:: L_{ij} = \ell(f_\theta(x + r_i d_1 + r_j d_2), z)

    A direction is a perturbation, so that radius 1 is the perturbation itself: with
    ``x_adv - x`` of an attack as the first, :math:`L` at (1, 0) is the loss that the attack
    reached. The usual second one is random, of the same size: ``eps * torch.randn_like(x).sign()``.
    Where the gradient can be trusted, the loss rises smoothly and most along the attack; cliffs,
    or a random direction that rises more, are signs of masked gradients.

    Parameters
    ----------
    model : Module
        Called as ``model(x, *context)``, in eval mode, and left as it was.
    x, target : Tensor
        Images (N, C, ...) and their redshifts (N,).
    directions : sequence of Tensor
        One (a line) or two (a plane), each of the shape of x, in the units of the image.
    radii : sequence of float, (R,)
        Factors of the directions; the same for both.
    objective : callable
        ``(output, target) -> (N,)``, such as ``CrossEntropy(bins)``.
    context : sequence of Tensor
        The other inputs of the model, never perturbed.
    batch_size : int
        Images shown to the model at once; N times R, or N times R squared, are shown in all.

    Returns
    -------
    Tensor, (N, R) or (N, R, R)
        On the CPU. Index i of ``[n, i, j]`` belongs to the first direction, j to the second.

    Raises
    ------
    ValueError
        If directions are not one or two perturbations like x, radii are not a list of finite
        numbers, or the batch or the model's output makes no sense.
    TypeError
        If the model is no Module, or something that should be is no tensor.

    References
    ----------
    Yu et al. 2018 (arXiv:1810.00144), suggested by Campagne 2020, Sec. 4.3.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import FGSM, RedshiftBins
    >>> from advphotoz.objectives import CrossEntropy
    >>> model, objective = torch.nn.Linear(2, 4), CrossEntropy(RedshiftBins(n=4))
    >>> x, z = torch.zeros(3, 2), torch.tensor([0.1, 0.3, 0.9])
    >>> delta = FGSM(0.1, objective=objective)(model, x, z) - x
    >>> losses = loss_landscape(model, x, z, [delta], [-1, 0, 1], objective)
    >>> losses.shape
    torch.Size([3, 3])
    >>> (losses[:, 2] > losses[:, 1]).all().item()
    True
    """
    device = device_of(check_model(model))
    check_batch(x, target, context)
    check_at_least_one(batch_size, "batch_size")
    if not callable(objective):
        raise TypeError(
            "objective must be callable as objective(output, target), one value per sample, such "
            f"as CrossEntropy(bins), got {objective!r}"
        )
    x = x.detach()
    if not len(x):
        raise ValueError("x holds no images: there is nothing to show to the model")
    ways = _checked(directions, x)
    steps = torch.as_tensor(radii, dtype=x.dtype, device=x.device)
    if steps.ndim != 1 or not len(steps) or not bool(torch.isfinite(steps).all()):
        raise ValueError(f"radii must be a list of finite numbers, got {radii!r}")
    shape = (len(x), *[len(steps)] * len(ways))
    total = math.prod(shape)
    losses = []
    # Points of all samples are shown together: a plane around one galaxy fills its batches too.
    with torch.inference_mode(False), torch.no_grad(), untouched(model, device):
        for start in range(0, total, batch_size):
            points = torch.arange(start, min(start + batch_size, total), device=x.device)
            sample, *indices = torch.unravel_index(points, shape)
            moved = x[sample]
            for way, index in zip(ways, indices, strict=True):
                moved = moved + steps[index].view(-1, *[1] * (x.ndim - 1)) * way[sample]
            rows = Batch(moved, tuple(value[sample] for value in context), target[sample])
            images, others, z, _ = rows.to(device)
            losses.append(per_sample(objective, model(images, *others), z).float().cpu())
    return torch.cat(losses).view(shape)


def _checked(directions: Any, x: Tensor) -> list[Tensor]:
    if isinstance(directions, Tensor) or len(directions) not in (1, 2):
        came = "a tensor" if isinstance(directions, Tensor) else f"{len(directions)} of them"
        raise ValueError(
            f"directions must be a list of one tensor (a line) or two (a plane), got {came}"
        )
    for k, way in enumerate(directions):
        if not isinstance(way, Tensor) or way.shape != x.shape or way.device != x.device:
            came = f"{tuple(way.shape)} on {way.device}" if isinstance(way, Tensor) else repr(way)
            raise ValueError(
                f"directions[{k}] must be a perturbation of x, of shape {tuple(x.shape)} on "
                f"{x.device}, got {came}"
            )
        check_finite(way, f"directions[{k}]")
    return [way.detach().to(x.dtype) for way in directions]
