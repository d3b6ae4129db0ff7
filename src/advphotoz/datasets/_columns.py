"""Columns of numbers beside stored images, from a record array or from one array each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advphotoz.datasets._stored import read_array, read_header

__all__ = ["array_columns", "record_columns"]


def record_columns(path: Path, name: str, rows: int) -> dict[str, Tensor]:
    """Return the columns of numbers of a record array with `rows` rows."""
    table = read_array(path, name)
    if table.dtype.names is None or table.shape != (rows,):
        raise ValueError(
            f"{name!r} in {path} must be a record array with named columns and {rows} rows, got "
            f"{table.dtype} of shape {table.shape}; pass labels=None where each column is an "
            "array of its own"
        )
    return _numbers({field: table[field] for field in table.dtype.names})


def array_columns(path: Path, names: Iterable[str], rows: int) -> dict[str, Tensor]:
    """Return those arrays that are columns: numbers, `rows` rows, one or two dimensions."""
    columns = {}
    for name in names:
        shape, _ = read_header(path, name)
        if len(shape) in (1, 2) and shape[0] == rows:
            columns[name.removeprefix("catalogue.")] = read_array(path, name)
    return _numbers(columns)


def _numbers(columns: dict[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    """Return numbers as float32, or as int64 where they are whole: they may be identifiers."""
    found = {}
    for name, column in columns.items():
        kind = column.dtype.kind
        if kind == "f":
            with np.errstate(over="ignore"):
                found[name] = torch.from_numpy(column.astype(np.float32))
        # torch has no whole numbers beyond those of int64.
        elif kind == "i" or (kind == "u" and column.max() <= np.iinfo(np.int64).max):
            found[name] = torch.from_numpy(column.astype(np.int64))
    return found
