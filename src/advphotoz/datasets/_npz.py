"""Reading and writing .npz files so that none is ever half written or half read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from advphotoz._files import replacing

__all__ = ["read_npz", "write_npz"]


def write_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays to path; the file appears under its name when it is complete, or not at all."""
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_npz(path: Path, keys: Iterable[str], advice: str) -> dict[str, npt.NDArray[Any]]:
    """Return the named arrays of an .npz file, and those whose key starts with "catalogue.".

    Raises
    ------
    ValueError
        If the file is no complete .npz archive or lacks a key, with its name and the advice.
    """
    try:
        # Opened here, since np.load leaves the file open when it fails.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise TypeError("it holds a single array")
            extra = [key for key in archive.files if key.startswith("catalogue.")]
            missing = [key for key in keys if key not in archive.files]
            if missing:
                raise KeyError(f"it has no {missing[0]!r} among its keys {archive.files}")
            return {key: archive[key] for key in (*keys, *extra)}
    except FileNotFoundError:
        raise
    except Exception as error:  # a broken archive can raise almost anything
        reason = error.args[0] if error.args else type(error).__name__
        raise ValueError(f"{path} cannot be read as an .npz file: {reason}; {advice}") from error
