"""Whether attack results can be trusted: the checks of Carlini et al. 2019 that apply here.

A weak attack makes any model look robust. What gives it away is cheap to test: a search that finds
more with more steps, or less; room that it does not use; noise that does as much; gradients that
vanish. A check that could not be made is no pass, and the verdict is never better than what was
tested.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from advphotoz import distributed
from advphotoz._model import autocasting
from advphotoz.attacks import UniformNoise, ZeroGradientWarning
from advphotoz.attacks.contract import (
    deepened,
    follows_gradients,
    objective_of,
    perturbations_of,
    scaled,
)
from advphotoz.attacks.problem import opened
from advphotoz.batch import Batch
from advphotoz.evaluation.run import Pass, Prepared
from advphotoz.evaluation.tally import Tally
from advphotoz.perturbations import LinfBall

__all__ = ["Check", "Checks", "run_checks"]

Status = Literal["pass", "FAIL", "not checked", "n/a"]

OUTLIER = 0.05  # the paper's eta
HARMLESS = 0.1  # share of the attack's effect that noise may have
ZERO = 0.01  # share of zero gradients that may pass
RISING = 0.9  # share of samples whose objective an attack should raise
CONVERGED = 0.02  # share of its own rise that twice the steps may add
ROOM = 0.9  # share of its room that an attack should use
BEATEN = 0.05  # share of samples for which a search without gradients may find more
SAME = 1e-4  # difference in redshift between two passes over the same images


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes
    ----------
    name : str
        What was checked.
    status : {"pass", "FAIL", "not checked", "n/a"}
        ``not checked``: it would apply, but could not be made. ``n/a``: it does not apply.
    sentence : str
        The numbers and the tolerance, or the reason, in words.
    attack : str or None
        The attack that it is about; None for the network.
    flag : str
        What a failure is called in the table, such as ``not converged``.
    """

    name: str
    status: Status
    sentence: str
    attack: str | None = None
    flag: str = ""


@dataclass(frozen=True)
class Checks:
    """The checks of one evaluation, after Carlini et al. 2019 (arXiv:1902.06705).

    Attributes
    ----------
    checks : tuple of Check
        See the sentence of each for its numbers and its tolerance.
    samples : int
        Number of samples, the first of the loader, for the checks that need attacks of their own.
    """

    checks: tuple[Check, ...]
    samples: int

    @property
    def passed(self) -> bool:
        """Whether something was checked about an attack, all of it, and nothing failed."""
        return bool(self._about_attacks()) and not self.of("FAIL") and not self.of("not checked")

    def of(self, status: Status) -> tuple[Check, ...]:
        """Return the checks that ended so."""
        return tuple(check for check in self.checks if check.status == status)

    def flags(self, attack: str) -> tuple[str, ...]:
        """Return what is wrong with an attack, in the words of the table."""
        found = [c.flag for c in self.of("FAIL") if c.attack == attack and c.flag]
        if not found and any(c.attack == attack for c in self.of("not checked")):
            found = ["not checked"]
        return tuple(dict.fromkeys(found))

    def __getitem__(self, name: str) -> Check:
        """Return the check of that name, the first one where several attacks have it."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}; the checks are {sorted({c.name for c in self.checks})}")

    @property
    def verdict(self) -> str:
        """What a reader of the table must know, in one sentence."""
        failed, unchecked = self.of("FAIL"), self.of("not checked")
        if failed:
            return f"Checks: do not trust these numbers yet: {_named(failed, flags=True)}."
        if not self._about_attacks():
            return "Checks: no attack was checked, so that nothing is known about robustness."
        if unchecked:
            return f"Checks: nothing failed, but not everything was checked: {_named(unchecked)}."
        return (
            "Checks: no sign of a broken attack or of masked gradients; an attack gives a lower "
            "bound on the damage."
        )

    def listed(self) -> str:
        """Return every check with its numbers, one a line."""
        return "\n".join(f"  {c.status:11}  {_line(c)}" for c in self.checks)

    def __str__(self) -> str:
        return f"{self.verdict}\n{self.listed()}"

    def to_markdown(self) -> str:
        """Return the verdict and the checks as a Markdown list."""
        lines = [f"- {c.status}: {_line(c)}" for c in self.checks]
        return "\n".join([self.verdict, "", *lines])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Checks:
        """Build the checks from what JSON gave back."""
        return cls(tuple(Check(**check) for check in values["checks"]), int(values["samples"]))

    def _about_attacks(self) -> list[Check]:
        return [c for c in self.checks if c.attack is not None and c.status in ("pass", "FAIL")]


def _named(checks: Sequence[Check], flags: bool = False) -> str:
    by_name: dict[str, list[str]] = {}
    for check in checks:
        name = check.flag if flags and check.flag else check.name
        by_name.setdefault(name, [])
        if check.attack is not None:
            by_name[name].append(check.attack)
    return "; ".join(f"{n} ({', '.join(a)})" if a else n for n, a in by_name.items())


def _line(check: Check) -> str:
    about = "" if check.attack is None else f", {check.attack}"
    return f"{check.name}{about}: {check.sentence}"


def run_checks(
    run: Prepared,
    network: nn.Module,
    kept: Sequence[Batch],
    attacks: Mapping[str, Any],
    noise: str | None,
    done: Pass,
) -> Checks:
    """Make every check.

    Parameters
    ----------
    run : Prepared
        The network, ready.
    network : Module
        It.
    kept : sequence of Batch
        The first samples of the data, for what needs attacks of its own.
    attacks : mapping
        By name, those of the evaluation, the control included.
    noise : str or None
        The name of the control, None where there is none.
    done : Pass
        What was gathered over the whole data.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroGradientWarning)  # said once already, by the attack
        made = _Checker(run, network, kept, attacks, noise, done).all()
    return Checks(tuple(made), int(done.kept.values().sum()))


