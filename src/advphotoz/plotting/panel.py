"""One attacked galaxy: the image, the perturbation, and what the model makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from advphotoz._checks import check_images, require
from advphotoz._modes import device_of, evaluating
from advphotoz.plotting._style import BLUE, VERMILLION, as_float64
from advphotoz.redshift import RedshiftBins

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_attack_panel"]


def plot_attack_panel(
    model: nn.Module,
    x: Tensor,
    x_adv: Tensor,
    target: Any,
    context: Sequence[Tensor] = (),
    bins: RedshiftBins | None = None,
    fig: Figure | None = None,
    bands: Sequence[str] = "ugriz",
    magnify: float | None = None,
) -> Figure:
    r"""Draw one attacked galaxy in five rows (Campagne 2020, Fig. 5).

    From the top: x; the perturbation, magnified; x_adv; the horizontal slice through the middle
    of both; the PDFs of both, with z_phot and z_spec. All frames share one colour scale.

    Parameters
    ----------
    model : Module
        Called as ``model(x, *context)``, in eval mode, and left as it was.
    x, x_adv : Tensor, (C, H, W) or (1, C, H, W)
        The image and its adversarial version.
    target : float or Tensor
        z_spec of this one galaxy.
    context : sequence of Tensor
        The other inputs of the model, each with one row.
    bins : RedshiftBins, optional
        The grid of the model's output. None: ``RedshiftBins()``.
    fig : Figure, optional
        An empty figure to draw on. None: a new one, 7 inches wide.
    bands : sequence of str
        Names of the bands.
    magnify : float, optional
        Factor for the perturbation; 100 in the paper. None: a round number that makes
        it about as bright as the galaxy.

    Returns
    -------
    Figure
        With 3 C frames, C slices, the PDFs and the colour bar.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        If x is not one image, x_adv has another shape, or there is not one name per band.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from advphotoz import FGSM, models
    >>> model = models.cnn(image_size=9, width=0.05)
    >>> x, ebv, z = torch.randn(1, 5, 9, 9), torch.zeros(1), torch.tensor([0.2])
    >>> x_adv = FGSM(0.01)(model, x, z, context=(ebv,))
    >>> fig = plot_attack_panel(model, x, x_adv, z, context=(ebv,), fig=Figure())
    >>> len(fig.axes)  # 15 frames, 5 slices, the PDFs and the colour bar
    22
    """
    bins = RedshiftBins() if bins is None else bins
    before, after = (_one_image(value, name) for value, name in ((x, "x"), (x_adv, "x_adv")))
    if before.shape != after.shape:
        raise ValueError(
            f"x_adv must have the shape of x, {tuple(before.shape)}, got {tuple(after.shape)}"
        )
    if len(bands) != before.shape[1]:
        raise ValueError(
            f"bands must name the {before.shape[1]} bands of x, got {len(bands)}: {list(bands)}"
        )
    if fig is None:
        fig = require("matplotlib.pyplot", "plot").figure(figsize=(7.0, 6.6), layout="constrained")
    z_spec = float(torch.as_tensor(target).reshape(()))
    pdfs = [_pdf(model, image, context, bins) for image in (before, after)]
    _draw_panel(
        fig, as_float64(before)[0], as_float64(after)[0], bands, magnify, pdfs, z_spec, bins
    )
    return fig


def _draw_panel(
    fig: Figure,
    x: npt.NDArray[Any],
    x_adv: npt.NDArray[Any],
    bands: Sequence[str],
    magnify: float | None,
    pdfs: Sequence[Tensor],
    z_spec: float,
    bins: RedshiftBins,
) -> None:
    delta = x_adv - x
    top = float(np.percentile(x, 99.8))
    largest = float(np.abs(delta).max())
    if magnify is None:
        magnify = _round_below(top / largest) if top > 0 and largest > 0 else 1.0
    grid = fig.add_gridspec(5, len(bands), height_ratios=[1, 1, 1, 0.8, 1.4])
    rows = ((x, "$x$"), (magnify * delta, rf"{magnify:g} $\times\ \delta$"), (x_adv, r"$x+\delta$"))
    low = min(float(np.percentile(x, 0.2)), -magnify * largest)
    frames = []
    for i, (image, name) in enumerate(rows):
        for k, band in enumerate(bands):
            ax = fig.add_subplot(grid[i, k])
            shown = ax.imshow(image[k], origin="lower", cmap="cividis", vmin=low, vmax=top)
            ax.set(xticks=[], yticks=[])
            if i == 0:
                ax.set_title(band, fontsize=9, pad=3)
            if k == 0:
                ax.set_ylabel(name, fontsize=9)
            frames.append(ax)
    bar = fig.colorbar(shown, ax=frames, fraction=0.02, pad=0.01, extend="both")
    bar.set_label("flux per pixel [units of the image]", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    middle = x.shape[1] // 2
    for k in range(len(bands)):
        ax = fig.add_subplot(grid[3, k])
        ax.plot(x[k, middle], color=BLUE, linewidth=1.6)
        ax.plot(x_adv[k, middle], color=VERMILLION, linewidth=0.7)
        ax.tick_params(labelsize=7, length=2, pad=1.5)
        ax.locator_params(nbins=3)
        ax.margins(x=0)
        if k == 0:
            ax.set_ylabel("flux", fontsize=8)
        if k == len(bands) // 2:
            ax.set_xlabel("pixel along the middle row", fontsize=8)
    _draw_pdfs(fig.add_subplot(grid[4, :]), pdfs, z_spec, bins)


def _draw_pdfs(ax: Axes, pdfs: Sequence[Tensor], z_spec: float, bins: RedshiftBins) -> None:
    edges = bins.edges.numpy()
    for pdf, colour, name in zip(pdfs, (BLUE, VERMILLION), ("$x$", r"$x+\delta$"), strict=True):
        density = pdf.double().numpy() / bins.width
        z_phot = float(bins.mean(pdf[None]))
        label = rf"{name}: $z_\mathrm{{phot}} = {z_phot:.3f}$"
        ax.stairs(density, edges, color=colour, linewidth=1.2, label=label)
        ax.axvline(z_phot, color=colour, linewidth=1, linestyle="--")
    label = rf"$z_\mathrm{{spec}} = {z_spec:.3f}$"
    ax.axvline(z_spec, color="black", linewidth=1, linestyle=":", label=label)
    # The part of the range where anything happens.
    total = torch.stack(list(pdfs)).double().sum(0).numpy()
    busy = np.flatnonzero(total > 0.02 * total.max())
    pad = 0.03 * (edges[-1] - edges[0])
    low, high = min(edges[busy[0]], z_spec) - pad, max(edges[busy[-1] + 1], z_spec) + pad
    ax.set(xlim=(max(low, edges[0]), min(high, edges[-1])), ylim=(0, None))
    ax.set_xlabel("redshift", fontsize=9)
    ax.set_ylabel("PDF", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=8, edgecolor="none")


@torch.no_grad()
def _pdf(model: nn.Module, x: Tensor, context: Sequence[Tensor], bins: RedshiftBins) -> Tensor:
    device = device_of(model)
    with evaluating(model):
        output = model(x.to(device), *(value.to(device) for value in context))
    return bins.pdf(output).cpu()[0]


def _round_below(value: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that is not above a value."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(max(step * power for step in (1, 2, 5) if step * power <= value))


def _one_image(x: Any, name: str) -> Tensor:
    if isinstance(x, Tensor) and x.ndim == 3:
        x = x[None]
    check_images(x, name)
    if x.ndim != 4 or len(x) != 1:
        raise ValueError(
            f"{name} must be one image of shape (C, H, W) or (1, C, H, W), got {tuple(x.shape)}; "
            f"choose one with {name}[i]"
        )
    image: Tensor = x.detach()
    return image
