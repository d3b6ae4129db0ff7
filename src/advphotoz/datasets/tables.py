"""Tables of galaxies: read from files of any kind, and as a torch data set of features."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from advphotoz._checks import require
from advphotoz.datasets.columns import as_columns, fields
from advphotoz.datasets.fits_files import FITSFile
from advphotoz.datasets.hdf5_files import HDF5File
from advphotoz.datasets.npy_files import NumpyFiles
from advphotoz.datasets.selection import random_split, row_numbers

__all__ = ["TableDataset", "read_table"]

SHOWN = 5  # rows that a message names


def read_table(
    path: str | os.PathLike[str], names: Iterable[str] | None = None, *, table: str | None = None
) -> dict[str, npt.NDArray[Any]]:
    r"""Read columns of a table from a CSV, Parquet, FITS, HDF5 or NumPy file.

    Of CSV, Parquet and HDF5 only the columns asked for are held in memory. Floating-point columns
    hold NaN where a value is missing, other columns are then masked arrays.

    Parameters
    ----------
    path : path
        Read by the end of its name: .csv and .parquet by pyarrow; .fits by astropy; .h5 and .hdf5
        by h5py; .npz by NumPy; all else, such as .ecsv, .vot or .txt, by ``astropy.table.Table``.
    names : iterable of str, optional
        The columns to read. None: all of them.
    table : str, optional
        Which table of the file: the name or number of an extension in FITS; in HDF5 the name of a
        compound data set, or of the group whose data sets are the columns. None: the only one.

    Returns
    -------
    dict of str to ndarray
        Columns in native byte order, in the order of the names, each with one row per galaxy.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the package that reads it is not installed (extra ``io``).
    ValueError
        If the file is damaged, has no such column or table, or several tables and none is named.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "galaxies.csv"
    ...     _ = path.write_text("id,zspec\n11,0.25\n12,\n")
    ...     read_table(path)  # doctest: +SKIP
    {'id': array([11, 12]), 'zspec': array([0.25,  nan])}
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    wanted = None if names is None else list(names)
    ending = "".join(path.suffixes[-2:]).lower()
    if ending.endswith((".csv", ".csv.gz")):
        return _arrow(_csv(path, wanted), wanted, path)
    if ending.endswith((".parquet", ".pq")):
        return _parquet(path, wanted)
    if ending.endswith((".h5", ".hdf5", ".hdf")):
        found = _hdf5(HDF5File(path), wanted, table)
    elif ending.endswith((".fits", ".fit", ".fits.gz", ".fits.fz")):
        found = _fits(FITSFile(path), table)
    elif ending.endswith(".npz"):
        source = NumpyFiles(path)
        found = as_columns({name: source.column(name) for name in source.names()})
    else:
        tables = require("astropy.table", "io")
        held = (
            tables.Table.read(path, format="ascii") if ending.endswith((".txt", ".dat")) else None
        )
        found = as_columns(tables.Table.read(path) if held is None else held)
    return {name: _native(found[name]) for name in _chosen(wanted, found, path)}


def _chosen(wanted: list[str] | None, there: Iterable[str], path: Path) -> list[str]:
    """Return the columns to read, or say which of them are not there."""
    existing = list(there)
    missing = [name for name in wanted or () if name not in existing]
    if missing:
        hint = "; pandas wrote it? Give pandas.read_hdf(path)" if "axis0" in existing else ""
        raise ValueError(f"{path} has no column {missing[0]!r}, it has {existing}{hint}")
    return existing if wanted is None else wanted


