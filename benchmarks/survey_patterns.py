"""Does the worst pattern of a survey's calibration errors belong to the training or to the sky?

    python benchmarks/survey_patterns.py --galaxies 2000 --size 24 --width 0.35 \
        --classical A.pt B.pt C.pt --defended D.pt E.pt F.pt [--json FILE]

Checkpoints of `advphotoz demo`, of several seeds. In linear response the worst errors within a box
are its corner sign(g), with g the gradient of the mean dz of a bin by every parameter in units of
its budget. For each network g is taken on simulated galaxies that none was trained on, and on ten
bootstrap samples of them. Printed is the mean cosine between two g, and the mean share of the
parameters, weighted by |g|, whose sign agrees: between the bootstrap samples of one network (the
sky), between networks that differ in the seed (the training), and between trainings of two kinds.
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
from advphotoz import models
from advphotoz.datasets import simulate
from survey import EFFECTS

SAMPLES = 10
KINDS = ("classical", "defended")
COLUMNS = ("sky: cosine", "sky: signs", "training: cosine", "training: signs")
Array = npt.NDArray[np.float64]


def responses(model: nn.Module, loader: DataLoader) -> tuple[Array, Array]:
    """Return the clean redshift (N,) and the gradient of dz by each parameter, (N, P)."""
    errors = EFFECTS["all together"]
    clean, gradients = [], []
    for x, ebv, z in loader:
        p = errors.identity(x).requires_grad_()
        moved, _ = errors.apply(x, (ebv,), p)
        z_phot = BINS.redshift(model(moved, ebv))
        (gradient,) = torch.autograd.grad(((z_phot - z) / (1 + z)).sum(), p)
        clean.append(z_phot.detach())
        gradients.append(gradient.flatten(1))
    return torch.cat(clean).double().numpy(), torch.cat(gradients).double().numpy()


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classical", type=Path, nargs="+", required=True)
    parser.add_argument("--defended", type=Path, nargs="+", required=True)
    parser.add_argument("--galaxies", type=int, default=2000)
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--width", type=float, default=0.35)
    parser.add_argument("--bins", type=int, default=4)
    parser.add_argument("--json", type=Path)
    parser.set_defaults(device="cpu")
    args = parser.parse_args()

    galaxies = simulate(args.galaxies, seed=100, size=args.size)
    loader = DataLoader(galaxies, 100)
    rng = np.random.default_rng(0)
    samples = rng.integers(args.galaxies, size=(SAMPLES, args.galaxies))
    # By kind and group: for each network the g of all galaxies, and of each bootstrap sample.
    whole: dict[tuple[str, str], list[Array]] = {}
    drawn: dict[tuple[str, str], list[list[Array]]] = {}
    for kind in KINDS:
        for path in getattr(args, kind):
            model = models.cnn(image_size=args.size, width=args.width)
            model.load_state_dict(torch.load(path, weights_only=True)["model"])
            z, g = responses(model.eval(), loader)
            edges = np.quantile(z, np.linspace(0, 1, args.bins + 1)[1:-1])
            which = np.digitize(z, edges)
            for group in ("all", *range(args.bins)):
                inside = np.full(len(z), True) if group == "all" else which == group
                key = kind, "all galaxies" if group == "all" else f"bin {group}"
                whole.setdefault(key, []).append(g[inside].mean(0))
                drawn.setdefault(key, []).append([g[s][inside[s]].mean(0) for s in samples])
    rows: dict[str, dict[str, object]] = {}
    for group in [name for kind, name in whole if kind == "classical"]:
        for kind in KINDS:
            sky = compared(pair for s in drawn[kind, group] for pair in combinations(s, 2))
            training = compared(combinations(whole[kind, group], 2))
            rows[f"{group}, {kind}"] = dict(zip(COLUMNS, [*sky, *training], strict=True))
        both = compared(product(*(whole[kind, group] for kind in KINDS)))
        rows[f"{group}, the two kinds"] = dict(zip(COLUMNS, ["", "", *both], strict=True))
    print(f"{args.galaxies} simulated galaxies; {environment()}\n\n{markdown(rows)}")
    for kind in KINDS:
        setattr(args, kind, [path.name for path in getattr(args, kind)])
    gradients = {", ".join(key): np.array(value).tolist() for key, value in whole.items()}
    write_json(args, rows=rows, gradients=gradients)


if __name__ == "__main__":
    main()
