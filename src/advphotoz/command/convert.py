"""Write cutouts of any layout to the file that is read fastest.

Columns of a table are joined, zero points applied; the result needs no options any more, in this
command or in `advphotoz.datasets.StoredCutouts.from_npz`. Memory does not grow with the file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from advphotoz.command.cutouts import add_cutouts, open_cutouts
from advphotoz.command.outputs import add_force, check_new, say

__all__ = ["add", "run"]

USAGE = "CUTOUTS OUT.npz [options]"


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    add_cutouts(parser)
    parser.add_argument("out", type=Path, help="the file to write, .npz")
    add_force(parser)


def run(args: argparse.Namespace) -> int:
    """Read and write, block by block."""
    check_new(args.force, args.out)
    if args.cutouts.resolve() == args.out.resolve():
        raise ValueError("the file to write is the one that is read; name another")
    data = open_cutouts(args)
    data.to_npz(args.out)
    say(f"Written: {args.out}, {len(data)} galaxies")
    return 0
