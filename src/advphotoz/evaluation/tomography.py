"""Metrics in tomographic bins, and how far an attack moves the mean redshift of each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from advphotoz import metrics
from advphotoz._checks import require

__all__ = ["TomographicBin", "Tomography", "astropy_table", "tomography"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TomographicBin:
    r"""Metrics of one row of an evaluation on the galaxies of one bin.

    Attributes
    ----------
    name : str
        Name of the row.
    low, high : float
        The bin; a galaxy at `high` belongs to the next one, but to this one in the last.
    n : int
        Number of galaxies in it. Their metrics are NaN where there are none.
    bias, sigma_mad, eta : float
        The paper's metrics, see :mod:`advphotoz.metrics`, of these galaxies.
    bias_change, sigma_mad_change, eta_change : float
        Against the clean images, on the same galaxies.
    bias_change_error, sigma_mad_change_error, eta_change_error : float
        Their paired bootstrap standard errors; NaN with fewer than two galaxies or no resamples.
    n_own : int
        Number of galaxies that this row's own z_phot puts into the bin.
    mean_z : float
        Mean true redshift of those: what a survey that bins by this z_phot would have in the bin.
    mean_z_shift, mean_z_shift_error : float
        Its difference from that of the clean images, and the paired error. What LSST DESC requires
        of this mean is of the order of :math:`10^{-3} (1 + z)` (arXiv:1809.01669).
    """

    name: str
    low: float
    high: float
    n: int
    bias: float
    sigma_mad: float
    eta: float
    bias_change: float
    bias_change_error: float
    sigma_mad_change: float
    sigma_mad_change_error: float
    eta_change: float
    eta_change_error: float
    n_own: int
    mean_z: float
    mean_z_shift: float
    mean_z_shift_error: float


@dataclass(frozen=True)
class Tomography:
    """Metrics per row of an evaluation and tomographic bin; ``str()`` is a text table.

    Attributes
    ----------
    bins : tuple of TomographicBin
        By row, then by redshift.
    by : str
        What put the galaxies into their bins.
    outside : int
        Number of galaxies that lie in none.
    """

    bins: tuple[TomographicBin, ...]
    by: str
    outside: int

    def __getitem__(self, name: str) -> tuple[TomographicBin, ...]:
        """Return the bins of one row."""
        found = tuple(one for one in self.bins if one.name == name)
        if not found:
            names = list(dict.fromkeys(one.name for one in self.bins))
            raise KeyError(f"no row {name!r}; the rows are {names}")
        return found

    def to_table(self) -> Any:
        """Return an `astropy.table.Table`, a column per number.

        Raises
        ------
        ImportError
            If astropy is not installed (extra ``survey``).
        """
        return astropy_table([dataclasses.asdict(one) for one in self.bins])

    def __str__(self) -> str:
        head = f"{'':20} {'bin':>13} {'n':>7} {'bias [1e-4]':>12} {'change':>15} "
        head += f"{'sigma_MAD [1e-3]':>17} {'eta [%]':>8} {'shift of mean z [1e-3]':>23}"
        lines = [head, "-" * len(head)]
        for one in self.bins:
            change = f"{1e4 * one.bias_change:+.1f} ± {1e4 * one.bias_change_error:.1f}"
            shift = f"{1e3 * one.mean_z_shift:+.2f} ± {1e3 * one.mean_z_shift_error:.2f}"
            lines.append(
                f"{one.name:20} {f'{one.low:.3g} to {one.high:.3g}':>13} {one.n:>7} "
                f"{1e4 * one.bias:>12.1f} {change:>15} {1e3 * one.sigma_mad:>17.1f} "
                f"{100 * one.eta:>8.1f} {shift:>23}"
            )
        lines.append(
            f"Binned by {self.by}; {self.outside} galaxies lie in no bin. The shift is that of the "
            "mean true redshift where each row's own z_phot bins."
        )
        return "\n".join(lines)


def tomography(
    z_spec: Array,
    z_phot: Mapping[str, Array],
    edges: Sequence[float],
    by: str,
    reference: str,
    n_resamples: int,
    seed: int,
) -> Tomography:
    """Measure each prediction in bins; see `Evaluation.by_bin`.

    Raises
    ------
    ValueError
        If the edges do not increase, or no galaxy lies in them.
    """
    limits = np.asarray(edges, dtype=np.float64)
    if limits.ndim != 1 or len(limits) < 2 or not (np.diff(limits) > 0).all():
        raise ValueError(f"edges must be at least two and increase, got {edges}")
    member = _bin_of(z_spec if by == "z_spec" else z_phot[by], limits)
    if not (member >= 0).any():
        raise ValueError(f"no galaxy lies between the edges {limits[0]:.6g} and {limits[-1]:.6g}")
    clean = z_phot[reference]
    clean_member = _bin_of(clean, limits)
    draws = {"n_resamples": n_resamples, "seed": seed}
    found = []
    for name, estimate in z_phot.items():
        own = _bin_of(estimate, limits)
        for k, (low, high) in enumerate(pairwise(limits.tolist())):
            rows = np.flatnonzero(member == k)
            numbers = _measured(estimate[rows], clean[rows], z_spec[rows], draws)
            mean, shift, error = _shift(own == k, clean_member == k, z_spec, draws)
            found.append(
                TomographicBin(
                    name=name,
                    low=low,
                    high=high,
                    n=len(rows),
                    n_own=int((own == k).sum()),
                    mean_z=mean,
                    mean_z_shift=shift,
                    mean_z_shift_error=error,
                    **numbers,
                )
            )
    return Tomography(tuple(found), by, int((member < 0).sum()))


def _bin_of(z: Array, limits: Array) -> Array:
    """Return the bin of each redshift, -1 for none; the last bin holds its upper edge too."""
    index = np.searchsorted(limits, z, side="right") - 1
    index[z == limits[-1]] = len(limits) - 2
    index[index > len(limits) - 2] = -1
    return index


def _measured(z_phot: Array, clean: Array, z_spec: Array, draws: dict[str, int]) -> dict[str, Any]:
    """Return the metrics of a bin and their paired changes."""
    found: dict[str, Any] = {}
    for key, metric in (
        ("bias", metrics.bias),
        ("sigma_mad", metrics.sigma_mad),
        ("eta", metrics.outlier_fraction),
    ):
        value = change = error = math.nan
        if len(z_spec):
            value = metric(z_phot, z_spec)
            change = value - metric(clean, z_spec)
        if len(z_spec) > 1 and draws["n_resamples"]:
            _, error = metrics.paired_change(metric, z_phot, clean, z_spec, **draws)
        found |= {key: value, f"{key}_change": change, f"{key}_change_error": error}
    return found


def _shift(
    own: Array, clean: Array, z_spec: Array, draws: dict[str, int]
) -> tuple[float, float, float]:
    r"""Return the mean true redshift of a bin, its shift against the clean one, and the error.

    A Poisson bootstrap: each galaxy is drawn a Poisson number of times, so that those which are in
    neither bin need not be drawn at all. A resample that leaves a bin empty has no mean, and is
    left out.
    """
    if not own.any() or not clean.any():
        mean = float(z_spec[own].mean(dtype=np.float64)) if own.any() else math.nan
        return mean, math.nan, math.nan
    mean, before = (float(z_spec[m].mean(dtype=np.float64)) for m in (own, clean))
    touched = np.flatnonzero(own | clean)
    z = z_spec[touched].astype(np.float64)
    weights = own[touched].astype(np.float64), clean[touched].astype(np.float64)
    if len(z) < 2 or not draws["n_resamples"]:
        return mean, mean - before, math.nan
    rng = np.random.default_rng(draws["seed"])
    shifts = []
    for _ in range(draws["n_resamples"]):
        drawn = rng.poisson(1.0, len(z))
        counts = [float((drawn * w).sum()) for w in weights]
        if all(counts):
            sums = [float((drawn * w * z).sum()) for w in weights]
            shifts.append(sums[0] / counts[0] - sums[1] / counts[1])
    error = float(np.std(shifts, ddof=1)) if len(shifts) > 1 else math.nan
    return mean, mean - before, error


def astropy_table(lines: Sequence[Mapping[str, Any]]) -> Any:
    """Return lines of equal keys as an `astropy.table.Table`; None becomes NaN."""
    tables = require("astropy.table", "survey")
    return tables.Table(
        {key: [math.nan if line[key] is None else line[key] for line in lines] for key in lines[0]}
    )
