"""The paper's six figures, and those of what it could not show, as PDF and PNG."""

from __future__ import annotations

import dataclasses
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advphotoz.evaluation import Evaluation, RobustnessCurve
from advphotoz.metrics import delta_z
from advphotoz.plotting import (
    plot_attack_panel,
    plot_binned_outliers,
    plot_cutouts,
    plot_delta_z,
    plot_loss_line,
    plot_loss_plane,
    plot_pit,
    plot_pixels,
    plot_robustness,
    plot_z_z,
    save_figure,
)

from .plan import BINS, CURVES, STANDARD, trainings
from .results import Results
from .work import Work

__all__ = ["draw_all"]

COLUMN, PAGE = 3.4, 7.0  # inches
SHOWN = ("clean", "FGSM", "PGD-10")
WORDS = {
    "Iref": "classical",
    "fgsm-20": "FGSM, 20 %",
    "step-50": "random step, 50 %",
    "pgd-50": "PGD, 50 %",
    "pgd-50-i4": "PGD, wide i4",
    "pgd-50-fc0": "PGD, wide fc0",
    "pgd-50-i3": "PGD, two cells i3",
    "clean": "clean images",
}
"""Networks and rows as figures call them: how it was trained, and the share of attacked samples."""
UNITS = {"r": "r [mag]", "g - r": "g - r [mag]", "z": r"$z_\mathrm{spec}$"}


def draw_all(work: Work) -> None:
    """Draw every figure into the folder `figures`."""
    mpl.use("Agg")
    results = Results(work.out)
    figures: dict[str, Figure] = {
        "fig1-cutouts": _cutouts(work),
        "fig2-pixels": _pixels(work),
        "fig3-clean": _redshifts(results.evaluation("Iref-test"), "clean"),
        "fig4-fgsm": _redshifts(results.evaluation("Iref"), "FGSM"),
        **_panels(work, results),
        "eps": _eps(results),
        "pit": _pit(results),
        "fragile": _fragile(results),
        "loss-lines": _lines(results),
        "loss-planes": _planes(results),
    }
    folder = work.out / "figures"
    folder.mkdir(exist_ok=True)
    for name, figure in figures.items():
        save_figure(figure, folder / name)


def _axes(
    rows: int, columns: int, width: float, height: float, **settings: Any
) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **settings)


def _rows(work: Work, rows: list[int]) -> list[torch.Tensor]:
    """Return images, reddenings and redshifts of test galaxies."""
    test = work.galaxies.test(work.scale.n_test)
    columns = zip(*(test[k] for k in rows), strict=True)
    return [torch.stack(list(column)) for column in columns]


def _cutouts(work: Work) -> Figure:
    """Fig. 1: the galaxies at three quartiles of redshift."""
    z = work.galaxies.catalogue(work.scale.n_test)["z"].numpy()
    rows = [int(np.argsort(z)[int(q * (len(z) - 1))]) for q in (0.25, 0.5, 0.75)]
    image, ebv, redshift = _rows(work, rows)
    return plot_cutouts(image, redshift, ebv, fig=Figure((PAGE, 5.0), layout="constrained"))


def _pixels(work: Work) -> Figure:
    """Fig. 2: the galaxy nearest to the redshift of the paper's, 0.27."""
    z = work.galaxies.catalogue(work.scale.n_test)["z"].numpy()
    image, _, _ = _rows(work, [int(np.abs(z - 0.27).argmin())])
    return plot_pixels(image, fig=Figure((5.0, 4.4), layout="constrained"))


def _redshifts(result: Evaluation, row: str) -> Figure:
    """Figs. 3 and 4: the distribution of dz above z_phot against z_spec."""
    figure, axes = _axes(2, 1, COLUMN, 5.8, height_ratios=[1, 1.2])
    plot_delta_z(axes[0, 0], result.z_phot[row], result.z_spec)
    plot_z_z(axes[1, 0], result.z_phot[row], result.z_spec)
    return figure


