"""What the paper says it found, and whether these results say so too.

Every criterion was written before the results were seen. "Beyond k errors" means that a difference
is more than k times its standard error, the two errors taken as independent, which is cautious
where the galaxies are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .results import Number, Results, difference, in_units

__all__ = ["FINDINGS", "Finding", "decide"]

TWINS = ("I0", "I1", "I2", "I3")
CONFIRMED, NOT_CONFIRMED, UNCLEAR = "confirmed", "not confirmed", "not decided by these errors"


@dataclass(frozen=True)
class Finding:
    """A claim of the paper, the verdict here, and the number that it rests on."""

    claim: str
    verdict: str
    number: str


def _verdict(yes: bool, no: bool) -> str:
    if yes == no:
        return UNCLEAR
    return CONFIRMED if yes else NOT_CONFIRMED


def _iref(results: Results, row: str, metric: str = "eta") -> Number:
    """Return a number of Iref's own from Table 1."""
    if row == "clean":
        return in_units(results.matrix("FGSM")["clean"]["Iref"], metric)
    return in_units(results.matrix(row)["Iref"]["Iref"], metric)


def noise(results: Results) -> Finding:
    """Equal noise: both metrics within 2 errors of the clean ones."""
    gaps = [
        difference(_iref(results, "noise 0.01", m), _iref(results, "clean", m))
        for m in ("sigma_mad", "eta")
    ]
    return Finding(
        "Uniform noise of 0.01 has no effect",
        _verdict(max(gaps) < 2, max(gaps) > 3),
        f"eta {_iref(results, 'clean')} clean, {_iref(results, 'noise 0.01')} with noise",
    )


def more_noise(results: Results) -> Finding:
    """Ten times the noise: both metrics up by more than 2 errors."""
    clean = {m: _iref(results, "clean", m) for m in ("sigma_mad", "eta")}
    noisy = {m: _iref(results, "noise 0.1", m) for m in ("sigma_mad", "eta")}
    gaps = [difference(noisy[m], clean[m]) for m in clean]
    ratios = [noisy[m].value / clean[m].value for m in clean]
    return Finding(
        "Uniform noise of 0.1 raises sigma_MAD by half and triples the outliers",
        _verdict(min(gaps) > 2, min(gaps) < 1),
        f"sigma_MAD times {ratios[0]:.2f}, eta times {ratios[1]:.2f}",
    )


def tiny_eps(results: Results) -> Finding:
    """FGSM: eta at least three times the clean one, and beyond 3 errors."""
    clean, attacked = _iref(results, "clean"), _iref(results, "FGSM")
    strong = difference(attacked, clean) > 3 and attacked.value >= 3 * clean.value
    return Finding(
        "A tiny eps is dramatic: FGSM at 0.01 multiplies the outliers",
        _verdict(strong, not strong),
        f"eta {clean} clean, {attacked} under FGSM",
    )


def twins(results: Results) -> Finding:
    """Iref's FGSM and PGD-10 images: every twin's eta beyond 2 errors above its clean one."""
    return _transfers(results, TWINS, "Samples made for Iref transfer to its twins")


def other_architecture(results: Results) -> Finding:
    """Iref's FGSM and PGD-10 images: the CNN's eta beyond 2 errors above its clean one."""
    return _transfers(results, ("CNN",), "They transfer to the CNN, another architecture")


def _transfers(results: Results, names: tuple[str, ...], claim: str) -> Finding:
    clean = results.matrix("FGSM")["clean"]
    gaps, words = [], []
    for attack in ("FGSM", "PGD-10"):
        shown = results.matrix(attack)["Iref"]
        gaps += [difference(in_units(shown[n], "eta"), in_units(clean[n], "eta")) for n in names]
        mean = sum(100 * shown[n].eta for n in names) / len(names)
        words.append(f"{mean:.1f} under {attack}")
    before = sum(100 * clean[n].eta for n in names) / len(names)
    return Finding(
        claim, _verdict(min(gaps) > 2, max(gaps) < 1), f"eta {before:.1f} clean, {', '.join(words)}"
    )


