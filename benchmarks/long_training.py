"""Does cheap adversarial training hold when it is long? eta under attack against the epoch.

    python benchmarks/long_training.py [--epochs 150] [--only NAME ...] [--json FILE]

The CNN on 32 x 32 simulated stamps, trained classically, with FGSM (20, 50 and 100 % of each
batch), with one step of 1.25 eps from a random start (Wong et al. 2020, arXiv:2001.03994), with one
step from the perturbation that each galaxy had last (Zheng et al. 2020, arXiv:1912.11969), and with
PGD of three steps. A training on single steps can collapse: the network learns to resist one step,
and nothing else, and only a stronger attack sees it ("catastrophic overfitting").

Every few epochs the validation galaxies are attacked by FGSM, by PGD-10 and by two signed PGD-10,
the worst per galaxy. The weights of the best epoch are kept twice: by the loss under the attack of
the training, the default of `AdversarialTrainer`, and under PGD-10 as with `valid_attack`, the
guard, looked at every five epochs. At the end the last weights and both best ones are measured on
the test galaxies. The file of --json is written after each training, a checkpoint beside it after
each epoch, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from typing_extensions import override

from _common import BINS, environment, markdown, signed, write_json
from advphotoz import (
    FGSM,
    PGD,
    AdversarialTrainer,
    CrossEntropy,
    LinfBall,
    evaluate,
    fast_autocast,
    keep_freed_memory,
    models,
)
from advphotoz.datasets import CutoutDataset, random_dihedral, simulate
from advphotoz.training import Callback, IndexedDataset, WarmStart

BALL = LinfBall(0.01)
GUARD_EVERY = 5  # epochs
ONE_STEP = PGD(BALL, steps=1, step_size=1.25, random_start=True, keep="last")
CARRIED = PGD(BALL, steps=1, step_size=1.0, random_start=True, keep="last")
# The attack, its share of each batch, and whether it starts where its last search ended.
TRAININGS: dict[str, tuple[Any, float, bool]] = {
    "FGSM 20 %": (FGSM(0.01), 0.2, False),
    "FGSM 100 %": (FGSM(0.01), 1.0, False),
    "PGD-3 50 %": (PGD(BALL, steps=3, keep="last"), 0.5, False),
    "one step, random start, 50 %": (ONE_STEP, 0.5, False),
    "FGSM 50 %": (FGSM(0.01), 0.5, False),
    "one step, warm start, 50 %": (CARRIED, 0.5, True),
    "classical": (None, 0.0, False),
}
ATTACKS = {
    "FGSM": FGSM(0.01),
    "PGD-10": PGD(BALL),
    "two signed PGD-10": signed(),
}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--galaxies", type=int, default=6000, help="one in twelve is for testing")
    parser.add_argument("--train", type=int, default=3000, help="galaxies of the training set used")
    parser.add_argument("--valid", type=int, default=256, help="galaxies of each validation")
    parser.add_argument("--size", type=int, default=32, help="pixels along a side")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--every", type=int, default=10, help="epochs between two evaluations")
    parser.add_argument("--width", type=float, default=0.25, help="of the CNN")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(TRAININGS), choices=list(TRAININGS))
    parser.add_argument("--json", type=Path, default=Path("runs/long_training.json"))
    parser.set_defaults(device="cpu")
    return parser.parse_args()


def done_before(args: argparse.Namespace) -> dict[str, dict]:
    """Return what an earlier start has measured with the same settings."""
    if not args.json.exists():
        return {}
    kept = json.loads(args.json.read_text(encoding="utf-8"))
    mine = {name: value for name, value in vars(args).items() if name not in ("json", "only")}
    if mine != kept["settings"]:
        sys.exit(f"{args.json} holds results of {kept['settings']}; name another file")
    return kept["rows"]


def measure(
    model: nn.Module, galaxies: CutoutDataset, attacks: dict[str, Any] = ATTACKS
) -> dict[str, dict[str, float]]:
    """Return sigma_MAD, eta and the cross-entropy of a network, clean and under attack."""
    result = evaluate(
        model,
        DataLoader(galaxies, 128),
        attacks,
        BINS,
        objective=CrossEntropy(BINS),
        autocast=fast_autocast(),
        progress=False,
        checks=False,
    )
    return {
        row.name: {"sigma_mad": row.sigma_mad, "eta": row.eta, "objective": row.objective_after}
        for row in result.rows
    }


class Watch(Callback):
    """Measure every few epochs, and keep the weights that the guard would choose."""

    def __init__(self, valid: CutoutDataset, every: int) -> None:
        self.valid, self.every = valid, every
        self.found: list[dict[str, Any]] = []
        self.guarded: tuple[float, int, dict[str, Any]] | None = None

    @override
    def after_epoch(self, trainer: AdversarialTrainer) -> None:
        """Look at a multiple of `every`, and at the first epochs."""
        epoch = trainer.epoch
        if epoch % GUARD_EVERY == 0 or self.guarded is None:
            guard = under_guard(trainer.model, self.valid)
            if self.guarded is None or guard < self.guarded[0]:
                self.guarded = (guard, epoch, copy.deepcopy(trainer.model.state_dict()))
        if epoch % self.every == 0 or epoch == self.every // 2:
            self.found.append({"epoch": epoch, **measure(trainer.model, self.valid)})

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training needs."""
        return {"found": self.found, "guarded": self.guarded}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.found, self.guarded = state["found"], state["guarded"]


