"""Write one HTML report of what `advphotoz attack --json` found, of one network or several.

The file holds its pictures and runs no script. A model card says what the weights do not: a JSON
file with any of name, training_data, intended_use, defenses, certified, limits.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from advphotoz.command.outputs import add_force, check_new, say
from advphotoz.evaluation import Evaluation

__all__ = ["add", "run"]

USAGE = "RESULTS.json ... --html FILE [options]"


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("results", type=Path, nargs="+", help="files of --json")
    parser.add_argument("--html", type=Path, required=True, metavar="FILE", help="to write")
    parser.add_argument("--title", default="Robustness of photometric redshifts")
    parser.add_argument("--question", default="", help="why it was made, in your words")
    parser.add_argument(
        "--card", type=Path, nargs="+", default=[], help="model cards, one per network"
    )
    add_force(parser)


def run(args: argparse.Namespace) -> int:
    """Read, draw, write."""
    from advphotoz.html_report import ModelCard, save_html

    check_new(args.force, args.html)
    names = [path.stem for path in args.results]
    if len(set(names)) < len(names):
        raise ValueError(f"networks are named by their files, and two have one name: {names}")
    if args.card and len(args.card) != len(names):
        raise ValueError(f"{len(names)} networks and {len(args.card)} cards; give one card each")
    cards = {}
    for name, path in zip(names, args.card):  # noqa: B905
        try:
            cards[name] = ModelCard(**json.loads(path.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, TypeError) as error:
            raise ValueError(f"{path} is no model card: {error}") from None
    results = {n: Evaluation.load(p) for n, p in zip(names, args.results, strict=True)}
    save_html(args.html, results, title=args.title, question=args.question, cards=cards)
    say(f"Written: {args.html}")
    return 0
