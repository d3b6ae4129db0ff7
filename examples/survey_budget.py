"""What a survey's calibration budget can do to its mean redshifts: cutouts and networks in.

    python examples/survey_budget.py galaxies --networks runs/demo/classical.pt \
        runs/demo/adversarial.pt
    python examples/survey_budget.py quasars --data sdss_quasars_ugriz_40.npz \
        --networks runs/quasars/classical-seed0.pt runs/quasars/Algorithm-1-seed0.pt
    python examples/survey_budget.py magnitudes --data SDSS_MGS.train

The networks of `galaxies` are those of `advphotoz demo`, and the galaxies are simulated, or yours
(`--data`, an .npz of image, ebv and z). Those of `quasars` are of examples/quasars.py, of which
only the test objects are used. `magnitudes` trains the perceptron of examples/catalogue_mlp.py,
without and with Algorithm 1 in the budget of the zero points. For every network and effect, the one
error that is shared by all and shifts the mean of a tomographic bin most is found on half of the
objects and measured on the others; then the factor by which all budgets must shrink to meet the
requirement, and how many random errors break it. Writes tables, a figure and JSON.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from advphotoz import (
    PGD,
    AdversarialTrainer,
    Compose,
    CrossEntropy,
    MagnitudeOffset,
    PerturbationSet,
    PSFWidth,
    ReddeningInputError,
    RedshiftBins,
    Shift,
    SkyGradient,
    SkyLevel,
    ZeroPoint,
    keep_freed_memory,
    metrics,
    models,
)
from advphotoz.survey import (
    CalibrationBudget,
    RandomSystematics,
    WorstSystematic,
    calibration_budget,
    random_systematics,
)

mpl.use("Agg")

BANDS = "ugriz"
PIXEL = 0.396  # arcsec
FWHM = (1.53, 1.44, 1.32, 1.26, 1.29)  # arcsec, typical of the SDSS
SKY_NOISE = (0.043, 0.016, 0.023, 0.039, 0.18)  # nanomaggies per pixel
ZERO_POINTS = {
    "sdss": (0.02, 0.01, 0.01, 0.01, 0.01),  # mag, Padmanabhan et al. 2008
    # Between bands 5 mmag, 10 mmag with u: the specification of the colour zero points.
    "lsst": (0.01, 0.005, 0.005, 0.005, 0.005),
}
TOGETHER = "all together"
KEYS = ("image", "ebv", "z")


def effects_on_images(zero_points: tuple[float, ...]) -> dict[str, PerturbationSet]:
    """Return every effect on its own, and all in the order in which light meets them."""
    tenth = [0.1 * sigma for sigma in SKY_NOISE]
    single: dict[str, PerturbationSet] = {
        "PSF width 1 %": PSFWidth(0.01, FWHM, PIXEL),
        "registration 0.1 pixel": Shift([0.04, 0.04, 0.0, 0.04, 0.04], PIXEL),
        "zero points": ZeroPoint(zero_points),
        "sky 0.1 sigma": SkyLevel(tenth),
        "sky tilt 0.1 sigma": SkyGradient(tenth),
        "E(B-V) 10 %": ReddeningInputError(0.1),
    }
    return {**single, TOGETHER: Compose(*single.values())}


def effects_on_magnitudes(zero_points: tuple[float, ...]) -> dict[str, PerturbationSet]:
    """Return the one effect that a catalogue knows."""
    return {"zero points": MagnitudeOffset(zero_points)}


def cnn_of(path: Path, n_bins: int, size: int, **settings: Any) -> nn.Module:
    """Return the paper's CNN with the weights of a trainer's checkpoint."""
    if not path.exists():
        raise SystemExit(
            f"{path} does not exist; train it first with `advphotoz demo` or quasars.py"
        )
    state = torch.load(path, weights_only=True)["model"]
    model = models.cnn(image_size=size, n_bins=n_bins, **settings)
    model.load_state_dict(state)
    return model.eval()


def images(args: argparse.Namespace) -> tuple[dict[str, nn.Module], Dataset[Any], RedshiftBins]:
    """Return the networks on images, the objects and the readout."""
    settings: dict[str, Any] = {"width": args.width or 0.35}
    if args.case == "quasars":
        import quasars

        settings["width"] = args.width or 0.5
        objects: Dataset[Any] = quasars.read(args.data, args.seed)[2]
        bins, size = quasars.BINS, quasars.SIZE
        settings["stretch"] = models.AsinhStretch(quasars.SKY_NOISE, softening=3)
    else:
        bins, size = RedshiftBins(0.0, 1.0, 180), args.size
        if args.data is None:
            from advphotoz.datasets import simulate

            # Another seed than the demo's: no galaxy was trained on.
            objects = simulate(args.galaxies, seed=args.seed + 1, size=size)
        else:
            with np.load(args.data) as file:
                arrays = (torch.tensor(np.asarray(file[name])).float() for name in KEYS)
                objects = TensorDataset(*arrays)
    networks = {path.stem: cnn_of(path, bins.n, size, **settings) for path in args.networks}
    return networks, objects, bins


def magnitudes(args: argparse.Namespace) -> tuple[dict[str, nn.Module], Dataset[Any], RedshiftBins]:
    """Train the perceptron of examples/catalogue_mlp.py in two ways."""
    from catalogue_mlp import BINS, Perceptron, read_catalogue

    features, _, z = read_catalogue(args.data, args.galaxies)
    half = len(z) // 2
    train: tuple[Tensor, Tensor] = (features[:half], z[:half])
    networks: dict[str, nn.Module] = {}
    defense = PGD(MagnitudeOffset([5 * m for m in ZERO_POINTS[args.budget]]), steps=5)
    for name, fraction in (("classical", 0.0), ("Algorithm 1", 0.5)):
        torch.manual_seed(args.seed)
        model = Perceptron(train[0].mean(0), train[0].std(0))
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        trainer = AdversarialTrainer(
            model,
            optimizer,
            defense,
            fraction,
            CrossEntropy(BINS),
            scheduler=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs),
        )
        shuffle = torch.Generator().manual_seed(args.seed)
        loader = DataLoader(TensorDataset(*train), 64, shuffle=True, generator=shuffle)
        trainer.fit(loader, epochs=args.epochs, progress=False)
        networks[name] = model
    return networks, TensorDataset(features[half:], z[half:]), BINS


def precision(model: nn.Module, loader: DataLoader[Any], readout: RedshiftBins) -> str:
    """Return sigma_MAD and eta of the unchanged objects."""
    z_phot, z_spec = [], []
    with torch.no_grad():
        for *inputs, z in loader:
            z_phot.append(readout.redshift(model(*inputs)))
            z_spec.append(z)
    found = torch.cat(z_phot), torch.cat(z_spec)
    mad, eta = metrics.sigma_mad(*found), metrics.outlier_fraction(*found)
    count = len(found[1])
    return f"{count} objects; clean sigma_MAD {1e3 * mad:.1f}e-3, eta {100 * eta:.1f} %"


def table(
    worst: Mapping[str, WorstSystematic], budgets: Mapping[str, CalibrationBudget], limit: float
) -> str:
    """Return one row per effect."""
    header = (
        "| effect | all galaxies [10⁻⁴] | worst bin [10⁻⁴] | re-assigned | linear bound | "
        "times the requirement | budgets must shrink to | largest part |"
    )
    lines = [header, "| :-- | --: | --: | --: | --: | --: | --: | :-- |"]
    for name, result in worst.items():
        s, both = result.worst, [result.of("all", sign).shift for sign in (1, -1)]
        again = "n/a" if s.reassigned is None else f"{1e4 * s.reassigned:+.1f}"
        shrink = f"{budgets[name].factor:.2f}" if name in budgets else ""
        k = int(np.argmax(np.abs(s.contributions)))
        mark = "" if result.all_converged else " (not converged)"
        lines.append(
            f"| {name}{mark} | {1e4 * both[0]:+.1f} / {1e4 * both[1]:+.1f} | {1e4 * s.shift:+.1f} "
            f"± {1e4 * s.error:.1f} ({s.group}) | {again} | {1e4 * s.bound:+.1f} | "
            f"{abs(s.shift) / limit:.1f} | {shrink} | {result.parameters[k].name} |"
        )
    return "\n".join(lines)


def draw(
    worst: Mapping[str, Mapping[str, WorstSystematic]],
    drawn: Mapping[str, RandomSystematics],
    args: argparse.Namespace,
) -> None:
    """Draw the worst shifts of every effect, and random errors beside the worst case."""
    import matplotlib.pyplot as plt

    from advphotoz.plotting import plot_random_shifts, plot_worst_shifts

    size = (7.2, 3.3 * len(worst))
    fig, rows = plt.subplots(len(worst), 2, figsize=size, layout="constrained", squeeze=False)
    for axes, (name, results) in zip(rows, worst.items(), strict=True):
        whole = TOGETHER if TOGETHER in results else next(iter(results))
        plot_worst_shifts(axes[0], results, args.requirement)
        plot_random_shifts(axes[1], drawn[name], results[whole], args.requirement)
        axes[0].set_ylabel(f"{name}\n{axes[0].get_ylabel()}")
    fig.savefig(args.out / "survey_budget.png", dpi=150)


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("case", choices=["galaxies", "quasars", "magnitudes"])
    parser.add_argument("--data", type=Path, help="cutouts, quasars or a catalogue")
    parser.add_argument(
        "--networks", type=Path, nargs="+", default=[], help="trainers' checkpoints"
    )
    parser.add_argument(
        "--width",
        type=float,
        help="of the CNN, where it is another than the demo's or quasars.py's",
    )
    parser.add_argument("--budget", choices=list(ZERO_POINTS), default="sdss")
    parser.add_argument("--requirement", default="Euclid", help="a name, or see --limit")
    parser.add_argument("--limit", type=float, help="a requirement of your own, such as 0.002")
    parser.add_argument("--galaxies", type=int, default=2000, help="simulated ones")
    parser.add_argument("--size", type=int, default=24, help="pixels of simulated galaxies")
    parser.add_argument("--bins", type=int, default=4, help="tomographic bins of equal numbers")
    parser.add_argument("--draws", type=int, default=200, help="random errors")
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=40, help="of the perceptrons")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/survey"))
    args = parser.parse_args()
    if args.case == "quasars" and args.data is None:
        parser.error("the case quasars needs --data, the file of images")
    if args.case != "magnitudes" and not args.networks:
        parser.error("give checkpoints with --networks; `advphotoz demo` trains some")
    args.requirement = args.limit if args.limit is not None else args.requirement
    return args


def main() -> None:
    """Answer the question for every network and effect."""
    args = options()
    args.out.mkdir(parents=True, exist_ok=True)
    on_images = args.case != "magnitudes"
    networks, objects, readout = (images if on_images else magnitudes)(args)
    effects = (effects_on_images if on_images else effects_on_magnitudes)(ZERO_POINTS[args.budget])
    whole = list(effects)[-1]
    loader = DataLoader(objects, args.batch)
    said: list[str] = []
    every: dict[str, dict[str, WorstSystematic]] = {}
    drawn: dict[str, RandomSystematics] = {}
    for name, model in networks.items():
        worst, budgets = every.setdefault(name, {}), {}
        edges: Any = args.bins
        for effect, perturbations in effects.items():
            given = (model, loader, perturbations, readout)
            found = calibration_budget(*given, args.requirement, edges, bands=BANDS)
            worst[effect], budgets[effect] = found.full, found
            edges = found.full.edges  # of the first, which are the same for all
            stem = f"{name}-{effect}".replace(" ", "-").replace("%", "percent")
            found.save(args.out / f"{stem}.json")
        drawn[name] = random_systematics(
            model, loader, effects[whole], readout, edges, draws=args.draws, bands=BANDS
        )
        drawn[name].save(args.out / f"{name}-random.json".replace(" ", "-"))
        limit = budgets[whole].requirement
        clean = precision(model, loader, readout)
        said += [
            f"## {name}\n\n{clean}; requirement: {limit.name}, {limit.limit:g}\n",
            table(worst, budgets, limit.limit),
            f"\n**{whole}.** {budgets[whole].words}\n",
            f"{args.draws} random errors from {whole}:\n\n{drawn[name].to_markdown(limit)}\n",
        ]
    draw(every, drawn, args)
    origin = "simulated" if args.data is None else args.data.name
    text = "\n".join([f"# {args.case.capitalize()} ({origin}), budget {args.budget}\n", *said])
    (args.out / "survey_budget.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    keep_freed_memory()
    main()
