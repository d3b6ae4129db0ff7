"""Arrays in .npz archives and in folders of .npy files: whole arrays, and single rows.

Nothing is mapped into memory and nothing stays open: a file is opened for one read and closed, so
that forked, spawned and threaded readers share no state.
"""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from advphotoz._files import replacing

__all__ = ["FileArray", "NumpyFiles", "find_array", "read_npz", "runs", "write_npz"]


class NumpyFiles:
    """An .npz archive or a folder of .npy files, as an `ArraySource`.

    Parameters
    ----------
    path : path
        The archive or the folder. Columns may be compressed; an array that is read by rows may not.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = self.path.name
        self._found: dict[str, FileArray] = {}

    def names(self) -> list[str]:
        """Return the names of the arrays, in alphabetical order."""
        return _names(self.path)

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return the shape and dtype of an array."""
        with _opened(self.path, name) as file:
            shape, _, dtype = _header(file)
            return shape, dtype

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a whole array; one that would need unpickling is refused."""
        with _opened(self.path, name) as file:
            array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return array

    def rows(self, name: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return rows of an array; see `find_array` for what is refused."""
        if name not in self._found:
            self._found[name] = find_array(self.path, name)
        return self._found[name].read(numbers)

    def where(self, row: int) -> str:
        """Say where a row stands."""
        return f"row {row} of {self.path}"


def write_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays to path; the file appears under its name when it is complete, or not at all."""
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_npz(path: Path, keys: Iterable[str], advice: str) -> dict[str, npt.NDArray[Any]]:
    """Return the named arrays of an .npz file, and those whose key starts with "catalogue.".

    A file with the key "context" says itself which inputs it holds, and need not have "ebv".

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
            if "context" in archive.files:
                extra.append("context")
                missing = [key for key in missing if key != "ebv"]
            if missing:
                raise KeyError(f"it has no {missing[0]!r} among its keys {archive.files}")
            return {key: archive[key] for key in (*keys, *extra) if key in archive.files}
    except FileNotFoundError:
        raise
    except Exception as error:  # a broken archive can raise almost anything
        reason = error.args[0] if error.args else type(error).__name__
        raise ValueError(f"{path} cannot be read as an .npz file: {reason}; {advice}") from error


@dataclass(frozen=True)
class FileArray:
    """An array in a file: rows one after the other, in C order, from the byte `offset` on."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return the given rows in their order; rows next to each other are read at once."""
        wanted, order = np.unique(rows, return_inverse=True)
        length = math.prod(self.shape[1:]) * self.dtype.itemsize
        raw = np.empty((len(wanted), length), np.uint8)
        neighbours = runs(wanted)
        with self.path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):  # the disk looks for all at once, not one by one
                for low, high in neighbours:
                    start, size = self.offset + int(wanted[low]) * length, (high - low) * length
                    os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)
            for low, high in neighbours:
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


def runs(rows: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return where neighbours stand in rows that rise: `rows[low:high]` is one of them."""
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
    return list(pairwise([*starts.tolist(), len(rows)]))


def _names(path: Path) -> list[str]:
    if path.is_dir():
        return sorted(file.stem for file in path.glob("*.npy"))
    with _archive(path) as archive:
        return sorted(n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy"))


def find_array(path: Path, name: str) -> FileArray:
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
            f"{name!r} in {path} is in Fortran order, in which the pixels of a galaxy are not "
            "contiguous; "
            f"save numpy.ascontiguousarray({name})"
        )
    file_path, start, size = _extent(path, name)
    expected = header + math.prod(shape) * dtype.itemsize
    if size < expected:
        raise ValueError(
            f"{file_path} is truncated: {name!r} of shape {shape} and {dtype} takes {expected} "
            f"bytes, {size} are there; fetch it again"
        )
    return FileArray(file_path, start + header, shape, dtype)


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
    # The directory at the archive's end gives the offset of the member's local header. That header
    # has extra fields of its own (numpy always writes those of Zip64) and states their length.
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
        raise ValueError(f"{path} has no array {name!r}, it has {_names(path)}") from error
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
