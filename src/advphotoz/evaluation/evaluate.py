"""A network and attacks in, a report out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from advphotoz._checks import check_at_least_one
from advphotoz._model import check_model, unwrapped
from advphotoz.attacks import Attack, UniformNoise
from advphotoz.attacks.contract import attack_name, bind_objective, perturbations_of
from advphotoz.batch import Batch
from advphotoz.evaluation.checks import run_checks
from advphotoz.evaluation.report import Evaluation, make_row, provenance
from advphotoz.evaluation.run import CLEAN, Settings, first_samples, prepared
from advphotoz.objectives import Objective
from advphotoz.perturbations import PerturbationSet
from advphotoz.redshift import Readout

__all__ = ["evaluate"]

NOISE = "noise"


def evaluate(
    model: nn.Module,
    loader: Iterable[Any],
    attacks: Mapping[str, Attack] | Iterable[Attack],
    readout: Readout,
    *,
    objective: Objective | None = None,
    noise: PerturbationSet | float | Sequence[float] | None = None,
    autocast: torch.dtype | None = None,
    seed: int = 0,
    progress: bool = True,
    checks: bool = True,
    check_samples: int = 64,
    bootstrap: int = 200,
    keep_pdf: bool = False,
) -> Evaluation:
    r"""Measure a model on clean images, under uniform noise and under attacks.

    One pass over the data: each batch is moved to the model's device once, attacked in every way
    and shown to the model in eval mode. The model and the global random state are left as they
    were, also on an error.

    Parameters
    ----------
    model : Module
        Called as ``model(x, *context)``; what it returns is what the readout expects. For anything
        else see `advphotoz.models.Adapter`.
    loader : iterable of batches
        ``(x, *context, target)``, all of leading size N; target (N,) holds z_spec. A DataLoader
        or a list of tuples; it is read once.
    attacks : mapping of str to Attack, or sequence of Attack
        A sequence is named by the attacks themselves: ``PGD-10 0.01``. Any callable with the
        signature of `Attack` will do; what cannot be asked of it is reported as not checked.
    readout : Readout
        How the output becomes a redshift: ``RedshiftBins(0.0, 1.0, 180)`` for logits on bins,
        ``PointEstimate()`` for one redshift per image, `GaussianMixture`, `Quantiles`. Metrics of
        PDFs are n/a where there is none.
    objective : callable, optional
        ``(output, target) -> (N,)``, maximised by the attacks that have none of their own, and
        reported. None: the negative log-likelihood, or the redshift error where there is no PDF.
    noise : PerturbationSet, float or sequence of float, optional
        What the control draws from. None: the set of the first attack that states one; where none
        does there is no control.
    autocast : torch.dtype, optional
        ``torch.bfloat16`` runs attack and model in mixed precision. None: as the caller has it.
    seed : int
        A sample's random draws depend on this seed and on the sample itself (on its SHA-256), not
        on its batch, the order, or the other attacks. Only a bare callable draws for whole batches,
        and draws other numbers with another batch size.
    progress : bool
        Show a progress bar, in images times attacks.
    checks : bool
        Test on the first `check_samples` samples whether the numbers can be trusted; it costs
        twice the attacks on them, and twice the strongest one more.
    check_samples : int
        Number of samples for that.
    bootstrap : int
        Resamples for standard errors; 0 for none.
    keep_pdf : bool
        Keep every PDF of a readout on bins, for `Evaluation.to_qp` and figures: 4 bytes per bin,
        galaxy and row of the table. `Evaluation.save` writes them beside its JSON.

    Returns
    -------
    Evaluation
        Rows ``clean``, ``noise`` and one per attack.

    Raises
    ------
    ValueError
        If the loader is empty, a name is used twice, autocast is float16, the output is not what
        the readout expects, the readout has no PDFs to keep, or a batch makes no sense; the message
        says which batch or attack.
    TypeError
        If the model is no Module, a batch no tuple of tensors, or the readout none.
    RuntimeError
        If the model is being attacked or evaluated in another thread.

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
    >>> result = evaluate(model, [batch], [FGSM(0.1)], RedshiftBins(n=4), progress=False)
    >>> [row.name for row in result.rows]
    ['clean', 'noise', 'FGSM 0.1']
    >>> result["FGSM 0.1"].objective_after > result["clean"].objective_after
    True
    """
    model = unwrapped(check_model(model))
    settings = Settings.of(readout, objective, autocast, seed, progress, bootstrap)
    if keep_pdf:
        if not (hasattr(readout, "pdf") and hasattr(readout, "edges")):
            raise ValueError(
                "keep_pdf needs a readout with probabilities on bins, such as RedshiftBins, got "
                f"{readout!r}"
            )
        settings = dataclasses.replace(settings, keep_pdf=True)
    check_at_least_one(check_samples, "check_samples")
    given = named_attacks(attacks)
    control = _noise_control(given, noise)
    every = {} if control is None else {NOISE: control}
    bound = {n: bind_objective(a, settings.objective) for n, a in {**every, **given}.items()}
    kept: list[Batch] = []
    with prepared([model], settings) as run:
        done = run.one_pass(
            loader,
            {"": model},
            {name: (model, attack) for name, attack in bound.items()},
            "evaluate",
            look=first_samples(kept, check_samples) if checks else None,
        )
        noise_name = None if control is None else NOISE
        found = run_checks(run, model, kept, bound, noise_name, done) if checks else None
    z_spec = done.z_spec.values().numpy()
    tallies = {CLEAN: done.clean[""], **{name: done.attacked[name, ""] for name in bound}}
    rows = (
        make_row(
            name,
            bound.get(name),
            z_spec,
            tally,
            tallies[CLEAN],
            settings,
            () if found is None else found.flags(name),
        )
        for name, tally in tallies.items()
    )
    return Evaluation(
        rows=tuple(rows),
        z_spec=z_spec,
        z_phot={name: tally.column("z_phot").numpy() for name, tally in tallies.items()},
        pit={
            name: tally.column("pit").numpy()
            for name, tally in tallies.items()
            if "pit" in tally.columns
        },
        pdf={
            name: tally.column("pdf").numpy()
            for name, tally in tallies.items()
            if "pdf" in tally.columns
        },
        edges=readout.edges.numpy() if keep_pdf else None,  # type: ignore[attr-defined]
        checks=found,
        settings=provenance({"model": model}, bound, settings, done, check_samples=check_samples),
    )


def named_attacks(attacks: Any) -> dict[str, Attack]:
    """Return the attacks under their names; names of a sequence are made, and must differ."""
    if isinstance(attacks, Mapping):
        pairs = list(attacks.items())
    elif isinstance(attacks, Iterable):
        pairs = [(attack_name(attack), attack) for attack in attacks]
    else:
        raise TypeError(
            "attacks must be a mapping of names to attacks, or a list of attacks, got "
            f"{type(attacks).__name__}; write [attack] for a single one"
        )
    named: dict[str, Attack] = {}
    for name, attack in pairs:
        if not callable(attack) or isinstance(attack, type):
            raise TypeError(
                f"the attack {name!r} must be callable as attack(model, x, target, context, "
                f"generator), got {attack!r}"
            )
        if check_name(name, "an attack") in (CLEAN, NOISE):
            raise ValueError(
                f"the name {name!r} is taken by a control that is always run; choose another "
                "(`noise` sets what it draws from)"
            )
        if name in named:
            raise ValueError(
                f"two attacks would both be called {name!r}; give a mapping, "
                "{'my name': attack, ...}, to tell them apart"
            )
        named[name] = attack
    return named


def check_name(name: Any, what: str) -> str:
    """Refuse a name that a table could not show."""
    if not isinstance(name, str):
        raise TypeError(f"the name of {what} must be a string, got {name!r}")
    if not name.strip() or not name.isprintable():
        raise ValueError(
            f"the name of {what} must be printable text of one line, got {name!r}: it is the first "
            "cell of a row"
        )
    return name


def _noise_control(attacks: Mapping[str, Attack], noise: Any) -> UniformNoise | None:
    """Return noise from the set that was named, or that of the first attack that states one."""
    if noise is None:
        stated = (perturbations_of(attack) for attack in attacks.values())
        noise = next((found for found in stated if found is not None), None)
    return None if noise is None else UniformNoise(noise)
