"""Image cubes read from their file as needed, as a torch data set: for files beyond memory."""

from __future__ import annotations

import copy
import math
import os
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from advphotoz._arrays import as_numpy
from advphotoz._files import replacing
from advphotoz.datasets.columns import as_columns, fields, match_rows, numbers
from advphotoz.datasets.cutouts import CutoutDataset
from advphotoz.datasets.selection import random_split, row_numbers
from advphotoz.datasets.sources import ArraySource, open_source
from advphotoz.datasets.tables import read_table

__all__ = ["StoredCutouts"]

Sample = tuple[Tensor, ...]

BLOCK = 2**22  # bytes of float32 pixels that `load` and `to_npz` read at a time
WIDEST = 64  # numbers per galaxy in a column of the catalogue; more are a spectrum or an image
NANOMAGGY = 22.5  # the AB magnitude of one
_HINT = "; a table that holds it can be joined: catalogue=..., on=..."


class StoredCutouts(Dataset[Sample]):
    r"""Cutouts of galaxies that stay in their file until asked for; sample k is `(image, ebv, z)`.

    The defaults are those of the SDSS sample of Pasquet et al. 2019: an uncompressed .npz archive
    with the pixels `cube` (659857, 64, 64, 5) and the record array `labels`. The columns are read
    into memory, the pixels never: each sample or batch is read from the disk, or from the system's
    cache of it. The file is opened for each read alone, so that any number of workers, forked or
    spawned, can share a data set.

    Parameters
    ----------
    source : path or ArraySource
        An .npz archive whose pixels are not compressed, a folder of .npy files, an HDF5 file
        (.h5, .hdf5), a FITS file with a cube of all galaxies; or another source, such as
        `FITSCutouts`, one FITS file per galaxy.
    image : str
        Name of the array of pixels, 4 dimensions, floating point of any precision and byte order.
    labels : str or None
        Name of the record array (a table in FITS, a compound type in HDF5) with one row per image.
        None: each column is an array of its own.
    z : str
        Name of the column of spectroscopic redshift.
    ebv : str or None
        Name of the column of Galactic reddening E(B-V) in magnitudes. None: samples without it,
        `(image, z)`.
    context : sequence of str
        Names of further columns, (N,) or (N, k), that the network takes after E(B-V).
    layout : str
        "NHWC" (bands last) or "NCHW", the order of the dimensions in the file.
    bands : str, optional
        Name of an array (N, bands) of the bands' names, refused where galaxies differ in it.
    zero_point : float, sequence of float or str, optional
        AB zero point of the pixels: a number, one per band, or the name of a column (N,) or
        (N, bands). Pixels are then converted to nanomaggies,
        :math:`f = 10^{0.4 (22.5 - zp)}\, \mathrm{counts}`. None: they are left as they are.
    catalogue : path or table, optional
        A table with more columns: a file that `read_table` reads, a dict of columns, an astropy
        Table, a DataFrame or a record array. Of a column that the images have too, this one counts.
    on : str or pair of str, optional
        Name of the identifier by which a galaxy is found in the catalogue, whole numbers or text;
        a pair where the images call it otherwise than the catalogue does. None: row k of the
        catalogue belongs to image k.
    unmatched : str
        "refuse" or "drop" images that have no row in the catalogue.

    Attributes
    ----------
    z, ebv : Tensor
        float32, shape (N,); `ebv` is None where samples hold none.
    catalogue : dict of str to Tensor
        The other columns of numbers, of at most 64 per galaxy: float32; whole numbers, which can
        be long identifiers, int64. They may hold NaN, which masked values become. Text and other
        columns are left out.
    context : tuple of str
        As given.
    bands : tuple of str or None
        The names of the bands, where they were asked for.
    rows : Tensor
        Row of each galaxy in the source, int64, shape (N,).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the package that reads it is not installed.
    TypeError
        If the pixels are not floating point, or identifiers neither whole numbers nor text.
    ValueError
        If the pixels are compressed in an .npz, an array or column is missing, the lengths differ,
        the file is truncated, or anything would need unpickling; if an image has no row in the
        catalogue, or an identifier comes twice there. When a sample is read: if one of its numbers
        is NaN or infinite (the message gives its row in the file).

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> labels = np.array([(0.1, 0.02, 17.5), (0.2, 0.03, 17.9)],
    ...     dtype=[("z", "f4"), ("EBV", "f4"), ("dered_petro_r", "f4")])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "sdss.npz"
    ...     np.savez(path, cube=np.zeros((2, 8, 8, 5), np.float32), labels=labels)
    ...     data = StoredCutouts(path)
    ...     bright = data.subset(data.catalogue["dered_petro_r"] < 17.8)
    ...     image, ebv, z = bright[0]
    >>> data
    <StoredCutouts: 2 images of 5 x 8 x 8 pixels in sdss.npz>
    >>> image.shape, z
    (torch.Size([5, 8, 8]), tensor(0.1000))

    Images with an identifier, redshifts in a table of another order, no E(B-V):

    >>> table = {"id": [12, 11], "zspec": [0.3, 0.4]}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "images.npz"
    ...     np.savez(path, x=np.zeros((2, 5, 8, 8), np.float32), id=np.array([11, 12]))
    ...     data = StoredCutouts(path, image="x", labels=None, layout="NCHW", catalogue=table,
    ...         on="id", z="zspec", ebv=None)
    ...     image, z = data[0]
    >>> z
    tensor(0.4000)
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | ArraySource,
        *,
        image: str = "cube",
        labels: str | None = "labels",
        z: str = "z",
        ebv: str | None = "EBV",
        context: Sequence[str] = (),
        layout: str = "NHWC",
        bands: str | None = None,
        zero_point: float | Sequence[float] | str | None = None,
        catalogue: Any = None,
        on: str | tuple[str, str] | None = None,
        unmatched: Literal["refuse", "drop"] = "refuse",
    ) -> None:
        if layout not in ("NHWC", "NCHW"):
            raise ValueError(f"layout must be 'NHWC' or 'NCHW', got {layout!r}")
        if unmatched not in ("refuse", "drop"):
            raise ValueError(f"unmatched must be 'refuse' or 'drop', got {unmatched!r}")
        if isinstance(context, str):
            raise TypeError(f"context must be a list of names, write [{context!r}]")
        is_path = isinstance(source, (str, os.PathLike))
        self.source: ArraySource = open_source(source) if is_path else source  # type: ignore[arg-type, assignment]
        self.layout = layout
        self.context = tuple(context)
        self._image = image
        wanted = [z, *([] if ebv is None else [ebv]), *context]
        shape = self._check_image([image] if labels is None else [image, labels])
        self._shape = shape[1:] if layout == "NCHW" else (shape[3], *shape[1:3])
        raw = self._own_columns(labels, shape[0])
        self.bands = None if bands is None else self._band_names(bands, raw)
        self.rows = torch.arange(shape[0])
        if catalogue is not None:
            raw = self._joined(raw, catalogue, on, unmatched)
        elif on is not None:
            raise ValueError("on names an identifier, but there is no catalogue to look it up in")
        columns = numbers(raw)
        if isinstance(zero_point, str):
            wanted.append(zero_point)
        for name in wanted:
            per_galaxy = (1,) if name in (z, ebv) else (1, 2)
            if name not in columns or columns[name].ndim not in per_galaxy:
                hint = _HINT if catalogue is None else ""
                raise ValueError(
                    f"{self.source.name} has no column {name!r} with "
                    f"{'one number' if per_galaxy == (1,) else 'numbers'} for each of "
                    f"{shape[0]} images, it has {sorted(columns)}{hint}"
                )
        self._scale = self._nanomaggies(zero_point, columns)
        self.z = columns.pop(z).float()
        self.ebv = None if ebv is None else columns.pop(ebv).float()
        self.catalogue = columns

    def _check_image(self, needed: Sequence[str]) -> tuple[int, ...]:
        """Return the shape of the pixels, or say why they are none."""
        names, where, image = self.source.names(), self.source.name, self._image
        for name in needed:
            if name not in names:
                ours = "StoredCutouts.from_npz(path)"
                hint = f"; CutoutDataset.to_npz wrote it? Then {ours}" if "image" in names else ""
                flat = "; labels=None if each column is an array" if name != image else ""
                raise ValueError(f"{where} has no array {name!r}, it has {names}{flat}{hint}")
        shape, kind = self.source.header(image)
        if not kind.hasobject and kind.kind != "f":
            raise TypeError(f"{image!r} in {where} must be floating point, got {kind}")
        if len(shape) != 4 or 0 in shape:
            raise ValueError(
                f"{image!r} in {where} must have 4 dimensions with none of them 0, got {shape}"
            )
        other = "NCHW" if self.layout == "NHWC" else "NHWC"
        if not _square(shape, self.layout) and _square(shape, other):
            raise ValueError(
                f"{image!r} in {where} has the shape {shape}, which is no {self.layout} of square "
                f"images; pass layout={other!r}"
            )
        self.source.rows(image, np.zeros(0, np.int64))  # says now if single rows cannot be read
        return shape

    def _own_columns(self, labels: str | None, rows: int) -> dict[str, npt.NDArray[Any]]:
        """Return what the source holds beside the pixels: one row per image, few numbers each."""
        if labels is None:
            found = {}
            for name in self.source.names():
                shape, _ = self.source.header(name)
                few = len(shape) == 1 or (len(shape) == 2 and shape[1] <= WIDEST)
                if name != self._image and few and shape[0] == rows:
                    found[name.removeprefix("catalogue.")] = self.source.column(name)
            return found
        table = self.source.column(labels)
        if table.dtype.names is None or table.shape != (rows,):
            raise ValueError(
                f"{labels!r} in {self.source.name} must be a record array with named columns and "
                f"{rows} rows, got {table.dtype} of shape {table.shape}; pass labels=None where "
                "each column is an array of its own"
            )
        return fields(table)

    def _band_names(self, name: str, raw: Mapping[str, npt.NDArray[Any]]) -> tuple[str, ...]:
        if name not in raw or raw[name].shape[1:] != self._shape[:1]:
            raise ValueError(
                f"{self.source.name} has no array {name!r} of {self._shape[0]} names of bands for "
                f"each image, it has {sorted(raw)}"
            )
        named = raw[name].astype(np.str_)
        other = (named != named[0]).any(1)
        if other.any():
            row = int(other.argmax())
            raise ValueError(
                f"the galaxies differ in their bands: {named[0].tolist()} in "
                f"{self.source.where(0)}, {named[row].tolist()} in {self.source.where(row)}; "
                "a network takes them in one order: write the images so"
            )
        return tuple(named[0].tolist())

    def _joined(
        self, raw: dict[str, npt.NDArray[Any]], catalogue: Any, on: Any, unmatched: str
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of the images and of their rows in the catalogue; set `rows`."""
        if isinstance(catalogue, (str, os.PathLike)):
            catalogue = read_table(catalogue)
        theirs = as_columns(catalogue)
        length = len(next(iter(theirs.values())))
        if on is None:
            if length != len(self.rows):
                raise ValueError(
                    f"the catalogue has {length} rows and {self.source.name} {len(self.rows)} "
                    "images; name the identifier that both have: on='id'"
                )
            return {**raw, **theirs}
        pair = (on, on) if isinstance(on, str) else tuple(on)
        for name, columns, whose in zip(
            pair, (raw, theirs), (self.source.name, "the catalogue"), strict=True
        ):
            if name not in columns:
                raise ValueError(
                    f"{whose} has no column {name!r} to join on, it has {sorted(columns)}"
                )
        found = match_rows(raw[pair[0]], theirs[pair[1]], pair)
        lost = np.flatnonzero(found < 0)
        if len(lost) == len(found) or (len(lost) and unmatched == "refuse"):
            first = raw[pair[0]][lost[0]]
            raise ValueError(
                f"{len(lost)} of {len(found)} images have no row in the catalogue, the first "
                f"is {first} ({self.source.where(int(lost[0]))}), and the catalogue begins with "
                f"{theirs[pair[1]][:1].tolist()}; unmatched='drop' leaves such images out"
            )
        kept = np.flatnonzero(found >= 0)
        self.rows = torch.from_numpy(kept)
        own = {name: column[kept] for name, column in raw.items()}
        return {**own, **{name: column[found[kept]] for name, column in theirs.items()}}

    def _nanomaggies(self, zero_point: Any, columns: Mapping[str, Tensor]) -> str | Tensor | None:
        """Return what turns counts into nanomaggies: the name of a column, or numbers per band."""
        if zero_point is None:
            return None
        bands = self._shape[0]
        if isinstance(zero_point, str):
            held = columns[zero_point]
            if held.ndim == 2 and held.shape[1] != bands:
                raise ValueError(
                    f"the zero points {zero_point!r} must be one per galaxy, or one for each of "
                    f"{bands} bands, got the shape {tuple(held.shape)}"
                )
            return zero_point
        given = torch.from_numpy(np.atleast_1d(as_numpy(zero_point, "zero_point")).astype(float))
        if given.shape not in ((1,), (bands,)) or not given.isfinite().all():
            raise ValueError(
                f"zero_point must be a magnitude, or one for each of {bands} bands, got "
                f"{zero_point!r}"
            )
        return given

    @classmethod
    def from_npz(cls, path: str | os.PathLike[str]) -> StoredCutouts:
        """Open what `StoredCutouts.to_npz` or `CutoutDataset.to_npz` wrote.

        Raises
        ------
        FileNotFoundError, ValueError
            As for the class.
        """
        source = open_source(path)
        names = source.names()
        context = source.column("context").tolist() if "context" in names else []
        ebv = "ebv" if "ebv" in names or "context" not in names else None
        return cls(source, image="image", labels=None, ebv=ebv, context=context, layout="NCHW")

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the samples of a whole batch, which a DataLoader asks for at once."""
        chosen = row_numbers(indices, len(self))
        image = torch.from_numpy(self._read(chosen))
        return list(zip(image, *(column[chosen] for column in self._inputs()), strict=True))

    def __repr__(self) -> str:
        bands, height, width = self._shape
        return (
            f"<StoredCutouts: {len(self)} images of {bands} x {height} x {width} pixels "
            f"in {self.source.name}>"
        )

    def subset(self, indices: Any) -> StoredCutouts:
        """Return the galaxies at the given positions (integers or a mask); no pixel is read.

        Raises
        ------
        IndexError
            If a position does not exist or a mask has another length.
        TypeError
            If the positions are neither integers nor booleans.
        ValueError
            If no galaxy is chosen, the indices are not of shape (n,), or one of them is masked.
        """
        chosen = row_numbers(indices, len(self))
        part = copy.copy(self)
        part.rows = self.rows[chosen]
        part.z = self.z[chosen]
        part.ebv = None if self.ebv is None else self.ebv[chosen]
        part.catalogue = {name: column[chosen] for name, column in self.catalogue.items()}
        return part

    def split(self, *fractions: float, seed: int = 0) -> tuple[StoredCutouts, ...]:
        """Split the galaxies at random into disjoint parts; no pixel is read.

        The same fractions and seed give the same parts as `CutoutDataset.split`.

        Parameters
        ----------
        *fractions : float
            Share of each part; they add up to 1.
        seed : int
            The same seed gives the same parts.

        Raises
        ------
        ValueError
            If the fractions do not add up to 1, or one of the parts would be empty.
        """
        return tuple(self.subset(part) for part in random_split(len(self), fractions, seed))

    def load(self) -> CutoutDataset:
        """Read all these galaxies into memory.

        A `CutoutDataset` holds no NaN: catalogue columns that do are left out, with a warning.

        Raises
        ------
        ValueError
            If a pixel, redshift or reddening is NaN or infinite.
        """
        unknown = [name for name, column in self.catalogue.items() if not column.isfinite().all()]
        if unknown:
            warnings.warn(
                f"the catalogue columns {unknown} hold NaN or infinite values and are left out; "
                "choose the galaxies where they are finite to keep them",
                stacklevel=2,
            )
        image = torch.empty(len(self), *self._shape)
        for block in torch.split(self.rows.argsort(), self._block):
            image[block] = torch.from_numpy(self._read(block))
        kept = {name: column for name, column in self.catalogue.items() if name not in unknown}
        ebv = None if self.ebv is None else self.ebv.clone()
        return CutoutDataset(image, ebv, self.z.clone(), kept, self.context)

    def to_npz(self, path: str | os.PathLike[str]) -> None:
        """Write these galaxies to the .npz file that is read fastest, block by block.

        Uncompressed, float32, bands first, in the order of this data set; its memory does not grow
        with their number. `from_npz` opens it, and `CutoutDataset.from_npz` loads it. Whatever was
        converted when it was read, such as a zero point, is written as it is read. The file appears
        when it is complete; an existing one is replaced.

        Raises
        ------
        ValueError
            If a pixel, redshift or other input of a sample is NaN or infinite.
        """
        named = {"z": self.z} if self.ebv is None else {"z": self.z, "ebv": self.ebv}
        arrays = {name: column.numpy() for name, column in named.items()}
        arrays |= {f"catalogue.{name}": value.numpy() for name, value in self.catalogue.items()}
        arrays["context"] = np.array(self.context, dtype=np.str_)
        with (
            replacing(path) as part,
            zipfile.ZipFile(part, "w", allowZip64=True) as archive,
        ):
            with archive.open("image.npy", "w", force_zip64=True) as file:
                shape = (len(self), *self._shape)
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for block in torch.split(torch.arange(len(self)), self._block):
                    file.write(self._read(block).astype("<f4", copy=False).data)
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.save(file, array, allow_pickle=False)

    @property
    def _block(self) -> int:
        """Number of galaxies that are read at a time."""
        return max(1, BLOCK // (4 * math.prod(self._shape)))

    def _inputs(self) -> list[Tensor]:
        """Return what follows the image in a sample, with one row per galaxy."""
        further = [self.catalogue[name].float() for name in self.context]
        return [*([] if self.ebv is None else [self.ebv]), *further, self.z]

    def _check_columns(self, chosen: Tensor) -> None:
        """Refuse galaxies of which a number other than a pixel is missing."""
        named = {"ebv": self.ebv, "z": self.z}
        named |= {f"catalogue[{name!r}]": self.catalogue[name] for name in self.context}
        if isinstance(self._scale, str):
            named[f"catalogue[{self._scale!r}]"] = self.catalogue[self._scale]
        for name, column in named.items():
            if column is None:
                continue
            finite = column[chosen].isfinite().reshape(len(chosen), -1).all(1)
            if not finite.all():
                where = self.source.where(int(self.rows[chosen][~finite][0]))
                every = ".all(1)" if column.ndim > 1 else ""
                raise ValueError(
                    f"{name} of the galaxy in {where} is not finite; leave such galaxies out: "
                    f"data.subset(data.{name}.isfinite(){every})"
                )

    def _read(self, chosen: Tensor) -> npt.NDArray[np.float32]:
        """Return images of shape (n, bands, height, width), every number of the samples checked."""
        self._check_columns(chosen)
        rows = self.rows[chosen]
        stored = self.source.rows(self._image, rows.numpy())
        if self.layout == "NHWC":
            stored = np.moveaxis(stored, 3, 1)
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
            image = np.ascontiguousarray(stored, np.float32)
            if self._scale is not None:
                held = self.catalogue[self._scale] if isinstance(self._scale, str) else None
                zero_point = self._scale if held is None else held[chosen].double()
                assert isinstance(zero_point, Tensor)
                factor = 10 ** (0.4 * (NANOMAGGY - zero_point.numpy()))
                by_band = factor.reshape(1 if held is None else len(chosen), -1, 1, 1)
                image = image * by_band.astype(np.float32)
        finite = np.isfinite(image)
        if not finite.all():
            first, *pixel = np.argwhere(~finite)[0].tolist()
            raise ValueError(
                f"the galaxy in {self.source.where(int(rows[first]))} has a pixel that is NaN or "
                f"infinite as float32, the first at (band, y, x) = {tuple(pixel)}; leave it out: "
                f"data.subset(data.rows != {rows[first]})"
            )
        return image


def _square(shape: tuple[int, ...], layout: str) -> bool:
    return shape[1] == shape[2] if layout == "NHWC" else shape[2] == shape[3]