def _panels(work: Work, results: Results) -> dict[str, Figure]:
    """Figs. 5 and 6: of the galaxies that FGSM makes outliers, the one it moves by the median."""
    result = results.evaluation("Iref")
    dz = {row: delta_z(result.z_phot[row], result.z_spec) for row in ("clean", "FGSM")}
    moved = np.abs(dz["FGSM"] - dz["clean"])
    turned = (np.abs(dz["clean"]) <= 0.05) & (np.abs(dz["FGSM"]) > 0.05)
    candidates = np.flatnonzero(turned) if turned.any() else np.arange(len(moved))
    k = int(candidates[np.argsort(moved[candidates])[len(candidates) // 2]])
    model = work.load(next(t for t in trainings(work.scale) if t.name == "Iref"))
    x, ebv, z = (value.to(work.device) for value in _rows(work, [k]))
    figures = {}
    for name, row in {"fig5-fgsm": "FGSM", "fig6-pgd": "PGD-10"}.items():
        x_adv = STANDARD[row](model, x, z, (ebv,))
        page = Figure((PAGE, 6.6), layout="constrained")
        figures[name] = plot_attack_panel(
            model, x, x_adv, z, (ebv,), readout=BINS, fig=page, unit="nmgy", ebv=float(ebv)
        )
    return figures


def _eps(results: Results) -> Figure:
    """Draw eta and sigma_MAD under PGD-10 against eps, a line per network."""
    points = [
        dataclasses.replace(point, name=WORDS[name])
        for name in CURVES
        for point in results.curve(name).points
        if point.name == "PGD-10"
    ]
    together = RobustnessCurve(tuple(points), {})
    figure, axes = _axes(1, 2, PAGE, 2.8)
    for ax, metric in zip(axes[0], ("eta", "sigma_mad"), strict=True):
        plot_robustness(ax, together, metric)
        ax.set_xscale("symlog", linthresh=1e-4, linscale=0.5)
        ax.set_xticks([0, 1e-4, 1e-3, 1e-2, 1e-1], ["0", "0.0001", "0.001", "0.01", "0.1"])
        ax.set_xlabel(r"$\varepsilon$ [nanomaggies per pixel]")
    axes[0, 1].get_legend().remove()
    return figure


def _pit(results: Results) -> Figure:
    names = ("Iref", "fgsm-20", "pgd-50")
    figure, axes = _axes(1, 3, PAGE, 2.4, sharey=True)
    for ax, name in zip(axes[0], names, strict=True):
        evaluation = results.evaluation(name)
        for row in SHOWN:
            plot_pit(ax, evaluation.pit[row], label=WORDS.get(row, row))
        ax.set_title(WORDS[name], fontsize=9)
        ax.label_outer()
        _only_legend(ax, axes[0, 0])
    return figure


def _fragile(results: Results) -> Figure:
    """Draw the outliers by redshift, r magnitude and colour: who is fragile."""
    columns = results.catalogue
    figure, axes = _axes(2, len(columns), PAGE, 4.4, sharey=True, sharex="col")
    for line, network in zip(axes, ("Iref", "pgd-50"), strict=True):
        evaluation = results.evaluation(network)
        n = len(evaluation.z_spec)
        for ax, (name, values) in zip(line, columns.items(), strict=True):
            for row in ("clean", "PGD-10"):
                plot_binned_outliers(
                    ax,
                    values[:n],
                    evaluation.z_phot[row],
                    evaluation.z_spec,
                    label=WORDS.get(row, row),
                )
            ax.set_xlabel(UNITS.get(name, name))
            ax.set_ylabel(f"{WORDS[network]}:\n" + r"outliers $\eta$ [%]")
            ax.label_outer()
            _only_legend(ax, axes[1, 0])  # where there is room
    return figure


def _lines(results: Results) -> Figure:
    """Draw how the loss rises along the attack and along random signs."""
    found = results.study("landscape")
    figure, axes = _axes(1, len(found["lines"]), PAGE, 2.5, sharey=True)
    for ax, (network, lines) in zip(axes[0], found["lines"].items(), strict=True):
        for name, rises in lines.items():
            plot_loss_line(
                ax,
                found["radii"],
                np.array(rises),
                label=name,
                quantity="rise of cross-entropy [nats]",
            )
        ax.set_title(WORDS.get(network, network), fontsize=9)
        ax.label_outer()
        _only_legend(ax, axes[0, 0])
    return figure


def _planes(results: Results) -> Figure:
    """Draw the loss in the plane of PGD-10's direction and random signs."""
    found = results.study("landscape")
    figure, axes = _axes(1, len(found["planes"]), PAGE, 2.4, sharey=True)
    every = [np.array(plane) for plane in found["planes"].values()]
    limits = (min(float(p.min()) for p in every), max(float(p.max()) for p in every))
    for ax, (network, plane) in zip(axes[0], found["planes"].items(), strict=True):
        plot_loss_plane(
            ax,
            found["grid"],
            np.array(plane),
            names=("PGD-10", "random signs"),
            quantity="cross-entropy [nats]",
            limits=limits,
            colour_bar=ax is axes[0, -1],
        )
        ax.set_title(WORDS.get(network, network), fontsize=9)
        ax.label_outer()
    return figure


def _only_legend(ax: Axes, chosen: Axes) -> None:
    legend = ax.get_legend()
    if ax is not chosen and legend is not None:
        legend.remove()
