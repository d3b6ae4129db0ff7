"""Diagrams of many redshifts: errors, predicted against true, metrics against eps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from advphotoz import metrics
from advphotoz._checks import check_at_least_one, require
from advphotoz.evaluation import Evaluation, RobustnessCurve
from advphotoz.plotting._style import BLUE, COLOURS, GREY, MARKERS, VERMILLION, as_float64

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure

__all__ = ["plot_attacks", "plot_delta_z", "plot_robustness", "plot_z_z", "plot_z_z_grid"]

OUTLIER = 0.05
POINTS = 3000  # galaxies that can be told apart as points in a panel of 3.4 inches
WORDS = {"clean": "clean images", "noise": "random noise"}
Z_SPEC, Z_PHOT = r"$z_\mathrm{spec}$", r"$z_\mathrm{phot}$"
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
    r"""Draw z_phot against z_spec (Campagne 2020, Figs. 3 and 4, bottom).

    Up to 3000 galaxies are points, with outliers as vermillion diamonds; more are counted in
    hexagons, on a logarithmic colour scale. The solid line is equality, the dashed ones are the
    outlier limits :math:`|\Delta z| = 0.05`. The axes are square and span all the redshifts: no
    galaxy is left out. `plot_z_z_grid` puts several on one colour scale.

    Parameters
    ----------
    ax : Axes
        Where to draw; its figure gets a colour bar where there are hexagons.
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
    require("matplotlib", "plot")
    truth, estimate = _redshifts(z_phot, z_spec)
    hexagons = _draw_z_z(ax, truth, estimate, _span([truth, estimate]))
    _one_colour_scale(ax.figure, ax, [] if hexagons is None else [hexagons])
    return ax


