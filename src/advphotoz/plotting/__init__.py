"""Pictures of galaxies, attacks and redshifts: every figure of the paper, and some beyond it.

Axes in, axes out: the functions draw on the axes they are given, in sizes that stay legible at a
journal's column width (3.4 inches), and in colours that colour-blind readers can tell apart (Okabe
and Ito 2008). Those that need many panels take and return a figure. Matplotlib is imported when one
is called: ``pip install "advphotoz[plot]"``.
"""

from advphotoz.plotting.diagrams import (
    plot_attacks,
    plot_delta_z,
    plot_robustness,
    plot_z_z,
    plot_z_z_grid,
)
from advphotoz.plotting.galaxies import plot_cutouts, plot_pixels
from advphotoz.plotting.landscape import plot_loss_line, plot_loss_plane
from advphotoz.plotting.panel import plot_attack_panel
from advphotoz.plotting.populations import plot_binned_outliers, plot_pit
from advphotoz.plotting.saving import save_figure
from advphotoz.plotting.systematics import plot_effects, plot_random_shifts, plot_worst_shifts

__all__ = [
    "plot_attack_panel",
    "plot_attacks",
    "plot_binned_outliers",
    "plot_cutouts",
    "plot_delta_z",
    "plot_effects",
    "plot_loss_line",
    "plot_loss_plane",
    "plot_pit",
    "plot_pixels",
    "plot_random_shifts",
    "plot_robustness",
    "plot_worst_shifts",
    "plot_z_z",
    "plot_z_z_grid",
    "save_figure",
]
