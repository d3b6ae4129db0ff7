"""Train a network, in the usual way or by Algorithm 1 of Campagne 2020.

A run is a folder: after an interruption, the same command goes on at its last whole epoch. One
galaxy in ten is kept for validation, and the epoch with the lowest validation loss is what
`advphotoz attack --model FOLDER` attacks; test on galaxies of another file. With --fraction 0.5
half of each batch is adversarial. Settings are those of the demo: AdamW with one cycle of the
learning rate, soft labels, flips and rotations.

    advphotoz train train.npz --run runs/mine --eps 0.4sigma --fraction 0.5
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from advphotoz import (
    FGSM,
    PGD,
    Attack,
    CrossEntropy,
    LinfBall,
    RedshiftBins,
    RedshiftError,
    fast_autocast,
    keep_freed_memory,
)
from advphotoz.command.cutouts import add_cutouts, open_cutouts, some_images
from advphotoz.command.eps import size
from advphotoz.command.network import CHECKPOINT, add_network, build, described, device
from advphotoz.command.outputs import say
from advphotoz.command.training import fit
from advphotoz.datasets import random_dihedral
from advphotoz.objectives import Objective
from advphotoz.redshift import Readout

__all__ = ["add", "run"]

USAGE = "CUTOUTS --run FOLDER [options]"

SOFT = 0.008  # width of soft labels in redshift
SETTINGS = "settings.json"
NOT_SETTINGS = {"run", "folder", "traceback", "device", "command"}


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    add_cutouts(parser)
    add_network(parser, trained=False)
    group = parser.add_argument_group("the training")
    group.add_argument(
        "--run", type=Path, required=True, dest="folder", metavar="FOLDER", help="to write or go on"
    )
    group.add_argument("--epochs", type=int, default=25, help="(25)")
    group.add_argument("--batch", type=int, default=32, help="(32)")
    group.add_argument("--learning-rate", type=float, default=2e-3, help="the highest (0.002)")
    group.add_argument("--fraction", type=float, default=0.0, help="adversarial share (0)")
    group.add_argument("--eps", type=size, help="its size: 0.01, 0.01,0.02,... or 0.4sigma")
    group.add_argument(
        "--attack", choices=["pgd", "fgsm"], default="pgd", help="PGD of 3 steps, or FGSM"
    )
    group.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Train, from the last finished epoch on."""
    if args.fraction and args.eps is None:
        raise ValueError("--fraction needs --eps, the size of the changes to train against")
    keep_freed_memory()
    network = described(args)
    data = open_cutouts(args)
    torch.manual_seed(args.seed)
    model = build(network, data).to(device(args))
    train, valid = (part.load() for part in data.split(0.9, 0.1, seed=args.seed))
    attack = None if not args.fraction else _attack(args, args.eps.of(some_images(data)))
    _same_settings(args)
    network.save(args.folder)
    trainer = fit(
        model,
        torch.optim.AdamW(model.parameters(), lr=args.learning_rate),
        (train, valid),
        attack,
        args.fraction,
        _objective(network.readout),
        epochs=args.epochs,
        batch=args.batch,
        valid_batch=args.batch,
        transform=random_dihedral,
        autocast=fast_autocast(device(args)),
        seed=args.seed,
        checkpoint=args.folder / CHECKPOINT,
    )
    history = trainer.history
    best = trainer.best_epoch
    say(
        f"{len(history)} epochs; the lowest validation loss, "
        f"{min(row['valid_loss'] for row in history):.4f}, after epoch {best}\n"
        f"Next, on galaxies of another file: advphotoz attack TEST --model {args.folder} --eps ..."
    )
    return 0


def _attack(args: argparse.Namespace, eps: float | list[float]) -> Attack:
    if args.attack == "fgsm":
        return FGSM(eps)
    # The best of three steps would cost a forward pass more.
    return PGD(LinfBall(eps), steps=3, keep="last")


def _objective(readout: Readout) -> Objective:
    if isinstance(readout, RedshiftBins):
        return CrossEntropy(readout, width=SOFT)
    return RedshiftError(readout)


def _same_settings(args: argparse.Namespace) -> None:
    """Refuse to go on with other settings than those with which the run began."""
    held = {k: v for k, v in sorted(vars(args).items()) if k not in NOT_SETTINGS}
    text = json.dumps(held, indent=2, default=_plain)
    args.folder.mkdir(parents=True, exist_ok=True)
    kept = args.folder / SETTINGS
    if not kept.exists():
        kept.write_text(text, encoding="utf-8")
    elif kept.read_text(encoding="utf-8") != text:
        before, now = json.loads(kept.read_text(encoding="utf-8")), json.loads(text)
        other = [name for name in now if now[name] != before.get(name)]
        raise ValueError(
            f"{args.folder} was begun with other settings of {', '.join(other) or 'its options'}; "
            "name another --run, or delete it"
        )


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else vars(value)
