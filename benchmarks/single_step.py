"""Cheaper strong training: one or two steps, with and without warm starts, and PGD-10.

    python benchmarks/single_step.py [--epochs 6] [--seeds 0 1 2] [--json FILE]

The CNN of the paper on simulated galaxies, trained classically, and with half of each batch
attacked: by one step of 1.25 eps from a random start (Wong et al. 2020, arXiv:2001.03994); by one
or two steps from the perturbation that each galaxy had last (Zheng et al. 2020, arXiv:1912.11969);
and by PGD-10. The latter are validated under PGD-10, and the weights of the best epoch are kept: a
single-step training can collapse all at once ("catastrophic overfitting"), and only a stronger
attack sees it. Each network is then attacked by PGD-50 with 2 searches. All searches are the
paper's: they return the last point, after steps of 0.1 eps where nothing else is said.

Times are of the median epoch, times the number of epochs, and include the validation. The passes
over the network are counted too: 3 per training step, 2 per input gradient, 1 per image validated.
The file of --json is written after each training, a checkpoint in its folder after each epoch of
one, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from _common import BINS, environment, markdown, write_json
from advphotoz import (
    FGSM,
    PGD,
    AdversarialTrainer,
    CrossEntropy,
    LinfBall,
    evaluate,
    fast_autocast,
    models,
)
from advphotoz.datasets import CutoutDataset, random_dihedral, simulate
from advphotoz.training import IndexedDataset, WarmStart

EPS = 0.01
BALL = LinfBall(EPS)
FRACTION = 0.5
PAPER = {"step_size": "paper", "keep": "last"}
GUARD = PGD(BALL, **PAPER)
# The attack, and whether it starts where its last search on a galaxy ended.
TRAININGS: dict[str, tuple[PGD | None, bool]] = {
    "classical": (None, False),
    "one step": (PGD(BALL, steps=1, step_size=1.25, random_start=True, keep="last"), False),
    "warm start, 1 step": (PGD(BALL, 1, step_size=1.0, random_start=True, keep="last"), True),
    "warm start, 2 steps": (PGD(BALL, 2, step_size=0.5, keep="last"), True),
    "PGD-10": (PGD(BALL, **PAPER), False),
}
ATTACKS = {
    "FGSM": FGSM(EPS),
    "PGD-10": PGD(BALL, **PAPER),
    "PGD-50x2": PGD(BALL, steps=50, restarts=2, **PAPER),
}

Rows = dict[str, dict[str, dict]]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--galaxies", type=int, default=6000, help="one in twelve is for testing")
    parser.add_argument("--valid", type=int, default=128, help="galaxies of each validation")
    parser.add_argument("--test", type=int, default=256, help="galaxies attacked")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=list(TRAININGS), choices=list(TRAININGS))
    parser.add_argument("--json", type=Path)
    parser.set_defaults(device="cpu")
    return parser.parse_args()


def done_before(args: argparse.Namespace) -> Rows:
    """Return what an earlier start has measured with the same settings."""
    if not args.json or not args.json.exists():
        return {}
    kept = json.loads(args.json.read_text(encoding="utf-8"))
    settings = kept.get("settings", {})
    mine = {name: value for name, value in vars(args).items() if name not in ("json", "only")}
    if mine != {**settings, "seeds": args.seeds}:
        sys.exit(f"{args.json} holds results of other settings, {settings}; name another file")
    if kept["environment"] != environment():
        print(f"the first trainings ran elsewhere: {kept['environment']}\n")
    return kept["rows"]


def passes(attack: PGD | None, train: int, valid: int) -> float:
    """Count the passes of one epoch over the network, in forward passes of one image."""
    step = valid_step = 0.0
    if attack is not None:
        step, valid_step = 2 * FRACTION * attack.steps, 2 * FRACTION * GUARD.steps
    return train * (3 + step) + valid * (1 + valid_step)


def trained(
    name: str,
    seed: int,
    train: CutoutDataset,
    valid: CutoutDataset,
    args: argparse.Namespace,
    checkpoint: Path | None,
) -> AdversarialTrainer:
    """Train one network and put its best weights into it."""
    attack, warm = TRAININGS[name]
    torch.manual_seed(seed)
    model = models.cnn(width=args.width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    trainer = AdversarialTrainer(
        model,
        optimizer,
        WarmStart(attack, len(train)) if warm else attack,
        0.0 if attack is None else FRACTION,
        CrossEntropy(BINS),
        scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs),
        transform=random_dihedral,
        autocast=fast_autocast(),
        seed=seed,
        valid_attack=None if attack is None else GUARD,
    )
    shuffle = torch.Generator().manual_seed(seed)
    loader = DataLoader(
        IndexedDataset(train) if warm else train, 64, shuffle=True, generator=shuffle
    )
    trainer.fit(loader, DataLoader(valid, 64), args.epochs, checkpoint, progress=False)
    trainer.load_best()
    return trainer


def main() -> None:
    """Train, attack, print a table."""
    args = options()
    print(f"{environment()}\n")
    rows = done_before(args)
    write_json(args, rows=rows)  # the settings, before any checkpoint
    train, valid, test = simulate(args.galaxies).split(10 / 12, 1 / 12, 1 / 12)
    valid = valid.subset(range(min(args.valid, len(valid))))
    shown = DataLoader(test.subset(range(min(args.test, len(test)))), 64)
    for seed in args.seeds:
        for name in args.only:
            of_seed = rows.setdefault(f"seed {seed}", {})
            if name in of_seed:
                continue
            slug = name.replace(",", "").replace(" ", "-")
            checkpoint = args.json and args.json.with_name(f"{args.json.stem}-{seed}-{slug}.pt")
            trainer = trained(name, seed, train, valid, args, checkpoint)
            result = evaluate(
                trainer.model,
                shown,
                ATTACKS,
                BINS,
                objective=CrossEntropy(BINS),
                autocast=fast_autocast(),
                progress=False,
                checks=False,
            )
            # The median epoch: other work on the machine slows some of them down.
            seconds = args.epochs * statistics.median(row["seconds"] for row in trainer.history)
            of_seed[name] = {
                "seconds": seconds,
                "passes": args.epochs * passes(TRAININGS[name][0], len(train), len(valid)),
                "best_epoch": trainer.best_epoch,
                "history": trainer.history,
                **{row.name: vars(row) for row in result.rows},
            }
            print(f"seed {seed}, {name}: trained in {seconds:.0f} s\n{result}\n", flush=True)
            write_json(args, rows=rows)
            if checkpoint:
                checkpoint.unlink()
    print(markdown(table(rows), "training"))


def table(rows: Rows) -> dict[str, dict[str, object]]:
    """Return one line per training: means over the seeds, and eta under PGD-50x2 of each."""
    lines: dict[str, dict[str, object]] = {}
    for name in TRAININGS:
        found = {seed: row[name] for seed, row in rows.items() if name in row}
        if not found:
            continue
        relative = {key: [] for key in ("seconds", "passes")}
        for seed, row in found.items():
            if classical := rows[seed].get("classical"):
                for key, ratios in relative.items():
                    ratios.append(row[key] / classical[key])
        each = [100 * row["PGD-50x2"]["eta"] for row in found.values()]
        lines[name] = {
            "seconds": statistics.fmean(row["seconds"] for row in found.values()),
            "times classical": statistics.fmean(relative["seconds"])
            if relative["seconds"]
            else None,
            "by passes": statistics.fmean(relative["passes"]) if relative["passes"] else None,
            "best epochs": ", ".join(str(row["best_epoch"]) for row in found.values()),
            **{
                f"eta {attack}": 100
                * statistics.fmean(row[attack]["eta"] for row in found.values())
                for attack in ("clean", *ATTACKS)
            },
            "of each seed": ", ".join(f"{eta:.1f}" for eta in each),
            "clean sigma_MAD": 1e3
            * statistics.fmean(row["clean"]["sigma_mad"] for row in found.values()),
        }
    return lines


if __name__ == "__main__":
    main()
