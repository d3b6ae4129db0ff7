"""How time and peak memory grow with batch size, image size and steps: crafting and training.

    python benchmarks/scaling.py [--model inception] [--autocast bf16] [--json FILE]

One quantity changes, the others stay at their defaults. Crafting is PGD; training is one classical
step of AdversarialTrainer with AdamW. Peak memory is what a process of its own needs beyond one
that only builds the network and the batch. How the simulation grows with the number of galaxies,
benchmarks/simulate.py measures.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch

from _common import (
    BINS,
    EPS,
    STEPS,
    arguments,
    build,
    environment,
    fresh_process,
    interleaved,
    markdown,
    peak_mib,
    same,
    write_json,
)
from advphotoz import PGD, AdversarialTrainer, CrossEntropy, LinfBall


def runner(args: argparse.Namespace, what: str, batch: int, size: int, steps: int) -> Callable:
    """Return a call that crafts a batch, trains on it, or does neither."""
    model, x, ebv, z = build(argparse.Namespace(**{**vars(args), "batch": batch}), size)
    dtype = torch.bfloat16 if args.autocast else None
    if what == "train":
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-6, fused=True)
        trainer = AdversarialTrainer(
            model, optimizer, None, 0.0, CrossEntropy(BINS), autocast=dtype
        )
        return lambda _: trainer.step((x, ebv, z))
    if what == "nothing":
        return torch.no_grad()(lambda _: model(x[:1], ebv[:1]))
    attack = PGD(
        LinfBall(EPS),
        steps=steps,
        step_size="paper",
        keep="last",
        objective=CrossEntropy(BINS),
        autocast=dtype,
    )
    return lambda _: attack(model, x, z, context=(ebv,))


def peak(args: argparse.Namespace, what: str, batch: int, size: int, steps: int) -> float:
    """Return the peak memory in MiB of a fresh process that does one thing once."""
    options = same(args, "model", "width", "device", "autocast")
    return fresh_process(__file__, [*options, "--only", what, batch, size, steps])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--autocast", choices=["bf16"], help="mixed precision; default: float32")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 4, 16, 64, 128])
    parser.add_argument("--sizes", type=int, nargs="*", default=[16, 32, 64, 96])
    parser.add_argument("--steps", type=int, nargs="*", default=[1, 2, 5, 10, 20])
    parser.add_argument("--only", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        what, *numbers = args.only
        runner(args, what, *map(int, numbers))(0)
        print(peak_mib(args.device))
        return

    print(environment(args.device))
    print(f"{args.model}, {args.autocast or 'float32'}, {args.rounds} rounds; where not said")
    print(f"otherwise batch {args.batch}, images of 64 x 64 pixels, PGD-{STEPS}")
    axes = {
        "batch": [(what, b, 64, STEPS) for what in ("craft", "train") for b in args.batches],
        "size": [(what, args.batch, s, STEPS) for what in ("craft", "train") for s in args.sizes],
        "steps": [("craft", args.batch, 64, n) for n in args.steps],
    }
    tables, seconds = {}, {}
    for number, (axis, points) in enumerate(axes.items(), start=1):
        if not points:
            continue
        names = {f"{point[0]}, {axis} {point[number]}": point for point in points}
        runs = {name: runner(args, *point) for name, point in names.items()}
        seconds[axis] = interleaved(runs, args.rounds, args.device)
        runs.clear()
        rows = tables[axis] = {}
        for name, (what, batch, size, steps) in names.items():
            median = statistics.median(seconds[axis][name])
            extra = peak(args, what, batch, size, steps) - peak(args, "nothing", batch, size, steps)
            # What stays the same where cost is proportional to images, pixels and steps.
            units = batch * (size / 64) ** 2 * (steps if what == "craft" else 1)
            rows[name] = {
                "s": median,
                "images/s": batch / median,
                "ms per image, step and 64 x 64 pixels": 1e3 * median / units,
                "peak MiB": round(extra),
                "peak MiB per image": extra / batch,
            }
        print(f"\n{markdown(rows)}", flush=True)
    write_json(args, tables=tables, seconds=seconds)


if __name__ == "__main__":
    main()
