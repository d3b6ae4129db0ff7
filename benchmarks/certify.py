"""What certified medians cost in precision, and what they prove, on simulated galaxies.

    python benchmarks/certify.py [--epochs 12] [--galaxies 6000] [--test 200] [--json FILE]
    python benchmarks/certify.py --network runs/demo/classical.pt [--json FILE]

For every sigma a network (the CNN of the paper at 0.35 of its width, 24 x 24 stamps) is trained
on images with that much Gaussian noise more in every pixel; with --network one that is trained
already is taken for all of them: a file of `Trainer.save`, or a state_dict. Each test galaxy is
then drawn 1,000 times under the noise. The table has the precision of the network on single images
without the noise, that of the smoothed median, and for every eps (an L2 norm over all bands and
pixels) the half-width of the intervals, and the share of the galaxies that are proven to stay no
outliers, |dz| <= 0.05, whatever the change. Finished rows are kept in the JSON file, with their
networks beside it, and not done again.
"""

from __future__ import annotations

import argparse
import json
import math
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
from advphotoz.certify import MedianSmoothing, certificate, largest_provable_ratio
from advphotoz.datasets import random_dihedral, simulate
from advphotoz.models import cnn
from advphotoz.provenance import machine, versions, weights_digest

BINS = RedshiftBins(0.0, 1.0, 180)
SIZE = 24
OUTLIER = 0.05
SIGMAS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.3)
EPS = (0.01, 0.02, 0.05, 0.1, 0.01 * math.sqrt(5 * SIZE**2))  # the last: 0.01 in every pixel


class Noisy:
    """A transform of training images: flips and turns, then Gaussian noise."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def __call__(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return the images with noise; the generator lies on the CPU."""
        noise = torch.randn(x.shape, generator=generator).to(x)
        return random_dihedral(x, generator) + self.sigma * noise


def trained(sigma: float, data: TensorDataset, args: argparse.Namespace, path: Path) -> nn.Module:
    """Train a network under noise, from the last finished epoch on."""
    torch.manual_seed(0)
    model = cnn(image_size=SIZE, n_bins=BINS.n, width=args.width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    steps = args.epochs * -(-len(data) // 32)
    trainer = AdversarialTrainer(
        model,
        optimizer,
        None,
        0.0,
        CrossEntropy(BINS, width=0.008),
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps),
        scheduler_step="step",
        transform=Noisy(sigma),
        autocast=fast_autocast(),
    )
    shuffle = torch.Generator().manual_seed(0)
    loader = DataLoader(data, 32, shuffle=True, generator=shuffle)
    trainer.fit(loader, epochs=args.epochs, checkpoint=path, progress=False)
    return model


def loaded(args: argparse.Namespace) -> nn.Module:
    """Read a trained network."""
    model = cnn(image_size=SIZE, n_bins=BINS.n, width=args.width)
    state = torch.load(args.network, map_location="cpu", weights_only=True)
    model.load_state_dict(state.get("model", state))
    return model


def precision(z_phot: Tensor, z: Tensor) -> list[float]:
    """Return sigma_MAD [10^-3] and eta [%]."""
    return [1e3 * metrics.sigma_mad(z_phot, z), 100 * metrics.outlier_fraction(z_phot, z)]


@torch.no_grad()
def measure(model: nn.Module, sigma: float, test: TensorDataset, draws: int) -> dict[str, Any]:
    """Return precision, half-widths and what is proven of the test galaxies."""
    model.eval()
    x, ebv, z = test.tensors
    start = time.perf_counter()
    smoothed = MedianSmoothing(model, BINS, sigma, draws)
    dtype = fast_autocast()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        samples = smoothed.samples(x, (ebv,))
        plain = BINS.redshift(model(x, ebv))
    row: dict[str, Any] = {
        "plain": precision(plain, z),
        "smoothed": precision(certificate(samples, sigma, 0.0).redshift, z),
        "seconds per galaxy": (time.perf_counter() - start) / len(z),
        "weights": weights_digest(model),
        "eps": {},
    }
    for eps in EPS:
        found = certificate(samples, sigma, eps)
        if not found.proven:
            row["eps"][f"{eps:.3g}"] = None
            continue
        half = (found.high - found.low) / 2 / (1 + z)
        worst = torch.maximum((found.high - z).abs(), (found.low - z).abs()) / (1 + z)
        row["eps"][f"{eps:.3g}"] = {
            "half-width [10^-3]": 1e3 * statistics.median(half.tolist()),
            "proven [%]": 100 * float((worst <= OUTLIER).float().mean()),
        }
    return row


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    heads = [f"eps = {eps:.3g}: half-width [10⁻³] / proven [%]" for eps in EPS]
    lines = [
        "| sigma | plain: sigma_MAD [10⁻³] / eta [%] | smoothed | " + " | ".join(heads) + " |",
        "| --: " * (3 + len(EPS)) + "|",
    ]
    for sigma, row in rows.items():
        cells = [f"{mad:.1f} / {eta:.1f}" for mad, eta in (row["plain"], row["smoothed"])]
        for found in row["eps"].values():
            numbers = () if found is None else found.values()
            cells.append(" / ".join(f"{value:.1f}" for value in numbers) or "nothing")
        lines.append(f"| {sigma} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure every sigma that is not done, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", type=Path, help="a trained one, for every sigma")
    parser.add_argument("--width", type=float, default=0.35, help="of the CNN")
    parser.add_argument("--galaxies", type=int, default=6000, help="one in twelve is for testing")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--test", type=int, default=200, help="galaxies certified")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--sigmas", type=float, nargs="+", default=SIGMAS)
    parser.add_argument("--json", type=Path, default=Path("runs/certify.json"))
    args = parser.parse_args()

    kept = json.loads(args.json.read_text()) if args.json.exists() else {}
    rows: dict[str, dict[str, Any]] = kept.get("rows", {})
    split = simulate(args.galaxies, seed=0, size=SIZE).split(10 / 12, 1 / 12, 1 / 12, seed=0)
    train, _, test = (TensorDataset(part.image, part.ebv, part.z) for part in split)
    test = TensorDataset(*test[: args.test])
    about = {
        **{key: str(value) for key, value in vars(args).items() if key not in ("json", "network")},
        "network": None if args.network is None else args.network.name,
        "certified": len(test),
        "largest provable eps / sigma": largest_provable_ratio(args.draws),
        "versions": versions(),
        "machine": machine("cpu"),
    }
    args.json.parent.mkdir(parents=True, exist_ok=True)
    for sigma in args.sigmas:
        if f"{sigma:g}" in rows:
            continue
        path = args.json.with_name(f"{args.json.stem}-{sigma:g}.pt")
        model = loaded(args) if args.network else trained(sigma, train, args, path)
        rows[f"{sigma:g}"] = measure(model, sigma, test, args.draws)
        args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
        print(f"sigma {sigma:g}: {rows[f'{sigma:g}']}", flush=True)
    print(table(rows))


if __name__ == "__main__":
    keep_freed_memory()
    main()