class _Checker:
    """What the checks have in common."""

    def __init__(
        self,
        run: Prepared,
        network: nn.Module,
        kept: Sequence[Batch],
        attacks: Mapping[str, Any],
        noise: str | None,
        done: Pass,
    ) -> None:
        self.run, self.network, self.kept = run, network, kept
        self.noise = None if noise is None else attacks[noise]
        self.noise_name = noise
        self.own_noise: Tally | None = None
        self.z_spec = done.z_spec.values()
        self.was_kept = done.kept.values().bool()
        self.clean = done.clean[""]
        self.tallies: dict[Hashable, Tally] = {name: done.attacked[name, ""] for name in attacks}
        # A draw from a set is a control, not a search; a set without room has nothing to search.
        self.attacks = {
            name: attack
            for name, attack in attacks.items()
            if name != noise and not _is_draw(attack) and _has_room(attack)
        }
        strength = {name: self.tallies[name].mean("objective") or 0.0 for name in self.attacks}
        self.strongest = max(strength, key=lambda name: strength[name], default=None)
        self.outliers = {name: self._outliers(tally) for name, tally in self.tallies.items()}
        self.clean_outliers = self._outliers(self.clean)

    def all(self) -> list[Check]:
        """Return every check, the network's first."""
        made = [self.same_twice(), self.gradients()]
        for name, attack in self.attacks.items():
            made.append(self.rises(name))
            converged = self.converged(name, attack)
            made += [converged, self.room(name, attack, converged)]
        if self.strongest is not None:
            made += [self.larger(self.strongest), self.beats_noise(self.strongest)]
            made += [self.harmless_noise(self.strongest)]
        return [*made, *self.many_beat_one(), *self.unmasked()]

    def same_twice(self) -> Check:
        """Show the same images twice: a network that draws in eval mode answers differently."""
        name, largest = "same output twice", 0.0
        for batch in self.kept:
            x, context, _, _ = batch.to(self.run.device(self.network))
            first, second = (
                self.run.settings.readout.redshift(self.run.output(self.network, x, context))
                for _ in range(2)
            )
            largest = max(largest, float((first - second).abs().max()))
        largest = max(distributed.gather_all(largest))
        if largest <= SAME:
            return Check(name, "pass", f"z_phot differs by {largest:.2g} at most between passes.")
        return Check(
            name,
            "FAIL",
            f"the network is random in eval mode: z_phot differs by up to {largest:.2g} between "
            "two passes over the same images, so that a gradient of one draw misleads an attack; "
            "average over draws with models.AverageOverDraws(network, draws).",
            flag="network random in eval mode",
        )

    def gradients(self) -> Check:
        """Look for gradients of zero, and for none at all."""
        name = "gradients do not vanish"
        if self.attacks and all(follows_gradients(a) is False for a in self.attacks.values()):
            return Check(name, "n/a", "no attack here follows gradients.")
        chosen = None if self.strongest is None else objective_of(self.attacks[self.strongest])
        objective = chosen or self.run.settings.objective
        zero: list[Tensor] = []
        cut: str | None = None
        for batch in self.kept:
            device = self.run.device(self.network)
            x, context, target, _ = batch.to(device)
            given = (self.network, x, target, context, LinfBall(0.0), objective)
            try:
                with autocasting(device, self.run.settings.autocast), opened(*given) as problem:
                    _, gradient = problem.value_and_gradient(torch.zeros_like(x))
                    zero.append((gradient == 0).flatten(1).all(1).cpu())
            except ValueError as error:
                cut = str(error)
                break
        # All processes take part in what is gathered, also one whose gradient is cut.
        cut = next((error for error in distributed.gather_all(cut) if error is not None), None)
        if cut is not None:
            return Check(name, "FAIL", f"{cut}.", flag="no gradient")
        here = torch.cat(zero) if zero else torch.zeros(0, dtype=torch.bool)
        flat = torch.cat(distributed.gather_all(here))
        share = float(flat.double().mean())
        sentence = (
            f"{int(flat.sum())} of {len(flat)} samples ({100 * share:.1f} %) have a gradient "
        )
        sentence += "that is exactly zero, so that no gradient attack can start from them"
        if self.strongest and bool(flat.any()):
            misled = int(self._of(self.outliers[self.strongest], len(flat))[flat].sum())
            sentence += f"; {misled} of these are outliers under {self.strongest}"
        status: Status = "pass" if share <= ZERO else "FAIL"
        sentence += f" (at most {100 * ZERO:.0f} %)."
        return Check(name, status, sentence, flag="gradients vanish")

    def rises(self, attack: str) -> Check:
        """Ask whether the attack raises what it maximises."""
        before, after = self._own_before(attack), self.tallies[attack].column("own")
        share = float((after > before).double().mean())
        return Check(
            "objective rises",
            "pass" if share >= RISING else "FAIL",
            f"for {100 * share:.1f} % of the samples, its mean from "
            f"{float(before.double().mean()):.3g} to {float(after.double().mean()):.3g} "
            f"(at least {100 * RISING:.0f} % expected).",
            attack,
            "objective does not rise",
        )

    def converged(self, name: str, attack: Any) -> Check:
        """Give the attack twice the steps: it may neither find more, nor less."""
        title = "converged"
        if not hasattr(attack, "deepened"):
            return Check(title, "not checked", "it cannot be asked for more steps.", name)
        more = deepened(attack)
        if more is None:
            return Check(title, "n/a", "it has no steps to double.", name)
        rise, error, start = self._compare(name, more, title)
        if math.isnan(error):
            return Check(title, "not checked", "one sample has no standard error.", name)
        before = self._own_before(name)[self.was_kept]
        own = start - float(before.double().mean())
        limit = max(2 * error, CONVERGED * abs(own)) + 1e-5 * abs(start)
        numbers = (
            f"twice the steps change the mean objective by {rise:+.3g} ± {error:.2g} from "
            f"{start:.3g}, after a rise of {own:.3g}"
        )
        if rise > limit:
            return Check(
                title,
                "FAIL",
                f"{numbers}: more than two standard errors and {100 * CONVERGED:.0f} % of the "
                "rise, so that a deeper search finds more; raise steps, or step_size.",
                name,
                "not converged",
            )
        if rise < -(2 * error + 1e-5 * abs(start)):
            return Check(
                title,
                "FAIL",
                f"{numbers}: a fall of more than two standard errors, which a sound search cannot "
                "have.",
                name,
                "weaker with more steps",
            )
        return Check(title, "pass", f"{numbers}.", name)

    def room(self, name: str, attack: Any, converged: Check) -> Check:
        """Ask whether the attack uses the room that its set leaves."""
        size = self.tallies[name].mean("size")
        if size is None:
            return Check("uses its room", "not checked", "it does not say what it used.", name)
        sentence = f"the perturbations use {size:.2f} of the budget in the mean"
        if size >= ROOM:
            return Check("uses its room", "pass", f"{sentence}.", name)
        if converged.status == "pass":
            return Check("uses its room", "pass", f"{sentence}, and more steps find no more.", name)
        return Check(
            "uses its room",
            "FAIL",
            f"{sentence}; a search that has not looked further says nothing about the budget "
            f"(at least {ROOM} expected); raise steps, or step_size.",
            name,
            f"used {size:.2f} of its room",
        )

    def larger(self, name: str) -> Check:
        """Give the strongest attack twice the budget: it may not find less."""
        title = "larger set"
        more = scaled(self.attacks[name], 2.0)
        if more is None:
            return Check(title, "not checked", "it cannot be asked for a larger set.", name)
        return _not_weaker(
            title,
            "twice the budget",
            self._compare(name, more, title),
            name,
            "weaker with more room",
        )

    def many_beat_one(self) -> list[Check]:
        """Compare an attack of many steps with one of a single step in the same set."""
        one = [n for n, a in self.attacks.items() if _steps_of(a) == "one"]
        many = [n for n, a in self.attacks.items() if _steps_of(a) == "many"]
        for single in one:
            for several in many:
                a, b = self.attacks[single], self.attacks[several]
                same = perturbations_of(a) == perturbations_of(b) is not None
                if not same or objective_of(a) != objective_of(b):
                    continue
                found = (self.tallies[several].column("own"), self.tallies[single].column("own"))
                what = f"{several} instead of {single}"
                return [
                    _not_weaker(
                        "many steps beat one",
                        what,
                        _paired(*found),
                        several,
                        "weaker than one step",
                    )
                ]
        return []

    def unmasked(self) -> list[Check]:
        """Compare searches along gradients with those without, within an attack and between two."""
        made = []
        for name, attack in self.attacks.items():
            ask = getattr(attack, "only", None)
            along, without = (None, None) if ask is None else (ask(True), ask(False))
            if along is not None and without is not None:
                found = (self._pass(one, "masked gradients") for one in (along, without))
                made.append(_unmasked(name, *(tally.column("own") for tally in found)))
        searches = {
            follows: {n: a for n, a in self.attacks.items() if follows_gradients(a) is follows}
            for follows in (True, False)
        }
        for name, attack in searches[False].items():
            rivals = [
                self.tallies[other].column("own")
                for other, rival in searches[True].items()
                if perturbations_of(rival) == perturbations_of(attack) is not None
                and objective_of(rival) == objective_of(attack)
            ]
            if rivals:
                best = torch.stack(rivals).amax(0)
                made.append(_unmasked(name, best, self.tallies[name].column("own")))
        return made

    def beats_noise(self, name: str) -> Check:
        """Compare the strongest attack with a draw from the same set."""
        title = "attack beats noise"
        found = self._noise(name)
        if found is None:
            return Check(title, "not checked", "it states no set to draw noise from.", name)
        count = len(found.column("objective"))
        attacked = self._of(self.tallies[name].column("objective"), count)
        rise, error, _ = _paired(attacked, found.column("objective"))
        return Check(
            title,
            "not checked" if math.isnan(error) else "pass" if rise > 2 * error else "FAIL",
            f"the mean objective is {rise:.3g} ± {error:.2g} above that under noise from the same "
            f"set ({count} samples); more than two standard errors expected.",
            name,
            "no better than noise",
        )

    def harmless_noise(self, name: str) -> Check:
        """Ask whether noise from the same set does far less than the attack."""
        title = "noise is harmless"
        found = self._noise(name)
        if found is None:
            return Check(title, "not checked", "it states no set to draw noise from.", name)
        noisy = self._outliers(found)
        clean = self._of(self.clean_outliers, len(noisy))
        rise, error, _ = _paired(noisy, clean)
        gain = float((self._of(self.outliers[name], len(noisy)) - clean).mean())
        limit = max(2 * error, HARMLESS * gain)
        return Check(
            title,
            "not checked" if math.isnan(error) else "pass" if rise <= limit else "FAIL",
            f"eta changes by {100 * rise:+.1f} ± {100 * error:.1f} percentage points under noise "
            f"(with the attack by {100 * gain:+.1f}); at most {100 * limit:.1f} expected, the "
            f"larger of two standard errors and {100 * HARMLESS:.0f} % of the attack's effect.",
            name,
            "noise does as much",
        )

    def _noise(self, name: str) -> Tally | None:
        """Return the tally of noise from an attack's set: the control's, or one made for it."""
        wanted = perturbations_of(self.attacks[name])
        if wanted is None:
            return None
        if self.noise is not None and perturbations_of(self.noise) == wanted:
            return self.tallies[self.noise_name]
        if self.own_noise is None:
            self.own_noise = self._pass(UniformNoise(wanted), "noise")
        return self.own_noise

    def _compare(self, name: str, variant: Any, title: str) -> tuple[float, float, float]:
        """Return by how much a variant of an attack beats it on the kept samples; see `_paired`."""
        after = self._pass(variant, title).column("own")
        return _paired(after, self._of(self.tallies[name].column("own"), len(after)))

    def _pass(self, attack: Any, title: str) -> Tally:
        """Run an attack on the kept samples."""
        attacks = {title: (self.network, attack)}
        done = self.run.one_pass(self.kept, {"": self.network}, attacks, f"check: {title}")
        return done.attacked[title, ""]

    def _own_before(self, name: str) -> Tensor:
        tally = self.tallies[name]
        if "own_before" in tally.columns:
            return tally.column("own_before")
        return self.clean.column("objective")

    def _of(self, values: Tensor, count: int) -> Tensor:
        """Return the values of the samples that were kept, or of all where all are asked for."""
        return values if len(values) == count else values[self.was_kept]

    def _outliers(self, tally: Tally) -> Tensor:
        z_phot = tally.column("z_phot").double()
        truth = self._of(self.z_spec, len(z_phot)).double()
        return (((z_phot - truth) / (1 + truth)).abs() > OUTLIER).double()


