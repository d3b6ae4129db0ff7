"""What the survey question costs: time against plain inference, steps needed, memory.

    python benchmarks/survey.py [--galaxies 2000] [--network runs/demo/classical.pt] [--json FILE]

Images are made batch by batch, so that any number of galaxies can pass: a bright disk of random
fluxes on noise, or with `--network` the simulated galaxies that the demo's network was trained for.
Per effect: the time of a gradient step over that of plain inference of the same galaxies, both
measured in this process and interleaved; after how many steps every search (all galaxies and four
bins, both signs) has reached 99 % of where it ended; the gradients and forward passes per galaxy
of the whole question. Then the peak memory of a process that asks it, for this many galaxies and
for four times as many.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from _common import (
    BINS,
    environment,
    fresh_process,
    interleaved,
    markdown,
    median_ratio,
    peak_mib,
    same,
    write_json,
)
from advphotoz import Compose, PSFWidth, Shift, SkyLevel, ZeroPoint, models
from advphotoz.perturbations import PerturbationSet
from advphotoz.survey import WorstSystematic, worst_systematic
from advphotoz.survey.sample import surveyed

SKY_NOISE = (0.043, 0.016, 0.023, 0.039, 0.18)
FWHM = (1.53, 1.44, 1.32, 1.26, 1.29)
SINGLE: dict[str, PerturbationSet] = {
    "zero points": ZeroPoint([0.02, 0.01, 0.01, 0.01, 0.01]),
    "sky 0.1 sigma": SkyLevel([0.1 * sigma for sigma in SKY_NOISE]),
    "PSF width 1 %": PSFWidth(0.01, FWHM, 0.396),
    "registration 0.1 pixel": Shift([0.04, 0.04, 0.0, 0.04, 0.04], 0.396),
}
EFFECTS = {**SINGLE, "all together": Compose(*SINGLE.values())}
BINS_OF_Z = 4


class Galaxies:
    """A loader that makes its galaxies anew at every pass, the same each time."""

    def __init__(self, count: int, batch: int, size: int) -> None:
        self.count, self.batch, self.size = count, batch, size

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        middle = torch.arange(self.size) - self.size / 2
        disk = (-(middle[:, None] ** 2 + middle**2) / (2 * (self.size / 10) ** 2)).exp()
        noise = torch.tensor(SKY_NOISE).view(1, 5, 1, 1)
        for start in range(0, self.count, self.batch):
            generator = torch.Generator().manual_seed(start)
            n = min(self.batch, self.count - start)
            flux = 3 * torch.rand(n, 5, 1, 1, generator=generator)
            pixels = torch.randn(n, 5, self.size, self.size, generator=generator)
            ebv, z = (scale * torch.rand(n, generator=generator) for scale in (0.1, 0.4))
            yield flux * disk + noise * pixels, ebv, z


def made(args: argparse.Namespace, galaxies: int) -> tuple[nn.Module, Any]:
    """Return the network and the loader."""
    torch.manual_seed(0)
    model = models.cnn(image_size=args.size, width=args.width).eval()
    if args.network is None:
        return model, Galaxies(galaxies, args.batch, args.size)
    from torch.utils.data import DataLoader

    from advphotoz.datasets import simulate

    model.load_state_dict(torch.load(args.network, weights_only=True)["model"])
    return model, DataLoader(simulate(galaxies, seed=1, size=args.size), args.batch)


def asked(model: nn.Module, loader: Any, perturbations: PerturbationSet) -> WorstSystematic:
    """Ask the whole question."""
    return worst_systematic(model, loader, perturbations, BINS, BINS_OF_Z, progress=False)


def gradient_step(model: nn.Module, batches: list[Any], perturbations: PerturbationSet) -> None:
    """Compute one gradient per galaxy, as a step of the search does."""
    with surveyed(model, batches, perturbations, BINS, None, None, 0, False) as sample:
        for batch in sample._batches(""):
            with sample.opened(batch) as problem:
                sample.value_and_gradient(problem, perturbations.identity(problem.x))


def inference(model: nn.Module, batches: list[Any]) -> None:
    """Show every galaxy to the network once."""
    with torch.inference_mode():
        for *inputs, _ in batches:
            model(*inputs)


def steps_to_99(result: WorstSystematic) -> list[int]:
    """Return after how many steps each search had 99 % of what it ended with."""
    return [
        next(k for k, value in enumerate(s.trace, 1) if abs(value) >= 0.99 * abs(s.trace[-1]))
        for s in result.shifts
        if s.trace
    ]


def main() -> None:
    """Measure every effect, then the memory."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--galaxies", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--width", type=float, default=0.35)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu"])
    parser.add_argument("--network", type=Path, help="a checkpoint of the demo")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", type=int, help="internal: ask for this many and print the memory")
    args = parser.parse_args()
    if args.only is not None:
        model, loader = made(args, args.only)
        asked(model, loader, EFFECTS["all together"])
        print(peak_mib())
        return

    model, loader = made(args, args.galaxies)
    timed = [batch for batch, _ in zip(loader, range(5), strict=False)]
    variants = {"inference": lambda _: inference(model, timed)}
    for name, perturbations in EFFECTS.items():
        variants[name] = lambda _, p=perturbations: gradient_step(model, timed, p)
    seconds = interleaved(variants, args.rounds)
    count = sum(len(batch[0]) for batch in timed)
    rows: dict[str, dict[str, Any]] = {}
    for name, perturbations in EFFECTS.items():
        start = time.perf_counter()
        result = asked(model, loader, perturbations)
        steps = steps_to_99(result)
        rows[name] = {
            "parameters": len(result.parameters),
            "gradient / inference": median_ratio(seconds[name], seconds["inference"]),
            "steps to 99 %, most": max(steps, default=0),
            "searches": f"{len(steps)}, {sum(s.converged for s in result.shifts)} converged",
            "reads": result.settings["reads"],
            "gradients per galaxy": result.settings["gradients"],
            "passes per galaxy": result.settings["forwards"],
            "whole, s": time.perf_counter() - start,
        }
        print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    inferred = 1e3 * min(seconds["inference"]) / count
    print(f"{environment()}\n\nPlain inference: {inferred:.3g} ms per galaxy.\n\n{markdown(rows)}")
    memory = {}
    for galaxies in (args.galaxies, 4 * args.galaxies):
        options = [*same(args, "batch", "size", "width"), "--only", galaxies]
        memory[str(galaxies)] = fresh_process(__file__, options)
    print(f"\nPeak memory by the number of galaxies, MiB: {memory}")
    write_json(args, rows=rows, ms_per_galaxy=inferred, memory=memory)


if __name__ == "__main__":
    main()
