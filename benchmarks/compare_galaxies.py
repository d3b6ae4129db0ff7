"""Simulated galaxies beside the real SDSS catalogue: the table and figures of docs/galaxies.md.

    python benchmarks/compare_galaxies.py [--data ../shared/data] [--galaxies 24000]

Needs the extras `sim` and `plot`. Prints Markdown tables, writes two pictures to docs/_static. Only
the catalogue of the simulation is drawn for the comparison; the stamps of the second picture are
drawn whole. Real galaxies are every second one of the catalogue, the half that the simulation was
not fitted to. The last table is of perceptrons trained on the magnitudes of each.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

mpl.use("agg")
import matplotlib.pyplot as plt
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from advphotoz import AdversarialTrainer, CrossEntropy, metrics
from advphotoz.datasets.simulation.drawing import draw_row
from advphotoz.datasets.simulation.observing import draw_conditions
from advphotoz.datasets.simulation.population import draw_galaxy, draw_photometry
from advphotoz.datasets.simulation.spectra import band_flux, template
from recipe import BINS, Magnitudes

STATIC = Path(__file__).resolve().parents[1] / "docs" / "_static"
COLOURS = ["u-g", "g-r", "r-i", "i-z"]
QUANTILES = [0.05, 0.25, 0.5, 0.75, 0.95]
REAL, SIMULATED = "#0072B2", "#D55E00"  # Okabe & Ito: told apart by everybody
R_BINS = np.arange(13.5, 17.85, 0.25)


def read_real(folder: Path, half: int) -> dict[str, np.ndarray]:
    """Return 5,000 real galaxies, the half fitted (0) or the other (1); columns as in README.md."""
    rows = np.concatenate([np.loadtxt(folder / f"SDSS_MGS.{part}") for part in ("train", "test")])
    rows = rows[half::2]
    return {"z": rows[:, 0], "mag": rows[:, 1:6], "mag_err": rows[:, 10:15]}


def draw_simulated(n: int) -> dict[str, np.ndarray]:
    """Draw n galaxies without their pixels, corrected for Galactic extinction as the real ones."""
    # A(band) / E(B-V), from the reddening law itself.
    spectrum = template(1.0)
    ratio = band_flux(spectrum, 0.1, 0.1) / band_flux(spectrum, 0.1, 0.0)
    extinction = -25 * np.log10(ratio)
    rows: dict[str, list[np.ndarray | float]] = {"z": [], "mag": [], "mag_err": []}
    for k in range(n):
        rng = np.random.default_rng(np.random.SeedSequence(2026, spawn_key=(k,)))
        galaxy = draw_galaxy(rng, 17.8)
        mag, error = draw_photometry(rng, galaxy, draw_conditions(rng))
        rows["z"].append(galaxy.z)
        rows["mag"].append(mag - extinction * galaxy.ebv)
        rows["mag_err"].append(error)
    return {name: np.array(values) for name, values in rows.items()}


def match(
    simulated: dict[str, np.ndarray], real: dict[str, np.ndarray], n: int
) -> dict[str, np.ndarray]:
    """Draw n different simulated galaxies so that their r is distributed as the real ones'."""
    r, target = simulated["mag"][:, 2], real["mag"][:, 2]
    have, _ = np.histogram(r, R_BINS)
    want, _ = np.histogram(target, R_BINS)
    inside = (r >= R_BINS[0]) & (r < R_BINS[-1])
    box = np.clip(np.digitize(r, R_BINS) - 1, 0, len(want) - 1)
    weight = inside * (want / np.maximum(have, 1))[box]
    rows = np.random.default_rng(0).choice(len(r), n, False, weight / weight.sum())
    return {name: value[rows] for name, value in simulated.items()}


def line(name: str, values: np.ndarray) -> str:
    return f"| {name} | " + " | ".join(f"{q:.3f}" for q in np.quantile(values, QUANTILES)) + " |"