def under_guard(model: nn.Module, valid: CutoutDataset) -> float:
    """Return the mean cross-entropy of the galaxies, each clean and attacked by PGD-10."""
    found = measure(model, valid, {"PGD-10": ATTACKS["PGD-10"]})
    return sum(row["objective"] for row in found.values()) / 2


def train(
    name: str, sets: list[CutoutDataset], args: argparse.Namespace, checkpoint: Path
) -> dict[str, Any]:
    """Train one network and measure it at its end and with both best weights."""
    attack, fraction, warm = TRAININGS[name]
    training, valid, test = sets
    torch.manual_seed(args.seed)
    model = models.cnn(image_size=args.size, width=args.width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    total = args.epochs * -(-len(training) // 32)
    trainer = AdversarialTrainer(
        model,
        optimizer,
        WarmStart(attack, len(training)) if warm else attack,
        fraction,
        CrossEntropy(BINS, width=0.008),
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=total),
        scheduler_step="step",
        transform=random_dihedral,
        autocast=fast_autocast(),
        seed=args.seed,
        valid_attack=attack if warm else None,  # a validation galaxy has no perturbation to carry
    )
    loader = DataLoader(
        IndexedDataset(training) if warm else training,
        32,
        shuffle=True,
        generator=torch.Generator().manual_seed(args.seed),
    )
    watch = Watch(valid, args.every)
    history = trainer.fit(
        loader, DataLoader(valid, 128), args.epochs, checkpoint, [watch], progress=False
    )
    body: dict[str, Any] = {"history": history, "epochs": watch.found, "last": measure(model, test)}
    trainer.load_best()
    body["best"] = {"epoch": trainer.best_epoch, **measure(model, test)}
    assert watch.guarded is not None
    _, epoch, weights = watch.guarded
    model.load_state_dict(weights)
    body["guarded"] = {"epoch": epoch, **measure(model, test)}
    return body


def table(rows: dict[str, dict]) -> dict[str, dict[str, object]]:
    """Return a line per training and choice of weights."""
    lines: dict[str, dict[str, object]] = {}
    for name, row in rows.items():
        for choice in ("last", "best", "guarded"):
            found = row[choice]
            epoch = found.get("epoch", len(row["history"]))
            lines[f"{name}: {choice}, epoch {epoch}"] = {
                f"{attack}: sigma_MAD / eta": f"{1e3 * found[attack]['sigma_mad']:.1f} / "
                f"{100 * found[attack]['eta']:.1f}"
                for attack in ("clean", *ATTACKS)
            }
    return lines


def main() -> None:
    """Do the trainings that are not done yet, and print the table after each."""
    args = options()
    args.json.parent.mkdir(parents=True, exist_ok=True)
    print(f"{environment()}\n")
    rows = done_before(args)
    write_json(args, rows=rows)  # the settings, before any checkpoint
    galaxies = simulate(args.galaxies, size=args.size).split(10 / 12, 1 / 12, 1 / 12)
    sets = [galaxies[0].subset(range(args.train)), galaxies[1].subset(range(args.valid))]
    for name in args.only:
        if name in rows:
            continue
        slug = "".join(c if c.isalnum() else "-" for c in name)
        checkpoint = args.json.with_name(f"{args.json.stem}-{slug}.pt")
        rows[name] = train(name, [*sets, galaxies[2]], args, checkpoint)
        write_json(args, rows=rows)
        checkpoint.unlink()
        print(f"{markdown(table({name: rows[name]}), 'weights')}\n", flush=True)
    print(markdown(table(rows), "weights"))


if __name__ == "__main__":
    keep_freed_memory()
    main()
