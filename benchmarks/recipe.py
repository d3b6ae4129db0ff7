"""What makes a network precise: each ingredient of the training alone, on simulated galaxies.

    python benchmarks/recipe.py [--galaxies 6000] [--seeds 1] [--only NAME ...] [--json FILE]

32 x 32 stamps, the CNN of half width, AdamW; bfloat16 where the processor has it. Every row is one
change of the row that it names. sigma_MAD and eta of the validation galaxies, on which choices are
made, and of the test galaxies, on which none is. Beside them the references: a perceptron on fluxes
within Gaussian apertures of the same pixels, and one on the catalogue's magnitudes, which see
neither neighbours nor the noise of the pixels. Each finished training is kept in the JSON file, and
not done again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from advphotoz import (
    AdversarialTrainer,
    CrossEntropy,
    RedshiftBins,
    fast_autocast,
    keep_freed_memory,
    metrics,
)
from advphotoz.datasets import random_dihedral, simulate
from advphotoz.models import AperturePerceptron, AsinhStretch, cnn
from advphotoz.provenance import machine, versions
from advphotoz.training import WeightAverage

BINS = RedshiftBins(0.0, 1.0, 180)
SKY_NOISE = (0.043, 0.016, 0.023, 0.039, 0.18)  # nanomaggies per pixel, the SDSS's and ours
SIZE = 32

FIRST: dict[str, Any] = {"epochs": 6, "batch": 64, "rate": 1e-3, "schedule": "cosine"}
RECIPE: dict[str, Any] = {
    "epochs": 30,
    "batch": 32,
    "rate": 2e-3,
    "schedule": "one cycle",
    "stretch": 10.0,
    "label": 0.008,
}
ROWS: dict[str, dict[str, Any]] = {
    "as the first version": FIRST,
    "first + stretch": {**FIRST, "stretch": 10.0},
    "first + soft labels": {**FIRST, "label": 0.008},
    "first + one cycle": {**FIRST, "schedule": "one cycle", "rate": 2e-3},
    "first + 30 epochs": {**FIRST, "epochs": 30},
    "first + batches of 32": {**FIRST, "batch": 32},
    "first + flux in sky sigmas": {**FIRST, "stretch": 1e4},
    "the recipe": RECIPE,
    "recipe - stretch": {**RECIPE, "stretch": None},
    "recipe - soft labels": {**RECIPE, "label": 0.0},
    "recipe - one cycle": {**RECIPE, "schedule": "cosine", "rate": 1e-3},
    "recipe, 12 epochs": {**RECIPE, "epochs": 12},
    "recipe, batches of 64": {**RECIPE, "batch": 64},
    "recipe, softening 3": {**RECIPE, "stretch": 3.0},
    "recipe, softening 30": {**RECIPE, "stretch": 30.0},
    "recipe, labels 0.016": {**RECIPE, "label": 0.016},
    "recipe, weight average": {**RECIPE, "average": 0.998},
    "apertures": {"network": "apertures", "epochs": 60, "batch": 64, "label": 0.008},
    "catalogue magnitudes": {"network": "magnitudes", "epochs": 60, "batch": 64, "label": 0.008},
}


class Magnitudes(nn.Module):
    """A perceptron on the five catalogue magnitudes and their colours, dereddened or not."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(10, affine=False),
            nn.Linear(10, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, BINS.n),
        )

    def forward(self, magnitudes: Tensor, ebv: Tensor) -> Tensor:
        """Return logits (N, n) of magnitudes (N, 5) and ebv (N,)."""
        colours = magnitudes[:, :-1] - magnitudes[:, 1:]
        return self.layers(torch.cat([magnitudes, colours, ebv.view(-1, 1)], 1))


def build(row: dict[str, Any]) -> nn.Module:
    """Return the network of a row with its initial weights."""
    network = row.get("network", "cnn")
    if network == "apertures":
        return AperturePerceptron(SKY_NOISE, image_size=SIZE, n_bins=BINS.n)
    if network == "magnitudes":
        return Magnitudes()
    softening = row.get("stretch")
    stretch = None if softening is None else AsinhStretch(SKY_NOISE, softening)
    return cnn(image_size=SIZE, n_bins=BINS.n, width=0.5, stretch=stretch)


