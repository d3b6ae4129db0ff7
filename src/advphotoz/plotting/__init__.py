"""Pictures: redshift errors, predicted against true redshift, an attack, robustness against eps.

Axes in, axes out: the functions draw on the axes they are given, in sizes that stay legible at a
journal's column width (3.4 inches), and in colours that colour-blind readers can tell apart (Okabe
and Ito 2008). Matplotlib is imported when one is called: ``pip install "advphotoz[plot]"``.
"""

from advphotoz.plotting.diagrams import plot_delta_z, plot_robustness, plot_z_z
from advphotoz.plotting.panel import plot_attack_panel

__all__ = ["plot_attack_panel", "plot_delta_z", "plot_robustness", "plot_z_z"]
