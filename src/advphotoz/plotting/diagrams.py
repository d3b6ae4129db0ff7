"""Diagrams of many redshifts: errors, predicted against true, metrics against eps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

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
        The axis runs from -limit to limit; dashed lines mark the outliers, |dz| > 0.05.

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
    """
    require("matplotlib", "plot")
    dz = metrics.delta_z(z_phot, z_spec)
    beyond = float((np.abs(dz) > limit).mean())
    if label is not None and beyond > 0:
        label = f"{label} ({100 * beyond:.2g} % beyond)"
    if not ax.patches:
        for edge in (-OUTLIER, OUTLIER):
            ax.axvline(edge, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    share = np.full(len(dz), 100 / len(dz))
    colour = COLOURS[len(ax.patches) % len(COLOURS)]
    edges = np.linspace(-limit, limit, 81)
    ax.hist(
        dz, edges.tolist(), weights=share, histtype="step", color=colour, label=label, linewidth=1.2
    )
    ax.set(xlim=(-limit, limit), xlabel=DZ, ylabel="share of images per bin [%]")
    if label is not None:
        ax.legend(frameon=False, fontsize="small", handlelength=1.2)
    return ax


def plot_z_z(ax: Axes, z_phot: Any, z_spec: Any) -> Axes:
    r"""Draw the density of z_phot against z_spec (Campagne 2020, Figs. 3 and 4, bottom).

    The solid line is equality, the dashed ones are the outlier limits
    :math:`|\Delta z| = 0.05`. Both axes span all the redshifts, so that no sample is left out.

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
    """
    colors: Any = require("matplotlib.colors", "plot")
    dz = metrics.delta_z(z_phot, z_spec)
    truth = as_float64(z_spec)
    estimate = truth + dz * (1 + truth)
    low = min(0.0, truth.min(), estimate.min())
    high = max(truth.max(), estimate.max())
    span = (low, high + 0.02 * (high - low))
    image = ax.hist2d(
        truth, estimate, bins=60, range=(span, span), norm=colors.LogNorm(), cmap="viridis", cmin=1
    )[3]
    line = np.array(span)
    ax.plot(line, line, color="black", linewidth=0.8)
    for sign in (-1, 1):
        ax.plot(line, line + sign * OUTLIER * (1 + line), "--", color=GREY, linewidth=0.8)
    ax.set(xlim=span, ylim=span, aspect="equal")
    ax.set(xlabel=r"$z_\mathrm{spec}$", ylabel=r"$z_\mathrm{phot}$")
    ax.figure.colorbar(image, ax=ax, label="images per cell", fraction=0.046, pad=0.03)
    return ax


def plot_robustness(ax: Axes, curve: RobustnessCurve, metric: str = "eta") -> Axes:
    """Draw one metric against eps, a line per attack, with its standard errors.

    The axis of eps is logarithmic above the smallest eps, and linear from there to the clean
    images at 0.

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
        If there is no such metric.
    """
    ticker: Any = require("matplotlib.ticker", "plot")
    factor, label = UNITS.get(metric, (1.0, metric))
    every: set[float] = set()
    for k, name in enumerate(curve.names):
        eps, values = curve.line(name, metric)
        every |= set(eps.tolist())
        has_error = getattr(curve.points[0].row, f"{metric}_error", None) is not None
        error = factor * curve.line(name, f"{metric}_error")[1] if has_error else None
        ax.errorbar(
            eps,
            factor * values,
            yerr=error,
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
        ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    ax.set(xlabel=r"$\varepsilon$ [units of the image]", ylabel=label)
    ax.legend(frameon=False, fontsize="small")
    return ax
