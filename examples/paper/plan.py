"""What is trained and what is attacked: the paper's tables, written as settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from advphotoz import (
    FGSM,
    PGD,
    CrossEntropy,
    LinfBall,
    RedshiftBins,
    RedshiftError,
    SignedRedshift,
    UniformNoise,
    WorstOf,
    l2_eps_from_linf,
    l2_pgd,
    standard,
)
from advphotoz.attacks import Attack

from .scales import Scale

__all__ = [
    "ALONE",
    "BINS",
    "CURVES",
    "DEFENDED",
    "EPS",
    "GRID",
    "JUDGE",
    "MATRICES",
    "OBJECTIVE",
    "SIX",
    "STANDARD",
    "STRONG",
    "SWEEP",
    "Training",
    "curve_attacks",
    "table1_attacks",
    "trainings",
]

EPS = 0.01  # the paper's, in the unit of the pixels (nanomaggies)
BALL = LinfBall(EPS)
BINS = RedshiftBins(0.0, 1.0, 180)
OBJECTIVE = CrossEntropy(BINS)
# The paper's search: steps of a tenth of eps, and the last point whatever came before it.
PAPER: dict[str, Any] = {"step_size": "paper", "keep": "last"}
PGD_10 = PGD(BALL, **PAPER)

SIX = ("Iref", "I0", "I1", "I2", "I3", "CNN")
"""The networks of Table 1, all trained classically."""
STANDARD: dict[str, Attack] = {
    "FGSM": FGSM(EPS, objective=OBJECTIVE),
    "PGD-10": PGD_10.bind(OBJECTIVE),
}
"""The paper's, shown to every network."""
SIGNED = tuple(PGD(BALL, objective=SignedRedshift(BINS, sign)) for sign in (1, -1))
STRONG: dict[str, Attack] = {"two signed PGD-10": WorstOf(SIGNED, objective=RedshiftError(BINS))}
"""What every network has to withstand: a search for a larger redshift and one for a smaller."""
JUDGE: dict[str, Attack] = {"standard": standard(EPS, BINS)}
"""The standard attack of the library, of today's version, for a table of its own."""
MATRICES = ("FGSM", "PGD-10")
"""Attacks of Table 1 that are crafted on each of the six, for the six-by-six matrix."""
GRID = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
"""Values of eps for the curves."""
ALONE = ("Iref", "fgsm-20", "step-50", "pgd-50", "pgd-50-fc0", "pgd-50-i3", "pgd-50-i4")
"""Networks of the tables of PDFs and of the strongest attack."""
DEFENDED = ALONE[1:]
"""Networks that are shown Iref's adversarial images: do they beat those made for them?"""
CURVES = ("Iref", "fgsm-20", "step-50", "pgd-50", "pgd-50-i4")
"""Networks whose metrics are drawn against eps."""

SWEEP = {"pgd-20": 0.2, "pgd-10": 0.1, "pgd-05": 0.05}
"""The shares f_a of PGD that the text describes, beside the half of Table 3."""

# Table 3: what is changed in the Inception (Sec. 4.3), as arguments of `models.inception`.
CAPACITY: dict[str, dict[str, float]] = {
    "": {},
    "-i4": {"i4_features": 256},
    "-fc0": {"fc0_features": 2000},
    "-i3": {"i3_cells": 2},
}


@dataclass(frozen=True)
class Training:
    """One network: its architecture, its adversarial share, and its seed."""

    name: str
    network: str = "inception"
    changes: tuple[tuple[str, float], ...] = ()
    attack: Attack | None = None
    fraction: float = 0.0
    seed: int = 0  # of the initial weights and of everything drawn; also names the training set

    @property
    def passes(self) -> float:
        """Passes over the network per image, the cost of training: see docs/benchmarks.md."""
        return 3 + 2 * self.fraction * getattr(self.attack, "steps", int(self.attack is not None))


def trainings(scale: Scale) -> Iterator[Training]:
    """Yield all trainings: the six of Table 1, the defenses, and these again with other seeds."""
    yield Training("Iref")
    yield Training("CNN", "cnn")
    for k in range(4):
        yield Training(f"I{k}", seed=k + 1)
    yield from _defenses(scale, 0)
    for name, share in SWEEP.items():
        yield Training(name, attack=_crafting(scale), fraction=share)
    for again in zip(*(_defenses(scale, seed) for seed in range(1, scale.seeds)), strict=True):
        yield from again


def _crafting(scale: Scale) -> PGD:
    """Return the PGD that Algorithm 1 crafts with."""
    return PGD_10 if scale.craft_steps == 10 else PGD(BALL, scale.craft_steps, keep="last")


def _defenses(scale: Scale, seed: int) -> Iterator[Training]:
    tail = f"-seed{seed}" if seed else ""
    for share in (20, 10, 5):
        name = f"fgsm-{share:02d}{tail}"
        yield Training(name, attack=FGSM(EPS), fraction=share / 100, seed=seed)
    if seed == 0:  # Wong et al. 2020, not in the paper
        step = PGD(BALL, steps=1, step_size=1.25, random_start=True, keep="last")
        yield Training("step-50", attack=step, fraction=0.5)
    for variant, changes in CAPACITY.items():
        name, given = f"pgd-50{variant}{tail}", tuple(changes.items())
        yield Training(name, changes=given, attack=_crafting(scale), fraction=0.5, seed=seed)


def table1_attacks(size: int) -> dict[str, Attack]:
    """Return the attacks of Table 1 on images of size x size pixels, in its order."""
    eps_2 = l2_eps_from_linf(EPS, n=size**2)
    return {
        "noise 0.01": UniformNoise(EPS),
        "noise 0.1": UniformNoise(10 * EPS),
        **STANDARD,
        "PGD-20": PGD(BALL, steps=20, **PAPER),
        "PGD-10, random start": PGD(BALL, random_start=True, **PAPER),
        "PGD-20, random start": PGD(BALL, steps=20, random_start=True, **PAPER),
        "L2-PGD-40": l2_pgd(eps_2, **PAPER),
        "L2-PGD-40, per band": l2_pgd(eps_2, per_band=True, **PAPER),
    }


def curve_attacks() -> dict[str, Callable[[float], Attack]]:
    """Return functions of eps."""
    return {"FGSM": FGSM, "PGD-10": lambda eps: PGD(LinfBall(eps), **PAPER)}
