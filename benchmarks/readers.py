"""Files larger than the memory allowed: each reader on a file that another library wrote.

    python benchmarks/readers.py [--gigabytes 1.5] [--limit 1.0] [--folder DIR] [--json FILE]

Writes HDF5 with h5py, FITS (one cube; one file per galaxy) with astropy, .npy with NumPy, and
tables as Parquet and CSV with pyarrow; pixels are random, and repeat. Then a process of its own,
whose memory is limited to less than the file (`RLIMIT_DATA`, Linux only), shows that reading the
whole file at once fails there, reads every galaxy in random order through a `DataLoader`, and
prints images per second and its largest resident size. Files are deleted at the end.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from _common import arguments, environment, markdown, peak_mib, write_json
from advphotoz.datasets import FITSCutouts, StoredCutouts, TableDataset

KINDS = ("npy", "hdf5", "hdf5, gzip", "fits cube", "fits per galaxy", "parquet", "csv")
BANDS, SIDE, STEP = 5, 64, 500
COLUMNS = 60  # of the tables; 7 are read


@functools.cache
def galaxies() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((STEP, BANDS, SIDE, SIDE), dtype="f4")


def write(kind: str, path: Path, size: float) -> None:
    steps = max(1, round(size / (STEP * BANDS * SIDE**2 * 4)))
    n = steps * STEP
    if kind == "npy":
        path.mkdir()
        held = np.lib.format.open_memmap(path / "cube.npy", "w+", "<f4", (n, BANDS, SIDE, SIDE))
        for k in range(steps):
            held[k * STEP : (k + 1) * STEP] = galaxies()
        held.flush()
        np.save(path / "z.npy", np.linspace(0, 1, n))
    elif kind.startswith("hdf5"):
        import h5py

        packed = {"compression": "gzip", "compression_opts": 1} if "gzip" in kind else {}
        with h5py.File(path, "w") as file:
            held = file.create_dataset(
                "cube", (n, BANDS, SIDE, SIDE), "f4", chunks=(1, BANDS, SIDE, SIDE), **packed
            )
            file["z"] = np.linspace(0, 1, n)
            for k in range(steps):
                held[k * STEP : (k + 1) * STEP] = galaxies()
    elif kind == "fits cube":
        from astropy.io import fits

        header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 4)])
        for axis, length in enumerate((SIDE, SIDE, BANDS, n), 1):
            header[f"NAXIS{axis}"] = length
        stream = fits.StreamingHDU(path, header)
        for _ in range(steps):
            stream.write(galaxies())
        stream.close()
    elif kind == "fits per galaxy":
        from astropy.io import fits

        path.mkdir()
        for k in range(steps):
            for number, image in enumerate(galaxies()):
                hdu = fits.PrimaryHDU(image)
                hdu.header["Z"] = (k * STEP + number) / n
                hdu.writeto(path / f"{k * STEP + number}.fits")
    else:
        write_table(kind, path, size)


def write_table(kind: str, path: Path, size: float) -> None:
    import pyarrow
    from pyarrow import csv, parquet

    rows = 20_000
    names = ["z", "EBV", "u", "g", "r", "i", "zmag", *(f"c{k}" for k in range(COLUMNS - 7))]
    rng = np.random.default_rng(0)
    piece = pyarrow.table({name: rng.random(rows) for name in names})
    if kind == "parquet":
        with parquet.ParquetWriter(path, piece.schema) as writer:
            for _ in range(round(size / piece.nbytes)):
                writer.write_table(piece)
    else:
        with csv.CSVWriter(path, piece.schema) as writer:
            for _ in range(round(size / (2.4 * piece.nbytes))):  # 19 characters for 8 bytes
                writer.write_table(piece)


def whole_file(kind: str, path: Path) -> Callable[[], Any]:
    """Return the call that reads everything at once."""
    if kind == "npy":
        return lambda: np.load(path / "cube.npy")
    if kind.startswith("hdf5"):
        import h5py

        return lambda: h5py.File(path)["cube"][()]
    if kind == "fits cube":
        from astropy.io import fits

        return lambda: np.array(fits.getdata(path), dtype="f4")
    if kind == "fits per galaxy":
        from astropy.io import fits

        return lambda: np.stack([np.array(fits.getdata(p)) for p in path.iterdir()])
    from pyarrow import csv, parquet

    if kind == "parquet":  # with threads it waits for ever where one cannot have its memory
        return lambda: parquet.read_table(path, use_threads=False)
    return lambda: csv.read_csv(path, read_options=csv.ReadOptions(use_threads=False))


def whole_under_limit(kind: str, path: Path) -> None:
    """Try to read everything at once, and print what comes of it."""
    try:
        whole_file(kind, path)()
    except Exception as error:  # MemoryError, or what a library makes of it
        print(json.dumps(f"fails: {type(error).__name__}"))
    else:
        print(json.dumps("fits into the limit"))


def stream_under_limit(kind: str, path: Path) -> None:
    """Read all galaxies, and print how many per second and the peak in MiB."""
    before = peak_mib()
    start = time.perf_counter()
    if kind in ("parquet", "csv"):
        data: Any = TableDataset(path, ["u", "g", "r", "i", "zmag"], "z", context=["EBV"])
    else:
        source: Any = FITSCutouts(path, keywords=["Z"]) if kind == "fits per galaxy" else path
        image = {"fits cube": "PRIMARY", "fits per galaxy": "image"}.get(kind, "cube")
        table = None
        if kind == "fits cube":
            from astropy.io import fits

            table = {"z": np.linspace(0, 1, fits.getheader(path)["NAXIS4"])}
        data = StoredCutouts(
            source,
            image=image,
            labels=None,
            z="Z" if kind == "fits per galaxy" else "z",
            ebv=None,
            layout="NCHW",
            catalogue=table,
        )
    opened = time.perf_counter() - start
    start = time.perf_counter()
    count = 0
    if kind in ("parquet", "csv"):
        count = len(data)
        seconds = opened
    else:
        for batch in DataLoader(data, 64, shuffle=True):
            count += len(batch[0])
        seconds = time.perf_counter() - start
    print(json.dumps([count, count / seconds, opened, before, peak_mib()]))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.5, help="size of a file, in 10^9 B")
    parser.add_argument("--limit", type=float, default=1.0, help="memory of the process, GiB")
    parser.add_argument("--folder", type=Path, help="where files are written; default: /tmp")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        limit = int(args.limit * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        how, kind, path = args.only
        {"whole": whole_under_limit, "stream": stream_under_limit}[how](kind, Path(path))
        return

    def measured(how: str, kind: str, path: Path) -> Any:
        command = [sys.executable, __file__, "--limit", str(args.limit), "--only", how, kind]
        done = subprocess.run([*command, str(path)], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{how} {kind} failed:\n{done.stderr}")
        return json.loads(done.stdout.splitlines()[-1])

    print(environment(args.device))
    table: dict[str, dict[str, Any]] = {}
    for kind in args.kinds:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            ending = {"hdf5, gzip": ".hdf5", "fits cube": ".fits"}.get(kind, f".{kind}")
            path = Path(folder) / ("files" if kind in ("npy", "fits per galaxy") else f"a{ending}")
            write(kind, path, args.gigabytes * 1e9)
            size = sum(p.stat().st_size for p in (path.iterdir() if path.is_dir() else [path]))
            at_once = measured("whole", kind, path)
            count, rate, opened, before, peak = measured("stream", kind, path)
        table[kind] = {
            "file [GB]": size / 1e9,
            "rows": count,
            "rows/s": rate,
            "opened [s]": opened,
            "peak [MiB]": peak,
            "of it before [MiB]": before,
            "all at once": at_once,
        }
        print(f"{kind}: {table[kind]}", file=sys.stderr, flush=True)
    print(f"\n{markdown(table)}\n")
    write_json(args, limit_gib=args.limit, table=table)


if __name__ == "__main__":
    main()
