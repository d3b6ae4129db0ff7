"""Images per second of PGD-10: ours, a bare loop and other libraries, and the strength reached.

    python benchmarks/throughput.py [--checkpoint runs/demo/classical.pt --model cnn] [--json FILE]

Same network, images, labels and algorithm for all: L-infinity, eps 0.01, 10 steps of 0.001 from
zero of which the last is returned, pixels unbounded, eval mode, E(B-V) closed over. Round k crafts
batch k, so that the rounds together measure the strength: cross-entropy and outliers after the
attack, in float32. With --checkpoint (of AdversarialTrainer, such as the demo's) on simulated test
galaxies, else on noise and random weights, where eta says nothing.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import statistics
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from _common import (
    BINS,
    EPS,
    STEPS,
    arguments,
    build,
    environment,
    gradient_flops,
    interleaved,
    markdown,
    matmul_rate,
    median_ratio,
    write_json,
)
from _libraries import LIBRARIES, PACKAGES, Closed
from _ordinary import ordinary
from advphotoz import CrossEntropy, metrics
from advphotoz.datasets import simulate

OWN = ("advphotoz", "bare loop")  # no other libraries
# Each library as it is; with " bf16", under autocast; with " ordinary", on the ordinary network.
VARIANTS = [name + way for way in ("", " bf16", " ordinary") for name in LIBRARIES]
DEFAULT = ["advphotoz bf16", "bare loop bf16", *LIBRARIES, "bare loop ordinary"]


def problem(args: argparse.Namespace) -> tuple[nn.Module, list[tuple[Tensor, ...]], str]:
    """Return the network, one batch x, ebv, z per round, and what they are."""
    model, *_ = build(args)
    n = args.batch * args.rounds
    if args.checkpoint is None:
        x, ebv, z = torch.randn(n, 5, 64, 64), torch.rand(n) / 10, torch.rand(n)
        what = "noise and random weights: eta says nothing"
    else:
        state = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(state["best_weights"] or state["model"])
        galaxies = simulate(args.galaxies, seed=args.seed)
        test = galaxies.split(10 / 12, 1 / 12, 1 / 12, seed=args.seed)[2]  # the demo's
        if len(test) < args.batch:
            raise SystemExit(f"--batch {args.batch}, but there are {len(test)} test galaxies")
        n = min(n, len(test) // args.batch * args.batch)
        x, ebv, z = test.image[:n], test.ebv[:n], test.z[:n]
        what = f"{n} simulated test galaxies and a trained network"
    rows = (value.to(args.device).split(args.batch) for value in (x, ebv, z))
    return model, list(zip(*rows, strict=True)), what


def strength(model: nn.Module, batches: list[tuple[Tensor, ...]], crafted: list[Tensor]) -> dict:
    """Return the mean cross-entropy, the outliers, and the largest change of a pixel over eps."""
    losses, guesses, moved = [], [], 0.0
    with torch.no_grad():
        for (x, ebv, z), x_adv in zip(batches, crafted, strict=True):
            logits = model(x_adv.to(x), ebv)
            losses.append(CrossEntropy(BINS)(logits, z))
            guesses.append(BINS.mean(BINS.pdf(logits)))
            moved = max(moved, (x_adv.to(x) - x).abs().max().item() / EPS)
    z = torch.cat([batch[2] for batch in batches]).cpu()
    return {
        "mean cross-entropy": torch.cat(losses).mean().item(),
        "eta %": 100 * metrics.outlier_fraction(torch.cat(guesses).cpu(), z),
        "largest change / eps": moved,
    }


def library(name: str) -> str:
    """Return the library of a variant."""
    return name.removesuffix(" bf16").removesuffix(" ordinary")


def fastest_other(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Return how many times as fast as the fastest other library ours is, per variant of ours."""
    others = [seconds[name] for name in seconds if library(name) not in OWN]
    if not others:
        return {}
    best = [min(values) for values in zip(*others, strict=True)]
    return {
        name: median_ratio(best, seconds[name]) for name in seconds if library(name) == "advphotoz"
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--checkpoint", type=Path, help="of AdversarialTrainer, such as the demo's")
    parser.add_argument("--galaxies", type=int, default=6000, help="one in twelve is for testing")
    parser.add_argument("--seed", type=int, default=0, help="of the galaxies")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=DEFAULT, metavar="NAME")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")  # captum's and ART's, at every call

    model, batches, what = problem(args)
    everything = torch.cat([batch[0] for batch in batches])
    crafted: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(batches) for name in VARIANTS}
    runs, versions, skipped = {}, {}, {}

    def runner(name: str) -> Callable[[int], None]:
        bf16 = name.endswith(" bf16")
        plain = name.endswith(" ordinary")
        closed = Closed(ordinary(args.model, model) if plain else copy.deepcopy(model)).eval()
        ours = {"autocast": torch.bfloat16} if name == "advphotoz bf16" else {}
        craft = LIBRARIES[library(name)](closed, everything, **ours)

        def run(number: int) -> None:
            x, closed.ebv, z = batches[number % len(batches)]
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16 and not ours):
                crafted[name][number % len(batches)] = craft(x, z)

        return run

    for name in args.variants:
        try:
            runs[name] = runner(name)
        except ImportError as error:
            skipped[name] = str(error)
        else:
            if library(name) not in OWN:
                package = PACKAGES.get(library(name), library(name))
                versions[package] = importlib.metadata.version(package)
    print(f"{environment(args.device)}; {', '.join(f'{k} {v}' for k, v in versions.items())}")
    print(f"{args.model}, batch {args.batch}, PGD-{STEPS}, {args.rounds} rounds; {what}")
    seconds = interleaved(runs, args.rounds, args.device)

    batches = batches[: args.rounds]
    flops = gradient_flops(model, *batches[0][:2]) * args.batch
    rates = {d: matmul_rate(d, args.device) for d in (torch.float32, torch.bfloat16)}
    rows = {}
    for name, values in seconds.items():
        median = statistics.median(values)
        rate = rates[torch.bfloat16 if name.endswith("bf16") else torch.float32]
        loop = median_ratio(seconds["bare loop"], values) if "bare loop" in seconds else None
        rows[name] = {
            "images/s": args.batch / median,
            "times bare loop": loop,
            "% of matrix product": 100 * flops * STEPS / median / rate,
            **strength(model, batches, crafted[name]),
        }
    clean = strength(model, batches, [batch[0] for batch in batches])
    rows["no attack"] = {**dict.fromkeys(next(iter(rows.values()))), **clean}
    print(f"\n{markdown(rows)}\n")
    ratios = fastest_other(seconds)
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} times the fastest other library")
    for name, reason in skipped.items():
        print(f"{name} was left out: {reason}")
    gflops = {str(dtype).removeprefix("torch."): rate / 1e9 for dtype, rate in rates.items()}
    print(
        f"One input gradient of a batch: {flops / 1e9:.1f} GFLOP; matrix product of the machine:",
        end=" ",
    )
    print(", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in gflops.items()))
    write_json(
        args,
        versions=versions,
        what=what,
        skipped=skipped,
        rows=rows,
        times_fastest_other=ratios,
        gflop_per_gradient=flops / 1e9,
        matmul_gflops=gflops,
        seconds=seconds,
    )


if __name__ == "__main__":
    main()