def table(sets: dict[str, dict[str, np.ndarray]]) -> None:
    print("| | 5 % | 25 % | 50 % | 75 % | 95 % |\n|---|---|---|---|---|---|")
    for name, values in sets.items():
        print(line(f"z, {name}", values["z"]))
    for k, colour in enumerate(COLOURS):
        for name, values in sets.items():
            print(line(f"{colour}, {name}", values["mag"][:, k] - values["mag"][:, k + 1]))
    for k, band in enumerate("ugriz"):
        for name, values in sets.items():
            print(line(f"error of {band}, {name}", values["mag_err"][:, k]))


def slices(sets: dict[str, dict[str, np.ndarray]]) -> None:
    """Print the 5, 50 and 95 % points of each colour in slices of redshift."""
    print("\n| z | " + " | ".join(COLOURS) + " |\n|---|---|---|---|---|")
    for low, high in ((0.02, 0.06), (0.06, 0.1), (0.1, 0.14), (0.14, 0.18), (0.18, 0.24)):
        for name, values in sets.items():
            here = (values["z"] > low) & (values["z"] < high)
            colours = -np.diff(values["mag"][here], axis=1)
            cells = [
                " / ".join(f"{q:.2f}" for q in np.quantile(colours[:, k], [0.05, 0.5, 0.95]))
                for k in range(4)
            ]
            print(f"| {low:.2f}-{high:.2f}, {name} | " + " | ".join(cells) + " |")


def part(values: dict[str, np.ndarray]) -> TensorDataset:
    mag, z = (torch.tensor(values[name], dtype=torch.float32) for name in ("mag", "z"))
    return TensorDataset(mag, torch.zeros_like(z), z)  # corrected for extinction: no E(B-V)


def train(data: TensorDataset, seed: int) -> torch.nn.Module:
    """Train the perceptron of benchmarks/recipe.py on magnitudes as it does, with soft labels."""
    torch.manual_seed(seed)
    model = Magnitudes()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = DataLoader(data, 64, shuffle=True, generator=torch.Generator().manual_seed(seed))
    total = 60 * len(loader)
    trainer = AdversarialTrainer(
        model,
        optimizer,
        None,
        0.0,
        CrossEntropy(BINS, width=0.008),
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=total),
        scheduler_step="step",
        seed=seed,
    )
    trainer.fit(loader, epochs=60, progress=False)
    return model.eval()


def hardness(sets: dict[str, list[dict[str, np.ndarray]]]) -> None:
    """Print how well a perceptron on five magnitudes does, mean of three seeds."""
    print("\n| trained on | tested on | sigma_MAD [10⁻³] | eta [%] |\n|---|---|---|---|")
    for source, (training, _) in sets.items():
        models = [train(part(training), seed) for seed in range(3)]
        for target, (_, testing) in sets.items():
            mag, ebv, z = part(testing).tensors
            with torch.no_grad():
                found = [BINS.redshift(model(mag, ebv)) for model in models]
            mad = 1e3 * np.mean([metrics.sigma_mad(z_phot, z) for z_phot in found])
            eta = 100 * np.mean([metrics.outlier_fraction(z_phot, z) for z_phot in found])
            print(f"| {source} | {target} | {mad:.1f} | {eta:.2f} |", flush=True)