def plot_z_z_grid(
    estimates: Mapping[str, Any], z_spec: Any, columns: int = 2, fig: Figure | None = None
) -> Figure:
    r"""Draw z_phot against z_spec in one panel per estimate, on the same axes and colour scale.

    Each title gives the name and the share of outliers, :math:`\eta`.

    Parameters
    ----------
    estimates : mapping of str to array, Tensor or list, (N,)
        Estimated redshifts of the same galaxies by name, such as `Evaluation.z_phot`.
    z_spec : array, Tensor or list, (N,)
        True redshifts.
    columns : int
        Panels side by side.
    fig : Figure, optional
        An empty figure to draw on. None: a new one, 3.4 inches wide for one column, else 7.

    Returns
    -------
    Figure
        With a panel per estimate, and a colour bar where there are hexagons.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        If there is no estimate, or as :func:`advphotoz.metrics.delta_z`.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> z = [0.1, 0.2, 0.3]
    >>> fig = plot_z_z_grid({"clean": z, "PGD-10": [0.1, 0.2, 0.9]}, z, fig=Figure())
    >>> [ax.get_title() for ax in fig.axes]
    ['clean: $\\eta$ = 0.0 %', 'PGD-10: $\\eta$ = 33.3 %']
    """
    check_at_least_one(columns, "columns")
    if not estimates:
        raise ValueError("estimates must hold at least one set of redshifts, got none")
    columns = min(columns, len(estimates))
    rows = -(-len(estimates) // columns)
    if fig is None:
        size = (3.4, 3.1 * rows) if columns == 1 else (7.0, 6.4 * rows / columns + 0.3)
        fig = require("matplotlib.pyplot", "plot").figure(figsize=size, layout="constrained")
    drawn = {name: _redshifts(z_phot, z_spec) for name, z_phot in estimates.items()}
    span = _span([values for pair in drawn.values() for values in pair])
    grid = fig.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    hexagons = []
    for ax, (name, (truth, estimate)) in zip(grid, drawn.items(), strict=False):
        found = _draw_z_z(ax, truth, estimate, span)
        hexagons += [] if found is None else [found]
        eta = 100 * metrics.outlier_fraction(estimate, truth)
        ax.set_title(rf"{name}: $\eta$ = {eta:.1f} %", fontsize=9)
        ax.label_outer()
    for ax in grid[len(drawn) :]:
        ax.remove()
    for ax in grid[len(drawn) - columns : len(drawn)]:  # those with nothing below them
        ax.tick_params(labelbottom=True)
        ax.set_xlabel(Z_SPEC)
    _one_colour_scale(fig, grid[columns - 1], hexagons)
    return fig


def _redshifts(z_phot: Any, z_spec: Any) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return checked z_spec and z_phot."""
    metrics.delta_z(z_phot, z_spec)
    return as_float64(z_spec), as_float64(z_phot)


def _span(values: Sequence[npt.NDArray[Any]]) -> tuple[float, float]:
    low = min(0.0, *(float(v.min()) for v in values))
    high = max(float(v.max()) for v in values)
    margin = 0.02 * (high - low)
    return (low - margin if low < 0 else low), high + margin


def _draw_z_z(
    ax: Axes,
    truth: npt.NDArray[Any],
    estimate: npt.NDArray[Any],
    span: tuple[float, float],
) -> PolyCollection | None:
    """Draw points or hexagons, and return the hexagons."""
    line = np.array(span)
    ax.plot(line, line, color="black", linewidth=0.8)
    for sign in (-1, 1):
        ax.plot(line, line + sign * OUTLIER * (1 + line), "--", color=GREY, linewidth=0.8)
    hexagons = None
    if len(truth) <= POINTS:
        outlier = np.abs(metrics.delta_z(estimate, truth)) > OUTLIER
        size = 5.0 if len(truth) <= 1000 else 2.5
        alpha = 0.75 if len(truth) <= 1000 else 0.4
        for chosen, colour, marker in ((~outlier, BLUE, "o"), (outlier, VERMILLION, "D")):
            ax.scatter(
                truth[chosen],
                estimate[chosen],
                size,
                color=colour,
                marker=marker,
                alpha=alpha,
                linewidths=0,
                rasterized=len(truth) > 1000,
            )
    else:
        hexagons = ax.hexbin(
            truth, estimate, gridsize=50, extent=(*span, *span), mincnt=1, linewidths=0.1
        )
    ax.set(xlim=span, ylim=span, xlabel=Z_SPEC, ylabel=Z_PHOT)
    ax.set_box_aspect(1)  # not a fixed aspect, for which constrained layout cuts labels off
    return hexagons


def _one_colour_scale(fig: Any, beside: Axes, hexagons: list[PolyCollection]) -> None:
    """Give all hexagons one logarithmic scale and one colour bar."""
    if not hexagons:
        return
    colors: Any = require("matplotlib.colors", "plot")
    fullest = max(2.0, *(float(as_float64(found.get_array()).max()) for found in hexagons))
    norm = colors.LogNorm(1, fullest)
    for found in hexagons:
        found.set(norm=norm, cmap="viridis")
    # Inset, so that the bar is as high as the square panel.
    side = beside.inset_axes((1.04, 0.0, 0.05, 1.0))
    fig.colorbar(hexagons[0], cax=side, label="galaxies per hexagon", format="%g")


def plot_attacks(ax: Axes, evaluation: Evaluation) -> Axes:
    r"""Draw the share of outliers under every attack of an evaluation, with its interval.

    One line per row of the evaluation, from the top, clean images first; the number stands beside
    it. Bars are Wilson's intervals at one standard deviation.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    evaluation : Evaluation
        From :func:`advphotoz.evaluation.evaluate`.

    Returns
    -------
    Axes
        The same.

    Raises
    ------
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> from advphotoz import FGSM, RedshiftBins, evaluate
    >>> model, batch = torch.nn.Linear(2, 4), (torch.randn(8, 2), torch.rand(8))
    >>> result = evaluate(model, [batch], [FGSM(0.1)], RedshiftBins(n=4), progress=False)
    >>> [label.get_text() for label in plot_attacks(Figure().subplots(), result).get_yticklabels()]
    ['clean images', 'random noise', 'FGSM 0.1']
    """
    require("matplotlib", "plot")
    rows = evaluation.rows
    for y, row in enumerate(rows):
        eta, low, high = (100 * value for value in (row.eta, row.eta_low, row.eta_high))
        control = row.name in WORDS
        ax.errorbar(
            eta,
            y,
            xerr=np.array([[eta - low], [high - eta]]).clip(min=0),  # the rounding of 0 and 1
            color=BLUE if control else VERMILLION,
            marker="o" if control else "D",
            markersize=5,
            capsize=2,
            linewidth=1.2,
        )
        ax.annotate(
            f"{eta:.1f} %",
            (high, y),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    ax.set_yticks(range(len(rows)), [WORDS.get(row.name, row.name) for row in rows], fontsize=8)
    ax.set(xlim=(0, 118), ylim=(len(rows) - 0.4, -0.6), xlabel=UNITS["eta"][1])
    ax.set_xticks(range(0, 101, 20))
    ax.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
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
