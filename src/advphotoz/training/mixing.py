"""Mixing adversarial samples into a batch: the heart of Algorithm 1, for anyone's own loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from advphotoz._checks import check_fraction
from advphotoz.attacks.attack import Attack

__all__ = ["mix_adversarial"]


def mix_adversarial(
    model: Callable[..., Any],
    batch: Sequence[Tensor],
    attack: Attack,
    fraction: float,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, ...]:
    r"""Replace a share of a batch by adversarial samples: the heart of Algorithm 1.

    Of N samples, round(fraction N) are drawn at random and attacked against the model as it is;
    the rest stays. A gradient step on the result estimates

    .. math:: \nabla_\theta\, \frac{1}{N} \sum_i \ell(f_\theta(x_i + \delta_i^*), z_i)

    with :math:`\delta_i^*` held fixed (Danskin's theorem, Eq. 11) and zero for the unchanged rows.

    Parameters
    ----------
    model : callable
        Called as ``model(x, *context)``; left as it was.
    batch : sequence of Tensor
        ``(x, *context, target)``, each of leading size N. Only x changes.
    attack : Attack
        Crafts the chosen rows, with its own objective.
    fraction : float
        Share of adversarial samples, in [0, 1]. 1 is the training of Madry et al. 2018; mixing
        clean and adversarial samples is that of Kurakin et al. 2016, which the paper follows.
    generator : torch.Generator, optional
        Draws the rows and the attack's random numbers. None: torch's global one.

    Returns
    -------
    tuple of Tensor
        The batch with a new x. The given tensors are not modified.

    Raises
    ------
    ValueError, TypeError
        If the fraction is outside [0, 1], or for a batch that the attack refuses.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Algorithm 1; Kurakin et al. 2016 (arXiv:1611.01236).

    Examples
    --------
    >>> import torch
    >>> from advphotoz import FGSM, mix_adversarial
    >>> model = torch.nn.Linear(3, 180)
    >>> batch = (torch.zeros(10, 3), torch.full((10,), 0.5))
    >>> x, z = mix_adversarial(model, batch, FGSM(0.01), fraction=0.2)
    >>> int((x != 0).any(dim=1).sum())
    2
    """
    fraction = check_fraction(fraction)
    x, *context, target = batch
    count = round(fraction * len(x))
    if not count:
        return tuple(batch)
    device = x.device if generator is None else generator.device
    rows = torch.randperm(len(x), generator=generator, device=device)[:count].to(x.device)
    chosen = tuple(value[rows] for value in context)
    x_adv = attack(model, x[rows], target[rows], context=chosen, generator=generator)
    mixed = x.detach().clone()
    mixed[rows] = x_adv
    return (mixed, *context, target)
