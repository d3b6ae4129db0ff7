"""The subcommands, and what becomes of errors: a sentence, and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from advphotoz._version import __version__
from advphotoz.command import attack, convert, demo, report, simulate, survey, train

__all__ = ["main"]

COMMANDS = {
    "demo": demo,
    "attack": attack,
    "survey": survey,
    "train": train,
    "report": report,
    "simulate": simulate,
    "convert": convert,
}
CODES = """\
exit codes: 0 done; 1 done, but a check failed, so that the numbers are not to be trusted yet;
2 nothing done, since the options or the files are wrong; 130 interrupted
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    whole = argparse.ArgumentParser(
        prog="advphotoz",
        description="How wrong can a network's photometric redshifts be made by a change too small "
        "to see? Begin with: advphotoz demo",
        epilog=CODES + "\nOptions of a command: advphotoz attack --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole.add_argument("--version", action="version", version=f"advphotoz {__version__}")
    commands = whole.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    for name, module in COMMANDS.items():
        first, _, rest = (module.__doc__ or "").partition("\n\n")
        own = commands.add_parser(
            name,
            help=first.rstrip("."),
            usage=f"advphotoz {name} {module.USAGE}",
            description=f"{first}\n\n{rest}".strip(),
            epilog=CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add(own)
        own.add_argument(
            "--traceback", action="store_true", help="show where in the code an error arose"
        )
        own.set_defaults(run=module.run)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default the process's own; return the exit code."""
    whole = parser()
    args = whole.parse_args(arguments)
    if args.command is None:
        whole.print_help()
        return 0
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _shown
            return int(args.run(args))
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on or starts again.", file=sys.stderr)  # noqa: T201
        return 130
    except BrokenPipeError:  # whoever reads our output, such as `head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, ImportError) as error:
        if args.traceback:
            raise
        said = str(error) or type(error).__name__
        print(f"advphotoz {args.command}: error: {said}", file=sys.stderr)  # noqa: T201
        return 2


def _shown(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Show a warning as a sentence, without the line of code that gave it."""
    print(f"warning: {message}", file=sys.stderr)  # noqa: T201
