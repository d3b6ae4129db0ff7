"""One model, many attacks, one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advphotoz._checks import check_at_least_one
from advphotoz.attacks import Attack
from advphotoz.attacks.attack import bind_objective
from advphotoz.evaluation._names import CLEAN, NOISE, named_attacks, noise_control
from advphotoz.evaluation._probe import probe
from advphotoz.evaluation._rows import describe, make_row
from advphotoz.evaluation._stream import Batch, Setup, stream
from advphotoz.evaluation.results import Evaluation
from advphotoz.objectives import CrossEntropy, Objective
from advphotoz.redshift import RedshiftBins

__all__ = ["evaluate"]


def evaluate(
    model: nn.Module,
    loader: Iterable[Sequence[Tensor]],
    attacks: Mapping[str, Attack] | Iterable[Attack],
    *,
    bins: RedshiftBins | None = None,
    objective: Objective | None = None,
    noise_eps: float | Sequence[float] | None = None,
    autocast: torch.dtype | None = None,
    seed: int = 0,
    progress: bool = True,
    sanity: bool = True,
    sanity_samples: int = 256,
    bootstrap: int = 200,
) -> Evaluation:
    r"""Measure a model on clean images, under uniform noise and under attacks.

    One pass over the data: each batch is moved to the model's device, attacked in every way and
    shown to the model in eval mode. The model and the global random state are left as they were,
    also on an error.

    Parameters
    ----------
    model : Module
        Called as ``model(x, *context)``; returns logits (N, bins.n).
    loader : iterable of batches
        ``(x, *context, target)``, all of leading size N; target (N,) holds z_spec. A DataLoader
        or a list of tuples; it is read once.
    attacks : mapping of str to Attack, or sequence of Attack
        A sequence is named by kind, steps and eps: ``PGD-10 0.01``. Any callable with the
        signature of `Attack` will do.
    bins : RedshiftBins, optional
        The grid of the model's output. None: ``RedshiftBins()``, the paper's.
    objective : callable, optional
        ``(output, target) -> (N,)``, maximised by the attacks that have none of their own, and
        reported. None: ``CrossEntropy(bins)``.
    noise_eps : float or sequence of float, optional
        Half-width of the noise, in the units of the image. None: the eps of the first L-infinity
        attack given, else 0.01. The noise keeps to the bounds of that attack.
    autocast : torch.dtype, optional
        ``torch.bfloat16`` runs attack and model in mixed precision. None: as the caller has it.
    seed : int
        Every attack draws from a generator of its own with this seed, on the model's device, so
        that a row does not depend on the other attacks. A random attack draws other numbers with
        another batch size.
    progress : bool
        Show a progress bar, in images times attacks.
    sanity : bool
        Test on the first `sanity_samples` samples whether the numbers can be trusted; it costs
        about four times the strongest attack on them.
    bootstrap : int
        Resamples for the standard errors of bias, sigma_MAD and eta; 0 for none.

    Returns
    -------
    Evaluation
        Rows ``clean``, ``noise`` and one per attack.

    Raises
    ------
    ValueError
        If the loader is empty, a name is used twice, autocast is float16, the model returns NaN,
        probabilities or the wrong number of bins, or a batch makes no sense; the message says
        which batch or attack.
    TypeError
        If the model is no Module, or a batch no tuple of tensors.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Sec. 3 and Tables 1 to 3.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import FGSM, RedshiftBins
    >>> from advphotoz.evaluation import evaluate
    >>> model = torch.nn.Linear(2, 4)
    >>> batch = (torch.randn(8, 2), torch.rand(8))
    >>> result = evaluate(model, [batch], [FGSM(0.1)], bins=RedshiftBins(n=4), progress=False)
    >>> [row.name for row in result.rows]
    ['clean', 'noise', 'FGSM 0.1']
    >>> result["FGSM 0.1"].objective_after > result["clean"].objective_after
    True
    """
    bins = RedshiftBins() if bins is None else bins
    setup = Setup(bins, objective or CrossEntropy(bins), autocast, seed, progress, bootstrap)
    check_at_least_one(sanity_samples, "sanity_samples")
    given = named_attacks(attacks)
    noise = noise_control(given.values(), noise_eps)
    bound = {n: bind_objective(a, setup.objective) for n, a in {NOISE: noise, **given}.items()}
    kept: list[tuple[Tensor, ...]] = []
    z_spec, by_pair = stream(
        loader,
        {name: (check_model(model), attack) for name, attack in bound.items()},
        {"": model},
        setup,
        look=keep_first(kept, sanity_samples) if sanity else None,
    )
    tallies = {name or CLEAN: tally for (name, _), tally in by_pair.items()}
    return Evaluation(
        rows=tuple(
            make_row(name, bound.get(name), z_spec, tally, tallies[CLEAN], setup)
            for name, tally in tallies.items()
        ),
        z_spec=z_spec.numpy(),
        z_phot={name: tally.z_phot.values().numpy() for name, tally in tallies.items()},
        pit={name: tally.pit.values().numpy() for name, tally in tallies.items()},
        sanity=probe(model, kept, bound, z_spec, tallies, setup) if sanity else None,
        settings=describe(model, setup, noise_eps=noise.eps, samples=len(z_spec)),
    )


def keep_first(kept: list[tuple[Tensor, ...]], samples: int) -> Callable[[Batch], None]:
    """Return a function that copies batches into `kept` until it holds that many samples."""

    def look(batch: Batch) -> None:
        x, context, target = batch
        room = samples - sum(len(rows[0]) for rows in kept)
        if room > 0:
            # Copies: a loader may reuse its memory.
            kept.append(tuple(value[:room].clone() for value in (x, *context, target)))

    return look


def check_model(model: Any) -> nn.Module:
    """Refuse what has no eval mode: dropout and BatchNorm would spoil the numbers."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; wrap a function in a "
            "Module, so that it can be put in eval mode"
        )
    return model