def pgd_beats_fgsm(results: Results) -> Finding:
    """eta and mean loss of PGD-10 above FGSM's, eta beyond 1 error."""
    return _stronger(results, "FGSM", "PGD-10", "PGD beats FGSM")


def more_steps(results: Results) -> Finding:
    """eta and mean loss of PGD-20 above PGD-10's, eta beyond 1 error."""
    return _stronger(results, "PGD-10", "PGD-20", "More steps beat fewer: PGD-20 and PGD-10")


def _stronger(results: Results, weak: str, strong: str, claim: str) -> Finding:
    a, b = (results.matrix(name)["Iref"]["Iref"] for name in (weak, strong))
    gap = difference(in_units(b, "eta"), in_units(a, "eta"))
    higher = b.objective_after > a.objective_after
    return Finding(
        claim,
        _verdict(gap > 1 and higher, gap < -1 or not higher),
        f"eta {in_units(a, 'eta')} and {in_units(b, 'eta')}, cross-entropy "
        f"{a.objective_after:.2f} and {b.objective_after:.2f}",
    )


def random_start(results: Results) -> Finding:
    """In 10 steps, the paper's default, within 2 errors of the start at zero."""
    gap = difference(_iref(results, "PGD-10, random start"), _iref(results, "PGD-10"))
    words = [
        f"{_iref(results, row)} from zero and {_iref(results, f'{row}, random start')} from a "
        f"random point in {steps} steps"
        for row, steps in (("PGD-10", 10), ("PGD-20", 20))
    ]
    return Finding(
        "A random start changes little",
        _verdict(abs(gap) < 2, abs(gap) > 3),
        f"eta {', '.join(words)}",
    )


def l2(results: Results) -> Finding:
    """L2-PGD-40: eta beyond 3 errors above clean, for forty gradients instead of one."""
    attacked, clean = _iref(results, "L2-PGD-40"), _iref(results, "clean")
    gap = difference(attacked, clean)
    return Finding(
        "L2 works too, at a price (40 steps)",
        _verdict(gap > 3, gap < 1),
        f"eta {attacked} with 40 gradients, FGSM {_iref(results, 'FGSM')} with one",
    )


def five_percent(results: Results) -> Finding:
    """eta under FGSM beyond 3 errors below the undefended one."""
    before = results.number("Iref", "FGSM", "eta")
    after = results.number("fgsm-05", "FGSM", "eta")
    gap = difference(before, after)
    return Finding(
        "5 % adversarial samples already help",
        _verdict(gap > 3, gap < 1),
        f"eta under FGSM {before} without, {after} with 5 %",
    )


def label_leaking(results: Results) -> Finding:
    """For one f_a at least, sigma_MAD or eta under FGSM below the clean one."""
    lower = []
    for name in ("fgsm-05", "fgsm-10", "fgsm-20"):
        for metric, words in (("sigma_mad", "sigma_MAD"), ("eta", "eta")):
            clean, attacked = (results.number(name, row, metric) for row in ("clean", "FGSM"))
            if attacked.value < clean.value:
                lower.append(f"{name}: {words} {clean} clean, {attacked} under FGSM")
    return Finding(
        "Adversarial better than clean (label leaking) shows in Table 2",
        CONFIRMED if lower else NOT_CONFIRMED,
        "; ".join(lower) or "nowhere",
    )


def fgsm_is_no_defense(results: Results) -> Finding:
    """eta of fgsm-20 under PGD-10 at least 0.8 of the undefended one."""
    before = results.number("Iref", "PGD-10", "eta")
    after = results.number("fgsm-20", "PGD-10", "eta")
    share = after.value / before.value
    return Finding(
        "FGSM training (20 %) does not protect against PGD",
        _verdict(share >= 0.8, share < 0.8),
        f"eta under PGD-10 {before} undefended, {after} after FGSM training",
    )


