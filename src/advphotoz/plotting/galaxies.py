"""The images themselves: cutouts in every band, and how their pixel values are distributed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from advphotoz._checks import check_images, require
from advphotoz.plotting._style import BLUE, ORANGE, as_float64, band_noise, flux_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_cutouts", "plot_pixels"]


def plot_cutouts(
    x: Tensor,
    z_spec: Any,
    ebv: Any,
    fig: Figure | None = None,
    bands: Sequence[str] = "ugriz",
    noise: Sequence[float] | None = None,
    magnitudes: Any = None,
) -> Figure:
    r"""Draw galaxies, one per row, in every band (Campagne 2020, Fig. 1).

    Every band is shown in units of its noise, on one asinh scale for all galaxies: linear within
    the noise and logarithmic above, so that faint bands and faint galaxies are seen beside bright
    ones. Nothing bright is clipped.

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
    noise : sequence of float, (C,), optional
        Noise per pixel of each band. None: measured over all of x, 1.4826 times the median absolute
        deviation of its pixels.
    magnitudes : array or Tensor, (N, C), optional
        Of the galaxies, written into the frames.

    Returns
    -------
    Figure
        With C frames per galaxy and a colour bar.

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
    >>> len(fig.axes)  # two times five frames, and a colour bar
    11
    """
    images = _images(x, bands)
    redshifts, reddenings = as_float64(z_spec).reshape(-1), as_float64(ebv).reshape(-1)
    if not len(images) == len(redshifts) == len(reddenings):
        raise ValueError(
            f"there must be one z_spec and one ebv per image, got {len(images)} images, "
            f"{len(redshifts)} z_spec and {len(reddenings)} ebv"
        )
    written = None if magnitudes is None else as_float64(magnitudes)
    if written is not None and written.shape != images.shape[:2]:
        raise ValueError(
            f"magnitudes must have the shape (galaxies, bands), {images.shape[:2]}, got "
            f"{written.shape}"
        )
    colors: Any = require("matplotlib.colors", "plot")
    if fig is None:
        size = (7.0, 1.45 * len(images))
        fig = require("matplotlib.pyplot", "plot").figure(figsize=size, layout="constrained")
    scaled = images / band_noise(images, noise)[:, None, None]
    bright = max(float(scaled.max()), 10.0)
    norm = colors.AsinhNorm(1.0, vmin=-3, vmax=bright)
    grid = fig.subplots(len(images), len(bands), squeeze=False)
    for i, (image, z, reddening) in enumerate(zip(scaled, redshifts, reddenings, strict=True)):
        for k, band in enumerate(bands):
            ax = grid[i, k]
            shown = ax.imshow(image[k], origin="lower", cmap="cividis", norm=norm)
            ax.set(xticks=[], yticks=[])
            words = band if written is None else f"{band} = {written[i, k]:.2f}"
            ax.text(0.06, 0.94, words, transform=ax.transAxes, va="top", color="white", fontsize=8)
            if k == len(bands) // 2:
                title = rf"$z_\mathrm{{spec}} = {z:.3f}$,  $E(B-V) = {reddening:.3f}$ mag"
                ax.set_title(title, fontsize=8, pad=3)
    ticks = [tick for tick in (-3, 0, 3, 10, 30, 100, 300, 1000) if tick <= bright]
    bar = fig.colorbar(shown, ax=grid, extend="min", ticks=ticks, fraction=0.02, pad=0.01)
    bar.minorticks_off()
    bar.ax.set_yticklabels([f"{tick:g}" for tick in ticks])
    bar.set_label("flux per pixel / noise of the band", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return fig


def plot_pixels(
    x: Tensor,
    fig: Figure | None = None,
    bands: Sequence[str] = "ugriz",
    radius: float = 5.0,
    unit: str = "units of the image",
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
    unit : str
        Unit of the pixels, such as ``"nmgy"``, for the axis.

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
    axes[-1].set_xlabel(flux_label(unit), fontsize=9)
    axes[len(axes) // 2].set_ylabel("pixels per bin", fontsize=9)
    axes[0].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, fontsize=7, frameon=False)
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
