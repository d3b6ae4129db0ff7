"""The objective around galaxies: along a line in the space of images, and in a plane of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from advphotoz._checks import require
from advphotoz.plotting._style import COLOURS, as_float64

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_loss_line", "plot_loss_plane"]


def plot_loss_line(
    ax: Axes, radii: Any, losses: Any, label: str | None = None, quantity: str = "objective"
) -> Axes:
    r"""Draw the objective along a direction; call again to compare.

    For many samples the line is their median, and the band holds the middle 68 % of them.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    radii : sequence of float, (R,)
        Of :func:`advphotoz.evaluation.loss_landscape`, where 1 is the perturbation itself.
    losses : Tensor or array, (N, R) or (R,)
        What it returned for one direction.
    label : str, optional
        For the legend.
    quantity : str
        Name of the objective, for the axis.

    Returns
    -------
    Axes
        The same.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = plot_loss_line(Figure().subplots(), [0, 1], [[1.0, 3.0]], label="PGD")
    >>> ax.lines[0].get_ydata()
    array([1., 3.])
    """
    require("matplotlib", "plot")
    steps, values = as_float64(radii), np.atleast_2d(as_float64(losses))
    _check(steps, values, "(N, R) or (R,)", 1)
    colour = COLOURS[len(ax.lines) % len(COLOURS)]
    low, middle, high = np.percentile(values, [16, 50, 84], axis=0)
    ax.plot(steps, middle, color=colour, linewidth=1.2, label=label)
    if len(values) > 1:
        ax.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
    ax.margins(x=0)
    ax.set(xlabel="step along the direction", ylabel=quantity)
    if label is not None:
        ax.legend(frameon=False, fontsize="small")
    return ax


def plot_loss_plane(
    ax: Axes,
    radii: Any,
    losses: Any,
    names: tuple[str, str] = ("direction 1", "direction 2"),
    quantity: str = "objective",
    limits: tuple[float, float] | None = None,
    colour_bar: bool = True,
) -> Axes:
    r"""Draw the objective in a plane around a galaxy, as filled contours.

    The circle is the image itself, the star the end of the first direction: x_adv, where that is
    the perturbation of an attack.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    radii : sequence of float, (R,)
        Of :func:`advphotoz.evaluation.loss_landscape`, increasing.
    losses : Tensor or array, (R, R)
        What it returned for one sample and two directions: ``losses[i]``, or ``losses.mean(0)``.
    names : (str, str)
        What the directions are, for the axes: ``("the attack", "random signs")``. A step of 1 is
        the perturbation itself.
    quantity : str
        Name of the objective and its unit, for the colour bar.
    limits : (float, float), optional
        Lowest and highest value of the colour scale, to draw several planes on one; what lies
        outside has the colour of the end. None: those of `losses`.
    colour_bar : bool
        Whether to draw one beside; of several planes on one scale, one has it.

    Returns
    -------
    Axes
        The same.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        If the shapes do not fit, radii do not increase, or the limits are empty.

    References
    ----------
    Yu et al. 2018 (arXiv:1810.00144), suggested by Campagne 2020, Sec. 4.3.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> ax = plot_loss_plane(Figure().subplots(), [0, 1], [[1.0, 2.0], [3.0, 4.0]])
    >>> ax.get_xlabel()
    'step along direction 1'
    """
    ticker: Any = require("matplotlib.ticker", "plot")
    steps, values = as_float64(radii), as_float64(losses)
    _check(steps, values, "(R, R)", 2)
    if (np.diff(steps) <= 0).any():
        raise ValueError(f"radii must increase, got {steps.tolist()}")
    low, high = (float(values.min()), float(values.max())) if limits is None else limits
    if limits is not None and not low < high:
        raise ValueError(f"limits must be (low, high) with low < high, got {limits!r}")
    span = (low, high) if low < high else (low - 0.5, low + 0.5)
    levels = ticker.MaxNLocator(14).tick_values(*span)
    # Row j of a contour plot lies at the j-th y.
    filled = ax.contourf(
        steps, steps, values.T.clip(levels[0], levels[-1]), levels=levels, cmap="viridis"
    )
    for place, marker, size in ((0, "o", 5), (1, "*", 9)):
        if steps[0] <= 0 <= steps[-1] and steps[0] <= place <= steps[-1]:
            ax.plot(
                place,
                0,
                marker,
                markersize=size,
                markerfacecolor="white",
                markeredgecolor="black",
                clip_on=False,
            )
    for axis, name in ((ax.xaxis, names[0]), (ax.yaxis, names[1])):
        axis.set_label_text(f"step along {name}")
        axis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    if colour_bar:
        ax.figure.colorbar(filled, ax=ax, pad=0.03, label=quantity)
    return ax


def _check(steps: npt.NDArray[Any], values: npt.NDArray[Any], shape: str, dimensions: int) -> None:
    expected = (len(steps),) * dimensions if steps.ndim == 1 else None
    fits = values.ndim == 2 and values.size and values.shape[-dimensions:] == expected
    if not fits:
        raise ValueError(
            f"losses must have the shape {shape} for R radii; got losses of shape "
            f"{values.shape} and radii of shape {steps.shape}"
        )
