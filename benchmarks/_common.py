"""What the benchmarks share: the environment, interleaved timing, peak memory, tables and JSON.

Times are taken in one process, the variants interleaved in an order that rotates, and compared by
the median of the ratios within a round: the machine's speed drifts, the ratio does not. Peak memory
is the largest resident size of a process that runs one variant and nothing else (Linux only), or
what PyTorch allocated on the GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from advphotoz import PGD, LinfBall, RedshiftBins, RedshiftError, SignedRedshift, WorstOf, models

BINS = RedshiftBins(0.0, 1.0, 180)
EPS, STEP_SIZE, STEPS = 0.01, 0.001, 10

# Settings of the system that change times or memory; printed where they are set.
SETTINGS = (
    "MALLOC_MMAP_THRESHOLD_ MALLOC_MMAP_MAX_ MALLOC_TRIM_THRESHOLD_ GLIBC_TUNABLES LD_PRELOAD "
    "OMP_WAIT_POLICY ONEDNN_MAX_CPU_ISA ONEDNN_DEFAULT_FPMATH_MODE"
).split()


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark of a network has."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--model", default="inception", choices=["inception", "cnn"])
    parser.add_argument("--width", type=float, default=1.0, help="of the network; 1: the paper's")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path)
    return parser


def environment(device: str = "cpu") -> str:
    """Return one line: versions, chip, threads, and whatever was set to change the speed."""
    chip, bf16 = platform.processor() or platform.machine(), "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(
            line.split("\t", 1) for line in cpuinfo.read_text().splitlines() if "\t" in line
        )
        chip = fields.get("model name", chip).strip(" :\t")
        flags = fields.get("flags", "").split()
        bf16 = next((flag for flag in ("amx_bf16", "avx512_bf16") if flag in flags), "none")
    parts = [
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
        f"{chip} ({torch.get_num_threads()} threads, bf16 instructions: {bf16})",
    ]
    if device != "cpu":
        tf32 = "on" if torch.backends.cudnn.allow_tf32 else "off"
        parts.append(f"{torch.cuda.get_device_name(device)} (TF32 in convolutions {tf32})")
    for name in SETTINGS:
        if value := os.environ.get(name):
            parts.append(f"{name}={Path(value).name}")
    return ", ".join(parts)


def build(args: argparse.Namespace, image_size: int = 64) -> tuple[nn.Module, Tensor, ...]:
    """Return an eval-mode network, every weight trainable, and a random batch x, ebv, z."""
    torch.manual_seed(0)
    model = getattr(models, args.model)(image_size=image_size, width=args.width).eval()
    x = torch.randn(args.batch, 5, image_size, image_size)
    z = torch.rand(args.batch)
    ebv = torch.rand(args.batch) / 10
    return tuple(value.to(args.device) for value in (model, x, ebv, z))


def signed(search: Callable[..., Any] = PGD, **settings: Any) -> WorstOf:
    """Return two searches, for a larger redshift and for a smaller; of each galaxy the worse."""
    pair = (
        search(LinfBall(EPS), objective=SignedRedshift(BINS, sign), **settings) for sign in (1, -1)
    )
    return WorstOf(tuple(pair), objective=RedshiftError(BINS))


def bare(model: Callable[..., Tensor], x: Tensor, index: Tensor, steps: int = STEPS) -> Tensor:
    """Sum up what any PGD must do: forward passes, input gradients, steps back into the ball."""
    start = x
    for _ in range(steps):
        x = x.detach().requires_grad_()
        loss = nn.functional.cross_entropy(model(x), index, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x)
        x = start + (x.detach() + STEP_SIZE * grad.sign() - start).clamp_(-EPS, EPS)
    return x.detach()


def synchronize(device: str) -> None:
    """Wait for the GPU, if it is one."""
    if device != "cpu":
        torch.cuda.synchronize(device)


def interleaved(
    variants: Mapping[str, Callable[[int], Any]], rounds: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Return seconds per variant and round, after one round that is not counted.

    Each variant is called with the number of the round. The first round does what is done once:
    compiling, choosing kernels, filling the allocator.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(-1, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            synchronize(device)
            start = time.perf_counter()
            variants[name](max(number, 0))
            synchronize(device)
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
        last = {name: float(f"{v[-1]:.3g}") for name, v in seconds.items() if v}
        print(f"round {number + 1} of {rounds}: {last or 'warm up'}", file=sys.stderr, flush=True)
    return seconds


def median_ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """Return the median over rounds of one variant's seconds over another's."""
    return statistics.median(a / b for a, b in zip(seconds, reference, strict=True))


def peak_mib(device: str = "cpu") -> float:
    """Return the peak memory so far in MiB: resident on the CPU, allocated on a GPU."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Not ru_maxrss, which would count the parent's too.
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return float(line.split()[1]) / 1024


def same(args: argparse.Namespace, *names: str) -> list[object]:
    """Return the options with which a script starts itself again; one that is None is left out."""
    found = {name: getattr(args, name) for name in names}
    return [x for name, value in found.items() if value is not None for x in (f"--{name}", value)]


def fresh_process(script: str, options: Iterable[object]) -> float:
    """Run a script in a process of its own, and return the last number that it prints."""
    command = [sys.executable, script, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return float(done.stdout.split()[-1])


def matmul_rate(dtype: torch.dtype, device: str = "cpu", repeats: int = 10) -> float:
    """Return the FLOP/s of the best of some products of two large square matrices."""
    n = 2048 if device == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    best = float("inf")
    for _ in range(repeats + 2):  # the best also leaves the first, slow ones out
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * n**3 / best


def gradient_flops(model: nn.Module, x: Tensor, ebv: Tensor) -> int:
    """Count the FLOPs of one forward pass and input gradient of one image, weights frozen."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        model(x[:1].detach().requires_grad_(), ebv[:1]).sum().backward()
    for parameter in trainable:
        parameter.requires_grad_(True)
    return counter.get_total_flops()


def markdown(rows: Mapping[str, Mapping[str, object]], first: str = "") -> str:
    """Return rows as a Markdown table, numbers to four digits."""
    columns = list(next(iter(rows.values())))
    lines = [f"| {first} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, row in rows.items():
        cells = [_cell(row[column]) for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.4g}"


def write_json(args: argparse.Namespace, **content: object) -> None:
    """Write settings and results to the file of --json, if one was asked for."""
    if not args.json:
        return
    settings = {
        name: value.name if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name not in ("json", "only")
    }
    body = {"environment": environment(args.device), "settings": settings, **content}
    args.json.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
