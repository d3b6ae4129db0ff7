"""PGD-10 against bare loops of the same forward and gradient calls: time and peak memory.

    python benchmarks/attack_overhead.py [--model inception] [--batch 64] [--rounds 5] [--json FILE]

What a user pays for the library itself: checks, freezing the weights, the last rounding. Twice:
for the paper's search, which returns its last point, and for the default, which returns the best
of the points that it evaluated and needs one forward pass more; each is compared with the bare loop
of as many passes. Peak memory is what a process of its own needs beyond one that only builds the
network and the batch.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from torch import Tensor, nn

from _common import (
    BINS,
    EPS,
    STEPS,
    arguments,
    bare,
    build,
    environment,
    fresh_process,
    interleaved,
    markdown,
    median_ratio,
    peak_mib,
    same,
    write_json,
)
from advphotoz import PGD, CrossEntropy, LinfBall


def plain(model: nn.Module, x: Tensor, ebv: Tensor, z: Tensor) -> Tensor:
    """Run the bare loop with the weights as they are."""
    return bare(lambda x: model(x, ebv), x, BINS.index(z))


def plain_and_forward(model: nn.Module, x: Tensor, ebv: Tensor, z: Tensor) -> Tensor:
    """Run the bare loop and compute the loss at its end, as a search that keeps the best must."""
    x_adv = plain(model, x, ebv, z)
    with torch.no_grad():
        nn.functional.cross_entropy(model(x_adv, ebv), BINS.index(z), reduction="none")
    return x_adv


def frozen(model: nn.Module, x: Tensor, ebv: Tensor, z: Tensor) -> Tensor:
    """Do the same with weights that require no gradient, as our attack sets them."""
    model.requires_grad_(False)
    try:
        return plain(model, x, ebv, z)
    finally:
        model.requires_grad_(True)


def paper(model: nn.Module, x: Tensor, ebv: Tensor, z: Tensor) -> Tensor:
    """Run the library's PGD as the paper does."""
    attack = PGD(
        LinfBall(EPS), steps=STEPS, step_size="paper", keep="last", objective=CrossEntropy(BINS)
    )
    return attack(model, x, z, context=(ebv,))


def default(model: nn.Module, x: Tensor, ebv: Tensor, z: Tensor) -> Tensor:
    """Run the library's PGD with its defaults."""
    attack = PGD(LinfBall(EPS), steps=STEPS, objective=CrossEntropy(BINS))
    return attack(model, x, z, context=(ebv,))


def nothing(model: nn.Module, x: Tensor, ebv: Tensor, z: Tensor) -> Tensor:
    """Run one forward pass without gradients, for the memory that is there anyway."""
    with torch.no_grad():
        model(x[:1], ebv[:1])
    return x


# Each with the bare loop that makes the same passes.
VARIANTS = {
    "bare": (plain, "bare"),
    "bare, weights frozen": (frozen, "bare"),
    'advphotoz, keep="last"': (paper, "bare"),
    "bare and a forward pass": (plain_and_forward, "bare and a forward pass"),
    'advphotoz, keep="best" (default)': (default, "bare and a forward pass"),
}


def peak(args: argparse.Namespace, name: str) -> float:
    """Return the peak memory in MiB of a fresh process that runs one variant."""
    options = same(args, "model", "width", "batch", "device")
    return fresh_process(__file__, [*options, "--only", name])


def main() -> None:
    """Print the environment and the table."""
    parser = arguments(__doc__)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    inputs = build(args)
    if args.only:
        function, _ = {**VARIANTS, "nothing": (nothing, "")}[args.only]
        function(*inputs)
        print(peak_mib(args.device))
        return

    print(f"{environment(args.device)}; {args.model}, batch {args.batch}, PGD-{STEPS}, float32")
    runs = {name: lambda _, f=function: f(*inputs) for name, (function, _) in VARIANTS.items()}
    seconds = interleaved(runs, args.rounds, args.device)
    floor = peak(args, "nothing")
    rows = {
        name: {
            "seconds": statistics.median(seconds[name]),
            "times the bare loop": median_ratio(seconds[name], seconds[reference]),
            "peak MiB": round(peak(args, name) - floor),
        }
        for name, (_, reference) in VARIANTS.items()
    }
    print(f"\n{markdown(rows)}")
    write_json(args, rows=rows, seconds=seconds)


if __name__ == "__main__":
    main()
