"""Arrays in .npz archives and in folders of .npy files: what there is, where it lies, single rows.

Nothing is mapped into memory and nothing stays open: a file is opened for one read and closed, so
that forked, spawned and threaded readers need nothing from each other.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

__all__ = ["StoredArray", "array_names", "locate", "read_array", "read_header"]


@dataclass(frozen=True)
class StoredArray:
    """Where the numbers of an array lie: row by row from `offset` on in the file `path`."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return rows in the order asked for; neighbours in the file are read in one go."""
        wanted, order = np.unique(rows, return_inverse=True)
        length = math.prod(self.shape[1:]) * self.dtype.itemsize
        raw = np.empty((len(wanted), length), np.uint8)
        starts = np.flatnonzero(np.diff(wanted, prepend=-2) != 1)
        runs = list(pairwise([*starts.tolist(), len(wanted)]))
        with self.path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):  # the disk looks for all at once, not one by one
                for low, high in runs:
                    place = self.offset + int(wanted[low]) * length, (high - low) * length
                    os.posix_fadvise(file.fileno(), *place, os.POSIX_FADV_WILLNEED)
            for low, high in runs:
                file.seek(self.offset + int(wanted[low]) * length)
                view = raw[low:high].reshape(-1).data
                while view:  # one read stops short at 2 GiB, or at a signal
                    count = file.readinto(view)
                    if not count:
                        raise ValueError(f"{self.path} ends early: it was cut while it was in use")
                    view = view[count:]
        if not np.array_equal(wanted, rows):
            raw = raw[order]
        return raw.view(self.dtype).reshape(len(rows), *self.shape[1:])


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays of an archive or a folder, in alphabetical order."""
    if path.is_dir():
        return sorted(file.stem for file in path.glob("*.npy"))
    with _archive(path) as archive:
        return sorted(n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy"))


def read_array(path: Path, name: str) -> npt.NDArray[Any]:
    """Return a whole array; one that would need unpickling is refused."""
    with _opened(path, name) as file:
        array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array


def read_header(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and dtype of an array."""
    with _opened(path, name) as file:
        shape, _, dtype = _header(file)
        return shape, dtype


def locate(path: Path, name: str) -> StoredArray:
    """Find the first byte of an array whose rows can be read alone.

    Raises
    ------
    ValueError
        If it is compressed, in Fortran order, made of Python objects, or shorter than it says.
    """
    with _opened(path, name) as file:
        shape, fortran, dtype = _header(file)
        header = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{name!r} in {path} holds Python objects, which are never unpickled")
    if fortran:
        raise ValueError(
            f"{name!r} in {path} is in Fortran order, in which a galaxy's pixels lie apart; "
            f"save numpy.ascontiguousarray({name})"
        )
    file_path, start, size = _extent(path, name)
    expected = header + math.prod(shape) * dtype.itemsize
    if size < expected:
        raise ValueError(
            f"{file_path} is truncated: {name!r} of shape {shape} and {dtype} takes {expected} "
            f"bytes, {size} are there; fetch it again"
        )
    return StoredArray(file_path, start + header, shape, dtype)


def _extent(path: Path, name: str) -> tuple[Path, int, int]:
    """Return the file that holds an array in .npy format, the first byte and the size there."""
    if path.is_dir():
        file_path = path / f"{name}.npy"
        return file_path, 0, file_path.stat().st_size
    with _archive(path) as archive:
        info = archive.getinfo(f"{name}.npy")
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(
            f"{name!r} in {path} is compressed and cannot be read row by row; unpack the archive "
            f"with `python -m zipfile -e {path.name} FOLDER` and pass the folder"
        )
    # The directory at the archive's end gives the member's place, but its local header, which has
    # extra fields of its own (numpy always writes those of Zip64), says how long it is itself.
    with path.open("rb") as file:
        file.seek(info.header_offset)
        name_length, extra_length = struct.unpack("<26x2H", file.read(30))
    return path, info.header_offset + 30 + name_length + extra_length, info.file_size


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    first = np.lib.format.read_magic(file) == (1, 0)
    read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    header: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
    return header


@contextmanager
def _opened(path: Path, name: str) -> Iterator[IO[bytes]]:
    """Open an array in .npy format at its first byte."""
    try:
        if path.is_dir():
            with (path / f"{name}.npy").open("rb") as file:
                yield file
        else:
            with _archive(path) as archive, archive.open(f"{name}.npy") as file:
                yield file
    except (FileNotFoundError, KeyError) as error:
        raise ValueError(f"{path} has no array {name!r}, it has {array_names(path)}") from error
    except (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{name!r} in {path} cannot be read: {error}") from error


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(
            f"{path} is truncated or no .npz archive ({error}); fetch it again, or, for a single "
            ".npy file, pass the folder that holds it"
        ) from error
    with archive:
        yield archive
