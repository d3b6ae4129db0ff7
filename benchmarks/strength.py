"""How much each search finds for its gradients: ours, and those of other libraries, on one network.

    python benchmarks/strength.py --weights FILE [--autoattack FOLDER] [--json FILE]

Cross-entropy, eta and mean abs(dz) on simulated test galaxies under L-infinity searches of eps
0.01, against gradients and forward passes per galaxy (counted at the network) and seconds. Without
--weights the demo's classical network is trained first, in float32, and kept in the file named by
--keep. Searches of other libraries take the bins for classes; those that clamp to [0, 1] get a
network that maps the range of all images there and back. --autoattack is a copy of the authors'
repository (github.com/fra31/auto-attack), whose APGD is then one of them. --figure FILE draws it.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from _common import BINS, EPS, environment, markdown, signed, write_json
from _libraries import Closed, art, captum, foolbox, torchattacks
from advphotoz import (
    APGD,
    FGSM,
    PGD,
    AdversarialTrainer,
    CrossEntropy,
    LinfBall,
    RedshiftError,
    Square,
    WorstOf,
    models,
    standard,
)
from advphotoz.attacks import SampleGenerators
from advphotoz.datasets import CutoutDataset, random_dihedral, simulate

BALL = LinfBall(EPS)
ENTROPY, ERROR = CrossEntropy(BINS), RedshiftError(BINS)
SIZE = 24  # as the demo's
Run = Callable[[Tensor, Tensor, Tensor], Tensor]  # x, ebv, z to images


class Counted(nn.Module):
    """The network, which counts the samples that it sees, with and without a gradient."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.gradients, self.forwards = network, 0, 0

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            self.gradients += len(x)
        else:
            self.forwards += len(x)
        logits: Tensor = self.network(x, ebv)
        return logits


def ours(depth: list[int]) -> dict[str, object]:
    """Return our searches by name; those of one family share the words before the number."""
    found: dict[str, object] = {"FGSM": FGSM(BALL, objective=ENTROPY)}
    for n in depth:
        found[f"PGD, the paper's step, cross-entropy, {n}"] = PGD(
            BALL, steps=n, step_size="paper", keep="last", objective=ENTROPY
        )
        found[f"PGD, cross-entropy, {n}"] = PGD(BALL, steps=n, objective=ENTROPY)
        found[f"PGD, abs(dz), {n}"] = PGD(BALL, steps=n, objective=ERROR)
        found[f"APGD, cross-entropy, {n}"] = APGD(BALL, steps=n, objective=ENTROPY)
        found[f"PGD, two signed, {n}"] = signed(PGD, steps=n)
        found[f"APGD, two signed, {n}"] = signed(APGD, steps=n)
    for n in (100, 300):
        found[f"Square, abs(dz), {n}"] = Square(BALL, queries=n, objective=ERROR)
    both = tuple(PGD(BALL, steps=50, restarts=5, objective=o) for o in (ENTROPY, ERROR))
    found["PGD-50 x 5, two objectives"] = WorstOf(both, objective=ERROR)
    found["standard"] = standard(BALL, BINS)
    return found


def theirs(model: Closed, x: Tensor, depth: list[int], folder: Path | None) -> dict[str, Callable]:
    """Return the searches of other libraries that are installed, each made when it is called."""
    libraries = {"foolbox": foolbox, "ART": art, "torchattacks": torchattacks, "captum": captum}
    modules = {"ART": "art"}
    found: dict[str, Callable] = {}
    for name, make in libraries.items():
        if importlib.util.find_spec(modules.get(name, name)) is None:
            print(f"{name} is not installed and left out", file=sys.stderr)
            continue
        for n in depth if name == "foolbox" else depth[:-1]:  # all four are the same algorithm
            found[f"{name} PGD, cross-entropy, {n}"] = functools.partial(
                make, model, x, n, 2.5 * EPS / n
            )
    if importlib.util.find_spec("art") is not None:
        for n in depth:
            found[f"ART AutoPGD, cross-entropy, {n}"] = functools.partial(art_apgd, model, x, n)
    if folder is not None:
        sys.path.insert(0, str(folder))
        for n in depth:
            found[f"authors' APGD, cross-entropy, {n}"] = functools.partial(
                authors_apgd, model, x, n
            )
    return found


class Boxed(nn.Module):
    """The network for images that were mapped to [0, 1]."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.model = model
        self.low, self.scale = x.min().item() - EPS, (x.max() - x.min()).item() + 2 * EPS

    def to_box(self, x: Tensor) -> Tensor:
        return (x - self.low) / self.scale

    def from_box(self, x: Tensor) -> Tensor:
        return x * self.scale + self.low

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(self.from_box(x))
        return logits


def authors_apgd(model: Closed, x: Tensor, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the APGD of Croce & Hein, from zero, in a box that holds all images."""
    from autoattack.autopgd_base import APGDAttack

    boxed = Boxed(model, x)
    attack = APGDAttack(boxed, n_iter=steps, norm="Linf", eps=EPS / boxed.scale)

    def craft(x: Tensor, z: Tensor) -> Tensor:
        inside = boxed.to_box(x)
        attack.init_hyperparam(inside)
        best, *_ = attack.attack_single_run(inside, BINS.index(z), x_init=inside)
        return x + (boxed.from_box(best) - x).clamp(-EPS, EPS)

    return craft


