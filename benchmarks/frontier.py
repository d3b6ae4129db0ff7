"""The frontier of defenses: precision without an attack against precision under it.

    python benchmarks/frontier.py [--galaxies 6000] [--epochs 15 30] [--seeds 3] [--only NAME ...]
        [--attack standard] [--json FILE] [--figure FILE]

Simulated galaxies on 24 x 24 pixels. Every row is a defense; every number of epochs a budget, and a
point: clean sigma_MAD against attacked sigma_MAD, and eta. The bar is a perceptron on fluxes within
three Gaussian apertures of the same pixels (no network of images), trained against the same
adversary. A defended network that is not ahead of it has not used what images hold.

Time counts as the user pays it: seconds of training over those of classical training for the fewest
epochs, and the passes over the network counted (3 per training step, 2 per input gradient). What is
finished is kept in the JSON file and not done again, a training goes on from its last epoch, and
--figure draws what is there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from _common import BINS, EPS, signed
from advphotoz import (
    FGSM,
    PGD,
    AdversarialTrainer,
    CrossEntropy,
    fast_autocast,
    keep_freed_memory,
    standard,
)
from advphotoz.attacks import Attack, NoiseFGSM
from advphotoz.datasets import random_dihedral, simulate
from advphotoz.evaluation import evaluate
from advphotoz.models import AperturePerceptron, cnn
from advphotoz.provenance import machine, versions
from advphotoz.training import (
    TRADES,
    EpsSchedule,
    GradientAlignment,
    IndexedDataset,
    Trainer,
    WarmStart,
    WeightAverage,
)

SKY_NOISE = (0.043, 0.016, 0.023, 0.039, 0.18)  # nanomaggies per pixel, the SDSS's and ours
SIZE = 24
LABELS = CrossEntropy(BINS, width=0.008)

# attack: how rows are crafted, with this number of steps. fraction: the share of a batch. trades:
# beta. average: decay. growing: the share of the epochs over which eps grows.
ROWS: dict[str, dict[str, Any]] = {
    "classical": {},
    "FGSM 20 %": {"attack": "fgsm", "fraction": 0.2},
    "FGSM 100 %": {"attack": "fgsm", "fraction": 1.0},
    "noise-FGSM 100 %": {"attack": "noise", "fraction": 1.0},
    "warm start 2 steps 50 %": {"attack": "warm", "steps": 2, "fraction": 0.5},
    "PGD-3 50 %": {"attack": "pgd", "steps": 3, "fraction": 0.5},
    "PGD-3 100 %": {"attack": "pgd", "steps": 3, "fraction": 1.0},
    "PGD-3 100 %, average": {"attack": "pgd", "steps": 3, "fraction": 1.0, "average": 0.998},
    "PGD-3 100 %, growing": {"attack": "pgd", "steps": 3, "fraction": 1.0, "growing": 0.5},
    "PGD-10 100 %": {"attack": "pgd", "steps": 10, "fraction": 1.0},
    "TRADES 1, 3 steps": {"attack": "pgd", "steps": 3, "trades": 1.0},
    "TRADES 6, 3 steps": {"attack": "pgd", "steps": 3, "trades": 6.0},
    "TRADES 6, 3 steps, average": {"attack": "pgd", "steps": 3, "trades": 6.0, "average": 0.998},
    "apertures": {"network": "apertures"},
    "apertures, FGSM 100 %": {"network": "apertures", "attack": "fgsm", "fraction": 1.0},
    "apertures, PGD-10 100 %": {
        "network": "apertures",
        "attack": "pgd",
        "steps": 10,
        "fraction": 1.0,
    },
}
Runs = dict[str, list[dict[str, Any]]]


JUDGES: dict[str, Attack] = {"signed": signed(steps=20), "standard": standard(EPS, BINS)}


def attack_of(row: dict[str, Any], samples: int, epochs: int) -> Attack | None:
    """Return what the training of a row attacks with."""
    kind, steps, divergence = row.get("attack"), row.get("steps", 1), "trades" in row
    found: Any = {
        None: None,
        "fgsm": FGSM(EPS),
        "noise": NoiseFGSM(EPS),
        "pgd": PGD(EPS, steps=steps, keep="last", random_start=divergence),
        "warm": PGD(EPS, steps=steps, step_size=0.5, keep="last"),
    }[kind]
    if kind == "warm":
        return WarmStart(found, samples)
    if "growing" in row:
        return EpsSchedule(found, max(1, round(row["growing"] * epochs)))
    return found


def passes(row: dict[str, Any]) -> float:
    """Count the passes over the network per training sample, in forward passes."""
    steps = row.get("steps", 1)
    if "trades" in row:
        return 1 + 2 * steps + 6  # the clean PDF, the search, a step on twice the images
    return 3 + 2 * steps * row.get("fraction", 0.0)


def train(
    row: dict[str, Any], data: TensorDataset, epochs: int, seed: int, width: float, path: Path
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train by a row; return the network and the history."""
    torch.manual_seed(seed)
    images = row.get("network", "cnn") == "cnn"
    model = (
        cnn(image_size=SIZE, n_bins=BINS.n, width=width)
        if images
        else AperturePerceptron(SKY_NOISE, image_size=SIZE, n_bins=BINS.n)
    )
    rate, batch = (2e-3, 32) if images else (3e-3, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)
    total = epochs * -(-len(data) // batch)
    settings: dict[str, Any] = {
        "scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=total),
        "scheduler_step": "step",
        "transform": random_dihedral if images else None,
        "autocast": fast_autocast() if images else None,
        "seed": seed,
    }
    attack = attack_of(row, len(data), epochs)
    trainer: Trainer
    if "trades" in row:
        assert attack is not None
        loss = TRADES(LABELS, BINS, attack, row["trades"])
        trainer = Trainer(model, optimizer, loss, **settings)
    else:
        fraction = row.get("fraction", 0.0)
        trainer = AdversarialTrainer(model, optimizer, attack, fraction, LABELS, **settings)
    # 64 galaxies of the training set: two gradients of one batch per epoch.
    callbacks: list[Any] = [GradientAlignment(data[:64], LABELS, EPS, warn_below=0.0)]
    average = WeightAverage(row["average"]) if "average" in row else None
    if average is not None:
        callbacks.append(average)
    given: Any = IndexedDataset(data) if row.get("attack") == "warm" else data
    shuffle = torch.Generator().manual_seed(seed)
    loader = DataLoader(given, batch, shuffle=True, generator=shuffle)
    trainer.fit(loader, epochs=epochs, callbacks=callbacks, checkpoint=path, progress=False)
    if average is not None:
        average.load_into(model)
    return model, trainer.history


def judged(model: nn.Module, test: TensorDataset, judge: Attack) -> dict[str, Any]:
    """Return sigma_MAD [10^-3] and eta [%], clean and attacked, and what the checks say."""
    result = evaluate(
        model,
        DataLoader(test, 100),
        {"attacked": judge},
        BINS,
        objective=CrossEntropy(BINS),
        progress=False,
        bootstrap=0,
    )
    rows = {name: result[name] for name in ("clean", "attacked")}
    numbers = {name: [1e3 * row.sigma_mad, 100 * row.eta] for name, row in rows.items()}
    assert result.checks is not None
    return {**numbers, "verdict": result.checks.verdict}


def mean(runs: list[dict[str, Any]], part: str, k: int) -> float:
    """Return the mean over the seeds of sigma_MAD (0) or eta (1)."""
    return statistics.mean(run[part][k] for run in runs)


def table(results: dict[str, Runs]) -> str:
    """Return the results as a Markdown table, means over the seeds."""
    classical = results.get("classical", {})
    unit = None
    if classical:
        first = min(classical, key=int)
        unit = statistics.median(run["seconds"] for run in classical[first])
    heads = ("clean: sigma_MAD [10⁻³] / eta [%]", "attacked", "times classical", "passes")
    lines = [
        f"| defense | epochs | {' | '.join(heads)} | alignment | seeds |",
        "| :-- " + "| --: " * 7 + "|",
    ]
    for name, budgets in results.items():
        for epochs, runs in sorted(budgets.items(), key=lambda pair: int(pair[0])):
            if not runs:
                continue
            cells = [
                f"{mean(runs, part, 0):.1f} / {mean(runs, part, 1):.1f}"
                for part in ("clean", "attacked")
            ]
            seconds = statistics.median(run["seconds"] for run in runs)
            cells.append("" if not unit else f"{seconds / unit:.1f}")
            cells.append(f"{runs[0]['passes']:.0f}")
            cells.append(f"{statistics.mean(run['alignment'] for run in runs):.2f}")
            lines.append(f"| {name} | {epochs} | {' | '.join(cells)} | {len(runs)} |")
    return "\n".join(lines)


def draw(results: dict[str, Runs], path: Path) -> None:
    """Draw clean against attacked sigma_MAD and eta, one line per defense through its budgets."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    colours = plt.get_cmap("tab20").colors
    for number, (name, budgets) in enumerate(results.items()):
        points = [runs for _, runs in sorted(budgets.items(), key=lambda b: int(b[0])) if runs]
        if not points:
            continue
        bar = name.startswith("apertures")
        for k, ax in enumerate(axes):
            clean, attacked = (
                [mean(runs, part, k) for runs in points] for part in ("clean", "attacked")
            )
            style = {"color": colours[number % len(colours)], "marker": "s" if bar else "o"}
            line = "--" if bar else "-"
            ax.plot(clean, attacked, line, **style, label=name if k == 0 else None, markersize=4)
            ax.plot(clean[-1:], attacked[-1:], **style, markersize=8)  # the largest budget
    for ax, what in zip(axes, ("$\\sigma_{MAD}$ [$10^{-3}$]", "$\\eta$ [%]"), strict=True):
        ax.set(xlabel=f"{what}, clean", ylabel=f"{what}, attacked", xlim=ax.get_xlim(), ylim=0)
        ax.axline((0, 0), slope=1, color="0.7", linewidth=1, zorder=0)  # an attack without effect
        ax.grid(alpha=0.3)
    fig.legend(loc="outside right upper", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=150)
    plt.close(fig)


def main() -> None:
    """Train and judge every point that is not done; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--galaxies", type=int, default=6000, help="one in twelve is for testing")
    parser.add_argument("--test", type=int, default=500, help="galaxies attacked, at most")
    parser.add_argument("--epochs", type=int, nargs="+", default=[15, 30], help="the budgets")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--width", type=float, default=0.35, help="of the CNN; 1 is the paper's")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--attack", choices=JUDGES, default="signed", help="what judges")
    parser.add_argument("--json", type=Path, default=Path("runs/frontier.json"))
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()

    kept = json.loads(args.json.read_text()) if args.json.exists() else {}
    about = {
        name: value
        for name, value in vars(args).items()
        if name in ("galaxies", "test", "width", "attack")
    }
    if kept and kept["settings"] != about:
        raise SystemExit(f"{args.json} holds results of {kept['settings']}; name another file")
    results: dict[str, Runs] = kept.get("results", {})
    split = simulate(args.galaxies, seed=0, size=SIZE).split(10 / 12, 1 / 12, 1 / 12, seed=0)
    data, _, test = (TensorDataset(part.image, part.ebv, part.z) for part in split)
    test = TensorDataset(*test[: args.test])
    judge = JUDGES[args.attack]
    args.json.parent.mkdir(parents=True, exist_ok=True)
    todo = [(s, e, n) for s in range(args.seeds) for e in sorted(args.epochs) for n in args.only]
    for seed, epochs, name in todo:
        runs = results.setdefault(name, {}).setdefault(str(epochs), [])
        if len(runs) > seed:
            continue
        row = ROWS[name]
        slug = "".join(c if c.isalnum() else "-" for c in f"{name} {epochs} {seed}")
        path = args.json.with_name(f"{args.json.stem}-{slug}.pt")
        model, history = train(row, data, epochs, seed, args.width, path)
        start = time.perf_counter()
        runs.append(
            {
                # The median epoch: other work on the machine slows some of them down.
                "seconds": epochs * statistics.median(each["seconds"] for each in history),
                "passes": passes(row),
                "alignment": history[-1]["gradient_alignment"],
                "history": history,
                **judged(model, test, judge),
                "seconds of the attack": time.perf_counter() - start,
            }
        )
        body = {
            "settings": about,
            "judge": repr(judge),
            "versions": versions(),
            "machine": machine("cpu"),
            "rows": ROWS,
            "results": results,
        }
        args.json.write_text(json.dumps(body, indent=1) + "\n")
        path.unlink()
        shown = {k: v for k, v in runs[-1].items() if k != "history"}
        print(f"{name}, {epochs} epochs, seed {seed}: {shown}", flush=True)
    chosen = {name: results[name] for name in args.only if name in results}
    print(table(chosen))
    if args.figure:
        draw(chosen, args.figure)


if __name__ == "__main__":
    keep_freed_memory()
    main()
