"""Images and tables in FITS files, through astropy: one file with all, or one per galaxy."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from advphotoz._checks import require
from advphotoz.datasets.npy_files import runs

__all__ = ["FITSCutouts", "FITSFile"]

ENDINGS = (".fits", ".fit", ".fits.gz", ".fits.fz")
PIXELS = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}


class FITSFile:
    """The extensions of one FITS file, as an `ArraySource`: a cube of all images, and a table.

    An extension is named by its EXTNAME, or by its number where it has none. An image is an array
    in NumPy's order of axes, the reverse of NAXIS1, NAXIS2, ...; a table is a record array.

    Parameters
    ----------
    path : path
        The file. An image that is not compressed is read fastest.

    Raises
    ------
    ImportError
        If astropy is not installed (extra ``io``).
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no FITS file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.name = self.path.name
        with _opened(self.path) as file:
            named = [hdu.name or str(number) for number, hdu in enumerate(file)]
            self._numbers = {
                name: number
                for number, name in enumerate(named)
                if file[number].header.get("NAXIS", 0) > 0 and named.count(name) == 1
            }

    def names(self) -> list[str]:
        """Return the names of the extensions that hold something."""
        return list(self._numbers)

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return the shape and dtype of an image, or of a table as a record array."""
        with _opened(self.path) as file:
            hdu = self._found(file, name)
            if _is_table(hdu):
                return (hdu.header["NAXIS2"],), hdu.columns.dtype
            return hdu.shape, _pixel_dtype(hdu)

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return a whole image, or a table as a record array, masked where values are missing."""
        tables = require("astropy.table", "io")
        with _opened(self.path) as file:
            hdu = self._found(file, name)
            if _is_table(hdu):
                array: npt.NDArray[Any] = tables.Table.read(hdu).as_array()
            else:
                array = np.array(hdu.data)
            return array

    def rows(self, name: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return images of a cube; neighbours are read at once."""
        wanted, order = np.unique(numbers, return_inverse=True)
        with _opened(self.path) as file:
            hdu = self._found(file, name)
            if _is_table(hdu):
                raise ValueError(f"{name!r} in {self.path} is a table, not an image; name an image")
            read = np.empty((len(wanted), *hdu.shape[1:]), _pixel_dtype(hdu))
            for low, high in runs(wanted):
                first = int(wanted[low])
                read[low:high] = hdu.section[first : first + high - low]
        return read if np.array_equal(wanted, numbers) else read[order]

    def where(self, row: int) -> str:
        """Say where a row stands."""
        return f"row {row} of {self.path}"

    def _found(self, file: Any, name: str) -> Any:
        if name not in self._numbers:
            raise ValueError(
                f"{self.path} has no extension {name!r} with data, it has {self.names()}"
            )
        return file[self._numbers[name]]


class FITSCutouts:
    """One FITS file per galaxy, as an `ArraySource` with the arrays `image` and `id`.

    ``image`` has the shape (N, bands, height, width), ``id`` is the name of each file without its
    ending, by which a catalogue is joined. A file is opened when its galaxy is read; for a training
    that reads all galaxies many times, write them to one file: `StoredCutouts.to_npz`.

    Parameters
    ----------
    files : path, or sequence of path
        A folder, all of whose FITS files are taken in alphabetical order, or the files themselves.
    bands : sequence of str or int, optional
        The extensions that hold the bands, one plane each, by name or number. None: the first
        extension with an image holds the bands as planes of one cube (NAXIS3 of them).
    keywords : sequence of str
        Header keywords to be read as columns, such as a redshift or a zero point. One that stands
        in the header of every band gives a column (N, bands); else it is taken from the header of
        the cube, or from the primary header. To read them, every file is opened once.

    Raises
    ------
    ImportError
        If astropy is not installed (extra ``io``).
    FileNotFoundError
        If there is no such folder or file.
    ValueError
        If there are no files, two have the same name, or one lacks an extension or a keyword. When
        read: if an image has another shape than the first one. The message names the file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from astropy.io import fits  # doctest: +SKIP
    >>> source = FITSCutouts("cutouts", bands=["G", "R", "I"])  # doctest: +SKIP
    """

    def __init__(
        self,
        files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        bands: Sequence[str | int] | None = None,
        keywords: Sequence[str] = (),
    ) -> None:
        if isinstance(files, (str, os.PathLike)):
            folder = Path(files)
            if not folder.is_dir():
                raise FileNotFoundError(
                    f"{folder} is no folder; give a folder of FITS files, or a list of them"
                )
            self.name = folder.name
            found = sorted(p for p in folder.iterdir() if p.name.lower().endswith(ENDINGS))
            nothing = f"{folder} holds no file that ends with {', '.join(ENDINGS)}"
        else:
            found = [Path(file) for file in files]
            self.name, nothing = f"{len(found)} FITS files", "the list of FITS files is empty"
        if not found:
            raise ValueError(nothing)
        if isinstance(bands, str) or isinstance(keywords, str):
            raise TypeError("bands and keywords must be lists, such as bands=['G', 'R']")
        self.files = tuple(found)
        self.bands = None if bands is None else tuple(bands)
        ids = np.array([_stem(path) for path in found], dtype=np.str_)
        values, counts = np.unique(ids, return_counts=True)
        if counts.max() > 1:
            raise ValueError(
                f"{counts.max()} files are called '{values[counts.argmax()]}': their names are "
                "the identifiers of the galaxies, and must differ"
            )
        self._columns: dict[str, npt.NDArray[Any]] = {"id": ids}
        with self._planes(found[0]) as planes:
            self._shape, self._dtype = self._image_header(planes, found[0])
        if keywords:
            rows = [self._keywords(path, keywords) for path in found]
            for number, keyword in enumerate(keywords):
                self._columns[keyword] = self._stacked(keyword, [row[number] for row in rows])

    def names(self) -> list[str]:
        """Return `image`, `id` and the keywords."""
        return ["image", *self._columns]

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return the shape and dtype of all images, or of a column."""
        if name == "image":
            return (len(self.files), *self._shape), self._dtype
        column = self.column(name)
        return column.shape, column.dtype

    def column(self, name: str) -> npt.NDArray[Any]:
        """Return the identifiers, or the values of a keyword."""
        if name not in self._columns:
            raise ValueError(
                f"the FITS files have no column {name!r}, they have {list(self._columns)}; name "
                f"header keywords to read: FITSCutouts(..., keywords=[{name!r}])"
            )
        return self._columns[name]

    def rows(self, name: str, numbers: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Return images, in the order asked for."""
        if name != "image":
            return self.column(name)[numbers]
        read = np.empty((len(numbers), *self._shape), self._dtype)
        for image, number in zip(read, numbers.tolist(), strict=True):
            path = self.files[number]
            with self._planes(path) as planes:
                shape, _ = self._image_header(planes, path)
                if shape != self._shape:
                    raise ValueError(
                        f"{path} holds an image of shape {shape} (bands, height, width), and "
                        f"{self.files[0]} one of {self._shape}; cut all galaxies to one size, or "
                        "list the files of one size"
                    )
                if self.bands is None:
                    image[...] = planes[0].data
                else:
                    for k, plane in enumerate(planes):
                        image[k] = plane.data
        return read

    def where(self, row: int) -> str:
        """Name the file of a galaxy."""
        return f"row {row}, the file {self.files[row]}"

    @contextmanager
    def _planes(self, path: Path) -> Iterator[list[Any]]:
        """Open the extensions that hold the bands: one each, or one for all."""
        with _opened(path) as file:
            if self.bands is None:
                images = [hdu for hdu in file if not _is_table(hdu) and hdu.shape]
                if not images:
                    raise ValueError(f"{path} holds no image; name the extensions by bands=[...]")
                yield images[:1]
                return
            try:
                planes = [file[band] for band in self.bands]
            except (KeyError, IndexError) as error:
                here = [hdu.name or str(number) for number, hdu in enumerate(file)]
                raise ValueError(
                    f"{path} lacks an extension of the bands {list(self.bands)}, it has {here}"
                ) from error
            yield planes

    def _image_header(self, planes: list[Any], path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Return the shape (bands, height, width) and the dtype of one galaxy's image."""
        shapes = [tuple(hdu.shape) for hdu in planes]
        if self.bands is None:
            [shape] = shapes
            if len(shape) == 2:
                raise ValueError(
                    f"{path} holds one plane of shape {shape} where a cube (bands, height, width) "
                    "was expected; name the extensions that hold the bands: bands=[...]"
                )
        elif len(set(shapes)) > 1 or len(shapes[0]) != 2:
            raise ValueError(
                f"the bands {list(self.bands)} of {path} must be planes of one shape (height, "
                f"width), got {shapes}"
            )
        else:
            shape = (len(planes), *shapes[0])
        if len(shape) != 3:
            raise ValueError(f"{path} must hold a cube (bands, height, width), got {shape}")
        return shape, np.result_type(*(_pixel_dtype(hdu) for hdu in planes))

    def _keywords(self, path: Path, keywords: Sequence[str]) -> list[Any]:
        found: list[Any] = []
        with self._planes(path) as planes, _opened(path) as file:
            for keyword in keywords:
                if all(keyword in hdu.header for hdu in planes):
                    values = [hdu.header[keyword] for hdu in planes]
                    found.append(values[0] if self.bands is None else values)
                elif keyword in file[0].header:
                    found.append(file[0].header[keyword])
                else:
                    raise ValueError(
                        f"{path} has no keyword {keyword!r} in the headers of its bands, nor in "
                        "its primary header"
                    )
        return found

    @staticmethod
    def _stacked(keyword: str, values: list[Any]) -> npt.NDArray[Any]:
        try:
            return np.array(values)
        except ValueError as error:
            raise ValueError(
                f"the keyword {keyword!r} stands in the headers of the bands of some files and in "
                "the primary header of others"
            ) from error


def _stem(path: Path) -> str:
    ending = next((end for end in (".fits.gz", ".fits.fz") if path.name.lower().endswith(end)), "")
    return path.name[: -len(ending)] if ending else path.stem


def _is_table(hdu: Any) -> bool:
    # Not by its columns: up to astropy 6, a compressed image has those of the table that holds it.
    return hdu.header.get("XTENSION") in ("BINTABLE", "TABLE")


def _pixel_dtype(hdu: Any) -> np.dtype[Any]:
    """Return the dtype of pixels in native byte order, scaled as the header says."""
    header = hdu.header
    dtype = np.dtype(PIXELS[header["BITPIX"]])
    if dtype.kind != "f" and (header.get("BSCALE", 1) != 1 or header.get("BZERO", 0) != 0):
        return np.dtype(np.float32)
    return dtype


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    fits = require("astropy.io.fits", "io")
    with path.open("rb") as stream:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*truncated")
                file = fits.open(stream, memmap=False)
                last = file[len(file) - 1].fileinfo()
        except OSError as error:
            raise ValueError(
                f"{path} is truncated or no FITS file ({error}); fetch it again"
            ) from error
        with file:
            # astropy goes on with a file that was cut off, and with what is not there.
            end = last["datLoc"] + last["datSpan"]
            if path.suffix != ".gz" and path.stat().st_size < end:
                raise ValueError(f"{path} is truncated; fetch it again")
            yield file
