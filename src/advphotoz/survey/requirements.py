"""What cosmology asks of the mean redshift of a tomographic bin."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass

__all__ = ["REQUIREMENTS", "Requirement", "as_requirement"]


@dataclass(frozen=True)
class Requirement:
    r"""The largest error of the mean redshift of a bin, in units of 1 + z.

    .. math:: |\Delta \langle z \rangle| \le \mathrm{limit}\, (1 + z)

    Here it is held against a shift of the mean of :math:`(z_{phot} - z_{spec}) / (1 + z_{spec})`.

    Attributes
    ----------
    name : str
        Of the survey and sample.
    limit : float
        A positive number.
    source : str
        Where it is stated.
    read_there : bool
        Whether the figure was read in that source when this table was written; otherwise it is
        quoted from others and should be looked up before it is cited.

    Examples
    --------
    >>> REQUIREMENTS["Euclid"].limit
    0.002
    """

    name: str
    limit: float
    source: str = "the caller"
    read_there: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, numbers.Real):
            raise TypeError(f"the limit of a requirement must be a number, got {self.limit!r}")
        if not 0 < float(self.limit) < math.inf:
            raise ValueError(
                f"the limit of a requirement must be positive, a shift of the mean of dz such as "
                f"0.002, got {self.limit!r}"
            )


_SRD = "LSST DESC Science Requirements Document (arXiv:1809.01669)"

REQUIREMENTS = {
    requirement.name: requirement
    for requirement in (
        Requirement("Euclid", 0.002, "Ilbert et al. 2021 (A&A 647, A117), Fig. 5"),
        Requirement("LSST Y1 sources", 0.002, _SRD, read_there=False),
        Requirement("LSST Y10 sources", 0.001, _SRD, read_there=False),
        Requirement("LSST Y1 lenses", 0.005, _SRD, read_there=False),
        Requirement("LSST Y10 lenses", 0.003, _SRD, read_there=False),
    )
}
"""By name. Those of LSST were not read in their source, but are quoted widely."""


def as_requirement(value: Requirement | str | float) -> Requirement:
    """Return a requirement: one of the table by its name, or a limit of the caller's own."""
    if isinstance(value, Requirement):
        return value
    if isinstance(value, str):
        if value not in REQUIREMENTS:
            raise ValueError(
                f"no requirement {value!r}; there are {', '.join(REQUIREMENTS)}, or give a limit "
                "such as 0.002"
            )
        return REQUIREMENTS[value]
    return Requirement("requirement", value)
