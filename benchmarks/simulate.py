"""How long simulated galaxies take: one process, all cores, and reading them back.

    python benchmarks/simulate.py [--galaxies 1500]

Times are wall clock. The first galaxy pays for imports, templates and filter curves; so does each
process of the parallel run.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import numpy as np

from advphotoz.datasets import simulate
from advphotoz.datasets.simulation.drawing import draw_row
from advphotoz.datasets.simulation.sample import available_cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--galaxies", type=int, default=1500)
    n = parser.parse_args().galaxies

    start = time.perf_counter()
    draw_row(0, 0, 17.8, 64)
    print(f"first galaxy, tables and imports   {time.perf_counter() - start:8.2f} s")

    times = []
    for index in range(min(n, 400)):
        start = time.perf_counter()
        draw_row(0, index, 17.8, 64)
        times.append(1e3 * (time.perf_counter() - start))
    median, late = np.quantile(times, [0.5, 0.99])
    print(f"one galaxy, one process            {np.mean(times):8.2f} ms", end="")
    print(f" (median {median:.2f}, 99 % {late:.2f})")

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        simulate(n, cache_dir=folder, progress=False)
        wall = time.perf_counter() - start
        print(f"{n} galaxies, {available_cores()} processes         {wall:8.2f} s", end="")
        print(f" ({1e3 * wall / n:.2f} ms each)")
        start = time.perf_counter()
        simulate(n, cache_dir=folder, progress=False)
        print(f"{n} galaxies, from the cache      {time.perf_counter() - start:8.2f} s")


if __name__ == "__main__":
    main()
