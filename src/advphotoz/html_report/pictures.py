"""The pictures of a report, as SVG inside the page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

from advphotoz._checks import require
from advphotoz.evaluation import Evaluation, Row
from advphotoz.plotting import plot_attacks, plot_delta_z, plot_pit, plot_z_z_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["evaluation_pictures", "inline"]

WIDTH = 7.0  # inches


def inline(figure: Figure) -> str:
    """Return a figure as an SVG in a ``data:`` address, with its text as outlines."""
    matplotlib = require("matplotlib", "plot")
    stream = io.BytesIO()
    # A fixed salt and no date: the same evaluation gives the same file.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "advphotoz"}):
        figure.savefig(stream, format="svg", dpi=150, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode('ascii')}"


def evaluation_pictures(result: Evaluation, worst: Row | None) -> list[dict[str, str]]:
    """Draw an evaluation: outliers by attack, z_phot against z_spec, dz, and the PIT."""
    figure_class: Any = require("matplotlib.figure", "plot").Figure
    shown = ["clean"] if worst is None else ["clean", worst.name]
    words = {"clean": "clean images", **({} if worst is None else {worst.name: worst.name})}
    etas = ", ".join(f"{row.name} {100 * row.eta:.1f} %" for row in result.rows)

    figure = figure_class((WIDTH, 0.7 + 0.28 * len(result.rows)), layout="constrained")
    plot_attacks(figure.subplots(), result)
    made = [
        _picture(
            figure,
            f"Share of outliers by attack: {etas}.",
            "Share of outliers for clean images, under random noise and under every attack, with "
            "the interval at one standard deviation.",
        )
    ]
    figure = plot_z_z_grid(
        {words[name]: result.z_phot[name] for name in shown},
        result.z_spec,
        fig=figure_class((WIDTH, 3.8) if len(shown) == 2 else (3.8, 3.8), layout="constrained"),
    )
    made.append(
        _picture(
            figure,
            "Scatter plots of photometric against spectroscopic redshift: "
            + "; ".join(f"{words[n]}, {100 * result[n].eta:.1f} % outliers" for n in shown)
            + ".",
            "Photometric against spectroscopic redshift. The solid line is equality, the dashed "
            "lines are the limits of an outlier.",
        )
    )
    has_pit = all(name in result.pit for name in shown)
    figure = figure_class((WIDTH, 2.9), layout="constrained")
    axes = figure.subplots(1, 2 if has_pit else 1, squeeze=False)[0]
    for name in shown:
        plot_delta_z(axes[0], result.z_phot[name], result.z_spec, label=words[name])
        if has_pit:
            plot_pit(axes[1], result.pit[name], label=words[name])
    caption = "Distribution of the redshift errors; the dashed lines are the limits of an outlier."
    if has_pit:
        caption += (
            " Right: the probability integral transform (PIT), flat where the PDFs are calibrated."
        )
    made.append(
        _picture(
            figure,
            "Histograms of the redshift errors"
            + (" and of the probability integral transform" if has_pit else "")
            + f" for {' and '.join(words[name] for name in shown)}.",
            caption,
        )
    )
    return made


def _picture(figure: Figure, alt: str, caption: str) -> dict[str, str]:
    return {"source": inline(figure), "alt": alt, "caption": caption}
