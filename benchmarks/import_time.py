"""What `import advphotoz` costs beside `import torch`, in processes of their own.

    python benchmarks/import_time.py [--rounds 15] [--json FILE]

Each round starts Python, imports torch, then advphotoz, and reads after each the seconds that the
processor has worked for this process, user and system: other programs on the machine disturb these
less than the clock, which stands beside them. Printed are medians over rounds. Bytecode is cached,
as pip leaves it; a first round that does not count writes it and fills the system's cache of files.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from _common import environment, markdown, write_json

CODE = """
from time import perf_counter, process_time
a = process_time(), perf_counter()
import torch
b = process_time(), perf_counter()
import advphotoz
c = process_time(), perf_counter()
print(b[0] - a[0], b[1] - a[1], c[0] - b[0], c[1] - b[1])
"""


def one_process() -> list[float]:
    """Return processor and clock seconds of torch, then those that advphotoz adds."""
    settings = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=settings, check=True, capture_output=True, text=True)
    return [float(value) for value in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.set_defaults(device="cpu")
    args = parser.parse_args()
    print(environment(), flush=True)
    one_process()
    rounds = [one_process() for _ in range(args.rounds)]
    middle = [statistics.median(values) for values in zip(*rounds, strict=True)]
    rows = {
        name: {"processor [s]": round(processor, 3), "clock [s]": round(clock, 3)}
        for name, processor, clock in (
            ("import torch", *middle[:2]),
            ("import advphotoz, after it", *middle[2:]),
        )
    }
    print(markdown(rows))
    write_json(args, seconds=rounds, medians=rows)


if __name__ == "__main__":
    main()
