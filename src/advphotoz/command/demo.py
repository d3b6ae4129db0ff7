"""Fool a photo-z network by a change below the sky noise, then train one that resists.

Simulates galaxies, trains the paper's CNN (at 0.35 of its width, on 24 x 24 pixels) classically and
by Algorithm 1 (Campagne 2020, arXiv:2002.10154), attacks both, and writes report.html, report.md,
report.json and pictures. A perceptron on fluxes within three Gaussian apertures of the same pixels
is the bar for their precision. Every finished epoch and evaluation is kept: after Ctrl-C the same
command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from advphotoz import (
    FGSM,
    PGD,
    Attack,
    CrossEntropy,
    LinfBall,
    RedshiftBins,
    evaluate,
    fast_autocast,
    keep_freed_memory,
    models,
    standard,
)
from advphotoz.command.outputs import progress, say
from advphotoz.command.training import fit
from advphotoz.datasets import CutoutDataset, random_dihedral, simulate
from advphotoz.evaluation import Checks, Evaluation, Row

__all__ = ["add", "run"]

USAGE = "[options]"

EPS = 0.01  # nanomaggies per pixel, the paper's
SKY_NOISE = (0.043, 0.016, 0.023, 0.039, 0.18)  # nanomaggies per pixel, in ugriz
SIZE = 24  # pixels, which hold nearly all of a galaxy: as precise as 32, at half the cost
BINS = RedshiftBins(0.0, 1.0, 180)
OBJECTIVE = CrossEntropy(BINS)
SOFT_LABELS = CrossEntropy(BINS, width=0.008)  # tells the network that bins are ordered
ATTACKS: dict[str, Attack] = {
    "FGSM": FGSM(EPS),
    "PGD-20": PGD(LinfBall(EPS), steps=20),
    # Four searches, for a larger redshift and for a smaller one; each galaxy keeps the worst.
    "advphotoz-standard-1": standard(EPS, BINS),
}
WORST = "advphotoz-standard-1"
SETTINGS = ("epochs", "fraction", "galaxies", "seed", "width")
DEFENSE = PGD(LinfBall(EPS), steps=3, keep="last")  # the best of three costs a forward pass
TITLES = {"classical": "Classical training", "adversarial": "Algorithm 1"}
REFERENCE = "apertures"
WORDS = {"clean": "clean images", WORST: "standard attack"}  # in pictures


def add(parser: argparse.ArgumentParser) -> None:
    """Describe the options."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of results")
    parser.add_argument("--galaxies", type=int, default=6000, help="one in twelve is for testing")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--fraction", type=float, default=0.5, help="f_a, the adversarial share")
    parser.add_argument("--width", type=float, default=0.35, help="of the CNN; 1 is the paper's")
    parser.add_argument("--seed", type=int, default=0)


def same_settings(out: Path, settings: dict[str, object]) -> None:
    """Refuse to mix the results of two settings in one folder."""
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "settings.json"
    text = json.dumps(settings, indent=2)
    if not kept.exists():
        kept.write_text(text)
    elif kept.read_text() != text:
        raise ValueError(f"{out} holds results of other settings; name another --out, or delete it")


def train(name: str, data: tuple[CutoutDataset, ...], args: argparse.Namespace) -> torch.nn.Module:
    """Train a network, from the last finished epoch on."""
    torch.manual_seed(args.seed)
    model: torch.nn.Module
    if name == REFERENCE:
        model = models.AperturePerceptron(SKY_NOISE, image_size=SIZE, n_bins=BINS.n)
    else:
        # Without a stretch: on the validation galaxies it helps 6 epochs, and hurts 25.
        model = models.cnn(image_size=SIZE, n_bins=BINS.n, width=args.width)
    rate, epochs, batch = 2e-3, args.epochs, 32
    if name == REFERENCE:
        rate, epochs, batch = 3e-3, 2 * args.epochs, 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, fused=True)
    fraction = args.fraction if name == "adversarial" else 0.0
    say(f"{TITLES.get(name, 'Reference: perceptron on apertures')}:")
    fit(
        model,
        optimizer,
        (data[0], data[1]),
        DEFENSE,
        fraction,
        SOFT_LABELS,
        epochs=epochs,
        batch=batch,
        valid_batch=100,
        transform=None if name == REFERENCE else random_dihedral,
        autocast=None if name == REFERENCE else fast_autocast(),
        seed=args.seed,
        checkpoint=args.out / f"{name}.pt",
    )
    return model


