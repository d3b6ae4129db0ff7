"""One attacked galaxy: the image, the perturbation, and the redshifts that the model predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from advphotoz._checks import check_images, require
from advphotoz._model import check_model, device_of, untouched
from advphotoz.attacks.contract import check_batch
from advphotoz.batch import Batch
from advphotoz.plotting._style import BLUE, VERMILLION, as_float64, band_noise
from advphotoz.redshift import PDFReadout, Readout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_attack_panel"]


REACH = 0.5  # in redshift, how far from the predictions a PDF is looked for
FAINT = 0.02  # of its largest value, below which a PDF is not worth the room


def plot_attack_panel(
    model: nn.Module,
    x: Tensor,
    x_adv: Tensor,
    z: Any,
    context: Sequence[Tensor] = (),
    *,
    readout: Readout,
    fig: Figure | None = None,
    bands: Sequence[str] = "ugriz",
    unit: str = "units of the image",
    noise: Sequence[float] | None = None,
    magnitudes: Sequence[float] | None = None,
    ebv: float | None = None,
) -> Figure:
    r"""Draw one attacked galaxy in five rows (Campagne 2020, Figs. 5 and 6).

    From the top: x and x_adv, band by band in units of the band's noise, on one asinh scale, so
    that faint bands are seen beside bright ones; their difference, on a diverging scale of its own;
    the horizontal slice through the middle of both; the PDFs of both, with z_phot and z_spec.

    A PDF on bins is drawn as steps, any other as a curve around the predictions. Of a network
    without a PDF the last row shows z_phot alone.

    Parameters
    ----------
    model : Module
        Called as ``model(x, *context)``, in eval mode, and left as it was.
    x, x_adv : Tensor, (C, H, W) or (1, C, H, W)
        The image and its adversarial version.
    z : float or Tensor
        z_spec of this one galaxy.
    context : sequence of Tensor
        The other inputs of the model, each with one row.
    readout : Readout
        How the output becomes a redshift, such as ``RedshiftBins(0.0, 1.0, 180)``.
    fig : Figure, optional
        An empty figure to draw on. None: a new one, 7 inches wide.
    bands : sequence of str
        Names of the bands.
    unit : str
        Unit of the pixels, such as ``"nmgy"``, for the axes.
    noise : sequence of float, (C,), optional
        Noise per pixel of each band, in that unit. None: measured, 1.4826 times the median absolute
        deviation of the pixels of x.
    magnitudes : sequence of float, (C,), optional
        Of the galaxy, written above its bands.
    ebv : float, optional
        E(B-V) in magnitudes, written above the images.

    Returns
    -------
    Figure
        With 3 C frames, C slices, the redshifts and two colour bars.

    Raises
    ------
    ImportError
        Without matplotlib.
    ValueError
        If x is not one image, x_adv has another shape, there is not one name, noise and magnitude
        per band, or the output is not what the readout expects.
    TypeError
        If the model is no Module, or the context is no sequence of tensors.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from advphotoz import FGSM, CrossEntropy, RedshiftBins, models
    >>> model, bins = models.cnn(image_size=9, width=0.05), RedshiftBins()
    >>> x, ebv, z = torch.randn(1, 5, 9, 9), torch.zeros(1), torch.tensor([0.2])
    >>> x_adv = FGSM(0.01, objective=CrossEntropy(bins))(model, x, z, context=(ebv,))
    >>> fig = plot_attack_panel(model, x, x_adv, z, (ebv,), readout=bins, fig=Figure())
    >>> len(fig.axes)  # 15 frames, 5 slices, the redshifts and two colour bars
    23
    """
    before, after = (_one_image(value, name) for value, name in ((x, "x"), (x_adv, "x_adv")))
    if before.shape != after.shape:
        raise ValueError(
            f"x_adv must have the shape of x, {tuple(before.shape)}, got {tuple(after.shape)}"
        )
    if len(bands) != before.shape[1]:
        raise ValueError(
            f"bands must name the {before.shape[1]} bands of x, got {len(bands)}: {list(bands)}"
        )
    if magnitudes is not None and len(magnitudes) != len(bands):
        raise ValueError(
            f"magnitudes must hold one number for each of the {len(bands)} bands, got "
            f"{len(magnitudes)}"
        )
    if fig is None:
        fig = require("matplotlib.pyplot", "plot").figure(figsize=(7.0, 6.8), layout="constrained")
    z_spec = float(torch.as_tensor(z).reshape(()))
    said = [_predict(model, image, context, readout) for image in (before, after)]
    titles = [
        band if magnitudes is None else f"{band} = {float(magnitudes[k]):.2f} mag"
        for k, band in enumerate(bands)
    ]
    sky = band_noise(as_float64(before), noise)
    ax = _draw_images(fig, as_float64(before)[0], as_float64(after)[0], sky, titles, unit)
    if ebv is not None:
        fig.suptitle(rf"$E(B-V)$ = {float(ebv):.3f} mag", fontsize=9)
    if isinstance(readout, PDFReadout):
        _draw_pdfs(ax, said, z_spec, readout)
    else:
        _limit(ax, [*(one.z_phot for one in said), z_spec])
        ax.set_yticks([])
    _draw_redshifts(ax, said, z_spec)
    return fig


@dataclass(frozen=True)
class _Prediction:
    """What a network says about one image."""

    output: Any
    z_phot: float


def _predict(
    model: nn.Module, x: Tensor, context: Sequence[Tensor], readout: Readout
) -> _Prediction:
    device = device_of(check_model(model))
    target = x.new_zeros(1)
    check_batch(x, target, context)
    with torch.inference_mode(False), torch.no_grad(), untouched(model, device):
        # Copies, since a model may write into its inputs.
        images, others, _, _ = Batch(
            x.clone(), tuple(value.clone() for value in context), target
        ).to(device)
        output = model(images, *others)
        if isinstance(output, Tensor):
            output = output.cpu()
        return _Prediction(output, float(readout.redshift(output)))


def _draw_images(
    fig: Figure,
    x: npt.NDArray[Any],
    x_adv: npt.NDArray[Any],
    sky: npt.NDArray[Any],
    titles: Sequence[str],
    unit: str,
) -> Axes:
    """Draw the frames and the slices; return the axes below them."""
    colors: Any = require("matplotlib.colors", "plot")
    delta = x_adv - x
    noise = sky[:, None, None]
    reach = float(np.abs(delta).max()) or 1.0
    bright = max(float((x / noise).max()), 10.0)
    # Linear within the noise, logarithmic above.
    stretch = colors.AsinhNorm(1.0, vmin=-3, vmax=bright)
    change = colors.Normalize(-reach, reach)
    rows = (
        (x / noise, "$x$", "cividis", stretch),
        (x_adv / noise, r"$x+\delta$", "cividis", stretch),
        (delta, r"$\delta$", "RdBu_r", change),
    )
    grid = fig.add_gridspec(5, len(titles), height_ratios=[1, 1, 1, 0.75, 1.35])
    frames: list[list[Axes]] = []
    shown: list[Any] = []
    for i, (image, name, colours, norm) in enumerate(rows):
        frames.append([])
        for k, title in enumerate(titles):
            ax = fig.add_subplot(grid[i, k])
            mesh = ax.imshow(image[k], origin="lower", cmap=colours, norm=norm)
            ax.set(xticks=[], yticks=[])
            if i == 0:
                ax.set_title(title, fontsize=9, pad=3)
            if k == 0:
                ax.set_ylabel(name, fontsize=9)
            frames[i].append(ax)
        shown.append(mesh)
    ticks = [tick for tick in (-3, 0, 3, 10, 30, 100, 300, 1000) if tick <= bright]
    bar = fig.colorbar(
        shown[0], ax=frames[0] + frames[1], fraction=0.02, pad=0.01, extend="both", ticks=ticks
    )
    bar.minorticks_off()
    bar.ax.set_yticklabels([f"{tick:g}" for tick in ticks])
    bar.set_label("flux per pixel / noise of the band", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar = fig.colorbar(shown[2], ax=frames[2], fraction=0.02, pad=0.01, ticks=[-reach, 0, reach])
    bar.ax.set_yticklabels([f"{-reach:.2g}", "0", f"{reach:.2g}"])
    bar.set_label(rf"$\delta$ [{unit}]", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    middle = x.shape[1] // 2
    for k in range(len(titles)):
        ax = fig.add_subplot(grid[3, k])
        ax.plot(x[k, middle], color=BLUE, linewidth=1.6)
        ax.plot(x_adv[k, middle], color=VERMILLION, linewidth=0.7)
        ax.tick_params(labelsize=7, length=2, pad=1.5)
        ax.locator_params(nbins=3)
        ax.margins(x=0)
        if k == 0:
            ax.set_ylabel(f"flux\n[{unit}]", fontsize=8)
        if k == len(titles) // 2:
            ax.set_xlabel("pixel along the middle row", fontsize=8)
    below: Axes = fig.add_subplot(grid[4, :])
    return below


def _draw_pdfs(ax: Axes, said: Sequence[_Prediction], z_spec: float, readout: PDFReadout) -> None:
    """Draw the densities, and show the part of the range where anything happens."""
    edges = getattr(readout, "edges", None)  # of bins, within which the density is constant
    if edges is not None:
        bounds = as_float64(edges)
        middle = (bounds[:-1] + bounds[1:]) / 2
        densities = [_density(readout, one, middle) for one in said]
        for density, colour in zip(densities, (BLUE, VERMILLION), strict=True):
            ax.stairs(density, bounds, color=colour, linewidth=1.2)
        busy = _busy(densities)
        pad = 0.03 * (bounds[-1] - bounds[0])
        low, high = min(bounds[busy[0]], z_spec) - pad, max(bounds[busy[-1] + 1], z_spec) + pad
        ax.set_xlim(max(low, bounds[0]), min(high, bounds[-1]))
    else:
        found = sorted(one.z_phot for one in said)
        grid = np.linspace(max(found[0] - REACH, -0.999), found[1] + REACH, 1001)
        grid = np.union1d(grid, found)  # however narrow, the PDF is seen there
        busy = _busy([_density(readout, one, grid) for one in said])
        ends = grid[max(busy[0] - 1, 0)], grid[min(busy[-1] + 1, len(grid) - 1)]
        _limit(ax, [*ends, z_spec])
        low, high = ax.get_xlim()
        grid = np.union1d(np.linspace(max(low, -0.999), high, 501), found)
        for one, colour in zip(said, (BLUE, VERMILLION), strict=True):
            ax.plot(grid, _density(readout, one, grid), color=colour, linewidth=1.2)
    ax.set_ylim(bottom=0)
    ax.set_ylabel("PDF", fontsize=9)


def _draw_redshifts(ax: Axes, said: Sequence[_Prediction], z_spec: float) -> None:
    for one, colour, name in zip(said, (BLUE, VERMILLION), ("$x$", r"$x+\delta$"), strict=True):
        label = rf"{name}: $z_\mathrm{{phot}} = {one.z_phot:.3f}$"
        ax.axvline(one.z_phot, color=colour, linewidth=1, linestyle="--", label=label)
    label = rf"$z_\mathrm{{spec}} = {z_spec:.3f}$"
    ax.axvline(z_spec, color="black", linewidth=1, linestyle=":", label=label)
    ax.set_xlabel("redshift", fontsize=9)
    ax.tick_params(labelsize=8)
    ax.legend(fontsize=8, edgecolor="none")


def _density(readout: PDFReadout, one: _Prediction, grid: npt.NDArray[Any]) -> npt.NDArray[Any]:
    # One redshift at a time: an output of any form has one row, and cannot be repeated in general.
    rows = torch.as_tensor(grid, dtype=torch.float32)[:, None]
    return as_float64(torch.cat([readout.log_density(one.output, z) for z in rows]).exp())


def _busy(densities: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return the indices where any of the densities counts."""
    total = sum(densities)
    return np.flatnonzero(total > FAINT * np.max(total))


def _limit(ax: Axes, values: Sequence[float]) -> None:
    """Let the axis span some redshifts, with a margin."""
    low, high = min(values), max(values)
    pad = max(0.08 * (high - low), 0.005)
    ax.set_xlim(low - pad, high + pad)


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