def _native(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a column in native byte order, NaN where a floating-point number is masked."""
    if column.dtype.kind not in "OST" and not column.dtype.isnative:
        column = column.astype(column.dtype.newbyteorder("="))
    if np.ma.isMaskedArray(column):
        if not np.ma.is_masked(column):
            return np.ma.getdata(column)
        if column.dtype.kind == "f":
            filled: npt.NDArray[Any] = column.filled(np.nan)
            return filled
    return column


def _fits(source: FITSFile, table: str | None) -> dict[str, npt.NDArray[Any]]:
    tables = [name for name in source.names() if source.header(name)[1].names is not None]
    return fields(source.column(_only(table, tables, source.path)))


def _hdf5(
    source: HDF5File, wanted: list[str] | None, table: str | None
) -> dict[str, npt.NDArray[Any]]:
    headers = {name: source.header(name) for name in source.names()}
    compound = [
        name
        for name, (_, dtype) in headers.items()
        if dtype.names is not None and "__table_column_meta__" not in name
    ]
    groups = sorted({name.rpartition("/")[0] for name in headers} - set(compound))
    if compound and (table is None or table in compound):
        return fields(source.column(_only(table, compound, source.path)))
    group = _only(table, groups, source.path) if table is None or table else table
    inside = {
        name.rpartition("/")[2]: name
        for name, (shape, _) in headers.items()
        if name.rpartition("/")[0] == group and len(shape) in (1, 2)
    }
    chosen = _chosen(wanted, inside, source.path)
    if wanted is None and len({headers[inside[name]][0][:1] for name in chosen}) > 1:
        raise ValueError(
            f"the data sets of {source.path} are of several lengths and no table; name the columns "
            f"to read, out of {list(inside)}"
        )
    return as_columns({name: source.column(inside[name]) for name in chosen}, str(source.path))


def _only(table: str | None, tables: list[str], path: Path) -> str:
    if table is None and len(tables) == 1:
        return tables[0]
    if table is None or table not in tables:
        asked = "holds" if table is None else f"has no table {table!r}, it has"
        raise ValueError(f"{path} {asked} {len(tables)} tables {tables}; name one: table=...")
    return table


def _csv(path: Path, wanted: list[str] | None) -> Any:
    csv = require("pyarrow.csv", "io")
    arrow = require("pyarrow", "io")
    try:
        with csv.open_csv(path) as stream:
            there = stream.schema.names
        chosen = _chosen(wanted, there, path)
        convert = csv.ConvertOptions(include_columns=chosen, strings_can_be_null=True)
        # One thread: several read ahead, which takes memory, and wait for ever where they get none.
        one = csv.ReadOptions(use_threads=False)
        return csv.read_csv(path, read_options=one, convert_options=convert)
    except arrow.ArrowInvalid as error:
        raise ValueError(
            f"{path} is no table with commas between its columns ({error}); tables with other "
            "separators are read by astropy: rename it to .txt"
        ) from error


def _parquet(path: Path, wanted: list[str] | None) -> dict[str, npt.NDArray[Any]]:
    parquet = require("pyarrow.parquet", "io")
    arrow = require("pyarrow", "io")
    try:
        # One column at a time, with nothing read ahead: each is held twice while it is converted.
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            chosen = _chosen(wanted, file.schema_arrow.names, path)
            read = (file.read(columns=[name], use_threads=False) for name in chosen)
            return {k: v for table in read for k, v in _arrow(table, wanted, path).items()}
    except arrow.ArrowInvalid as error:
        raise ValueError(f"{path} is truncated or no Parquet file ({error})") from error


def _arrow(table: Any, wanted: list[str] | None, path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the columns of a pyarrow table; those that are no columns of numbers or text raise."""
    types = require("pyarrow", "io").types
    found: dict[str, npt.NDArray[Any]] = {}
    for name in table.column_names:
        column = table.column(name)
        kind = column.type
        if types.is_floating(kind):
            found[name] = column.to_numpy()
        elif types.is_integer(kind) or types.is_boolean(kind):
            found[name] = _masked(column, False if types.is_boolean(kind) else 0)
        elif types.is_string(kind) or types.is_large_string(kind):
            found[name] = _masked(column, "").astype(np.str_)
        elif types.is_null(kind):  # a column of a CSV in which nothing stands
            found[name] = np.full(len(column), np.nan)
        elif types.is_list(kind) or types.is_fixed_size_list(kind) or types.is_large_list(kind):
            found[name] = _lists(column, name, path)
        elif wanted is not None:
            raise ValueError(f"the column {name!r} of {path} holds {kind}, no numbers or text")
    return found


def _masked(column: Any, filler: Any) -> npt.NDArray[Any]:
    if not column.null_count:
        values: npt.NDArray[Any] = column.to_numpy()
        return values
    mask = column.is_null().to_numpy()
    return np.ma.MaskedArray(column.fill_null(filler).to_numpy(), mask)


def _lists(column: Any, name: str, path: Path) -> npt.NDArray[Any]:
    """Return a column of lists of one length as (N, k)."""
    rows = column.combine_chunks()
    flat = rows.flatten().to_numpy(zero_copy_only=False)
    if column.null_count or (len(column) and len(flat) % len(column)):
        raise ValueError(f"the lists in the column {name!r} of {path} are not all of one length")
    lengths = {len(row) for row in rows}
    if len(lengths) > 1:
        raise ValueError(f"the lists in the column {name!r} of {path} have the lengths {lengths}")
    return np.asarray(flat).reshape(len(column), -1)


class TableDataset(Dataset[tuple[Tensor, ...]]):
    """Galaxies as vectors of features, from a table; sample k is `(x, *context, z)`.

    Parameters
    ----------
    table : path or table
        A file that `read_table` reads, of which only the columns named here are read; or a dict of
        columns, an astropy Table, a DataFrame or a record array.
    features : sequence of str
        Names of the columns, (N,) or (N, k), that make up `x`, in this order.
    z : str
        Name of the column of spectroscopic redshift.
    context : sequence of str
        Names of columns that the network takes as inputs of their own, such as E(B-V).
    missing : str
        "refuse" or "drop" galaxies of which a value is masked, NaN or infinite. A number that
        stands for none in your catalogue, such as 99, is one for this: replace it first.

    Attributes
    ----------
    x : Tensor, (N, F)
        The features, float32.
    context : tuple of Tensor
        The other inputs, float32.
    z : Tensor, (N,)
        Redshifts, float32.
    rows : Tensor, (N,)
        Row of each galaxy in the table, int64.

    Raises
    ------
    FileNotFoundError, ImportError
        As `read_table`.
    TypeError
        If a column holds no real numbers.
    ValueError
        If a column is missing, or values are; the message names their rows.

    Examples
    --------
    >>> table = {"g": [21.0, 22.0], "r": [20.5, 21.0], "zspec": [0.1, 0.2]}
    >>> data = TableDataset(table, ["g", "r"], "zspec")
    >>> data[1]
    (tensor([22., 21.]), tensor(0.2000))
    """

    def __init__(
        self,
        table: Any,
        features: Sequence[str],
        z: str,
        *,
        context: Sequence[str] = (),
        missing: Literal["refuse", "drop"] = "refuse",
    ) -> None:
        if missing not in ("refuse", "drop"):
            raise ValueError(f"missing must be 'refuse' or 'drop', got {missing!r}")
        if isinstance(features, str) or isinstance(context, str) or not features:
            raise TypeError("features and context must be lists of names, such as ['g', 'r']")
        wanted = list(dict.fromkeys([*features, *context, z]))
        is_path = isinstance(table, (str, os.PathLike))
        found = read_table(table, wanted) if is_path else as_columns(table, "table")
        absent = [name for name in wanted if name not in found]
        if absent:
            raise ValueError(f"the table has no column {absent[0]!r}, it has {list(found)}")
        columns = {name: _float32(found[name], name) for name in wanted}
        if columns[z].ndim != 1:
            raise ValueError(f"{z!r} must hold one redshift per row, got {columns[z].shape}")
        self.rows = torch.from_numpy(_complete(columns, missing))
        kept = {name: torch.from_numpy(column)[self.rows] for name, column in columns.items()}
        parts = [kept[name].reshape(len(self.rows), -1) for name in features]
        self.x = torch.cat(parts, dim=1)
        self.context = tuple(kept[name] for name in context)
        self.z = kept[z]

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.x[index], *(column[index] for column in self.context), self.z[index]

    def __repr__(self) -> str:
        return f"<TableDataset: {len(self)} galaxies with {self.x.shape[1]} features>"

    def subset(self, indices: Any) -> TableDataset:
        """Return the galaxies at the given positions (integers or a mask), as a copy.

        Raises
        ------
        IndexError, TypeError, ValueError
            As `CutoutDataset.subset`.
        """
        chosen = row_numbers(indices, len(self))
        part = copy.copy(self)
        part.rows, part.x, part.z = self.rows[chosen], self.x[chosen], self.z[chosen]
        part.context = tuple(column[chosen] for column in self.context)
        return part

    def split(self, *fractions: float, seed: int = 0) -> tuple[TableDataset, ...]:
        """Split the galaxies at random into disjoint parts; see `CutoutDataset.split`.

        Raises
        ------
        ValueError
            If the fractions do not add up to 1, or one of the parts would be empty.
        """
        return tuple(self.subset(part) for part in random_split(len(self), fractions, seed))


def _float32(column: npt.NDArray[Any], name: str) -> npt.NDArray[np.float32]:
    """Return a column of numbers with NaN for masked values."""
    plain = np.ma.getdata(column)
    if plain.dtype.kind not in "fiu" or plain.ndim not in (1, 2):
        raise TypeError(
            f"the column {name!r} must hold real numbers, one or a few per row, got {plain.dtype} "
            f"of shape {plain.shape}"
        )
    with np.errstate(over="ignore"):  # becomes infinite, and is refused
        numbers = plain.astype(np.float32)
    if np.ma.is_masked(column):
        numbers[np.ma.getmaskarray(column)] = np.nan
    return numbers


def _complete(columns: dict[str, npt.NDArray[np.float32]], missing: str) -> npt.NDArray[np.int64]:
    """Return the rows of which no value is missing, or refuse those of which one is."""
    lacking = {
        name: ~np.isfinite(column).reshape(len(column), -1).all(1)
        for name, column in columns.items()
    }
    incomplete = np.logical_or.reduce(list(lacking.values()))
    rows = np.flatnonzero(incomplete)
    if len(rows) == len(incomplete) or (len(rows) and missing == "refuse"):
        counts = {name: int(bad.sum()) for name, bad in lacking.items() if bad.any()}
        more = ", ..." if len(rows) > SHOWN else ""
        raise ValueError(
            f"{len(rows)} of {len(incomplete)} rows lack a value (masked, NaN or infinite): rows "
            f"{', '.join(map(str, rows[:SHOWN].tolist()))}{more}; by column {counts}. Fill them "
            "in, or leave these galaxies out with missing='drop'"
        )
    return np.flatnonzero(~incomplete)
