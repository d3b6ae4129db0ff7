"""The measurements behind the sanity section."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from advphotoz._modes import autocasting, device_of
from advphotoz.attacks import FGSM, PGD, Attack, ZeroGradientWarning
from advphotoz.attacks.problem import posed
from advphotoz.evaluation._names import CLEAN, NOISE
from advphotoz.evaluation._searches import deeper, is_search, is_targeted, larger, linf_eps
from advphotoz.evaluation._stream import Setup, Tally, on_device, stream
from advphotoz.evaluation.sanity import Check, Sanity

__all__ = ["probe"]

OUTLIER = 0.05  # the paper's eta
HARMLESS = 0.1  # share of the attack's effect that noise may have
ZERO = 0.01  # share of zero gradients that may pass
RISING = 0.9  # share of samples whose objective an attack should raise
NO_ATTACK = "no FGSM or PGD with a positive eps among the attacks."


def probe(
    model: nn.Module,
    kept: Sequence[tuple[Tensor, ...]],
    attacks: Mapping[str, Attack],
    z_spec: Tensor,
    tallies: Mapping[str, Tally],
    setup: Setup,
) -> Sanity:
    """Run every check; `tallies` are those of the whole data, `kept` its first samples."""
    searches = {name: attack for name, attack in attacks.items() if is_search(attack)}
    strongest = max(searches, key=lambda name: tallies[name].value.mean(), default=None)
    iterative = [name for name, attack in searches.items() if deeper(attack) != attack]
    deepest = max(iterative, key=lambda name: tallies[name].value.mean(), default=None)
    outliers = {name: _outliers(tally, z_spec) for name, tally in tallies.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroGradientWarning)  # said once already, by the attack
        checks = [
            _more_steps(model, kept, searches, deepest, tallies, setup),
            _larger_eps(model, kept, searches, strongest, tallies, setup),
            _single_step(searches, tallies),
            _rising(strongest, tallies),
            _harmless_noise(outliers, strongest),
            _beats_noise(attacks, searches, tallies),
            _gradients(model, kept, searches, strongest, outliers, setup),
        ]
    return Sanity(tuple(checks), sum(len(rows[0]) for rows in kept))


def _more_steps(
    model: nn.Module,
    kept: Sequence[tuple[Tensor, ...]],
    searches: Mapping[str, Any],
    name: str | None,
    tallies: Mapping[str, Tally],
    setup: Setup,
) -> Check:
    title = "more steps"
    if name is None:
        return Check(title, None, "no PGD with a positive eps among the attacks.")
    rise = _rerun(model, kept, deeper(searches[name]), tallies[name], setup, title)
    return Check(title, *_not_weaker(f"{name} with twice the steps", *rise))


def _larger_eps(
    model: nn.Module,
    kept: Sequence[tuple[Tensor, ...]],
    searches: Mapping[str, Any],
    name: str | None,
    tallies: Mapping[str, Tally],
    setup: Setup,
) -> Check:
    title = "larger eps"
    if name is None:
        return Check(title, None, NO_ATTACK)
    more = larger(searches[name])
    if more == searches[name]:
        return Check(title, None, f"{name} has a ball of its own kind.")
    rise = _rerun(model, kept, more, tallies[name], setup, title)
    return Check(title, *_not_weaker(f"{name} with twice the eps", *rise))


def _single_step(searches: Mapping[str, Any], tallies: Mapping[str, Tally]) -> Check:
    title = "many steps beat one"
    for one, fgsm in searches.items():
        for many, pgd in searches.items():
            if not isinstance(fgsm, FGSM) or not isinstance(pgd, PGD):
                continue
            if linf_eps(pgd) != fgsm.eps or any(
                getattr(fgsm, key) != getattr(pgd, key)
                for key in ("targeted", "bounds", "objective")
            ):
                continue
            rise = _paired(tallies[many].own.values(), tallies[one].own.values())
            return Check(title, *_not_weaker(f"{many} instead of {one}", *rise))
    return Check(title, None, "no FGSM and L-infinity PGD of the same eps among the attacks.")


def _rising(name: str | None, tallies: Mapping[str, Tally]) -> Check:
    title = "objective rises"
    if name is None:
        return Check(title, None, NO_ATTACK)
    before, after = tallies[name].own_before.values(), tallies[name].own.values()
    share = float((after > before).double().mean())
    return Check(
        title,
        share >= RISING,
        f"{name} raises the objective of {100 * share:.1f} % of the samples, its mean from "
        f"{float(before.double().mean()):.3g} to {float(after.double().mean()):.3g} "
        f"(at least {100 * RISING:.0f} % expected).",
    )


def _harmless_noise(outliers: Mapping[str, Tensor], strongest: str | None) -> Check:
    clean = outliers[CLEAN]
    rise, error, _ = _paired(outliers[NOISE], clean)
    gain = 0.0 if strongest is None else float((outliers[strongest] - clean).mean())
    limit = max(2 * error, HARMLESS * gain)
    attack = "" if strongest is None else f" (with {strongest} by {100 * gain:+.1f})"
    return Check(
        "noise is harmless",
        None if len(clean) < 2 else rise <= limit,
        f"eta changes by {100 * rise:+.1f} ± {100 * error:.1f} percentage points under noise"
        f"{attack}; at most {100 * limit:.1f} expected, the larger of two standard errors and "
        f"{100 * HARMLESS:.0f} % of the attack's effect.",
    )


def _beats_noise(
    attacks: Mapping[str, Attack], searches: Mapping[str, Any], tallies: Mapping[str, Tally]
) -> Check:
    title = "attack beats noise"
    noise: Any = attacks[NOISE]
    same = [n for n, a in searches.items() if linf_eps(a) == noise.eps and not is_targeted(a)]
    name = max(same, key=lambda name: tallies[name].value.mean(), default=None)
    if name is None:
        return Check(title, None, "no L-infinity attack with the eps of the noise.")
    rise, error, _ = _paired(tallies[name].value.values(), tallies[NOISE].value.values())
    return Check(
        title,
        None if math.isnan(error) else rise > 2 * error,
        f"the mean objective under {name} is {rise:.3g} ± {error:.2g} above that under noise of "
        "the same eps; more than two standard errors expected.",
    )


def _gradients(
    model: nn.Module,
    kept: Sequence[tuple[Tensor, ...]],
    searches: Mapping[str, Any],
    name: str | None,
    outliers: Mapping[str, Tensor],
    setup: Setup,
) -> Check:
    objective = (searches[name].objective if name else None) or setup.objective
    device = device_of(model)
    zero = []
    for batch in kept:
        x, context, target = on_device(device, (batch[0], batch[1:-1], batch[-1]))
        with (
            autocasting(device, setup.autocast),
            posed(
                model,
                x,
                target,
                context,
                objective=objective,
                targeted=False,
                bounds=None,
                eval_mode=True,
            ) as problem,
        ):
            zero.append((problem.gradient(problem.x) == 0).flatten(1).all(1).cpu())
    flat = torch.cat(zero)
    share = float(flat.double().mean())
    sentence = f"{int(flat.sum())} of {len(flat)} samples ({100 * share:.1f} %) have a gradient "
    sentence += "that is exactly zero, so that no gradient attack can start from them"
    if name and bool(flat.any()):
        misled = int(outliers[name][: len(flat)][flat].sum())
        sentence += f"; {misled} of these are outliers under {name}"
    return Check(
        "gradients do not vanish", share <= ZERO, f"{sentence} (at most {100 * ZERO:.0f} %)."
    )


def _rerun(
    model: nn.Module,
    kept: Sequence[tuple[Tensor, ...]],
    attack: Attack,
    base: Tally,
    setup: Setup,
    title: str,
) -> tuple[float, float, float]:
    """Return by how much a variant of an attack beats it on the kept samples; see `_paired`."""
    titled = dataclasses.replace(setup, title=f"check: {title}")
    _, tallies = stream(kept, {title: (model, attack)}, {"": model}, titled)
    after = tallies[title, ""].own.values()
    return _paired(after, base.own.values()[: len(after)])


def _paired(after: Tensor, before: Tensor) -> tuple[float, float, float]:
    """Return the mean of after - before, its standard error, and the mean of before."""
    start = before.double()
    change = after.double() - start
    error = float(change.std() / len(change) ** 0.5) if len(change) > 1 else float("nan")
    return float(change.mean()), error, float(start.mean())


def _not_weaker(what: str, rise: float, error: float, start: float) -> tuple[bool | None, str]:
    """Judge a change that should not lower the mean objective.

    The tolerance is two standard errors of the paired difference, which a change of nothing
    exceeds once in forty times, plus the rounding of float32.
    """
    tolerance = 2 * error + 1e-5 * abs(start)
    passed = None if math.isnan(error) else rise >= -tolerance
    return passed, (
        f"{what} changes the mean objective by {rise:+.3g} ± {error:.2g} from {start:.3g}; it may "
        f"not fall by more than {tolerance:.2g}, two standard errors."
    )


def _outliers(tally: Tally, z_spec: Tensor) -> Tensor:
    z_phot, truth = tally.z_phot.values().double(), z_spec.double()
    return (((z_phot - truth) / (1 + truth)).abs() > OUTLIER).double()