def little_pgd(results: Results) -> Finding:
    """eta under PGD-10 with f_a = 10 % at least 0.8 of the undefended one."""
    before, after = (in_units(results.evaluation(n)["PGD-10"], "eta") for n in ("Iref", "pgd-10"))
    share = after.value / before.value
    return Finding(
        "PGD training with f_a of 10 % or less leaves things as they are",
        _verdict(share >= 0.8, share < 0.8),
        f"eta under PGD-10 {before} undefended, {after} with 10 % PGD",
    )


def more_pgd(results: Results) -> Finding:
    """From 5 to 50 %: eta under PGD-10 falls, clean sigma_MAD rises, each beyond 1 error."""
    few, many = results.evaluation("pgd-05"), results.evaluation("pgd-50")
    gain = difference(in_units(few["PGD-10"], "eta"), in_units(many["PGD-10"], "eta"))
    loss = difference(in_units(many["clean"], "sigma_mad"), in_units(few["clean"], "sigma_mad"))
    return Finding(
        "A larger f_a withstands PGD better and is worse on clean images",
        _verdict(gain > 1 and loss > 1, gain < -1 or loss < -1),
        f"5 to 50 %: eta under PGD-10 {100 * few['PGD-10'].eta:.1f} to "
        f"{100 * many['PGD-10'].eta:.1f}, clean sigma_MAD {1e3 * few['clean'].sigma_mad:.1f} to "
        f"{1e3 * many['clean'].sigma_mad:.1f}",
    )


def wide_i4(results: Results) -> Finding:
    """eta under PGD-10 of the wide i4 beyond 1 error below the plain Inception's."""
    return _capacity(results, "pgd-50-i4", "More features into the classifier (wide i4) help", 1)


def fc0(results: Results) -> Finding:
    """eta under PGD-10 not beyond 1 error below the plain Inception's."""
    return _capacity(results, "pgd-50-fc0", "A wider fc0 does not help", -1)


def depth(results: Results) -> Finding:
    """eta under PGD-10 not beyond 1 error below the plain Inception's."""
    return _capacity(results, "pgd-50-i3", "A doubled i3 does not help", -1)


def _capacity(results: Results, name: str, claim: str, sign: int) -> Finding:
    plain, other = (results.number(n, "PGD-10", "eta") for n in ("pgd-50", name))
    gain = difference(plain, other)
    helps, hurts = gain > 1, gain < 1
    verdict = _verdict(helps, hurts) if sign > 0 else _verdict(hurts, helps)
    return Finding(claim, verdict, f"eta under PGD-10 {plain} plain, {other} changed")


def clean_pays(results: Results) -> Finding:
    """Clean sigma_MAD of the 50 % PGD training with wide i4 beyond 1 error above Iref's."""
    before = results.number("Iref", "clean", "sigma_mad")
    after = results.number("pgd-50-i4", "clean", "sigma_mad")
    gap = difference(after, before)
    return Finding(
        "Clean performance pays for robustness",
        _verdict(gap > 1, gap < -1),
        f"clean sigma_MAD {before} classical, {after} after 50 % PGD (wide i4)",
    )


FINDINGS: tuple[Callable[[Results], Finding], ...] = (
    noise,
    more_noise,
    tiny_eps,
    twins,
    other_architecture,
    pgd_beats_fgsm,
    more_steps,
    random_start,
    l2,
    five_percent,
    label_leaking,
    fgsm_is_no_defense,
    little_pgd,
    more_pgd,
    wide_i4,
    fc0,
    depth,
    clean_pays,
)


def decide(results: Results) -> list[Finding]:
    """Return the findings that the results so far decide on."""
    findings = []
    for find in FINDINGS:
        try:
            findings.append(find(results))
        except KeyError:
            continue
    return findings
