"""Calibration errors and several trainings: does the worst pattern belong to them, or to the sky?

    python benchmarks/survey_patterns.py --classical A.pt B.pt C.pt --defended D.pt E.pt F.pt
        [--model cnn] [--galaxies 2000] [--size 24] [--width 0.35] [--json FILE]

Checkpoints of `advphotoz demo`, of several seeds, or weights of examples/reproduce_paper.py
(`--model inception --size 32 --width 0.25`), on simulated galaxies that none was trained on.
For every galaxy the gradient g of dz by each parameter is taken, in units of its budget. In linear
response the worst errors within a box are its corner sign(g), and shift the mean of dz by sum |g|,
with g the mean over the galaxies of a tomographic bin; examples/survey_budget.py has the full
answer. First table: that shift for every effect, all galaxies and the worst bin, mean and scatter
over the trainings, and over ten bootstrap samples of the galaxies. Second table: the mean cosine
between two g, and the share of |g| in parameters whose sign agrees, between bootstrap samples for
one network (the sky), between trainings of one kind, and between the two kinds.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from itertools import combinations, product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import DataLoader

from _common import BINS, environment, markdown, write_json
from advphotoz import (
    PSFWidth,
    ReddeningInputError,
    Shift,
    SkyGradient,
    SkyLevel,
    ZeroPoint,
    metrics,
    models,
)
from advphotoz.datasets import simulate
from advphotoz.perturbations import PerturbationSet
from survey import FWHM, SKY_NOISE

TENTH = [0.1 * sigma for sigma in SKY_NOISE]
EFFECTS: dict[str, PerturbationSet] = {
    "zero points, SDSS (20, 10, 10, 10, 10 mmag)": ZeroPoint([0.02, 0.01, 0.01, 0.01, 0.01]),
    "zero points, LSST (10, 5, 5, 5, 5 mmag)": ZeroPoint([0.01, 0.005, 0.005, 0.005, 0.005]),
    "sky level 0.1 sigma": SkyLevel(TENTH),
    "sky tilt 0.1 sigma": SkyGradient(TENTH),
    "PSF width 1 %": PSFWidth(0.01, FWHM, 0.396),
    "registration 0.1 pixel": Shift([0.04, 0.04, 0.0, 0.04, 0.04], 0.396),
    "E(B-V) 10 %": ReddeningInputError(0.1),
}
SDSS, LSST = list(EFFECTS)[:2]
TOGETHER = {
    "all together, SDSS": [name for name in EFFECTS if name != LSST],
    "all together, LSST": [name for name in EFFECTS if name != SDSS],
}
SAMPLES, GROUPS = 10, 4
KINDS = ("classical", "defended")
ALL = "all galaxies"
Array = npt.NDArray[np.float64]


class Response:
    """One network: its redshifts, and the gradient of dz by every parameter of every effect."""

    def __init__(self, model: nn.Module, loader: DataLoader) -> None:
        z_phot, z_spec = [], []
        rows: dict[str, list[torch.Tensor]] = {name: [] for name in EFFECTS}
        for x, ebv, z in loader:
            for name, effect in EFFECTS.items():
                p = effect.identity(x).requires_grad_()
                moved, (reddening,) = effect.apply(x, (ebv,), p)
                found = BINS.redshift(model(moved, reddening))
                (g,) = torch.autograd.grad(((found - z) / (1 + z)).sum(), p)
                rows[name].append(g.flatten(1))
            z_phot.append(found.detach())
            z_spec.append(z)
        self.z, self.truth = torch.cat(z_phot), torch.cat(z_spec)
        self.g = {name: torch.cat(parts).double().numpy() for name, parts in rows.items()}
        edges = np.quantile(self.z, np.linspace(0, 1, GROUPS + 1)[1:-1])
        bins = np.digitize(self.z.numpy(), edges)
        self.inside = {ALL: np.full(len(bins), True)}
        self.inside |= {f"bin {k + 1}": bins == k for k in range(GROUPS)}

    def mean(self, effects: list[str], group: str, rows: npt.NDArray[np.int64]) -> Array:
        """Return g of a group within some rows, over several effects."""
        rows = rows[self.inside[group][rows]]
        return np.concatenate([self.g[name][rows].mean(0) for name in effects])


def cosine(a: Array, b: Array) -> float:
    """Return the cosine between two gradients."""
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def agreement(a: Array, b: Array) -> float:
    """Return the share of |a| + |b| in parameters whose sign agrees."""
    weight = abs(a) + abs(b)
    return float(weight[np.sign(a) == np.sign(b)].sum() / weight.sum())


def compared(pairs: Iterable[tuple[Array, Array]]) -> list[float]:
    """Return the mean cosine and the mean agreement over pairs of gradients."""
    found = [(cosine(a, b), agreement(a, b)) for a, b in pairs]
    return [float(value) for value in np.mean(found, axis=0)]


def worst_shifts(
    networks: list[Response], effects: list[str], samples: npt.NDArray[np.int64]
) -> tuple[Array, Array]:
    """Return the worst linear shift of each group: (networks, groups), (samples, groups)."""
    groups = list(networks[0].inside)
    every = np.arange(samples.shape[1])
    by_network = [[abs(n.mean(effects, group, every)).sum() for group in groups] for n in networks]
    by_sample = [
        [abs(networks[0].mean(effects, group, s)).sum() for group in groups] for s in samples
    ]
    return np.array(by_network), np.array(by_sample)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classical", type=Path, nargs="+", required=True)
    parser.add_argument("--defended", type=Path, nargs="+", required=True)
    parser.add_argument("--galaxies", type=int, default=2000)
    parser.add_argument("--model", default="cnn", choices=["cnn", "inception"])
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--width", type=float, default=0.35)
    parser.add_argument("--json", type=Path)
    parser.set_defaults(device="cpu")
    args = parser.parse_args()

    loader = DataLoader(simulate(args.galaxies, seed=100, size=args.size), 100)
    samples = np.random.default_rng(0).integers(args.galaxies, size=(SAMPLES, args.galaxies))
    every = np.arange(args.galaxies)
    networks: dict[str, list[Response]] = {kind: [] for kind in KINDS}
    print(f"{args.galaxies} simulated galaxies; {environment()}\n")
    for kind in KINDS:
        for path in getattr(args, kind):
            model = getattr(models, args.model)(image_size=args.size, width=args.width)
            held = torch.load(path, weights_only=True)
            model.load_state_dict(held.get("model", held))
            networks[kind].append(one := Response(model.eval(), loader))
            mad = metrics.sigma_mad(one.z, one.truth)
            eta = metrics.outlier_fraction(one.z, one.truth)
            print(f"{kind} {path.name}: sigma_MAD {1e3 * mad:.1f}e-3, eta {100 * eta:.1f} %")

    shifts: dict[str, dict[str, object]] = {}
    for title, effects in {**{name: [name] for name in EFFECTS}, **TOGETHER}.items():
        row: dict[str, object] = {}
        for kind in KINDS:
            found = worst_shifts(networks[kind], effects, samples)
            by_network, by_sample = (1e4 * values for values in found)
            for label, columns in ((ALL, slice(0, 1)), ("worst bin", slice(1, None))):
                values, drawn = by_network[:, columns].max(1), by_sample[:, columns].max(1)
                scatter, sky = values.std(ddof=1), drawn.std(ddof=1)
                text = f"{values.mean():.1f} ± {scatter:.1f} (sky ± {sky:.1f})"
                row[f"{kind}, {label} [1e-4]"] = text
        shifts[title] = row
    patterns: dict[str, dict[str, object]] = {}
    columns = ("sky: cosine", "sky: signs", "training: cosine", "training: signs")
    together = TOGETHER["all together, SDSS"]
    for group in networks["classical"][0].inside:
        g = {k: [n.mean(together, group, every) for n in networks[k]] for k in KINDS}
        for kind in KINDS:
            drawn = [[n.mean(together, group, s) for s in samples] for n in networks[kind]]
            sky = compared(pair for one in drawn for pair in combinations(one, 2))
            values = [*sky, *compared(combinations(g[kind], 2))]
            patterns[f"{group}, {kind}"] = dict(zip(columns, values, strict=True))
        both = compared(product(*g.values()))
        patterns[f"{group}, the two kinds"] = dict(zip(columns, ["", "", *both], strict=True))
    print(f"\n{markdown(shifts)}\n\n{markdown(patterns)}")
    for kind in KINDS:
        setattr(args, kind, [path.name for path in getattr(args, kind)])
    write_json(args, shifts=shifts, patterns=patterns)


if __name__ == "__main__":
    main()