def train(row: dict[str, Any], parts: list[TensorDataset], seed: int) -> dict[str, Any]:
    """Train by a row and return its precision."""
    torch.manual_seed(seed)
    model = build(row)
    images = row.get("network", "cnn") == "cnn"
    rate = row.get("rate", 3e-3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)
    batches = -(-len(parts[0]) // row["batch"])
    scheduler: Any
    if row.get("schedule", "one cycle") == "cosine":
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, row["epochs"])
        step = "epoch"
    else:
        total = row["epochs"] * batches
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=total)
        step = "step"
    trainer = AdversarialTrainer(
        model,
        optimizer,
        None,
        0.0,
        CrossEntropy(BINS, width=row.get("label", 0.0)),
        scheduler=scheduler,
        scheduler_step=step,
        transform=random_dihedral if images else None,
        autocast=fast_autocast() if images else None,
        seed=seed,
    )
    average = WeightAverage(row["average"]) if "average" in row else None
    shuffle = torch.Generator().manual_seed(seed)
    loader = DataLoader(parts[0], row["batch"], shuffle=True, generator=shuffle)
    start = time.perf_counter()
    callbacks = [] if average is None else [average]
    trainer.fit(loader, epochs=row["epochs"], callbacks=callbacks, progress=False)
    seconds = time.perf_counter() - start
    if average is not None:
        average.load_into(model)
    return {"seconds": seconds, **precision(model, parts)}


@torch.no_grad()
def precision(model: nn.Module, parts: list[TensorDataset]) -> dict[str, list[float]]:
    """Return sigma_MAD [10^-3] and eta [%] of the validation and of the test galaxies."""
    model.eval()
    found = {}
    for name, part in zip(("valid", "test"), parts[1:], strict=True):
        x, ebv, z = part.tensors
        z_phot = BINS.redshift(model(x, ebv))
        mad, eta = metrics.sigma_mad(z_phot, z), metrics.outlier_fraction(z_phot, z)
        found[name] = [1e3 * mad, 100 * eta]
    return found


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return the results as a Markdown table, means over the seeds."""
    lines = [
        "| training | valid: sigma_MAD [10⁻³] / eta [%] | test | seeds | seconds |",
        "| :-- | --: | --: | --: | --: |",
    ]
    for name, runs in results.items():
        cells = [
            " / ".join(f"{statistics.mean(run[part][k] for run in runs):.1f}" for k in (0, 1))
            for part in ("valid", "test")
        ]
        seconds = statistics.median(run["seconds"] for run in runs)
        lines.append(f"| {name} | {' | '.join(cells)} | {len(runs)} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Train every row that is not done, and print the table after each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--galaxies", type=int, default=6000, help="one in twelve is for testing")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--json", type=Path, default=Path("runs/recipe.json"))
    args = parser.parse_args()

    kept = json.loads(args.json.read_text()) if args.json.exists() else {}
    results: dict[str, list[dict[str, Any]]] = kept.get("results", {})
    galaxies = simulate(args.galaxies, seed=0, size=SIZE)
    split = galaxies.split(10 / 12, 1 / 12, 1 / 12, seed=0)
    stamps = [TensorDataset(part.image, part.ebv, part.z) for part in split]
    catalogue = [TensorDataset(part.catalogue["mag"], part.ebv, part.z) for part in split]
    for seed in range(args.seeds):
        for name in args.only:
            runs = results.setdefault(name, [])
            if len(runs) > seed:
                continue
            row = ROWS[name]
            runs.append(
                train(row, catalogue if row.get("network") == "magnitudes" else stamps, seed)
            )
            args.json.parent.mkdir(parents=True, exist_ok=True)
            about = {"galaxies": args.galaxies, "versions": versions(), "machine": machine("cpu")}
            body = {"about": about, "rows": ROWS, "results": results}
            args.json.write_text(json.dumps(body, indent=1) + "\n")
            print(f"{name}, seed {seed}: {runs[-1]}", flush=True)
    print(table({name: results[name] for name in args.only}))


if __name__ == "__main__":
    keep_freed_memory()
    main()
