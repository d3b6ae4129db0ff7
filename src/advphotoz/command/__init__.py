"""The command `advphotoz`, for those who do not write Python: thin over the library.

One file per subcommand, each with `add`, which describes its options, and `run`. What several of
them share is in `cutouts` (where the galaxies are), `network`, `eps` and `outputs`.
"""

from advphotoz.command.cli import main

__all__ = ["main"]
