"""Columns of a catalogue: read as tensors, and matched to images by an identifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advphotoz._arrays import as_numpy

__all__ = ["as_columns", "fields", "match_rows", "numbers"]

EXACT = 2**24
"""Up to this size float32 holds every integer."""


def as_columns(table: Any, name: str = "catalogue") -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a dict, an astropy Table, a DataFrame or a record array as arrays.

    Raises
    ------
    TypeError
        If it is none of these.
    ValueError
        If it has no columns, or their lengths differ.
    """
    if isinstance(table, np.ndarray) and table.dtype.names is not None:
        found = fields(table)
    elif hasattr(table, "items"):
        found = {str(key): _array(value) for key, value in table.items()}
    else:
        raise TypeError(
            f"{name} must be a table: a dict of columns, an astropy Table, a DataFrame, a record "
            f"array, or the path of a file; got {type(table).__name__} (of pyarrow: to_pandas())"
        )
    lengths = {key: len(value) if value.ndim else 0 for key, value in found.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"{name} must have columns of one length, got {lengths}")
    return found


def _array(value: Any) -> npt.NDArray[Any]:
    if isinstance(value, Tensor):
        return as_numpy(value)
    if np.ma.isMaskedArray(value):
        return np.ma.MaskedArray(value)
    return np.asarray(value)


def fields(table: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a record array."""
    return {name: table[name] for name in table.dtype.names or ()}


def numbers(columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    """Return the columns of numbers: float32, or int64 where they are whole.

    Whole numbers may be identifiers, which float32 would round. A masked value becomes NaN. Text,
    booleans, and whole numbers beyond those of int64, which torch does not have, are left out.
    """
    found = {}
    for name, column in columns.items():
        kind = column.dtype.kind
        masked = np.ma.is_masked(column)
        plain = np.ma.getdata(column)
        if kind == "f" or (kind in "iu" and masked):
            with np.errstate(over="ignore"):
                wide = plain.astype(np.float64 if kind != "f" else np.float32)
            if masked:
                wide = np.where(np.ma.getmaskarray(column), np.nan, wide)
            small = kind == "f" or not (np.abs(wide) > EXACT).any()
            found[name] = torch.from_numpy(wide.astype(np.float32 if small else np.float64))
        elif kind == "i" or (kind == "u" and plain.max(initial=0) <= np.iinfo(np.int64).max):
            found[name] = torch.from_numpy(plain.astype(np.int64))
    return found


def match_rows(
    ours: npt.NDArray[Any], theirs: npt.NDArray[Any], names: tuple[str, str]
) -> npt.NDArray[np.int64]:
    """Return for each of our identifiers the row of theirs that is equal, or -1 for none.

    Whole numbers and text match where the text is that number in decimal digits.

    Raises
    ------
    TypeError
        If the identifiers are neither whole numbers nor text.
    ValueError
        If one of theirs is masked, or comes twice.
    """
    left, right = (
        _identifiers(ids, f"{name!r} of the {whose}")
        for ids, name, whose in zip((ours, theirs), names, ("images", "catalogue"), strict=True)
    )
    if left.dtype.kind != right.dtype.kind:
        left, right = left.astype(np.str_), right.astype(np.str_)
    order = np.argsort(right, kind="stable")
    ranked = right[order]
    twice = np.flatnonzero(ranked[1:] == ranked[:-1])
    if len(twice):
        raise ValueError(
            f"the identifiers {names[1]!r} of the catalogue must differ, but {len(twice)} come "
            f"again, such as {ranked[twice[0]]}; keep one row of each galaxy"
        )
    if not len(ranked):
        return np.full(len(left), -1, np.int64)
    place = np.minimum(np.searchsorted(ranked, left), len(ranked) - 1)
    return np.where(ranked[place] == left, order[place], -1).astype(np.int64)


def _identifiers(values: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    """Return identifiers as int64 or as text."""
    if values.ndim != 1:
        raise ValueError(f"{what} must hold one identifier per row, got shape {values.shape}")
    if np.ma.is_masked(values):
        row = int(np.flatnonzero(np.ma.getmaskarray(values))[0])
        raise ValueError(f"{what} is masked in row {row}; leave rows without an identifier out")
    plain = np.ma.getdata(values)
    kind = plain.dtype.kind
    if kind == "S":
        return np.char.decode(plain, "utf-8")
    if kind in "UOT":
        return plain.astype(np.str_)
    if kind in "iu":
        if kind == "u" and plain.max(initial=0) > np.iinfo(np.int64).max:
            return plain.astype(np.str_)
        return plain.astype(np.int64)
    raise TypeError(
        f"{what} must be whole numbers or text, got {plain.dtype}: as floating-point numbers, "
        "identifiers beyond 2^53 are rounded; read the column as integers"
    )
