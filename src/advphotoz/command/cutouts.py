"""Options that say where the galaxies are, for every command that reads them."""

from __future__ import annotations

import argparse
import contextlib
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advphotoz.datasets import FITSCutouts, StoredCutouts
from advphotoz.datasets.sources import ArraySource, open_source

__all__ = ["add_cutouts", "open_cutouts", "some_images"]

DESCRIBED = ("layout", "labels", "z", "ebv", "context", "table", "on", "zero_point", "drop")
SAMPLE = 500  # galaxies are enough to tell the noise of the sky


def add_cutouts(parser: argparse.ArgumentParser) -> None:
    """Add the options that `open_cutouts` reads."""
    group = parser.add_argument_group(
        "the galaxies",
        "A file that advphotoz wrote (simulate, convert), or that of Pasquet et al. 2019, needs\n"
        "no option. Of any other say at least --image-key and --layout.",
    )
    group.add_argument(
        "cutouts", type=Path, help=".npz, HDF5 or FITS file, or a folder of FITS or .npy files"
    )
    group.add_argument("--image-key", metavar="NAME", help="the array of pixels in the file")
    group.add_argument(
        "--layout", choices=["NCHW", "NHWC"], help="bands before the pixels, or after"
    )
    group.add_argument("--labels", metavar="NAME", help="record array that holds the columns")
    group.add_argument("--z", metavar="NAME", help="column of spectroscopic redshift (z)")
    group.add_argument(
        "--ebv", metavar="NAME", help="column of E(B-V), if the network takes it; else leave it out"
    )
    group.add_argument(
        "--context",
        metavar="NAME",
        action="append",
        help="a further column that the network takes; can be given several times",
    )
    group.add_argument("--table", metavar="FILE", help="catalogue with columns that the file lacks")
    group.add_argument("--on", metavar="NAME", help="identifier by which to find a galaxy in it")
    group.add_argument(
        "--drop", action="store_true", default=None, help="leave out galaxies it does not have"
    )
    group.add_argument(
        "--zero-point", metavar="MAG", help="of the pixels, a number or a column; makes nanomaggies"
    )
    group.add_argument("--rows", metavar="FIRST:LAST", help="only these galaxies, such as 0:500")


def open_cutouts(args: argparse.Namespace) -> StoredCutouts:
    """Open the galaxies that the options describe; no pixel is read.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError, ImportError
        If they do not fit the file; the message says what does.
    """
    given = [name for name in DESCRIBED if getattr(args, name) is not None]
    if args.image_key is not None:
        data = _described(args)
    elif given:
        raise ValueError(
            f"--{given[0].replace('_', '-')} describes a file whose array of pixels is named by "
            f"--image-key{_names(args.cutouts)}"
        )
    else:
        data = _known(args.cutouts)
    if args.rows is None:
        return data
    match = re.fullmatch(r"(\d+):(\d+)", args.rows)
    if match is None or not int(match[1]) < int(match[2]) <= len(data):
        raise ValueError(
            f"--rows must be FIRST:LAST with FIRST < LAST <= {len(data)}, got {args.rows!r}"
        )
    return data.subset(torch.arange(int(match[1]), int(match[2])))


def some_images(data: StoredCutouts) -> Tensor:
    """Return images of some galaxies from all over the file, to tell the noise of the sky."""
    step = -(-len(data) // SAMPLE)
    return data.subset(torch.arange(0, len(data), step)).load().image


def _known(path: Path) -> StoredCutouts:
    """Open a file in our layout or in that of Pasquet et al."""
    names = _source(path, ()).names()
    if {"image", "z"} <= set(names):
        return StoredCutouts.from_npz(path)
    if {"cube", "labels"} <= set(names):
        return StoredCutouts(path)
    raise ValueError(
        f"{path} is in no layout that is known by itself; name its pixels by --image-key and say "
        f"--layout NCHW or NHWC{_names(path)}"
    )


def _described(args: argparse.Namespace) -> StoredCutouts:
    if args.layout is None:
        raise ValueError("say --layout NCHW (bands before the pixels) or NHWC (bands last)")
    zero_point: Any = args.zero_point
    with contextlib.suppress(ValueError):  # else it is the name of a column
        zero_point = None if zero_point is None else float(zero_point)
    z = args.z or "z"
    columns = [z, args.ebv, *(args.context or ())] if args.table is None else []
    columns += [zero_point] if isinstance(zero_point, str) else []
    on = args.on
    if on is not None and _is_fits_folder(args.cutouts):
        on = ("id", on)  # the name of each file
    return StoredCutouts(
        _source(args.cutouts, [name for name in columns if name is not None]),
        image=args.image_key,
        labels=args.labels,
        z=z,
        ebv=args.ebv,
        context=args.context or (),
        layout=args.layout,
        zero_point=zero_point,
        catalogue=args.table,
        on=on,
        unmatched="drop" if args.drop else "refuse",
    )


def _source(path: Path, keywords: Any) -> ArraySource:
    """Open a file of arrays, or a folder of FITS files with their keywords as columns."""
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}")
    if _is_fits_folder(path):
        return FITSCutouts(path, keywords=keywords)
    return open_source(path)


def _is_fits_folder(path: Path) -> bool:
    return path.is_dir() and any(p.suffix.lower() in (".fits", ".fit") for p in path.iterdir())


def _names(path: Path) -> str:
    return f"; {path} holds {_source(path, ()).names()}"
