"""Does reading galaxies from a file starve training, and how much memory does it take?

    python benchmarks/reading.py [--gigabytes 5] [--limit 1.5] [--folder DIR] [--json FILE]

Writes a file in the layout of Pasquet et al. 2019, pixels tiled from simulated galaxies, and
deletes it at the end. Times `StoredCutouts` alone, random batches from the system's cache and from
the disk, and a training from memory beside one from the file. Then a process of its own, whose
memory is limited to less than the file, reads all of it, trains and evaluates (Linux only).
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from _common import (
    BINS,
    EPS,
    arguments,
    environment,
    fresh_process,
    markdown,
    peak_mib,
    same,
    write_json,
)
from advphotoz import FGSM, AdversarialTrainer, CrossEntropy, evaluate, models
from advphotoz.datasets import StoredCutouts, simulate

TILE = 512  # simulated galaxies, repeated until the file is full


def write_file(path: Path, gigabytes: float) -> None:
    """Write `cube` (N, 64, 64, 5) and `labels` piece by piece."""
    tile = simulate(TILE, seed=0)
    pixels = np.ascontiguousarray(tile.image.numpy().transpose(0, 2, 3, 1))
    n = max(1, round(gigabytes * 1e9 / pixels.nbytes)) * TILE
    labels = np.zeros(n, [("z", "f4"), ("EBV", "f4"), ("dered_petro_r", "f4"), ("class", "U6")])
    labels["z"] = np.resize(tile.z.numpy(), n)
    labels["EBV"] = np.resize(tile.ebv.numpy(), n)
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("cube.npy", "w", force_zip64=True) as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (n, *pixels.shape[1:])}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(n // TILE):
                file.write(pixels)
        with archive.open("labels.npy", "w") as file:
            np.save(file, labels)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def trainer(args: argparse.Namespace, fraction: float = 0.0) -> AdversarialTrainer:
    torch.manual_seed(0)
    model = getattr(models, args.model)(n_bins=BINS.n, width=args.width).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    dtype = torch.bfloat16 if args.autocast else None
    return AdversarialTrainer(
        model, optimizer, FGSM(EPS), fraction, CrossEntropy(BINS), autocast=dtype
    )


def per_second(loader: DataLoader, use: Callable = lambda batch: None) -> float:
    """Return images per second from the first batch on, the start of workers left out."""
    count, start = 0, 0.0
    for batch in loader:
        use(batch)
        if not start:
            start = time.perf_counter()
        else:
            count += len(batch[0])
    return count / (time.perf_counter() - start)


def reading(data: StoredCutouts, batch: int, rows: list[int]) -> float:
    """Return images per second of random batches in this process, made ready for a network."""
    start = time.perf_counter()
    for low in range(0, len(rows), batch):
        default_collate(data.__getitems__(rows[low : low + batch]))
    return len(rows) / (time.perf_counter() - start)


def evict(path: Path) -> None:
    """Take the file out of the system's cache, so that it is read from the disk again."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rates(args: argparse.Namespace, path: Path) -> dict[str, list[float]]:
    data = StoredCutouts(path)
    pick = torch.Generator().manual_seed(0)
    steps = trainer(args)

    def some(n: int) -> torch.Tensor:
        return torch.randint(len(data), (n,), generator=pick)

    def loader(part: Dataset, workers: int) -> DataLoader:
        return DataLoader(part, args.batch, shuffle=True, num_workers=workers, drop_last=True)

    held = data.subset(some(args.train)).load()
    found: dict[str, list[float]] = {}
    for number in range(args.rounds + 1):
        rows = some(args.read).tolist()
        evict(path)
        now = {"read, from the disk": reading(data, args.batch, rows)}
        now["read, cached"] = reading(data, args.batch, rows)
        for workers in (0, 1):
            now[f"loader, {workers} workers, cached"] = per_second(
                loader(data.subset(rows), workers)
            )
        now["training from memory"] = per_second(loader(held, 0), steps.step)
        for workers in (0, 1):
            evict(path)
            now[f"training from the disk, {workers} workers"] = per_second(
                loader(data.subset(some(args.train)), workers), steps.step
            )
        if number:  # the first round does what is done once
            for name, value in now.items():
                found.setdefault(name, []).append(value)
        print(f"round {number} of {args.rounds}: {now}", file=sys.stderr, flush=True)
    return found


def under_limit(args: argparse.Namespace, path: Path, few: bool) -> None:
    """Read all, train and evaluate with limited memory, and print the peak in MiB."""
    limit = int(args.limit * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        np.load(path)["cube"]
        sys.exit("the limit does not keep the file from being read as a whole")
    except MemoryError:
        pass
    data = StoredCutouts(path)
    for _ in DataLoader(data.subset(range(args.batch)) if few else data, args.batch):
        pass
    shuffled, _ = data.split(0.5, 0.5)
    n = args.batch if few else args.train
    part = shuffled.subset(range(n))
    training = trainer(args, 0.2)
    training.fit(DataLoader(part, args.batch, num_workers=1), epochs=1, progress=False)
    evaluate(training.model, DataLoader(part, args.batch), [FGSM(EPS)], BINS, progress=False)
    print(peak_mib())


def main() -> None:
    parser = arguments(__doc__)
    parser.set_defaults(model="cnn")
    parser.add_argument("--autocast", choices=["bf16"], help="mixed precision; default: float32")
    parser.add_argument("--gigabytes", type=float, default=5.0, help="size of the file, in 10^9 B")
    parser.add_argument("--limit", type=float, default=1.5, help="memory of the process, GiB")
    parser.add_argument("--folder", type=Path, help="where the file is written; default: /tmp")
    parser.add_argument("--read", type=int, default=4096, help="images per timing of reading")
    parser.add_argument("--train", type=int, default=640, help="images per timing of training")
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        under_limit(args, Path(args.only[0]), args.only[1] == "few")
        return

    print(environment(args.device))
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "galaxies.npz"
        write_file(path, args.gigabytes)
        size = path.stat().st_size
        print(f"{path.name}: {size / 1e9:.2f} GB, {len(StoredCutouts(path))} galaxies")
        found = rates(args, path)
        options = same(args, "model", "width", "batch", "limit", "train", "autocast")
        peaks = {
            f"{how} of the file": fresh_process(__file__, [*options, "--only", path, how])
            for how in ("few", "all")
        }
    megabyte = 64 * 64 * 5 * 4 / 1e6
    table = {
        name: {
            "images/s": statistics.median(values),
            "MB/s": statistics.median(values) * megabyte,
            "lowest to highest": f"{min(values):,.0f} to {max(values):,.0f}",
        }
        for name, values in found.items()
    }
    print(f"\n{markdown(table)}\n")
    print(f"Largest resident size with {args.limit} GiB allowed:")
    for name, peak in peaks.items():
        print(f"  {name}: {peak:.0f} MiB")
    write_json(args, size=size, images_per_second=found, table=table, peak_mib=peaks)


if __name__ == "__main__":
    main()
