"""How to cite the software and the paper that it implements."""

from __future__ import annotations

from advphotoz._version import __version__

__all__ = ["bibtex"]

PAPER = """\
@article{2020arXiv200210154C,
  author        = {{Campagne}, Jean-Eric},
  title         = "{Adversarial training applied to Convolutional Neural Network for
                   photometric redshift predictions}",
  journal       = {arXiv e-prints},
  year          = 2020,
  month         = feb,
  eid           = {arXiv:2002.10154},
  doi           = {10.48550/arXiv.2002.10154},
  archivePrefix = {arXiv},
  eprint        = {2002.10154},
  primaryClass  = {astro-ph.IM},
}
"""

SOFTWARE = """\
@software{{advphotoz,
  author  = {{{{the advphotoz developers}}}},
  title   = {{advphotoz: adversarial attacks and adversarial training for photometric redshifts}},
  version = {{{version}}},
  year    = 2026,
  license = {{BSD-3-Clause}},
}}
"""


def bibtex() -> str:
    """Return two BibTeX entries: the paper, and this version of the software.

    Examples
    --------
    >>> [line for line in bibtex().splitlines() if line.startswith("@")]
    ['@article{2020arXiv200210154C,', '@software{advphotoz,']
    """
    return f"{PAPER}\n{SOFTWARE.format(version=__version__)}"
