"""Algorithm 1: what a training batch costs for f_a = 0 to 100 %, FGSM and PGD-10, and theory.

    python benchmarks/algorithm1.py [--model inception] [--autocast bf16] [--json FILE]

Counted in passes, a training step costs 3 (forward, backward to the inputs of every layer, backward
to the weights) and an input gradient 2 per crafted sample and step, so that a batch costs
1 + steps * (crafted / batch) * 2 / 3 times a classical one. A second expectation puts the measured
time of one input gradient of the crafted rows, by a bare loop, in the place of the count: what lies
above it is the library's, what lies between the two is the kernels'.
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
    bare,
    build,
    environment,
    interleaved,
    markdown,
    median_ratio,
    write_json,
)
from advphotoz import FGSM, PGD, AdversarialTrainer, CrossEntropy, LinfBall

FRACTIONS = (0.05, 0.2, 0.5, 1.0)
ATTACKS = {
    "FGSM": (1, FGSM(EPS)),
    f"PGD-{STEPS}": (STEPS, PGD(LinfBall(EPS), steps=STEPS, step_size="paper", keep="last")),
}
EPOCH = 100_000  # images, about the paper's


def variants(args: argparse.Namespace) -> dict[str, Callable[[int], object]]:
    """Return a training step per attack and fraction, and a bare input gradient per fraction.

    All share one network and one optimizer: their cost does not depend on the weights.
    """
    autocast = torch.bfloat16 if args.autocast else None
    model, *batch = build(args)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def train(attack: object, fraction: float) -> Callable[[int], object]:
        trainer = AdversarialTrainer(
            model, optimizer, attack, fraction, CrossEntropy(BINS), autocast=autocast
        )
        return lambda _: trainer.step(batch)

    def gradient(rows: int) -> Callable[[int], object]:
        x, ebv, z = (value[:rows] for value in batch)

        def run(_: int) -> None:
            model.requires_grad_(False)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast is not None):
                bare(lambda x: model(x, ebv), x, BINS.index(z), steps=1)
            model.requires_grad_(True)

        return run

    runs = {"classical": train(None, 0.0)}
    for fraction in FRACTIONS:
        runs[f"gradient {fraction:.0%}"] = gradient(round(fraction * args.batch))
        for name, (_, attack) in ATTACKS.items():
            runs[f"{name} {fraction:.0%}"] = train(attack, fraction)
    return runs


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--autocast", choices=["bf16"], help="mixed precision; default: float32")
    args = parser.parse_args()
    if round(FRACTIONS[0] * args.batch) == 0:
        parser.error(f"--batch {args.batch}: 5 % of it must be at least one image; take 20 or more")
    print(f"{environment(args.device)}")
    print(f"{args.model}, batch {args.batch}, {args.autocast or 'float32'}, {args.rounds} rounds\n")
    seconds = interleaved(variants(args), args.rounds, args.device)

    classical = seconds["classical"]
    rows = {"classical": row(args, 0, classical, 1.0, 1.0, 1.0)}
    for name, (steps, _) in ATTACKS.items():
        for fraction in FRACTIONS:
            crafted = round(fraction * args.batch)
            mine, gradient = seconds[f"{name} {fraction:.0%}"], seconds[f"gradient {fraction:.0%}"]
            rows[f"{name} {fraction:.0%}"] = row(
                args,
                crafted,
                mine,
                median_ratio(mine, classical),
                1 + steps * crafted / args.batch * 2 / 3,
                1 + steps * median_ratio(gradient, classical),
            )
    print(markdown(rows, "f_a"))
    write_json(args, rows=rows, seconds=seconds)


def row(
    args: argparse.Namespace,
    crafted: int,
    seconds: list[float],
    ratio: float,
    passes: float,
    parts: float,
) -> dict[str, object]:
    """Return one line of the table."""
    median = statistics.median(seconds)
    return {
        "crafted": crafted,
        "s per batch": median,
        f"hours per {EPOCH:,}": median * EPOCH / args.batch / 3600,
        "times classical": ratio,
        "by passes": passes,
        "measured / passes": ratio / passes,
        "measured / gradients": ratio / parts,
    }


if __name__ == "__main__":
    main()
