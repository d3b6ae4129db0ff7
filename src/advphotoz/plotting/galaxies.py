"""The images themselves: cutouts in every band, and how their pixel values are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from advphotoz._checks import check_images, require
from advphotoz.plotting._style import BLUE, ORANGE, as_float64

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_cutouts", "plot_pixels"]

FLUX = "flux per pixel [units of the image]"


def plot_cutouts(
    x: Tensor,
    z_spec: Any,
    ebv: Any,
    fig: Figure | None = None,
    bands: Sequence[str] = "ugriz",
) -> Figure:
    r"""Draw galaxies, one per row, in every band (Campagne 2020, Fig. 1).

    Every row has its own colour scale, common to its bands and free of clipping but for the
    faintest 0.1 %: linear for faint pixels and logarithmic for bright ones (asinh).

    Parameters
    ----------
    x : Tensor, (N, C, H, W)
        A few images.
    z_spec, ebv : array, Tensor or list, (N,)
        Redshifts and E(B-V) in magnitudes, for the line above each row.
    fig : Figure, optional
        An empty figure to draw on. None: a new one, 7 inches wide.
    bands : sequence of str
        Names of the bands.

    Returns
    -------
    Figure
        With C frames and a colour bar per galaxy.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        If x is no images, or lengths differ.

    Examples
    --------
    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> fig = plot_cutouts(torch.randn(2, 5, 9, 9), [0.1, 0.2], [0.03, 0.05], fig=Figure())
    >>> len(fig.axes)  # two times five frames and a colour bar
    12
    """
    images = _images(x, bands)
    redshifts, reddenings = as_float64(z_spec).reshape(-1), as_float64(ebv).reshape(-1)
    if not len(images) == len(redshifts) == len(reddenings):
        raise ValueError(
            f"there must be one z_spec and one ebv per image, got {len(images)} images, "
            f"{len(redshifts)} z_spec and {len(reddenings)} ebv"
        )
    colors: Any = require("matplotlib.colors", "plot")
    ticker: Any = require("matplotlib.ticker", "plot")
    if fig is None:
        size = (7.0, 1.45 * len(images))
        fig = require("matplotlib.pyplot", "plot").figure(figsize=size, layout="constrained")
    ratios = [1.0] * len(bands) + [0.06]
    sides = []
    grid = fig.add_gridspec(len(images), len(bands) + 1, width_ratios=ratios)
    for i, (image, z, reddening) in enumerate(zip(images, redshifts, reddenings, strict=True)):
        low, high = np.percentile(image, 0.1), image.max()
        norm = colors.AsinhNorm(0.1 * (high - low) or 1.0, vmin=low, vmax=high)
        for k, band in enumerate(bands):
            ax = fig.add_subplot(grid[i, k])
            shown = ax.imshow(image[k], origin="lower", cmap="cividis", norm=norm)
            ax.set(xticks=[], yticks=[])
            ax.text(0.06, 0.94, band, transform=ax.transAxes, va="top", color="white", fontsize=8)
            if k == len(bands) // 2:
                title = rf"$z_\mathrm{{spec}} = {z:.3f}$,  $E(B-V) = {reddening:.3f}$ mag"
                ax.set_title(title, fontsize=8, pad=3)
        ticks = ticker.MaxNLocator(4)  # those of an asinh scale would crowd around 0
        sides.append(fig.add_subplot(grid[i, -1]))
        bar = fig.colorbar(shown, cax=sides[i], extend="min", format="%g", ticks=ticks)
        bar.set_label("flux per pixel", fontsize=7)
        bar.minorticks_off()
        sides[i].tick_params(labelsize=7)
    fig.align_ylabels(sides)
    return fig


def plot_pixels(
    x: Tensor,
    fig: Figure | None = None,
    bands: Sequence[str] = "ugriz",
    radius: float = 5.0,
) -> Figure:
    r"""Draw the distribution of one image's pixel values, band by band (Campagne 2020, Fig. 2).

    In orange the pixels of the central galaxy. All bands share both axes.

    Parameters
    ----------
    x : Tensor, (C, H, W) or (1, C, H, W)
        The image.
    fig : Figure, optional
        An empty figure to draw on. None: a new one, 3.4 inches wide.
    bands : sequence of str
        Names of the bands.
    radius : float
        Of the disk around the middle of the image that is called the galaxy, in pixels.

    Returns
    -------
    Figure
        With one panel per band, from the top.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        If x is not one image, or there is not one name per band.

    Examples
    --------
    >>> import torch
    >>> from matplotlib.figure import Figure
    >>> fig = plot_pixels(torch.randn(5, 9, 9), fig=Figure())
    >>> len(fig.axes)
    5
    """
    images = _images(x[None] if isinstance(x, Tensor) and x.ndim == 3 else x, bands)
    if len(images) != 1:
        raise ValueError(f"x must be one image, got {len(images)}; choose one with x[i]")
    image = images[0]
    if fig is None:
        fig = require("matplotlib.pyplot", "plot").figure(figsize=(3.4, 4.2), layout="constrained")
    height, width = image.shape[1:]
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot(rows - (height - 1) / 2, columns - (width - 1) / 2)
    central = distance <= radius
    axes = np.atleast_1d(fig.subplots(len(bands), 1, sharex=True, sharey=True))
    edges = np.linspace(image.min(), image.max(), 121)
    for ax, frame, band in zip(axes, image, bands, strict=True):
        ax.hist(frame.ravel(), edges, color=BLUE, label="all pixels")
        ax.hist(
            frame[central], edges, color=ORANGE, label=f"within {radius:g} pixels of the middle"
        )
        ax.set_yscale("log")
        ax.text(0.03, 0.9, band, transform=ax.transAxes, va="top", fontsize=9)
        ax.tick_params(labelsize=8)
    axes[0].set_ylim(bottom=0.5)
    axes[-1].set_xlabel(FLUX, fontsize=9)
    axes[len(axes) // 2].set_ylabel("pixels per bin", fontsize=9)
    axes[0].legend(loc="upper right", fontsize=7, edgecolor="none")
    return fig


def _images(x: Any, bands: Sequence[str]) -> Any:
    check_images(x)
    if x.ndim != 4 or not len(x):
        raise ValueError(f"x must be images of shape (N, C, H, W), got {tuple(x.shape)}")
    if len(bands) != x.shape[1]:
        raise ValueError(
            f"bands must name the {x.shape[1]} bands of x, got {len(bands)}: {list(bands)}"
        )
    return as_float64(x)
