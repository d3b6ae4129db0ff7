r"""Attack a network, and report whether the numbers can be trusted.

The change per pixel is at most --eps, in the units of the image or of the noise of the sky. Without
--attack, FGSM, PGD-10 and the standard attack are run. What is printed begins with the verdict.

    advphotoz attack test.npz --model runs/mine --eps 0.4sigma --html report.html
    advphotoz attack cutouts.npz --image-key imgs --layout NHWC --table z.csv --on objid \
        --z specz --model net:ResNet --weights w.pt --output redshift --eps 0.4sigma
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from torch.utils.data import DataLoader

from advphotoz import FGSM, PGD, Attack, LinfBall, evaluate, l2_eps_from_linf, l2_pgd, standard
from advphotoz.command.cutouts import add_cutouts, open_cutouts, some_images
from advphotoz.command.eps import size
from advphotoz.command.network import add_network, load
from advphotoz.command.outputs import add_force, check_new, progress, say
from advphotoz.redshift import Readout

__all__ = ["add", "run"]

USAGE = "CUTOUTS --model NETWORK --eps SIZE [options]"


Eps = float | list[float]


def _l2(eps: Eps, readout: Readout, pixels: int) -> Attack:
    if isinstance(eps, list):
        raise ValueError("--attack l2 takes one eps for all bands, in the units of the image")
    return l2_pgd(l2_eps_from_linf(eps, pixels))


ATTACKS: dict[str, Callable[[Eps, Readout, int], Attack]] = {
    "fgsm": lambda eps, readout, pixels: FGSM(eps),
    "pgd": lambda eps, readout, pixels: PGD(LinfBall(eps)),
    "l2": _l2,
    "standard": lambda eps, readout, pixels: standard(eps, readout),
}
DEFAULT = ("fgsm", "pgd", "standard")


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    add_cutouts(parser)
    add_network(parser, trained=True)
    group = parser.add_argument_group("the attack")
    group.add_argument("--eps", type=size, required=True, help="0.01, 0.01,0.02,... or 0.4sigma")
    group.add_argument(
        "--attack",
        choices=list(ATTACKS),
        action="append",
        help="can be given several times (fgsm, pgd, standard); l2 is L2-PGD-40 within the typical "
        "L2 norm of noise of this eps",
    )
    group.add_argument("--batch", type=int, default=100, help="galaxies at a time (100)")
    group.add_argument("--seed", type=int, default=0, help="of random starts and noise")
    group = parser.add_argument_group("results")
    group.add_argument(
        "--json", type=Path, metavar="FILE", help="all numbers; `advphotoz report` reads it"
    )
    group.add_argument("--html", type=Path, metavar="FILE", help="a report of one file")
    group.add_argument(
        "--keep-pdf", action="store_true", help="and every PDF, in a file beside --json"
    )
    add_force(group)


def run(args: argparse.Namespace) -> int:
    """Read, attack, report."""
    check_new(args.force, args.json, args.html)
    if args.html is not None:
        from advphotoz.html_report import ModelCard, save_html
    if args.keep_pdf and args.json is None:
        raise ValueError("--keep-pdf writes beside --json, which is missing")
    data = open_cutouts(args)
    model, readout = load(args, data)
    eps = args.eps.of(some_images(data))
    pixels = data[0][0][0].numel()  # of one band, as the paper counts
    attacks = [ATTACKS[name](eps, readout, pixels) for name in args.attack or DEFAULT]
    result = evaluate(
        model,
        DataLoader(data, args.batch),
        attacks,
        readout,
        seed=args.seed,
        progress=progress(),
        keep_pdf=args.keep_pdf,
    )
    each = eps if isinstance(eps, list) else [eps]
    say(f"eps, in the units of the image: {', '.join(f'{e:.4g}' for e in each)}\n\n{result}")
    if args.json is not None:
        result.save(args.json)
        say(f"\nWritten: {args.json}")
    if args.html is not None:
        question = f"A change of at most {args.eps} in every pixel of {args.cutouts.name}."
        save_html(args.html, result, question=question, cards=ModelCard(args.model))
        say(f"Written: {args.html}")
    failed = result.checks is not None and bool(result.checks.of("FAIL"))
    return 1 if failed else 0
