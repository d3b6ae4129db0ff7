"""Diagrams of many redshifts: errors, predicted against true, metrics against eps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from advphotoz import metrics
from advphotoz._checks import require
from advphotoz.evaluation import RobustnessCurve
from advphotoz.plotting._style import COLOURS, GREY, MARKERS, as_float64

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_delta_z", "plot_robustness", "plot_z_z"]

OUTLIER = 0.05
DZ = r"$\Delta z = (z_\mathrm{phot} - z_\mathrm{spec}) / (1 + z_\mathrm{spec})$"
# Axis labels and factors of the paper's units.
UNITS = {
    "bias": (1e4, r"bias $[10^{-4}]$"),
    "sigma_mad": (1e3, r"$\sigma_\mathrm{MAD}$ $[10^{-3}]$"),
    "eta": (100.0, r"outliers $\eta$ [%]"),
    "crps": (1e3, r"CRPS $[10^{-3}]$"),
    "nll": (1.0, "negative log-likelihood"),
    "objective_after": (1.0, "mean objective"),
}


def plot_delta_z(
    ax: Axes, z_phot: Any, z_spec: Any, label: str | None = None, limit: float = 0.2
) -> Axes:
    r"""Draw the histogram of dz (Campagne 2020, Fig. 3, top); call again to compare.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    z_phot, z_spec : array, Tensor or list, (N,)
        Estimated and true redshifts.
    label : str, optional
        For the legend, which also says what share lies beyond the limits of the axis.
    limit : float
        The axis runs from -limit to limit; dashed lines mark the outliers, ``|dz| > 0.05``.

    Returns
    -------
    Axes
        The same.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        As :func:`advphotoz.metrics.delta_z`.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = plot_delta_z(Figure().subplots(), [0.1, 0.2, 0.9], [0.1, 0.2, 0.3], label="clean")
    >>> ax.get_legend().get_texts()[0].get_text()
    'clean (33 % beyond)'
    """
    require("matplotlib", "plot")
    dz = metrics.delta_z(z_phot, z_spec)
    beyond = float((np.abs(dz) > limit).mean())
    if label is not None and beyond > 0:
        label = f"{label} ({100 * beyond:.2g} % beyond)"
    if not ax.lines:
        for edge in (-OUTLIER, OUTLIER):
            ax.axvline(edge, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    edges = np.linspace(-limit, limit, 51)
    share = 100 * np.histogram(dz, edges)[0] / len(dz)
    colour = COLOURS[(len(ax.lines) - 2) % len(COLOURS)]
    ax.step(edges, [*share, share[-1]], where="post", color=colour, label=label, linewidth=1.2)
    ax.set(xlim=(-limit, limit), xlabel=DZ, ylabel="share of images per bin [%]")
    ax.set_ylim(bottom=0, auto=True)  # a next call may reach higher
    if label is not None:
        ax.legend(loc="upper right", fontsize="x-small", handlelength=1, edgecolor="none")
    return ax


def plot_z_z(ax: Axes, z_phot: Any, z_spec: Any) -> Axes:
    r"""Draw the density of z_phot against z_spec (Campagne 2020, Figs. 3 and 4, bottom).

    The solid line is equality, the dashed ones are the outlier limits
    :math:`|\Delta z| = 0.05`. Both axes span all the redshifts, so that no sample is left out; in a
    figure about as high as it is wide, equality lies at 45 degrees.

    Parameters
    ----------
    ax : Axes
        Where to draw; its figure gets a colour bar, on a logarithmic scale.
    z_phot, z_spec : array, Tensor or list, (N,)
        Estimated and true redshifts.

    Returns
    -------
    Axes
        The same.

    Raises
    ------
    ImportError, ValueError
        As `plot_delta_z`.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = plot_z_z(Figure().subplots(), [0.1, 0.2, 0.9], [0.1, 0.2, 0.3])
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('$z_\\mathrm{spec}$', '$z_\\mathrm{phot}$')
    """
    colors: Any = require("matplotlib.colors", "plot")
    ticker: Any = require("matplotlib.ticker", "plot")
    dz = metrics.delta_z(z_phot, z_spec)
    truth = as_float64(z_spec)
    estimate = truth + dz * (1 + truth)
    low = min(0.0, truth.min(), estimate.min())
    high = max(truth.max(), estimate.max())
    span = (low, high + 0.02 * (high - low))
    counts, edges, _ = np.histogram2d(truth, estimate, bins=50, range=(span, span))
    fullest = max(counts.max(), 2)
    norm = colors.LogNorm(1, fullest) if fullest > 20 else colors.Normalize(1, fullest)
    # Column j of a mesh lies at the j-th x; empty cells stay white.
    mesh = ax.pcolormesh(
        edges, edges, np.ma.masked_equal(counts.T, 0), norm=norm, cmap="viridis", rasterized=True
    )
    line = np.array(span)
    ax.plot(line, line, color="black", linewidth=0.8)
    for sign in (-1, 1):
        ax.plot(line, line + sign * OUTLIER * (1 + line), "--", color=GREY, linewidth=0.8)
    # No fixed aspect: matplotlib's constrained layout cuts labels off where it has to shrink a box.
    ax.set(xlim=span, ylim=span, xlabel=r"$z_\mathrm{spec}$", ylabel=r"$z_\mathrm{phot}$")
    whole = ticker.MaxNLocator(integer=True) if fullest <= 20 else None
    ax.figure.colorbar(mesh, ax=ax, pad=0.03, label="images per cell", format="%g", ticks=whole)
    return ax


def plot_robustness(ax: Axes, curve: RobustnessCurve, metric: str = "eta") -> Axes:
    """Draw one metric against eps, a line per attack.

    Bars are standard errors, those of eta Wilson's interval. The axis of eps is logarithmic above
    the smallest eps, and linear from there to the clean images at 0.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    curve : RobustnessCurve
        From :func:`advphotoz.evaluation.robustness_curve`.
    metric : str
        A field of :class:`advphotoz.evaluation.Row`, drawn in the paper's units.

    Returns
    -------
    Axes
        The same.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        If there is no such metric, or it was not computed: a score of PDFs where the readout has
        none.

    Examples
    --------
    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from advphotoz import FGSM, RedshiftBins
    >>> from advphotoz.evaluation import robustness_curve
    >>> model, batch = torch.nn.Linear(2, 4), (torch.randn(8, 2), torch.rand(8))
    >>> curve = robustness_curve(
    ...     model, [batch], {"FGSM": FGSM}, [0.1, 0.2], RedshiftBins(n=4), progress=False
    ... )
    >>> plot_robustness(Figure().subplots(), curve, "nll").get_ylabel()
    'negative log-likelihood'
    """
    ticker: Any = require("matplotlib.ticker", "plot")
    factor, label = UNITS.get(metric, (1.0, metric))
    every: set[float] = set()
    for k, name in enumerate(curve.names):
        eps, values = curve.line(name, metric)
        every |= set(eps.tolist())
        error = _error(curve, name, metric)
        ax.errorbar(
            eps,
            factor * values,
            yerr=None if error is None else factor * error,
            color=COLOURS[k % len(COLOURS)],
            marker=MARKERS[k % len(MARKERS)],
            markersize=4,
            linewidth=1.2,
            capsize=2,
            label=name,
        )
    smallest = min((eps for eps in every if eps > 0), default=None)
    if smallest is not None:
        ax.set_xscale("symlog", linthresh=smallest, linscale=0.5)
        ax.set_xlim(-0.15 * smallest, 1.2 * max(every))
        if len(every) <= 6:
            ax.xaxis.set_major_locator(ticker.FixedLocator(sorted(every)))
        ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.set(xlabel=r"$\varepsilon$ [units of the image]", ylabel=label)
    ax.legend(frameon=False, fontsize="small")
    return ax


def _error(curve: RobustnessCurve, name: str, metric: str) -> npt.NDArray[Any] | None:
    """Return the lengths of the bars: one per point, or one below and one above; None for none."""
    row = curve.points[0].row
    if hasattr(row, f"{metric}_low"):
        values = curve.line(name, metric)[1]
        low, high = (curve.line(name, f"{metric}_{end}")[1] for end in ("low", "high"))
        return np.array([values - low, high - values]).clip(min=0)  # the rounding of 0 and of 1
    if getattr(row, f"{metric}_error", None) is None:
        return None
    return curve.line(name, f"{metric}_error")[1]
