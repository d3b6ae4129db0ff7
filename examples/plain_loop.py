"""Algorithm 1 inside a plain PyTorch loop: one line more than classical training.

python examples/plain_loop.py [--galaxies 600] [--epochs 2]
"""

from __future__ import annotations

import argparse

import torch
from torch.utils.data import DataLoader

from advphotoz import FGSM, CrossEntropy, RedshiftBins, mix_adversarial, models
from advphotoz.datasets import simulate


def main() -> None:
    """Train a narrow CNN on simulated galaxies, one fifth of each batch adversarial."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--galaxies", type=int, default=600)
    parser.add_argument("--epochs", type=int, default=2)
    args = parser.parse_args()

    bins = RedshiftBins(0.0, 1.0, 180)
    objective = CrossEntropy(bins)
    attack = FGSM(0.01, objective=objective)
    model = models.cnn(n_bins=bins.n, width=0.25)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loader = DataLoader(simulate(args.galaxies, seed=1), batch_size=64, shuffle=True)

    for epoch in range(args.epochs):
        total = 0.0
        for batch in loader:
            image, ebv, z = mix_adversarial(model, batch, attack, fraction=0.2)  # the line
            loss = objective(model(image, ebv), z).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(z)
        print(f"epoch {epoch + 1}: mean loss {total / args.galaxies:.3f} (simulated galaxies)")


if __name__ == "__main__":
    main()
