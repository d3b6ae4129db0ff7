"""Files of arrays behind one small protocol, so that one data set reads them all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from advphotoz.datasets.fits_files import FITSFile
from advphotoz.datasets.hdf5_files import HDF5File
from advphotoz.datasets.npy_files import NumpyFiles

__all__ = ["ArraySource", "open_source"]


class ArraySource(Protocol):
    """Named arrays with one row per galaxy, of which single rows can be read.

    Any object with these members is one. It must be picklable and hold no open file, since the
    workers of a loader get a copy each.

    Attributes
    ----------
    name : str
        What it is called in a repr, such as the name of the file.
    """

    name: str

    def names(self) -> list[str]:
        """Return the names of the arrays."""
        ...

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return the shape and dtype of an array, reading none of it."""
        ...

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a whole array: numbers, text, or a record array with named columns."""
        ...

    def rows(self, name: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the given rows of an array in their order; for no rows, nothing of it is read.

        Raises
        ------
        ValueError
            If single rows of it cannot be read, also where none is asked for.
        """
        ...

    def where(self, row: int) -> str:
        """Say where a row stands, for messages: ``row 6 of sdss.npz``."""
        ...


def open_source(path: str | os.PathLike[str]) -> ArraySource:
    """Open a file of arrays by the end of its name: .h5 and .hdf5, .fits, else NumPy's.

    Raises
    ------
    ImportError
        If the package for it is not installed; it names the extra.
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no file of that kind.
    """
    ending = "".join(Path(path).suffixes[-2:]).lower()
    if ending.endswith((".h5", ".hdf5", ".hdf")):
        return HDF5File(path)
    if ending.endswith((".fits", ".fit", ".fits.gz", ".fits.fz")):
        return FITSFile(path)
    return NumpyFiles(path)
