"""Systematic errors: what they do to a galaxy, and to the mean redshift of tomographic bins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from advphotoz._checks import check_images, require
from advphotoz.perturbations import PerturbationSet
from advphotoz.plotting._style import BLUE, COLOURS, GREY, MARKERS, VERMILLION, as_float64
from advphotoz.survey import RandomSystematics, Requirement, WorstSystematic
from advphotoz.survey.requirements import as_requirement

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_effects", "plot_random_shifts", "plot_worst_shifts"]

SHIFT = r"shift of mean $\Delta z$ $[10^{-4}]$"
BAND = "#DDDDDD"


def plot_worst_shifts(
    ax: Axes,
    results: WorstSystematic | Mapping[str, WorstSystematic],
    requirement: Requirement | str | float,
) -> Axes:
    r"""Draw the worst shift of every tomographic bin, effect by effect, against a requirement.

    A column per bin; upwards the largest mean of dz that the budget allows, downwards the smallest,
    with paired standard errors. The grey band is what the requirement allows. The axis is linear
    within the band and logarithmic beyond twice of it.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    results : WorstSystematic or mapping of str to WorstSystematic
        One result, or one per effect under its name, all with the same bins.
    requirement : Requirement, str or float
        Such as ``"Euclid"``, or a limit.

    Returns
    -------
    Axes
        The same.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        If the results have other bins.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from advphotoz import PointEstimate, ZeroPoint
    >>> from advphotoz.survey import worst_systematic
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))
    >>> batch = (torch.rand(80, 1, 2, 2), torch.rand(80))
    >>> worst = worst_systematic(
    ...     model, [batch], ZeroPoint(0.01), PointEstimate(), bins=2, progress=False
    ... )
    >>> ax = plot_worst_shifts(Figure().subplots(), worst, "Euclid")
    >>> len(ax.get_xticks())
    2
    """
    ticker: Any = require("matplotlib.ticker", "plot")
    named = {"": results} if isinstance(results, WorstSystematic) else dict(results)
    limit = as_requirement(requirement)
    groups = [s.group for s in next(iter(named.values())).bins if s.sign == 1]
    reach = 1e4 * limit.limit
    ax.axhspan(-reach, reach, color=BAND, zorder=0, linewidth=0, label=limit.name)
    ax.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    width = 0.7 / max(len(named), 1)
    for k, (name, result) in enumerate(named.items()):
        colour, marker = COLOURS[k % len(COLOURS)], MARKERS[k % len(MARKERS)]
        for sign in (1, -1):
            shifts = [s for s in result.bins if s.sign == sign]
            if [s.group for s in shifts] != groups:
                raise ValueError(
                    f"the results have other bins: {groups}, and for {name!r} "
                    f"{[s.group for s in shifts]}; give worst_systematic the same edges"
                )
            x = np.arange(len(groups)) + (k - (len(named) - 1) / 2) * width
            ax.errorbar(
                x,
                [1e4 * s.shift for s in shifts],
                yerr=[1e4 * s.error for s in shifts],
                color=colour,
                marker=marker,
                markersize=4,
                linestyle="none",
                capsize=1.5,
                linewidth=1,
                label=name if sign == 1 and name else None,
            )
    ax.set_yscale("symlog", linthresh=2 * reach, linscale=1.0)
    ax.yaxis.set_major_locator(ticker.FixedLocator(_ticks(ax, reach)))
    ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    ax.yaxis.set_minor_locator(ticker.NullLocator())
    ax.set_xticks(range(len(groups)), [_short(g) for g in groups], fontsize="small")
    ax.set(xlabel=r"tomographic bin, by $z_\mathrm{phot}$", ylabel=f"worst {SHIFT}")
    ax.set_xlim(-0.5, len(groups) - 0.5)
    _legend_above(ax, 2 if len(named) > 1 else 1)
    return ax


def plot_random_shifts(
    ax: Axes,
    drawn: RandomSystematics,
    worst: WorstSystematic,
    requirement: Requirement | str | float,
    group: str | None = None,
) -> Axes:
    """Draw the shifts under random errors as a histogram, with the worst case beside them.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    drawn : RandomSystematics
        Errors drawn from the budget.
    worst : WorstSystematic
        The worst case of the same budget, with the same bins.
    requirement : Requirement, str or float
        Such as ``"Euclid"``; the grey band is what it allows.
    group : str, optional
        The group to show. None: the one that shifts most.

    Returns
    -------
    Axes
        The same.

    Raises
    ------
    ImportError
        Without matplotlib.
    KeyError
        If one of the two has no such group.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from advphotoz import PointEstimate, ZeroPoint
    >>> from advphotoz.survey import random_systematics, worst_systematic
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1))
    >>> given = (model, [(torch.rand(80, 1, 2, 2), torch.rand(80))], ZeroPoint(0.01))
    >>> worst = worst_systematic(*given, PointEstimate(), progress=False)
    >>> drawn = random_systematics(*given, PointEstimate(), draws=20, progress=False)
    >>> ax = plot_random_shifts(Figure().subplots(), drawn, worst, 0.002)
    >>> ax.get_ylabel()
    'random draws'
    """
    require("matplotlib", "plot")
    limit = as_requirement(requirement)
    name = worst.worst.group if group is None else group
    shifts = 1e4 * drawn.of(name)
    reach = 1e4 * limit.limit
    where = "all galaxies" if name == "all" else f"bin {name}"
    allowed = f"{limit.name}, {where}"
    ax.axvspan(-reach, reach, color=BAND, zorder=0, linewidth=0, label=allowed)
    ends = [1e4 * worst.of(name, sign).shift for sign in (1, -1)]
    span = max(*map(abs, ends), *np.abs(shifts), reach) * 1.08
    edges = np.linspace(-span, span, 41).tolist()
    missed = 100 * drawn.share(limit, name)[0]
    label = f"{len(shifts)} random draws, {missed:.0f} % beyond"
    ax.hist(shifts, edges, color=BLUE, label=label)
    for k, end in enumerate(ends):
        first = "worst case" if k == 0 else None
        ax.axvline(end, color=VERMILLION, linewidth=1.6, linestyle="--", label=first)
    ax.set(xlim=(-span, span), xlabel=SHIFT, ylabel="random draws")
    _legend_above(ax, 2)
    return ax


def plot_effects(
    x: Tensor,
    effects: Mapping[str, tuple[PerturbationSet, Sequence[float]]],
    context: Sequence[Tensor] = (),
    band: int = 0,
    fig: Figure | None = None,
) -> Figure:
    """Draw what errors do to one galaxy: a row per effect with before, after and difference.

    Before and after share one colour scale (asinh); each difference has its own, symmetric about
    zero, with its colour bar.

    Parameters
    ----------
    x : Tensor, (C, H, W) or (1, C, H, W)
        The image.
    effects : mapping of str to (PerturbationSet, sequence of float)
        Under its name, a set and the parameters to show, as the set has them: 1 is the budget.
    context : sequence of Tensor
        The other inputs of the network, each with one row; some sets need E(B-V).
    band : int
        Which band to draw.
    fig : Figure, optional
        An empty figure to draw on. None: a new one, 3.4 inches wide.

    Returns
    -------
    Figure
        With three frames and a colour bar per effect.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        If x is not one image, or a set does not fit it.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from advphotoz import SkyLevel, ZeroPoint
    >>> effects = {"fainter": (ZeroPoint(0.1), [1.0]), "sky": (SkyLevel(0.1), [1.0])}
    >>> fig = plot_effects(torch.rand(1, 1, 9, 9), effects, fig=Figure())
    >>> len(fig.axes)
    8
    """
    colors: Any = require("matplotlib.colors", "plot")
    image = x[None] if isinstance(x, Tensor) and x.ndim == 3 else x
    check_images(image)
    if len(image) != 1 or image.ndim != 4:
        raise ValueError(f"x must be one image (bands, height, width), got {tuple(x.shape)}")
    if fig is None:
        size = (3.4, 0.25 + 1.0 * len(effects))
        fig = require("matplotlib.pyplot", "plot").figure(figsize=size, layout="constrained")
    before = as_float64(image[0, band])
    low, high = np.percentile(before, 0.1), before.max()
    norm = colors.AsinhNorm(0.1 * (high - low) or 1.0, vmin=low, vmax=high)
    grid = fig.add_gridspec(len(effects), 4, width_ratios=[1, 1, 1, 0.08])
    for row, (name, (perturbations, values)) in enumerate(effects.items()):
        perturbations.check(image, context)
        p = torch.as_tensor(values, dtype=perturbations.identity(image).dtype)[None]
        after = as_float64(perturbations.apply(image, tuple(context), p)[0][0, band])
        reach = np.abs(after - before).max() or 1.0
        change = colors.Normalize(-reach, reach)
        frames = [(before, norm, "cividis"), (after, norm, "cividis")]
        frames.append((after - before, change, "PuOr"))
        for column, (frame, scale, colours) in enumerate(frames):
            ax = fig.add_subplot(grid[row, column])
            mesh = ax.imshow(frame, origin="lower", cmap=colours, norm=scale)
            ax.set(xticks=[], yticks=[])
            if row == 0:
                ax.set_title(("before", "after", "difference")[column], fontsize=8, pad=3)
            if column == 0:
                ax.set_ylabel(name, fontsize=7)
        side = fig.add_subplot(grid[row, 3])
        bar = fig.colorbar(mesh, cax=side, ticks=[-reach, 0, reach])
        bar.ax.set_yticklabels([f"{-reach:.2g}", "0", f"{reach:.2g}"], fontsize=6)
        bar.set_label("flux per pixel", fontsize=6, labelpad=-2)
    return fig


def _legend_above(ax: Axes, columns: int) -> None:
    ax.legend(
        fontsize="x-small",
        ncols=columns,
        frameon=False,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        handletextpad=0.4,
        columnspacing=1.0,
    )


def _short(group: str) -> str:
    """Break the name of a bin over two lines."""
    return group.replace(" to ", "\nto ").replace("below ", "below\n").replace("above ", "above\n")


def _ticks(ax: Axes, reach: float) -> list[float]:
    """Return ticks for an axis that is linear up to twice a limit, and logarithmic beyond."""
    far = max(abs(end) for end in ax.get_ylim())
    ends = [reach]
    while ends[-1] * 3 < far * 1.5:
        ends.append(ends[-1] * (2.5 if str(ends[-1])[0] in "24" else 2))
    return [-e for e in ends[::-1]] + [0.0] + ends
