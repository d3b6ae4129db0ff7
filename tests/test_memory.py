"""Freed memory, kept by the process: in processes of their own, since it cannot be undone."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from advphotoz import keep_freed_memory, memory

FAULTS = """
import resource, torch, advphotoz
kept = advphotoz.keep_freed_memory() if {keep} else None
torch.set_num_threads(1)
def count(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): torch.zeros(2**24) + 1
before = count()
for _ in range(10): torch.zeros(2**24) + 1
print(kept, count() - before)
"""


def faults(keep: bool) -> tuple[str, int]:
    """Return what the function said, and the pages fetched by 20 tensors of 64 MiB."""
    pytest.importorskip("resource")
    code = FAULTS.format(keep=keep)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kept, number = done.stdout.split()
    return kept, int(number)


def test_freed_blocks_are_not_fetched_again():
    kept, after = faults(keep=True)
    if kept == "False":
        pytest.skip("the C library is not glibc")
    _, before = faults(keep=False)
    assert after < 0.2 * before


@pytest.mark.parametrize("library", [SimpleNamespace(), SimpleNamespace(mallopt=lambda *_: 1 / 0)])
def test_another_c_library_is_left_alone(library, monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: library)
    assert keep_freed_memory() is False
