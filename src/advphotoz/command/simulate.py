"""Draw simulated galaxies into a file.

They are drawn by GalSim from templates with SDSS ugriz noise, and are simulated: nothing found on
them is a statement about the sky. Another seed gives other galaxies: one file to train on, one of
another seed to test.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from advphotoz.command.outputs import add_force, check_new, progress, say

__all__ = ["add", "run"]

USAGE = "OUT.npz [options]"


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("out", type=Path, help="the file to write, .npz")
    parser.add_argument("--galaxies", type=int, default=6000, help="how many (6000)")
    parser.add_argument("--size", type=int, default=32, help="pixels on a side (32)")
    parser.add_argument("--seed", type=int, default=0)
    add_force(parser)


def run(args: argparse.Namespace) -> int:
    """Draw and write."""
    from advphotoz.datasets import simulate

    check_new(args.force, args.out)
    data = simulate(args.galaxies, seed=args.seed, size=args.size, progress=progress())
    data.to_npz(args.out)
    say(f"Written: {args.out}, {args.galaxies} simulated galaxies")
    return 0
