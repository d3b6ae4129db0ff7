"""Mixing adversarial samples into a batch: the heart of Algorithm 1, for anyone's own loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from advphotoz import distributed
from advphotoz._checks import check_fraction
from advphotoz._model import unwrapped
from advphotoz._random import Generator, SampleGenerators
from advphotoz.attacks.contract import Attack, attack_name, check_result, perturbations_of
from advphotoz.batch import Batch, parse_batch

__all__ = ["check_indexed", "crafted", "mix_adversarial", "mixed"]


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
        ``(x, *context, target)``, each of leading size N. Only x changes, and an input that the
        attack's set names.
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
        If the fraction is outside [0, 1], for an attack without an objective, or for a batch that
        it refuses.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Algorithm 1; Kurakin et al. 2016 (arXiv:1611.01236).
    See :ref:`theory-training`.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import FGSM, CrossEntropy, RedshiftBins, mix_adversarial
    >>> model, objective = torch.nn.Linear(3, 180), CrossEntropy(RedshiftBins(0.0, 1.0, 180))
    >>> batch = (torch.zeros(10, 3), torch.full((10,), 0.5))
    >>> x, z = mix_adversarial(model, batch, FGSM(0.01, objective=objective), fraction=0.2)
    >>> int((x != 0).any(dim=1).sum())
    2
    """
    parsed = parse_batch(batch)
    if getattr(attack, "takes_index", False):
        check_indexed(parsed)
    x, context, target, _ = mixed(model, parsed, attack, fraction, generator)
    return (x, *context, target)


def check_indexed(batch: Batch) -> None:
    """Refuse a training batch that does not say which samples it holds."""
    if batch.index is None:
        raise TypeError(
            "an attack that begins where its last search on a sample ended must know the samples, "
            "and the batch does not say which they are; wrap the training set: "
            "DataLoader(IndexedDataset(data), ...)"
        )


def mixed(
    model: Callable[..., Any],
    batch: Batch,
    attack: Attack,
    fraction: float,
    generator: torch.Generator | None,
) -> Batch:
    """Do the work of `mix_adversarial` on a `Batch`."""
    fraction = check_fraction(fraction)
    x = batch.x
    first, total = distributed.part_of_batch(len(x))
    count = round(fraction * total)
    if not count:
        return batch
    device = x.device if generator is None else generator.device
    rows = torch.randperm(total, generator=generator, device=device)[:count]
    draws: Generator = generator
    if total != len(x):  # rows of the batch of all processes: some of them are here
        rows = rows[(rows >= first) & (rows < first + len(x))] - first
        if not len(rows):
            return batch
        draws = _generators(attack, rows + first, total, generator)
    rows = rows.to(x.device)
    new = crafted(model, batch.rows(rows), attack, draws)
    context = batch.context
    if _changes_context(attack):
        context = tuple(_replaced(c, rows, n) for c, n in zip(context, new.context, strict=True))
    return batch._replace(x=_replaced(x.detach(), rows, new.x), context=context)


def crafted(model: Callable[..., Any], batch: Batch, attack: Attack, generator: Generator) -> Batch:
    """Attack every sample of a batch, against the model as it is."""
    # An attack that remembers samples is told which they are.
    told: dict[str, Any] = {"index": batch.index} if getattr(attack, "takes_index", False) else {}
    inner = unwrapped(model)  # no attack can differentiate through a wrapper for many processes
    x, context, target, _ = batch
    if _changes_context(attack):
        find: Any = attack.find  # type: ignore[attr-defined]  # a set that does so has it
        found = find(inner, x, target, context, generator, **told)
        x_adv, context = found.x, found.context
    else:
        call: Any = attack  # one with `find` draws from a generator per sample too
        x_adv = call(inner, x, target, context, generator, **told)
    x_adv = check_result(x_adv, x, attack_name(attack))
    return batch._replace(x=x_adv, context=context)


def _changes_context(attack: Attack) -> bool:
    changes = perturbations_of(attack)
    return changes is not None and changes.changes_context


def _generators(
    attack: Attack, rows: Tensor, total: int, generator: torch.Generator | None
) -> Generator:
    """Return what the attack draws from for some rows of a batch that several processes share.

    The generator itself is the same in all processes and must stay so; what an attack takes from it
    depends on how many rows it has here. So each sample has a generator of its own, by its place in
    the batch, for an attack that can use one, and each process one for any other attack.
    """
    apart = torch.Generator()
    if generator is None:
        apart.seed()
    else:
        apart.set_state(generator.get_state().cpu())
    seeds = torch.randint(2**62, (total,), generator=apart)[rows.cpu()].tolist()
    if hasattr(attack, "find"):
        return SampleGenerators(seeds)
    return torch.Generator().manual_seed(seeds[0])


def _replaced(values: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    changed = values.clone()
    changed[rows] = new
    return changed
