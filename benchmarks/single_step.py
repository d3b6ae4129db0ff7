"""Cheaper strong training: one step from a random start beside PGD-10, half of each batch.

    python benchmarks/single_step.py [--epochs 6] [--json FILE]

The CNN of the paper on simulated galaxies, trained classically, with one FGSM step of 1.25 eps from
a random start (Wong et al. 2020, arXiv:2001.03994), and with PGD-10; each is then attacked by
PGD-50 with 2 searches. A single-step training can collapse all at once ("catastrophic
overfitting"): the evaluation by a strong attack, not the training loss, tells.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from _common import environment, write_json
from advphotoz import FGSM, PGD, AdversarialTrainer, LinfBall, evaluate, models
from advphotoz.datasets import random_dihedral, simulate

EPS = 0.01
BALL = LinfBall(EPS)
TRAININGS = {
    "classical": (None, 0.0),
    "one step, random start": (PGD(BALL, steps=1, step_size=1.25 * EPS, random_start=True), 0.5),
    "PGD-10": (PGD(BALL), 0.5),
}
ATTACKS = {"FGSM": FGSM(EPS), "PGD-10": PGD(BALL), "PGD-50x2": PGD(BALL, steps=50, restarts=2)}


def main() -> None:
    """Train, attack, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--galaxies", type=int, default=6000, help="one in twelve is for testing")
    parser.add_argument("--test", type=int, default=256, help="galaxies attacked")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.set_defaults(device="cpu")
    args = parser.parse_args()

    print(environment())
    train, _, test = simulate(args.galaxies).split(10 / 12, 1 / 12, 1 / 12)
    rows = {}
    for name, (attack, fraction) in TRAININGS.items():
        torch.manual_seed(args.seed)
        model = models.cnn(width=args.width)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        trainer = AdversarialTrainer(
            model,
            optimizer,
            attack,
            fraction,
            scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs),
            transform=random_dihedral,
            autocast=torch.bfloat16,
        )
        shuffle = torch.Generator().manual_seed(args.seed)
        start = time.perf_counter()
        loader = DataLoader(train, 64, shuffle=True, generator=shuffle)
        trainer.fit(loader, epochs=args.epochs, progress=False)
        seconds = time.perf_counter() - start
        shown = DataLoader(test.subset(range(min(args.test, len(test)))), 64)
        result = evaluate(
            model, shown, ATTACKS, autocast=torch.bfloat16, progress=False, sanity=False
        )
        rows[name] = {"seconds": seconds, **{row.name: vars(row) for row in result.rows}}
        print(f"\n{name}: trained in {seconds:.0f} s\n{result}", flush=True)
    write_json(args, rows=rows)


if __name__ == "__main__":
    main()
