"""Fixtures and settings shared by every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

import advphotoz

ROOT = Path(__file__).resolve().parents[1]

# The same examples on every run, and no time limit for one: a loaded machine is not a failure.
settings.register_profile("advphotoz", deadline=None, derandomize=True)
settings.load_profile("advphotoz")


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """Return the folder that holds pyproject.toml."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real observations, or skip: it is not part of the repository."""
    named = os.environ.get("ADVPHOTOZ_SHARED")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if named and not folder.is_dir():
        pytest.fail(f"ADVPHOTOZ_SHARED names {folder}, which is not a folder")
    if not folder.is_dir():
        pytest.skip("no real data: ADVPHOTOZ_SHARED is not set and ../shared/data does not exist")
    return folder


@pytest.fixture(autouse=True)
def _torch_state() -> Iterator[None]:
    """Start every test from the same seed, and put the threads and the default dtype back."""
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a process: the package under test, one thread."""
    return {
        **os.environ,
        "PYTHONPATH": str(Path(advphotoz.__file__).parents[1]),  # the package under test
        "ADVPHOTOZ_CACHE": str(tmp_path_factory.mktemp("galaxies")),
        "OMP_NUM_THREADS": "1",
    }