def art_apgd(model: Closed, x: Tensor, steps: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Return ART's AutoProjectedGradientDescent, with one random start."""
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=BINS.n,
        clip_values=(x.min().item() - EPS, x.max().item() + EPS),
        device_type="cpu",
    )

    def craft(x: Tensor, z: Tensor) -> Tensor:
        attack = AutoProjectedGradientDescent(
            estimator,
            eps=EPS,
            eps_step=2 * EPS,
            max_iter=steps,
            nb_random_init=1,
            batch_size=len(x),
            loss_type="cross_entropy",
            verbose=False,
        )
        # Without labels: it attacks only what is classified as its label, which of 180 bins hardly
        # any galaxy is; so it moves each away from the bin that is predicted.
        return torch.from_numpy(attack.generate(x.numpy()))

    return craft


def trained(args: argparse.Namespace, data: tuple[CutoutDataset, ...]) -> nn.Module:
    """Return the demo's classical network, read from a file or trained in float32."""
    torch.manual_seed(args.seed)
    model = models.cnn(image_size=SIZE, n_bins=BINS.n, width=args.width)
    if args.weights is not None:
        model.load_state_dict(torch.load(args.weights, weights_only=True))
        return model.eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    steps = args.epochs * -(-len(data[0]) // 32)
    trainer = AdversarialTrainer(
        model,
        optimizer,
        FGSM(EPS),
        0.0,
        CrossEntropy(BINS, width=0.008),
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps),
        scheduler_step="step",
        transform=random_dihedral,
        seed=args.seed,
    )
    shuffle = torch.Generator().manual_seed(args.seed)
    loader = DataLoader(data[0], batch_size=32, shuffle=True, generator=shuffle)
    trainer.fit(loader, DataLoader(data[1], 100), args.epochs)
    if args.keep:
        torch.save(model.state_dict(), args.keep)
    return model.eval()


def measured(model: Counted, run: Run, batch: tuple[Tensor, ...]) -> dict[str, float]:
    """Run one search; return what it found and what it cost per galaxy."""
    x, ebv, z = batch
    model.gradients = model.forwards = 0
    start = time.process_time()
    images = run(x, ebv, z)
    seconds = time.process_time() - start
    cost = model.gradients / len(x), model.forwards / len(x)
    with torch.no_grad():
        logits = model(images, ebv)
        dz, entropy = ERROR(logits, z).double(), ENTROPY(logits, z).double()
    largest = ((images - x).abs().max() / EPS).item()
    return {
        "gradients": cost[0],
        "forward passes": cost[1],
        "ms of one core": 1e3 * seconds / len(x),
        "cross-entropy": entropy.mean().item(),
        "eta %": 100 * (dz > 0.05).double().mean().item(),
        "mean abs(dz)": dz.mean().item(),
        "largest change / eps": largest,
    }


def draw(rows: dict[str, dict[str, float]], path: Path) -> None:
    """Draw eta and mean abs(dz) against gradients, a line per family of searches."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    families: dict[str, list[dict[str, float]]] = {}
    for name, row in rows.items():
        head, _, last = name.rpartition(", ")
        families.setdefault(head if last.isdigit() else name, []).append(row)
    fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    for number, (name, line) in enumerate(families.items()):
        if name in ("clean",) or name.startswith("Square"):
            continue
        outside = not name.startswith(("PGD", "APGD", "FGSM", "standard"))
        style = {
            "color": "k" if name == "standard" else f"C{number % 10}",
            "ls": ":" if outside else "-",
            "lw": 1.2,
        }
        style |= {"marker": "x" if outside else "o", "ms": 6 if outside else 4}
        if name == "standard":
            style |= {"marker": "*", "ms": 16, "zorder": 5}
        for ax, key in zip(axes, ("eta %", "mean abs(dz)"), strict=True):
            ax.plot([r["gradients"] for r in line], [r[key] for r in line], label=name, **style)
    for ax, text in zip(axes, (r"outliers $\eta$ [%]", r"mean $|\Delta z|$"), strict=True):
        ax.set(xscale="log", xlabel="gradients per galaxy", ylabel=text)
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    fig.savefig(path, dpi=140)


def main() -> None:
    """Train or read the network, run every search, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", type=Path, help="state dict of models.cnn")
    parser.add_argument("--keep", type=Path, help="where to keep weights that are trained")
    parser.add_argument("--width", type=float, default=0.35)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--galaxies", type=int, default=6000, help="as the demo's")
    parser.add_argument("--test", type=int, default=128, help="test galaxies that are attacked")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--outside", type=int, nargs="+", default=[10, 50, 500])
    parser.add_argument("--autoattack", type=Path, help="a copy of the authors' repository")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    args.device = "cpu"
    print(environment())
    data = simulate(args.galaxies, seed=args.seed, size=SIZE).split(
        10 / 12, 1 / 12, 1 / 12, seed=args.seed
    )
    model = Counted(trained(args, data)).eval().requires_grad_(False)
    n = min(args.test, len(data[2]))
    batch = data[2].image[:n], data[2].ebv[:n], data[2].z[:n]
    closed = Closed(model).eval()
    closed.ebv = batch[1]
    runs: dict[str, Run] = {"clean": lambda x, ebv, z: x}
    for name, attack in ours(args.steps).items():
        runs[name] = lambda x, ebv, z, attack=attack: attack(
            model, x, z, context=(ebv,), generator=SampleGenerators(range(len(x)))
        )
    for name, make in theirs(closed, batch[0], args.outside, args.autoattack).items():
        runs[name] = lambda x, ebv, z, make=make: make()(x, z)
    rows: dict[str, dict[str, float]] = {}
    for name, run in runs.items():
        torch.manual_seed(0)  # other libraries draw from the global generator
        rows[name] = measured(model, run, batch)
        found = rows[name]
        print(f"{name}: eta {found['eta %']:.1f} %", file=sys.stderr, flush=True)
        write_json(args, rows=rows)
    print(markdown(rows, "search"))
    if args.figure:
        draw(rows, args.figure)


if __name__ == "__main__":
    main()
