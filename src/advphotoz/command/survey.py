"""The worst that a survey's calibration can do to the mean redshifts of its tomographic bins.

Errors that all galaxies share, each up to what is given: of the zero points, the level of the sky,
the PSF, the registration of the bands, E(B-V). Found on one half of the galaxies, measured on the
other, effect by effect and for all together, and held against a requirement.

    advphotoz survey test.npz --model runs/mine --zero-point-error 0.01 --sky 0.1sigma
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor
from torch.utils.data import DataLoader

from advphotoz import (
    Compose,
    PerturbationSet,
    PSFWidth,
    ReddeningInputError,
    Shift,
    SkyLevel,
    ZeroPoint,
)
from advphotoz.command.cutouts import add_cutouts, open_cutouts, some_images
from advphotoz.command.eps import Size, size
from advphotoz.command.network import add_network, load
from advphotoz.command.outputs import add_force, check_new, progress, say
from advphotoz.survey import REQUIREMENTS, CalibrationBudget, calibration_budget

__all__ = ["add", "run"]

USAGE = "CUTOUTS --model NETWORK [options]"

TOGETHER = "all together"


def _requirement(text: str) -> str | float:
    """Read a name or a limit; an option's type."""
    if text in REQUIREMENTS:
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a limit such as 0.002 nor one of {', '.join(REQUIREMENTS)}"
        ) from None


def _numbers(text: str) -> Size:
    """Read numbers that are not of the image's units; an option's type."""
    read = size(text)
    if read.in_sigma:
        raise argparse.ArgumentTypeError(f"{text!r}: the noise of the sky is no unit here")
    return read


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    add_cutouts(parser)
    add_network(parser, trained=True)
    group = parser.add_argument_group(
        "errors shared by all galaxies", "one number, or one per band separated by commas"
    )
    group.add_argument("--zero-point-error", type=_numbers, metavar="MAG")
    group.add_argument("--sky", type=size, metavar="LEVEL", help="0.01 or 0.1sigma")
    group.add_argument(
        "--psf", type=float, metavar="FRACTION", help="of its width; with --fwhm and --pixel-scale"
    )
    group.add_argument("--fwhm", type=_numbers, metavar="ARCSEC", help="of the PSF")
    group.add_argument(
        "--registration", type=_numbers, metavar="ARCSEC", help="shift of bands; --pixel-scale"
    )
    group.add_argument("--pixel-scale", type=float, metavar="ARCSEC", help="per pixel")
    group.add_argument("--ebv-error", type=float, metavar="FRACTION", help="of the input E(B-V)")
    group = parser.add_argument_group("the question")
    group.add_argument(
        "--requirement",
        type=_requirement,
        default="Euclid",
        help=f"a limit such as 0.002, or {', '.join(REQUIREMENTS)} (Euclid)",
    )
    group.add_argument(
        "--tomographic-bins", type=int, default=4, help="of equal numbers of galaxies (4)"
    )
    group.add_argument("--batch", type=int, default=100, help="galaxies at a time (100)")
    group.add_argument("--band-names", default="", metavar="ugriz", help="a letter per band")
    group = parser.add_argument_group("results")
    group.add_argument(
        "--json", type=Path, metavar="FILE", help="all numbers of all errors together"
    )
    group.add_argument("--figure", type=Path, metavar="FILE", help="a picture, .pdf or .png")
    add_force(group)


def run(args: argparse.Namespace) -> int:
    """Read, search, report."""
    check_new(args.force, args.json, args.figure)
    data = open_cutouts(args)
    model, readout = load(args, data)
    effects = _effects(args, data[0][0], some_images(data))
    loader = DataLoader(data, args.batch)
    found: dict[str, CalibrationBudget] = {}
    bins: int | tuple[float, ...] = args.tomographic_bins
    for name, effect in effects.items():
        found[name] = calibration_budget(
            model,
            loader,
            effect,
            readout,
            args.requirement,
            bins,
            bands=args.band_names,
            progress=progress(),
        )
        bins = found[name].full.edges or bins  # of the first, the same for all
        say(f"{name}: {found[name].words}\n")
    whole = found[list(found)[-1]]
    say(str(whole.full))
    if args.json is not None:
        whole.save(args.json)
        say(f"\nWritten: {args.json}")
    if args.figure is not None:
        from matplotlib.figure import Figure

        from advphotoz.plotting import plot_worst_shifts

        figure = Figure((4.5, 3.3), layout="constrained")
        worst = {name: budget.full for name, budget in found.items()}
        plot_worst_shifts(figure.subplots(), worst, args.requirement)
        figure.savefig(args.figure, dpi=300)
        say(f"Written: {args.figure}")
    return 0 if all(budget.full.all_converged for budget in found.values()) else 1


def _effects(args: argparse.Namespace, image: Tensor, images: Tensor) -> dict[str, PerturbationSet]:
    """Return the effects that were asked for, and all of them in the order in which light meets."""
    bands = image.shape[0]
    scale = args.pixel_scale
    if scale is None and (args.psf is not None or args.registration is not None):
        raise ValueError("--psf and --registration need --pixel-scale, arcsec per pixel")
    if (args.psf is None) != (args.fwhm is None):
        raise ValueError("--psf and --fwhm belong together")
    effects: dict[str, PerturbationSet] = {}
    if args.psf is not None:
        effects["PSF width"] = PSFWidth(args.psf, args.fwhm.of(images), scale)
    if args.registration is not None:
        effects["registration"] = Shift(args.registration.of(images), scale)
    if args.zero_point_error is not None:
        effects["zero points"] = ZeroPoint(args.zero_point_error.of(images))
    if args.sky is not None:
        effects["sky level"] = SkyLevel(args.sky.of(images))
    if args.ebv_error is not None:
        if args.ebv is None and args.image_key is not None:
            raise ValueError("--ebv-error changes the input E(B-V), and --ebv names no column")
        effects["E(B-V)"] = ReddeningInputError(args.ebv_error)
    if not effects:
        raise ValueError(
            "say which errors are possible, such as --zero-point-error 0.01 --sky 0.1sigma"
        )
    if args.band_names and len(args.band_names) != bands:
        raise ValueError(f"--band-names must have a letter for each of {bands} bands")
    if len(effects) > 1:
        effects[TOGETHER] = Compose(*effects.values())
    return effects