def measure(name: str, model: torch.nn.Module, test: CutoutDataset, out: Path) -> Evaluation:
    """Evaluate under every attack, or read what an earlier start measured."""
    path = out / f"{name}.json"
    if path.exists():
        return Evaluation.load(path)
    result = evaluate(
        model,
        DataLoader(test, 100),
        {} if name == REFERENCE else ATTACKS,
        BINS,
        objective=OBJECTIVE,
        check_samples=100,
        progress=progress(),
    )
    result.save(path)
    return result


def draw(
    results: dict[str, Evaluation],
    networks: dict[str, torch.nn.Module],
    out: Path,
    test: CutoutDataset,
) -> None:
    """Draw z_phot against z_spec, the histograms of dz, and one attacked galaxy per network."""
    from matplotlib.figure import Figure

    from advphotoz.plotting import plot_attack_panel, plot_delta_z, plot_z_z_grid

    estimates = {
        f"{TITLES[name]}, {WORDS.get(shown, shown)}": results[name].z_phot[shown]
        for name in TITLES
        for shown in ("clean", WORST)
    }
    fig = plot_z_z_grid(estimates, results["classical"].z_spec)
    fig.savefig(out / "redshifts.png", dpi=150)

    fig = Figure((7, 2.8), layout="constrained")
    for ax, name in zip(fig.subplots(1, 2, sharey=True), TITLES, strict=True):
        result = results[name]
        for shown in ("clean", "PGD-20", WORST):
            label = WORDS.get(shown, shown)
            plot_delta_z(ax, result.z_phot[shown], result.z_spec, label=label)
        ax.set_title(TITLES[name], fontsize=9)
    ax.set_ylim(top=1.4 * ax.get_ylim()[1])  # room for the legend
    fig.savefig(out / "delta_z.png", dpi=150)

    # The galaxy that is moved furthest in the classical network, shown for both.
    moved = abs(results["classical"].z_phot[WORST] - results["classical"].z_phot["clean"])
    k = int(moved.argmax())
    x, ebv, z = (column[None] for column in test[k])
    for name in TITLES:
        model = networks[name]
        x_adv = ATTACKS[WORST](model, x, z, context=(ebv,))
        fig = plot_attack_panel(
            model,
            x,
            x_adv,
            z,
            context=(ebv,),
            readout=BINS,
            unit="nmgy",
            noise=SKY_NOISE,
            ebv=float(ebv),
        )
        fig.savefig(out / f"attack_{name}.png", dpi=150)


def checks(result: Evaluation) -> Checks:
    """Return what was checked."""
    assert result.checks is not None
    return result.checks


def strongest(result: Evaluation) -> Row:
    """Return the attack with the most outliers; of equals, the one with more scatter."""
    return max((result[name] for name in ATTACKS), key=lambda row: (row.eta, row.sigma_mad))


def trust(name: str, result: Evaluation) -> str:
    """Return what a reader must know before the numbers of one network."""
    row, clean = strongest(result), result["clean"]
    return (
        f"**{TITLES[name]}**: {checks(result).verdict} The strongest attack shown is {row.name}: "
        f"it raises eta from {100 * clean.eta:.1f} to {100 * row.eta:.1f} %."
    )


def precision(results: dict[str, Evaluation]) -> str:
    """Return how the classical network compares with a perceptron on apertures of its pixels."""
    bar, clean = results[REFERENCE]["clean"], results["classical"]["clean"]
    words = (
        f"A perceptron on fluxes within three Gaussian apertures of the same pixels has a clean "
        f"sigma_MAD of {1e3 * bar.sigma_mad:.1f}e-3 and an eta of {100 * bar.eta:.1f} %; the "
        f"network of images has {1e3 * clean.sigma_mad:.1f}e-3 and {100 * clean.eta:.1f} %."
    )
    if clean.sigma_mad > bar.sigma_mad:
        words += (
            " It is less precise than fifteen fluxes from its own pixels, so that its training has "
            "not finished; more galaxies and epochs would bring it further."
        )
    return words


