"""What each choice of a user gains: memory layout, kept memory, mixed precision.

    python benchmarks/choices.py [--model inception] [--json FILE]

PGD-10 on one batch, each line with one choice more than the line before. Freed memory is kept, or
not, by a process as a whole, so every measurement has a process of its own: the median of three
attacks after one that does not count. The processes are interleaved, and compared within a round.
Start it without `MALLOC_` variables.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys

import torch

from _common import (
    BINS,
    EPS,
    arguments,
    build,
    environment,
    fresh_process,
    interleaved,
    markdown,
    median_ratio,
    same,
    write_json,
)
from advphotoz import PGD, CrossEntropy, LinfBall, keep_freed_memory

CHOICES = ["float32, contiguous", "channels_last", "freed memory kept", "bf16"]


def seconds(args: argparse.Namespace, choices: list[str]) -> float:
    """Return the median time of an attack."""
    if "freed memory kept" in choices:
        keep_freed_memory()
    model, x, ebv, z = build(args)
    layout = torch.channels_last if "channels_last" in choices else torch.contiguous_format
    model.to(memory_format=layout)
    autocast = torch.bfloat16 if "bf16" in choices else None
    settings = {"step_size": "paper", "keep": "last", "autocast": autocast}
    attack = PGD(LinfBall(EPS), objective=CrossEntropy(BINS), **settings)
    runs = {"attack": lambda _: attack(model, x, z, context=(ebv,))}
    return statistics.median(interleaved(runs, 3, args.device)["attack"])


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(rounds=3)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only is not None:
        print(seconds(args, CHOICES[: args.only + 1]))
        return
    if any(name.startswith("MALLOC_") for name in os.environ):
        sys.exit("MALLOC_ variables are set: they would keep memory in every line; unset them")
    print(f"{environment(args.device)}\n{args.model}, batch {args.batch}, {args.rounds} rounds\n")
    options = same(args, "model", "width", "batch", "device")
    times: dict[str, list[float]] = {name: [] for name in CHOICES}
    for round_ in range(args.rounds):
        for step in range(len(CHOICES)):
            number = (round_ + step) % len(CHOICES)
            times[CHOICES[number]].append(fresh_process(__file__, [*options, "--only", number]))
    first = times[CHOICES[0]]
    rows = {
        name: {
            "s": statistics.median(taken),
            "images/s": args.batch / statistics.median(taken),
            "times as fast": median_ratio(first, taken),
        }
        for name, taken in times.items()
    }
    print(markdown(rows))
    write_json(args, rows=rows, seconds=times)


if __name__ == "__main__":
    main()
