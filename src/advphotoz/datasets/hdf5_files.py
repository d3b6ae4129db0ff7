"""Arrays in HDF5 files, whole or by rows, through h5py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from advphotoz._checks import require
from advphotoz.datasets.npy_files import runs

__all__ = ["HDF5File"]


class HDF5File:
    """The data sets of an HDF5 file, as an `ArraySource`; those in groups are named `group/name`.

    The file is opened for each read and closed: no handle of the HDF5 library, which survives no
    fork, is ever shared by the workers of a loader.

    Parameters
    ----------
    path : path
        The file. Any chunks and filters that h5py reads; rows are read fastest where a chunk holds
        one row, or where there are no chunks.

    Raises
    ------
    ImportError
        If h5py is not installed (extra ``io``).
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no HDF5 file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = self.path.name
        with self._opened():
            pass

    def names(self) -> list[str]:
        """Return the names of the data sets, in alphabetical order."""
        found: list[str] = []
        with self._opened() as file:
            file.visititems(
                lambda name, item: found.append(name) if hasattr(item, "shape") else None
            )
        return sorted(found)

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return the shape and dtype of a data set."""
        with self._opened() as file:
            stored = self._found(file, name)
            return stored.shape, stored.dtype

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a whole data set; text as NumPy's, a compound type as a record array."""
        h5py = require("h5py", "io")
        with self._opened() as file:
            stored = self._found(file, name)
            if h5py.check_string_dtype(stored.dtype) is not None:
                return np.asarray(stored.asstr()[()], dtype=np.str_)
            array: npt.NDArray[Any] = np.asarray(stored[()])
            return array

    def rows(self, name: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return rows of a data set; neighbours are read at once."""
        wanted, order = np.unique(numbers, return_inverse=True)
        with self._opened() as file:
            stored = self._found(file, name)
            read = np.empty((len(wanted), *stored.shape[1:]), stored.dtype)
            try:
                for low, high in runs(wanted):
                    first = int(wanted[low])
                    stored.read_direct(read, np.s_[first : first + high - low], np.s_[low:high])
            except OSError as error:
                raise ValueError(
                    f"{name!r} in {self.path} cannot be read ({error}); fetch the file again, or "
                    "install the plugin for its compression: pip install hdf5plugin"
                ) from error
        return read if np.array_equal(wanted, numbers) else read[order]

    def where(self, row: int) -> str:
        """Say where a row stands."""
        return f"row {row} of {self.path}"

    def _found(self, file: Any, name: str) -> Any:
        found = file.get(name)
        if not hasattr(found, "shape"):
            raise ValueError(f"{self.path} has no data set {name!r}, it has {self.names()}")
        return found

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        h5py = require("h5py", "io")
        try:
            file = h5py.File(self.path, "r")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ValueError(
                f"{self.path} is truncated or no HDF5 file ({error}); fetch it again"
            ) from error
        with file:
            yield file
