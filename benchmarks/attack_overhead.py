"""PGD-10 beside a bare loop of the same forward and input-gradient calls: time and peak memory.

    python benchmarks/attack_overhead.py [--model inception] [--batch 64] [--rounds 5] [--json FILE]

Times are taken in one process, the variants interleaved, and compared by the median of the ratios
within a round: the machine's speed drifts, the ratio does not. Peak memory is the largest resident
size of a process that runs one variant and nothing else, less that of one that only builds the
network and the batch (Linux only).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from advphotoz import PGD, CrossEntropy, LinfBall, RedshiftBins, models

BINS = RedshiftBins(0.0, 1.0, 180)
STEPS = 10


def build(name: str, batch: int) -> tuple[torch.nn.Module, Tensor, Tensor, Tensor]:
    """Return an eval-mode network with every weight trainable, and a random batch."""
    torch.manual_seed(0)
    model = getattr(models, name)().eval()
    return model, torch.randn(batch, 5, 64, 64), torch.rand(batch), torch.rand(batch)


def bare(model: torch.nn.Module, x: Tensor, ebv: Tensor, z: Tensor) -> Tensor:
    """Sum up what any PGD must do: ten forward passes, ten input gradients, ten additions."""
    index, start = BINS.index(z), x
    for _ in range(STEPS):
        x = x.detach().requires_grad_()
        loss = torch.nn.functional.cross_entropy(model(x, ebv), index, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x)
        x = start + (x.detach() + 0.001 * grad.sign() - start).clamp_(-0.01, 0.01)
    return x.detach()


def bare_frozen(model: torch.nn.Module, x: Tensor, ebv: Tensor, z: Tensor) -> Tensor:
    """Do the same with weights that require no gradient, as our attack sets them."""
    model.requires_grad_(False)
    try:
        return bare(model, x, ebv, z)
    finally:
        model.requires_grad_(True)


def ours(model: torch.nn.Module, x: Tensor, ebv: Tensor, z: Tensor) -> Tensor:
    """Run the library's PGD."""
    attack = PGD(LinfBall(0.01), steps=STEPS, objective=CrossEntropy(BINS))
    return attack(model, x, z, context=(ebv,))


def nothing(model: torch.nn.Module, x: Tensor, ebv: Tensor, z: Tensor) -> Tensor:
    """Run one forward pass without gradients, for the memory that is there anyway."""
    with torch.no_grad():
        model(x[:1], ebv[:1])
    return x


VARIANTS: dict[str, Callable[..., Tensor]] = {
    "bare": bare,
    "bare, weights frozen": bare_frozen,
    "advphotoz": ours,
}


def timed(args: argparse.Namespace) -> dict[str, list[float]]:
    """Return seconds per variant and round, interleaved, in an order that rotates."""
    inputs = build(args.model, args.batch)
    for function in VARIANTS.values():
        function(inputs[0], *(value[:2] for value in inputs[1:]))  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    names = list(VARIANTS)
    for number in range(args.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = time.perf_counter()
            VARIANTS[name](*inputs)
            seconds[name].append(time.perf_counter() - start)
        print(f"round {number + 1}:", {k: round(v[-1], 2) for k, v in seconds.items()}, flush=True)
    return seconds


def peak_resident() -> float:
    """Return this process's peak resident size in MiB (ru_maxrss would count the parent's too)."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return float(line.split()[1]) / 1024


def peak_memory(args: argparse.Namespace, name: str) -> float:
    """Return the peak resident size in MiB of a fresh process that runs one variant."""
    command = [sys.executable, __file__, "--model", args.model, "--batch", str(args.batch)]
    done = subprocess.run([*command, "--only", name], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print the environment and the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="inception", choices=["inception", "cnn"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        {**VARIANTS, "nothing": nothing}[args.only](*build(args.model, args.batch))
        print(peak_resident())
        return

    environment = (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.machine()}, "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )
    print(f"{environment}; {args.model}, batch {args.batch}, PGD-{STEPS}, float32")
    seconds = timed(args)
    floor = peak_memory(args, "nothing")
    rows = {}
    for name in VARIANTS:
        ratios = [a / b for a, b in zip(seconds[name], seconds["bare"], strict=True)]
        rows[name] = {
            "seconds": statistics.median(seconds[name]),
            "ratio_to_bare": statistics.median(ratios),
            "peak_mib": peak_memory(args, name) - floor,
        }
    print(f"\n{'':22}{'seconds':>9}{'ratio':>8}{'peak MiB':>10}")
    for name, row in rows.items():
        print(f"{name:22}{row['seconds']:9.2f}{row['ratio_to_bare']:8.3f}{row['peak_mib']:10.0f}")
    if args.json:
        result = {"environment": environment, "settings": vars(args), "rows": rows}
        args.json.write_text(json.dumps({**result, "seconds": seconds}, indent=2, default=str))


if __name__ == "__main__":
    main()
