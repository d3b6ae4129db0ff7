"""Campagne 2020 (arXiv:2002.10154) reproduced: Tables 1 to 3, Figures 1 to 6, and more.

    python examples/reproduce_paper.py --scale cpu --out runs/paper
    python examples/reproduce_paper.py --scale full --data sdss.npz --out runs/sdss

Trains the paper's networks, classically and by Algorithm 1, attacks them, and writes report.md,
tables.json and figures. Every trained network and every evaluation is a step that is done once:
after Ctrl-C, or a crash, the same command goes on from the last finished epoch or step. The same
command in several terminals shares the work: on two cores, two with one thread each
(`OMP_NUM_THREADS=1`) are faster than one with two. Without
--data the galaxies are simulated. --data takes the .npz of Pasquet et al. 2019 (`cube`, `labels`),
read row by row, never as a whole.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from advphotoz import keep_freed_memory
from advphotoz.datasets.simulation.sample import VERSION
from paper.data import Galaxies
from paper.plan import (
    ALONE,
    CURVES,
    DEFENDED,
    JUDGE,
    MATRICES,
    SIX,
    STANDARD,
    STRONG,
    SWEEP,
    Training,
    table1_attacks,
    trainings,
)
from paper.report import write_report
from paper.scales import SCALES, Scale
from paper.steps import Step, claimed, run, same_settings
from paper.studies import colours, landscape, write_catalogue
from paper.work import Work


def plan(work: Work) -> list[Step]:
    """Return all steps in order: first what the most numbers hang on, further seeds last."""
    scale, out = work.scale, work.out
    every = {t.name: t for t in trainings(scale)}
    steps = [Step("catalogue", out / "catalogue.json", 0, partial(write_catalogue, work))]
    steps += [_train(work, every[name]) for name in SIX]

    six = [every[name] for name in SIX]
    for name, attack in table1_attacks(work.galaxies.image_size).items():
        path = out / "table1" / f"{name.replace(' ', '-').replace(',', '')}.json"
        sources = None if name in MATRICES else ["Iref"]
        cost = 2 * scale.n_attack * getattr(attack, "steps", 1) * (1 if sources else len(SIX))
        do = partial(_transfer, work, six, attack, sources)
        steps.append(Step(f"Table 1, {name}", path, cost, do, _models(work, six)))
    steps += [_evaluate(work, t) for t in six]
    steps.append(
        Step(
            "evaluate Iref, the whole test set",
            out / "evaluations" / "Iref-test.json",
            scale.n_test,
            lambda path: work.evaluate(every["Iref"], {}, scale.n_test, path, checks=False),
            _models(work, six[:1]),
        )
    )
    defenses = [t for t in every.values() if t.name not in SIX]
    first = [t for t in defenses if t.seed == 0 and t.name not in SWEEP]
    steps += [step for t in first for step in (_train(work, t), _evaluate(work, t))]
    steps += _studies(work, every)
    steps += [_judge(work, every[name]) for name in ALONE]
    other = [t for t in defenses if t not in first]
    other.sort(key=lambda t: (t.name.startswith("pgd"), t.name in SWEEP))  # Tables 2, 3, the sweep
    steps += [step for t in other for step in (_train(work, t), _evaluate(work, t))]
    # Where results are kept without their networks, as in docs/results/paper, only those networks
    # are trained again that something still needs; Figures 5 and 6 need Iref.
    networks = set(_models(work, list(every.values())))
    needed = {*_models(work, six[:1])}.union(*(s.needs for s in steps if not s.path.exists()))
    return [step for step in steps if step.path.exists() or step.path not in networks - needed]


def _studies(work: Work, every: dict[str, Training]) -> list[Step]:
    """Return what goes beyond the tables: transfer to the defended, curves, the loss around."""
    scale, out = work.scale, work.out
    shown = [every[name] for name in ("Iref", *DEFENDED)]
    attack = STANDARD["PGD-10"]
    do = partial(_transfer, work, shown, attack, ["Iref"])
    cost = 20 * scale.n_attack
    path = out / "table1" / "defended.json"
    steps = [Step("transfer to the defended", path, cost, do, _models(work, shown))]
    for name in CURVES:
        cost = 2 * 7 * 11 * scale.n_curve
        path = out / "curves" / f"{name}.json"
        do = partial(work.curve, every[name])
        steps.append(Step(f"curve of {name}", path, cost, do, _models(work, [every[name]])))
    path = out / "landscape.json"
    chosen = [every[name] for name in ("Iref", "fgsm-20", "pgd-50")]
    do = partial(landscape, work, chosen)
    steps.append(Step("loss landscape", path, 3000, do, _models(work, chosen)))
    do = partial(colours, work, chosen)
    path = out / "colours.json"
    steps.append(Step("changes of colour", path, 66 * scale.n_curve, do, _models(work, chosen)))
    return steps


def _train(work: Work, training: Training) -> Step:
    cost = training.passes * work.scale.n_train * work.scale.epochs
    if training.network == "cnn":
        cost /= 2
    path = work.out / "models" / f"{training.name}.pt"
    return Step(f"train {training.name}", path, cost, partial(work.train, training))


def _evaluate(work: Work, training: Training) -> Step:
    n, checks = (
        work.scale.n_attack,
        training.seed == 0,
    )  # not of every seed: they cost half as much again
    path = work.out / "evaluations" / f"{training.name}.json"
    return Step(
        f"evaluate {training.name}",
        path,
        # The checks cost three times the attacks, on 64 galaxies.
        2 * (33 * n + checks * 90 * min(64, n)),
        lambda path: work.evaluate(training, {**STANDARD, **STRONG}, n, path, checks),
        _models(work, [training]),
    )


def _judge(work: Work, training: Training) -> Step:
    n = work.scale.n_attack // 2
    [attack] = JUDGE.values()
    path = work.out / "standard" / f"{training.name}.json"
    return Step(
        f"standard attack on {training.name}",
        path,
        attack.budget.gradients * 2 * n + attack.budget.forward * n,
        lambda path: work.evaluate(training, JUDGE, n, path, checks=n >= 64),
        _models(work, [training]),
    )


def _models(work: Work, trained: list[Training]) -> list[Path]:
    return [work.out / "models" / f"{training.name}.pt" for training in trained]


def _transfer(work: Work, trained: list[Training], attack, sources, path: Path) -> None:
    work.transfer(trained, attack, sources, path)


def settings(scale: Scale, args: argparse.Namespace) -> dict[str, object]:
    """Return everything that the results depend on, in words and numbers."""
    data: object = f"simulated, version {VERSION} of the simulation, seed 0"
    if args.data is not None:
        data = {"file": args.data.name, "bytes": args.data.stat().st_size}
    return {
        "scale": {"name": args.scale, **dataclasses.asdict(scale)},
        "data": data,
        "trainings": {t.name: repr(t) for t in trainings(scale)},
        "machine": f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"{'CUDA' if torch.cuda.is_available() else 'CPU'}",
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Do every step that is not done yet, then draw and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--data", type=Path, help=".npz of Pasquet et al. 2019; else simulated")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"), help="folder of results")
    args = parser.parse_args(argv)
    scale = SCALES[args.scale]
    same_settings(args.out, settings(scale, args))
    work = Work(scale, Galaxies(scale, args.data), args.out)
    run(plan(work), args.out, after=partial(write_report, args.out))
    from paper.figures import draw_all

    with claimed(args.out / ".locks" / "figures", wait=True):
        draw_all(work)
        write_report(args.out)
    print(f"The report: {args.out / 'report.md'}")


if __name__ == "__main__":
    keep_freed_memory()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nStopped. Finished epochs and steps are kept; start again to go on.")
