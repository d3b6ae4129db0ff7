"""Who goes wrong, and how: outliers by a catalogue quantity, and the calibration of the PDFs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from advphotoz import metrics
from advphotoz._checks import check_at_least_one, require
from advphotoz.plotting._style import COLOURS, GREY, MARKERS, as_float64

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_binned_outliers", "plot_pit"]


def plot_binned_outliers(
    ax: Axes,
    values: Any,
    z_phot: Any,
    z_spec: Any,
    edges: int | Sequence[float] = 8,
    label: str | None = None,
) -> Axes:
    r"""Draw the fraction of outliers by bins of a quantity; call again to compare.

    Points stand at the mean of the quantity in their bin, with the 68 % interval of
    :func:`advphotoz.metrics.binned_outliers`; an empty bin has none. Name the quantity with
    ``ax.set_xlabel``.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    values : array, Tensor or list, (N,)
        The quantity: a redshift, a magnitude, a colour.
    z_phot, z_spec : array, Tensor or list, (N,)
        Estimated and true redshifts.
    edges : int or sequence of float
        Edges of the bins, or a number of bins that hold the same number of samples each.
    label : str, optional
        For the legend.

    Returns
    -------
    Axes
        The same.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        As :func:`advphotoz.metrics.binned_outliers`.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> r = [16.0, 16.5, 17.0, 17.5]
    >>> ax = plot_binned_outliers(ax, r, [0.1, 0.1, 0.1, 0.3], [0.1] * 4, edges=2, label="clean")
    >>> ax.set_xlabel("r [mag]")
    Text(0.5, 0, 'r [mag]')
    """
    require("matplotlib", "plot")
    found = metrics.binned_outliers(values, z_phot, z_spec, edges)
    k = len(ax.containers)
    ax.errorbar(
        found.mean,
        100 * found.eta,
        yerr=100 * np.array([found.eta - found.low, found.high - found.eta]),
        color=COLOURS[k % len(COLOURS)],
        marker=MARKERS[k % len(MARKERS)],
        markersize=4,
        linewidth=1.2,
        capsize=2,
        label=label,
    )
    ax.set_ylabel(r"outliers $\eta$ [%]")
    ax.set_ylim(bottom=0, auto=True)  # a next call may reach higher
    if label is not None:
        ax.legend(frameon=False, fontsize="small")
    return ax


def plot_pit(ax: Axes, pit: Any, label: str | None = None, bins: int = 20) -> Axes:
    r"""Draw the histogram of the PIT; call again to compare.

    It is flat at 1 where the PDFs are calibrated, high in the middle where they are too wide, and
    high at both ends where they are too narrow or the redshifts wrong. The grey band holds two
    standard deviations of a calibrated sample of the first call's size N, for B bins

    .. math:: 1 \pm 2 \sqrt{(B - 1) / N}

    Parameters
    ----------
    ax : Axes
        Where to draw.
    pit : array, Tensor or list, (N,)
        Values in [0, 1], from :func:`advphotoz.metrics.pit` or `Evaluation.pit`.
    label : str, optional
        For the legend.
    bins : int
        Number of bins, B.

    Returns
    -------
    Axes
        The same.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        If there are no values, or any lies outside [0, 1].

    References
    ----------
    Dawid 1984; for redshifts Polsterer et al. 2016 (arXiv:1608.08016).

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = plot_pit(Figure().subplots(), [0.1, 0.2, 0.9], label="clean")
    >>> ax.get_xlabel()
    'PIT'
    """
    require("matplotlib", "plot")
    check_at_least_one(bins, "bins")
    values = as_float64(pit)
    if values.ndim != 1 or not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"pit must hold at least one value, all in [0, 1]; got shape {values.shape}"
            + (f" from {values.min():.6g} to {values.max():.6g}" if values.size else "")
        )
    n = len(values)
    if not ax.lines:
        scatter = 2 * np.sqrt((bins - 1) / n)
        ax.axhspan(max(1 - scatter, 0), 1 + scatter, color=GREY, alpha=0.3, linewidth=0, zorder=0)
        ax.axhline(1, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    counts, edges = np.histogram(values, bins, range=(0, 1))
    density = counts * bins / n
    colour = COLOURS[(len(ax.lines) - 1) % len(COLOURS)]
    ax.step(edges, [*density, density[-1]], where="post", color=colour, label=label, linewidth=1.2)
    ax.set(xlim=(0, 1), xlabel="PIT", ylabel="density")
    ax.set_ylim(bottom=0, auto=True)  # a next call may reach higher
    if label is not None:
        ax.legend(frameon=False, fontsize="small", handlelength=1)
    return ax