def compare_picture(real: dict[str, np.ndarray], simulated: dict[str, np.ndarray]) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(10, 6), layout="constrained")
    sets = {"real": (real, REAL, "-"), "simulated": (simulated, SIMULATED, "--")}
    for name, (values, colour, style) in sets.items():
        axes[0, 0].hist(
            values["z"], np.linspace(0, 0.32, 33), histtype="step", color=colour, ls=style,
            lw=1.6, label=name, weights=np.full(len(values["z"]), 100 / len(values["z"])),
        )  # fmt: skip
    axes[0, 0].set(xlabel="redshift z", ylabel="galaxies per 0.01 [%]")
    axes[0, 0].legend(frameon=False)
    edges = np.linspace(0.02, 0.24, 12)
    middle = (edges[1:] + edges[:-1]) / 2
    for k, ax in enumerate(axes.flat[1:5]):
        for values, colour, style in sets.values():
            c = values["mag"][:, k] - values["mag"][:, k + 1]
            box = np.digitize(values["z"], edges)
            low, half, high = np.array(
                [np.quantile(c[box == b], [0.1, 0.5, 0.9]) for b in range(1, len(edges))]
            ).T
            ax.fill_between(middle, low, high, color=colour, alpha=0.15, lw=0)
            ax.plot(middle, low, color=colour, ls=style, lw=0.8)
            ax.plot(middle, high, color=colour, ls=style, lw=0.8)
            ax.plot(middle, half, color=colour, ls=style, lw=2.2)
        ax.set(xlabel="redshift z", ylabel=f"${COLOURS[k]}$ [mag]", xlim=(edges[0], edges[-1]))
    ax = axes[1, 2]
    for values, colour, style in sets.values():
        box = np.digitize(values["mag"][:, 2], np.arange(14.5, 17.8, 0.5))
        points = [np.quantile(values["mag_err"][box == b], 0.5, axis=0) for b in range(1, 7)]
        for band, shade in ((0, 1.0), (2, 0.55)):
            ax.semilogy(
                np.arange(14.75, 17.5, 0.5), np.array(points)[:, band], color=colour, ls=style,
                marker="os"[band > 0], ms=4, alpha=shade,
            )  # fmt: skip
    ax.text(0.05, 0.95, "u (circles)\nr (squares)", transform=ax.transAxes, va="top", fontsize=9)
    ax.set(xlabel="$r$ [mag]", ylabel="median error [mag]", ylim=(1.5e-3, 0.12))
    ticks = [0.003, 0.01, 0.03, 0.1]
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.set_yticks([], minor=True)
    figure.savefig(STATIC / "galaxies-compared.png", dpi=110)


def stamps_picture() -> None:
    """Draw four galaxies from near to far: gri as a colour picture, then each band in grey."""
    # Out of the first of seed 0, in order of redshift.
    rows = sorted((draw_row(0, index, 17.8, 64) for index in range(24)), key=lambda row: row["z"])
    rows = [rows[k] for k in (6, 10, 14, 22)]
    figure, axes = plt.subplots(4, 6, figsize=(9, 6.3), layout="constrained")
    sigma = np.array([0.043, 0.016, 0.023, 0.039, 0.18])
    for row, line_axes in zip(rows, axes, strict=True):
        cube = row["image"]
        colour = np.arcsinh(cube[[3, 2, 1]] * np.array([0.75, 1.0, 1.7])[:, None, None] / 0.15)
        colour = np.clip((colour + 0.3) / 4.5, 0, 1)
        line_axes[0].imshow(colour.transpose(1, 2, 0), origin="lower")
        line_axes[0].set_ylabel(f"z = {row['z']:.3f}\nr = {row['mag'][2]:.1f}", fontsize=9)
        for k in range(5):
            grey = np.arcsinh(cube[k] / (3 * sigma[k]))
            line_axes[k + 1].imshow(grey, origin="lower", cmap="gray", vmin=-0.7, vmax=4)
    for ax, title in zip(axes[0], ["g, r, i", *"ugriz"], strict=True):
        ax.set_title(title, fontsize=10)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    bar = 10 / 0.396
    axes[0, 0].plot([4, 4 + bar], [4, 4], color="white", lw=2)
    axes[0, 0].text(4 + bar / 2, 6, '10"', color="white", ha="center", va="bottom", fontsize=8)
    figure.savefig(path := STATIC / "galaxies-stamps.png", dpi=80)
    # Noise hardly compresses: a palette keeps the file small.
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(
            256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
    small.save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).resolve().parents[1]
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "data")
    parser.add_argument("--galaxies", type=int, default=24000)
    arguments = parser.parse_args()
    fitted, real = (read_real(arguments.data, half) for half in (0, 1))
    matched = match(draw_simulated(arguments.galaxies), real, 10000)
    table({"real": real, "simulated": matched})
    slices({"real": real, "simulated": matched})
    halves = [{name: values[k::2] for name, values in matched.items()} for k in (0, 1)]
    hardness({"real": [fitted, real], "simulated": halves})
    STATIC.mkdir(exist_ok=True)
    compare_picture(real, matched)
    stamps_picture()


if __name__ == "__main__":
    main()