def _is_draw(attack: Any) -> bool:
    """Return whether an attack states a set but maximises nothing."""
    return perturbations_of(attack) is not None and not hasattr(attack, "objective")


def _has_room(attack: Any) -> bool:
    """Return whether the set of an attack leaves any room; an attack without a set may."""
    found = perturbations_of(attack)
    return found is None or found != found.scaled(2.0)


def _steps_of(attack: Any) -> Literal["one", "many", "unknown"]:
    if not hasattr(attack, "deepened"):
        return "unknown"
    return "one" if deepened(attack) is None else "many"


def _paired(after: Tensor, before: Tensor) -> tuple[float, float, float]:
    """Return the mean of after - before, its standard error, and the mean of before."""
    start = before.double()
    change = after.double() - start
    error = float(change.std() / len(change) ** 0.5) if len(change) > 1 else float("nan")
    return float(change.mean()), error, float(start.mean())


def _unmasked(attack: str, along: Tensor, without: Tensor) -> Check:
    """Judge what searches along gradients and without them found of one objective, (N,)."""
    rise, error, start = _paired(without, along)
    rounding = 1e-5 * abs(start)
    share = float((without > along + rounding).double().mean())
    masked = share > BEATEN or rise > 2 * error + rounding
    return Check(
        "gradients beat a search without",
        "not checked" if math.isnan(error) else "FAIL" if masked else "pass",
        f"without gradients the mean objective is {rise:+.3g} ± {error:.2g} from the {start:.3g} "
        f"that is found along them, and larger for {100 * share:.1f} % of {len(along)} samples (at "
        f"most {100 * BEATEN:.0f} %, and no mean above by two standard errors): where they find "
        "less, gradients are masked.",
        attack,
        "gradients masked",
    )


def _not_weaker(
    title: str, what: str, found: tuple[float, float, float], attack: str, flag: str
) -> Check:
    """Judge a change that should not lower the mean objective.

    The tolerance is two standard errors of the paired difference, which a change of nothing
    exceeds once in forty times, plus the rounding of float32.
    """
    rise, error, start = found
    tolerance = 2 * error + 1e-5 * abs(start)
    status: Status = (
        "not checked" if math.isnan(error) else "pass" if rise >= -tolerance else "FAIL"
    )
    return Check(
        title,
        status,
        f"{what} changes the mean objective by {rise:+.3g} ± {error:.2g} from {start:.3g}; it may "
        f"not fall by more than {tolerance:.2g}, two standard errors.",
        attack,
        flag,
    )
