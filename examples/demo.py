"""Fool a photo-z network by a change below the sky noise, then train one that resists.

    python examples/demo.py [--out runs/demo]

Simulates galaxies, trains the paper's CNN (at half its width, on 32 x 32 pixels) classically and by
Algorithm 1 (Campagne 2020, arXiv:2002.10154), attacks both, and writes report.md, report.json and
pictures. A perceptron on fluxes within three Gaussian apertures of the same pixels is the bar for
their precision. Every finished epoch and evaluation is kept: after Ctrl-C the same command goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
import time
from pathlib import Path

import matplotlib as mpl
import torch
from torch.utils.data import DataLoader

from advphotoz import (
    FGSM,
    PGD,
    AdversarialTrainer,
    CrossEntropy,
    LinfBall,
    RedshiftBins,
    fast_autocast,
    keep_freed_memory,
    models,
    standard,
)
from advphotoz.datasets import CutoutDataset, random_dihedral, simulate
from advphotoz.evaluation import Evaluation, Row, evaluate

mpl.use("Agg")

EPS = 0.01  # nanomaggies per pixel, the paper's
SKY_NOISE = (0.043, 0.016, 0.023, 0.039, 0.18)  # nanomaggies per pixel, in ugriz
SIZE = 32  # pixels
BINS = RedshiftBins(0.0, 1.0, 180)
OBJECTIVE = CrossEntropy(BINS)
SOFT_LABELS = CrossEntropy(BINS, width=0.008)  # tells the network that bins are ordered
ATTACKS = {
    "FGSM": FGSM(EPS),
    "PGD-20": PGD(LinfBall(EPS), steps=20),
    # Four searches, for a larger redshift and for a smaller one; each galaxy keeps the worst.
    "advphotoz-standard-1": standard(EPS, BINS),
}
WORST = "advphotoz-standard-1"
DEFENSE = PGD(LinfBall(EPS), steps=3, keep="last")  # the best of three costs a forward pass
TITLES = {"classical": "Classical training", "adversarial": "Algorithm 1"}
REFERENCE = "apertures"
WORDS = {"clean": "clean images"}  # in pictures


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of results")
    parser.add_argument("--galaxies", type=int, default=6000, help="one in twelve is for testing")
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--fraction", type=float, default=0.5, help="f_a, the adversarial share")
    parser.add_argument("--width", type=float, default=0.5, help="of the CNN; 1 is the paper's")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def same_settings(out: Path, settings: dict[str, object]) -> None:
    """Refuse to mix the results of two settings in one folder."""
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "settings.json"
    text = json.dumps(settings, indent=2)
    if not kept.exists():
        kept.write_text(text)
    elif kept.read_text() != text:
        sys.exit(f"{out} holds results of other settings; choose another --out, or delete it")


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
    steps = epochs * -(-len(data[0]) // batch)
    trainer = AdversarialTrainer(
        model,
        optimizer,
        DEFENSE,
        fraction,
        SOFT_LABELS,
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps),
        scheduler_step="step",
        transform=None if name == REFERENCE else random_dihedral,
        autocast=None if name == REFERENCE else fast_autocast(),
        seed=args.seed,
    )
    shuffle = torch.Generator().manual_seed(args.seed)
    loader = DataLoader(data[0], batch_size=batch, shuffle=True, generator=shuffle)
    print(f"{TITLES.get(name, 'Reference: perceptron on apertures')}:", flush=True)
    trainer.fit(loader, DataLoader(data[1], 100), epochs, checkpoint=args.out / f"{name}.pt")
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
    )
    result.save(path)
    return result


def draw(results: dict[str, Evaluation], networks: dict[str, torch.nn.Module], args, test) -> None:
    """Draw z_phot against z_spec, the histograms of dz, and one attacked galaxy per network."""
    import matplotlib.pyplot as plt

    from advphotoz.plotting import plot_attack_panel, plot_delta_z, plot_z_z_grid

    estimates = {
        f"{TITLES[name]}, {WORDS.get(shown, shown)}": results[name].z_phot[shown]
        for name in TITLES
        for shown in ("clean", WORST)
    }
    fig = plot_z_z_grid(estimates, results["classical"].z_spec)
    fig.savefig(args.out / "redshifts.png", dpi=150)

    fig, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained", sharey=True)
    for ax, name in zip(axes, TITLES, strict=True):
        result = results[name]
        for shown in ("clean", "PGD-20", WORST):
            label = WORDS.get(shown, shown)
            plot_delta_z(ax, result.z_phot[shown], result.z_spec, label=label)
        ax.set_title(TITLES[name], fontsize=9)
    fig.savefig(args.out / "delta_z.png", dpi=150)

    # The galaxy that is moved furthest in the classical network, shown for both.
    moved = abs(results["classical"].z_phot[WORST] - results["classical"].z_phot["clean"])
    k = int(moved.argmax())
    x, ebv, z = (value[k : k + 1] for value in (test.image, test.ebv, test.z))
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
        fig.savefig(args.out / f"attack_{name}.png", dpi=150)
    plt.close("all")


def strongest(result: Evaluation) -> Row:
    """Return the attack with the most outliers; of equals, the one with more scatter."""
    return max((result[name] for name in ATTACKS), key=lambda row: (row.eta, row.sigma_mad))


def trust(name: str, result: Evaluation) -> str:
    """Return what a reader must know before the numbers of one network."""
    row, clean = strongest(result), result["clean"]
    return (
        f"**{TITLES[name]}**: {result.checks.verdict} The strongest attack shown is {row.name}: it "
        f"raises eta from {100 * clean.eta:.1f} to {100 * row.eta:.1f} %."
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
    """Write report.md and report.json, and return the verdicts and the tables."""
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
        f"Made by `examples/demo.py` in {seconds / 60:.1f} minutes (this start), "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}."
    )
    checks = "\n\n".join(
        f"**{TITLES[name]}**\n\n{results[name].checks.to_markdown()}" for name in TITLES
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
        f"## Every check\n\n{checks}\n\n## Pictures\n\n{pictures}\n\n{machine}\n",
        encoding="utf-8",
    )
    body = {
        "setting": setting,
        "machine": machine,
        "models": {name: f"{name}.json" for name in results},
        "verdicts": {name: results[name].checks.verdict for name in TITLES},
        "strongest": {name: strongest(results[name]).name for name in TITLES},
        "rows": {name: [vars(row) for row in result.rows] for name, result in results.items()},
    }
    (args.out / "report.json").write_text(json.dumps(body, indent=2), encoding="utf-8")
    return f"{setting}\n\n{verdicts}\n\n{tables}"


def main() -> None:
    """Run every step that is not done yet."""
    start = time.perf_counter()
    args = options()
    same_settings(args.out, {k: v for k, v in sorted(vars(args).items()) if k != "out"})
    galaxies = simulate(args.galaxies, seed=args.seed, size=SIZE)
    data = galaxies.split(10 / 12, 1 / 12, 1 / 12, seed=args.seed)
    everyone = [REFERENCE, *TITLES]
    networks = {name: train(name, data, args) for name in everyone}
    results = {name: measure(name, networks[name], data[2], args.out) for name in everyone}
    draw(results, networks, args, data[2])
    print(report(results, args, time.perf_counter() - start))
    for name, title in TITLES.items():
        print(f"\n{title}, every check:\n{results[name].checks.listed()}")
    print(f"\nThe report: {args.out / 'report.md'}")


if __name__ == "__main__":
    keep_freed_memory()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped. Finished epochs and evaluations are kept; start again to go on.")
