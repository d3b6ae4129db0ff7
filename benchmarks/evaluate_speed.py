"""How long `evaluate` takes, in this checkout and in another one of the project.

    python benchmarks/evaluate_speed.py --before ../before [--galaxies 500] [--full] [--json FILE]

FGSM, PGD-10 and L2-PGD-40 with the checks, on random pixels. Both checkouts run the same searches,
those of the paper: steps of 0.1 eps, the last point is returned. Each measurement has a process of
its own, which imports the package of one checkout and evaluates once on one batch, not counted,
and then on everything. The processes alternate.

Passes over the network are counted per galaxy, in forward passes of one image: a gradient costs one
forward and one backward pass, so that it counts twice. Where two versions make different passes,
the seconds compare what a user waits, the seconds per pass what the library adds to the network.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advphotoz
from _common import BINS, EPS, environment, markdown, median_ratio, write_json
from advphotoz import FGSM, PGD, L2Ball, LinfBall, evaluate, models

HERE = Path(__file__).resolve().parents[1]
L2_EPS = 0.31  # about that of the paper


class Counted(nn.Module):
    """A network that counts the images that pass through it, forward and backward."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.passes = 0

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        self.passes += len(x) * (2 if torch.is_grad_enabled() and x.requires_grad else 1)
        output: Tensor = self.network(x, ebv)
        return output


def paper_attacks() -> dict[str, Any]:
    """Return the attacks in the words of the version that is imported."""
    try:
        way: dict[str, Any] = {"step_size": "paper", "keep": "last"}
        PGD(LinfBall(EPS), **way)
    except TypeError:  # before `keep`: a tenth of eps and the last point, always
        way = {}
    return {
        "FGSM": FGSM(EPS),
        "PGD-10": PGD(LinfBall(EPS), steps=10, **way),
        "L2-PGD-40": PGD(L2Ball(L2_EPS), steps=40, **way),
    }


def evaluated(model: nn.Module, loader: DataLoader[Any], check_samples: int | None) -> None:
    """Evaluate once; 0 samples for the checks: without checks; None: as many as by default."""
    readout, checks = "readout", "checks"
    try:
        inspect.signature(evaluate).bind(model, loader, {}, readout=BINS, checks=True)
    except TypeError:  # the names of older versions
        readout, checks = "bins", "sanity"
    settings: dict[str, Any] = {readout: BINS, checks: check_samples != 0}
    if check_samples:
        settings["check_samples" if checks == "checks" else "sanity_samples"] = check_samples
    evaluate(model, loader, paper_attacks(), progress=False, **settings)


def measured(args: argparse.Namespace) -> dict[str, float]:
    """Return seconds and passes per galaxy of one evaluation in this process."""
    torch.manual_seed(0)
    n = args.galaxies
    model = Counted(models.cnn(image_size=args.size, width=args.width).to(args.device))
    images = torch.randn(n, 5, args.size, args.size)
    data = TensorDataset(images, torch.rand(n) / 10, torch.rand(n))
    few = torch.utils.data.Subset(data, range(min(args.batch, n)))
    evaluated(model, DataLoader(few, args.batch), args.check_samples)
    model.passes = 0
    start = time.perf_counter()
    evaluated(model, DataLoader(data, args.batch), args.check_samples)
    if args.device != "cpu":
        torch.cuda.synchronize(args.device)
    return {"seconds": time.perf_counter() - start, "passes": model.passes / n}


def child(checkout: Path, options: list[str]) -> dict[str, float]:
    """Measure in a process of its own that imports the package of a checkout."""
    source = str(checkout.resolve() / "src")
    command = [sys.executable, __file__, *options, "--only", source]
    env = {**os.environ, "PYTHONPATH": source}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        sys.exit(f"{checkout.name} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--before", type=Path, help="the other checkout; none: this one alone")
    parser.add_argument("--galaxies", type=int, default=500)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument(
        "--check-samples", type=int, help="0: without the checks; none: the default of each version"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--width", type=float, default=0.5, help="of the CNN")
    parser.add_argument("--size", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--full", action="store_true", help="the paper's CNN: width 1, 64 pixels")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.full:
        args.width, args.size = 1.0, 64
    if args.only:
        if not Path(advphotoz.__file__).resolve().is_relative_to(args.only):
            sys.exit(f"imported {advphotoz.__file__}, which is not in {args.only}")
        print(json.dumps(measured(args)))
        return

    checkouts = {"now": HERE}
    if args.before is not None:
        if not (args.before / "src" / "advphotoz").is_dir():
            parser.error(f"--before {args.before}: there is no src/advphotoz in it")
        checkouts = {"before": args.before, "now": HERE}
    names = ("galaxies", "batch", "check_samples", "width", "size", "device")
    options = [
        f"--{name.replace('_', '-')}={getattr(args, name)}"
        for name in names
        if getattr(args, name) is not None
    ]
    print(environment(args.device))
    print(
        f"cnn(width={args.width}) on {args.size} x {args.size} pixels, {args.galaxies} galaxies in "
        f"batches of {args.batch}, checks on "
        f"{'the default' if args.check_samples is None else args.check_samples}, "
        f"{args.rounds} rounds\n"
    )
    found: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for number in range(args.rounds):
        for name, checkout in checkouts.items():
            found[name].append(child(checkout, options))
        last = {name: float(f"{runs[-1]['seconds']:.3g}") for name, runs in found.items()}
        print(f"round {number + 1} of {args.rounds}: {last}", file=sys.stderr, flush=True)

    seconds = {name: [run["seconds"] for run in runs] for name, runs in found.items()}
    first = next(iter(checkouts))
    rows = {}
    for name, runs in found.items():
        median, passes = statistics.median(seconds[name]), runs[0]["passes"]
        rows[name] = {
            "seconds": median,
            "galaxies/s": args.galaxies / median,
            "passes per galaxy": passes,
            "ms per pass": 1e3 * median / (passes * args.galaxies),
            f"times {first}": median_ratio(seconds[name], seconds[first]),
        }
    print(markdown(rows))
    write_json(args, rows=rows, seconds=seconds)


if __name__ == "__main__":
    main()