def report(results: dict[str, Evaluation], args: argparse.Namespace, seconds: float) -> str:
    """Write report.md, report.html and report.json, and return the verdicts and the tables."""
    from advphotoz.html_report import save_html

    verdicts = "\n\n".join([*(trust(name, results[name]) for name in TITLES), precision(results)])
    tables = "\n\n".join(
        f"**{TITLES[name]}** ({args.fraction if name == 'adversarial' else 0:.0%} of each batch "
        # Without the verdict, which stands above all tables; flags of an attack stay in its row.
        f"adversarial)\n\n{dataclasses.replace(results[name], checks=None).to_markdown()}"
        for name in TITLES
    )
    count = len(results["classical"].z_spec)
    digits = "float32" if fast_autocast() is None else "bfloat16"
    setting = (
        f"Simulated galaxies: {args.galaxies} in all, {count} of them for this test, on {SIZE} x "
        f"{SIZE} pixels. The paper's CNN at {args.width:g} times its width, {args.epochs} epochs "
        f"in {digits}, seed {args.seed}; attacks in float32, eps = {EPS} nanomaggies per pixel, "
        f"below the sky noise of every band. Algorithm 1 with PGD of {DEFENSE.steps} steps."
    )
    machine = (
        f"Made by `advphotoz demo` in {seconds / 60:.1f} minutes (this start), "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}."
    )
    every = "\n\n".join(
        f"**{TITLES[name]}**\n\n{checks(results[name]).to_markdown()}" for name in TITLES
    )
    pictures = "\n\n".join(
        f"![{text}]({name}.png)"
        for name, text in {
            "redshifts": "z_phot against z_spec, clean and under the standard attack",
            "delta_z": "Distribution of dz",
            "attack_classical": "One galaxy attacked, classical training",
            "attack_adversarial": "The same galaxy, network trained by Algorithm 1",
        }.items()
    )
    (args.out / "report.md").write_text(
        f"# advphotoz demo (simulated galaxies)\n\n{setting}\n\n"
        f"## Can the numbers be trusted?\n\n{verdicts}\n\n## Results\n\n{tables}\n\n"
        f"## Every check\n\n{every}\n\n## Pictures\n\n{pictures}\n\n{machine}\n",
        encoding="utf-8",
    )
    shown = {TITLES[name]: results[name] for name in TITLES}
    question = f"What the command advphotoz demo measures. {setting}"
    save_html(args.out / "report.html", shown, title="advphotoz demo", question=question)
    body = {
        "setting": setting,
        "machine": machine,
        "models": {name: f"{name}.json" for name in results},
        "verdicts": {name: checks(results[name]).verdict for name in TITLES},
        "strongest": {name: strongest(results[name]).name for name in TITLES},
        "rows": {name: [vars(row) for row in result.rows] for name, result in results.items()},
    }
    (args.out / "report.json").write_text(json.dumps(body, indent=2), encoding="utf-8")
    return f"{setting}\n\n{verdicts}\n\n{tables}"


def run(args: argparse.Namespace) -> int:
    """Run every step that is not done yet."""
    start = time.perf_counter()
    keep_freed_memory()
    same_settings(args.out, {name: getattr(args, name) for name in SETTINGS})
    say(f"Drawing {args.galaxies} galaxies, once")
    galaxies = simulate(args.galaxies, seed=args.seed, size=SIZE, progress=progress())
    data = galaxies.split(10 / 12, 1 / 12, 1 / 12, seed=args.seed)
    everyone = [REFERENCE, *TITLES]
    networks = {name: train(name, data, args) for name in everyone}
    results = {name: measure(name, networks[name], data[2], args.out) for name in everyone}
    draw(results, networks, args.out, data[2])
    say(report(results, args, time.perf_counter() - start))
    for name, title in TITLES.items():
        say(f"\n{title}, every check:\n{checks(results[name]).listed()}")
    say(f"\nThe report: {args.out / 'report.html'}, and report.md beside it")
    return 0
