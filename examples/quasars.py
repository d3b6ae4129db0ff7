"""Real images: train, attack and defend on SDSS ugriz cutouts with spectroscopic redshifts.

    python examples/quasars.py --data sdss_quasars_ugriz_40.npz [--out runs/quasars] [--seeds 3]

The file holds `image` (N, 5, 40, 40) in nanomaggies, `ebv` (N,) and `z` (N,), one row per object.
These are quasars at 2.75 < z < 5, point-like and faint: redshift shows as bands that drop out, and
some of the pipeline's redshifts are wrong, so that the share of outliers has a floor. Outliers are
counted beyond |dz| = 0.15. Objects are split into training, validation and test; nothing is chosen
on the test objects. Every training and evaluation is kept in the folder and not done again.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from advphotoz import (
    FGSM,
    PGD,
    AdversarialTrainer,
    CrossEntropy,
    LinfBall,
    RedshiftBins,
    RedshiftError,
    SignedRedshift,
    WorstOf,
    fast_autocast,
    keep_freed_memory,
    metrics,
    models,
)
from advphotoz.datasets import random_dihedral
from advphotoz.evaluation import Evaluation, evaluate

EPS = 0.01  # nanomaggies per pixel, below the sky noise of every band
SKY_NOISE = (0.045, 0.017, 0.027, 0.045, 0.169)  # nanomaggies per pixel, from corners of the images
SIZE = 32  # central pixels
BINS = RedshiftBins(2.7, 5.1, 120)
BEYOND = 0.15
SEARCHES = tuple(PGD(LinfBall(EPS), steps=50, objective=SignedRedshift(BINS, s)) for s in (1, -1))
ATTACKS = {
    "FGSM": FGSM(EPS),
    "PGD-20": PGD(LinfBall(EPS), steps=20),
    "two signed PGD-50": WorstOf(SEARCHES, objective=RedshiftError(BINS)),
}
FRACTIONS = {"classical": 0.0, "Algorithm 1": 0.5}


def read(path: Path, seed: int) -> list[TensorDataset]:
    """Return training, validation and test objects, split by a seed."""
    with np.load(path) as file:
        image, ebv, z = (torch.tensor(np.asarray(file[name])) for name in ("image", "ebv", "z"))
    edge = (image.shape[-1] - SIZE) // 2
    image = image[..., edge : edge + SIZE, edge : edge + SIZE].float().contiguous()
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
    tested, valid = min(500, len(z) // 3), min(200, len(z) // 8)
    parts = order.split([len(z) - tested - valid, valid, tested])
    return [TensorDataset(image[k], ebv[k].float(), z[k].float()) for k in parts]


def train(
    fraction: float, parts: list[TensorDataset], epochs: int, seed: int, path: Path
) -> nn.Module:
    """Train the paper's CNN at half its width, from the last finished epoch on."""
    torch.manual_seed(seed)
    stretch = models.AsinhStretch(SKY_NOISE, softening=3)
    model = models.cnn(image_size=SIZE, n_bins=BINS.n, width=0.5, stretch=stretch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    steps = epochs * -(-len(parts[0]) // 32)
    trainer = AdversarialTrainer(
        model,
        optimizer,
        PGD(LinfBall(EPS), steps=3),
        fraction,
        CrossEntropy(BINS, width=0.03),
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps),
        scheduler_step="step",
        transform=random_dihedral,
        autocast=fast_autocast(),
        seed=seed,
    )
    shuffle = torch.Generator().manual_seed(seed)
    loader = DataLoader(parts[0], 32, shuffle=True, generator=shuffle)
    trainer.fit(loader, DataLoader(parts[1], 100), epochs, checkpoint=path)
    return model


def measure(model: nn.Module, part: TensorDataset, path: Path) -> Evaluation:
    """Attack a network, or read what an earlier start measured."""
    if not path.exists():
        evaluate(model, DataLoader(part, 100), ATTACKS, BINS).save(path)
    return Evaluation.load(path)


def cells(results: list[Evaluation], row: str) -> str:
    """Return sigma_MAD [10^-3] and the share beyond 0.15 [%], the mean and scatter of the seeds."""

    def shown(values: list[float]) -> str:
        scatter = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.1f}{scatter}"

    points = [(result.z_phot[row], result.z_spec) for result in results]
    mad = [1e3 * metrics.sigma_mad(*point) for point in points]
    beyond = [100 * metrics.outlier_fraction(*point, threshold=BEYOND) for point in points]
    return f"{shown(mad)} / {shown(beyond)}"


def table(found: dict[str, list[Evaluation]]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        f"| sigma_MAD [10⁻³] / beyond {BEYOND} [%] | {' | '.join(found)} |",
        "| :-- | --: | --: |",
    ]
    for row in ("clean", "noise", *ATTACKS):
        lines.append(f"| {row} | {' | '.join(cells(results, row) for results in found.values())} |")
    return "\n".join(lines)


def main() -> None:
    """Run every step that is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/quasars"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Evaluation]] = {name: [] for name in FRACTIONS}
    counts: Tensor | None = None
    for seed in range(args.seeds):
        parts = read(args.data, seed)
        counts = torch.tensor([len(part) for part in parts])
        for name, fraction in FRACTIONS.items():
            stem = args.out / f"{name.replace(' ', '-')}-seed{seed}"
            model = train(fraction, parts, args.epochs, seed, stem.with_suffix(".pt"))
            found[name].append(measure(model, parts[2], stem.with_suffix(".json")))
            print(f"\n{name}, seed {seed}: {found[name][-1].checks.verdict}", flush=True)
    assert counts is not None
    trained, validated, tested = counts.tolist()
    print(
        f"\nReal SDSS images of quasars: {trained} to train on, {validated} to validate, {tested} "
        f"to test, split anew for each of {args.seeds} seeds; ± is the scatter of the seeds.\n"
    )
    print(table(found))


if __name__ == "__main__":
    keep_freed_memory()
    main()
