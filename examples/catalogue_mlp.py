"""No images: a multilayer perceptron on a catalogue of magnitudes, attacked and retrained.

    python examples/catalogue_mlp.py [--catalogue FILE] [--nsigma 3]

eps is one number per feature: `nsigma` times the median photometric error of that band. FILE is a
text table with a header line; its columns are z, then ugriz magnitudes, four colours, and then the
ugriz errors (that of the MLZ package's SDSS Main Galaxy Sample). Without a file the magnitudes are
simulated (needs the extra `sim`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from advphotoz import FGSM, PGD, AdversarialTrainer, CrossEntropy, LinfBall, RedshiftBins
from advphotoz.evaluation import Evaluation, evaluate

BINS = RedshiftBins(0.0, 0.4, 80)


def read_catalogue(path: Path | None, galaxies: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return magnitudes (N, 5), their errors (N, 5) and redshifts (N,)."""
    if path is None:
        from advphotoz.datasets import simulate

        data = simulate(galaxies, seed=2, size=32)
        inside = data.z < BINS.z_max
        print(f"{int((~inside).sum())} of {galaxies} galaxies lie beyond the bins and are left out")
        catalogue = data.catalogue
        return catalogue["mag"][inside], catalogue["mag_err"][inside], data.z[inside]
    rows = np.loadtxt(path, dtype=np.float32)
    if rows.ndim != 2 or rows.shape[1] < 15:
        raise SystemExit(f"{path}: expected at least 15 columns (z, ugriz, colours, errors)")
    z, magnitudes, errors = rows[:, 0], rows[:, 1:6], rows[:, 10:15]
    return torch.tensor(magnitudes), torch.tensor(errors), torch.tensor(z)


class Perceptron(nn.Module):
    """Magnitudes in, logits out; the scaling is part of the model, so that eps is in magnitudes."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        layers = [nn.Linear(9, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(128, BINS.n))

    def forward(self, magnitudes: Tensor) -> Tensor:
        """Return logits (N, n) from magnitudes (N, 5), by way of the four colours too."""
        scaled = (magnitudes - self.mean) / self.std
        colours = (magnitudes[:, :-1] - magnitudes[:, 1:]) * 3
        return self.layers(torch.cat([scaled, colours], dim=1))


def study(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], eps: list[float], epochs: int
) -> dict[str, Evaluation]:
    """Train classically and by Algorithm 1 (half of each batch PGD), and evaluate both."""
    attacks = {"FGSM": FGSM(eps), "PGD-10": PGD(LinfBall(eps))}
    strong = PGD(LinfBall(eps), steps=50, restarts=3)
    results = {}
    for name, fraction in (("classical", 0.0), ("Algorithm 1", 0.5)):
        torch.manual_seed(0)
        model = Perceptron(train[0].mean(0), train[0].std(0))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        trainer = AdversarialTrainer(
            model,
            optimizer,
            attacks["PGD-10"],
            fraction,
            CrossEntropy(BINS),
            scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        )
        shuffle = torch.Generator().manual_seed(0)
        loader = DataLoader(TensorDataset(*train), 64, shuffle=True, generator=shuffle)
        trainer.fit(loader, epochs=epochs, progress=False)
        results[name] = evaluate(
            model, [test], {**attacks, "PGD-50x3": strong}, BINS, progress=False
        )
    return results


def main() -> None:
    """Read the catalogue, split it in halves, print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--catalogue", type=Path)
    parser.add_argument("--galaxies", type=int, default=2000, help="simulated, without a catalogue")
    parser.add_argument("--nsigma", type=float, default=3.0, help="eps in photometric errors")
    parser.add_argument("--epochs", type=int, default=40)
    args = parser.parse_args()

    magnitudes, errors, z = read_catalogue(args.catalogue, args.galaxies)
    half = len(z) // 2
    eps = (args.nsigma * errors.median(dim=0).values).tolist()
    origin = "simulated" if args.catalogue is None else args.catalogue.name
    print(f"{half} training and {len(z) - half} test galaxies ({origin})")
    print("eps in magnitudes, ugriz:", ", ".join(f"{e:.4f}" for e in eps))
    train, test = (magnitudes[:half], z[:half]), (magnitudes[half:], z[half:])
    for name, result in study(train, test, eps, args.epochs).items():
        print(f"\n{name}\n{result}")


if __name__ == "__main__":
    main()
