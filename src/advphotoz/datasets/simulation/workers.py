"""Drawing chunks of galaxies, one file each, in this process or in worker processes.

The processes are plain `python -c` ones rather than `multiprocessing`'s: fork copies torch's
threads and locks in an unknown state, and spawn and forkserver import the caller's script a second
time, which breaks every script without an `if __name__ == "__main__"` guard.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advphotoz.datasets.npy_files import write_npz
from advphotoz.datasets.simulation.drawing import draw_row

__all__ = ["Chunk", "draw_chunks", "work"]

START = (
    "import json, sys; job = json.load(sys.stdin); sys.path[:] = job.pop('path'); "
    "from advphotoz.datasets.simulation.workers import work; work(**job)"
)


class Chunk(NamedTuple):
    """Galaxies start to stop (excluded), and the file that holds them."""

    start: int
    stop: int
    file: str


def draw_chunk(settings: dict[str, Any], chunk: Chunk, done: Callable[[int], object]) -> None:
    """Draw the galaxies of one chunk and write its file; done(1) is called after each galaxy."""
    rows = []
    for index in range(chunk.start, chunk.stop):
        rows.append(draw_row(index=index, **settings))
        done(1)
    write_npz(Path(chunk.file), {name: np.stack([row[name] for row in rows]) for name in rows[0]})


def work(settings: dict[str, Any], chunks: Sequence[Sequence[Any]]) -> None:
    """Draw chunks in a worker process: one character to stdout for each galaxy."""

    def done(_: int) -> None:
        sys.stdout.write(".")
        sys.stdout.flush()

    # Leave by way of `finally`, so that no unfinished file stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        for chunk in chunks:
            draw_chunk(settings, Chunk(*chunk), done)
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(1)  # the parent is going or gone, and tells the user itself


def draw_chunks(
    settings: dict[str, Any], chunks: Sequence[Chunk], workers: int, done: Callable[[int], object]
) -> None:
    """Draw chunks with up to `workers` processes; done(k) is called when k more are drawn.

    Raises
    ------
    RuntimeError
        If a process fails, with the end of what it wrote.
    """
    workers = min(workers, len(chunks))
    if workers <= 1:
        for chunk in chunks:
            draw_chunk(settings, chunk, done)
        return
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    read, write = os.pipe()
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as errors, os.fdopen(read, "rb", buffering=0) as progress:
        try:
            try:
                for k in range(workers):
                    process = subprocess.Popen(
                        [sys.executable, "-c", START],
                        stdin=subprocess.PIPE,
                        stdout=write,
                        stderr=errors,
                        env={**os.environ, **one_thread},
                    )
                    processes.append(process)
                    job = {"path": sys.path, "settings": settings, "chunks": chunks[k::workers]}
                    assert process.stdin is not None
                    # A process that died at once is reported below, by its exit status.
                    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
                        stdin.write(json.dumps(job).encode())
            finally:
                os.close(write)
            # Ends when every process has closed its end.
            while finished := progress.read(4096):
                done(len(finished))
            codes = [process.wait() for process in processes]
        finally:
            for process in processes:
                process.terminate()
                process.wait()
        if any(codes):
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise RuntimeError(
                f"a simulating process failed with exit status {next(filter(None, codes))}: "
                f"{said[-1] if said else 'it said nothing'}; "
                "finished chunks are kept, call again to continue, with workers=1 for a traceback"
            )
