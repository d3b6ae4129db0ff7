"""Image cubes read from their file as needed, as a torch data set: for files beyond memory."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from advphotoz.datasets.cutouts import CutoutDataset
from advphotoz.datasets.npy_files import array_columns, array_names, find_array, record_columns
from advphotoz.datasets.selection import random_split, row_numbers

__all__ = ["StoredCutouts"]

Sample = tuple[Tensor, Tensor, Tensor]

BLOCK = 256  # galaxies that `load` reads at a time


class StoredCutouts(Dataset[Sample]):
    """Cutouts of galaxies that stay in their file until asked for; sample k is `(image, ebv, z)`.

    The defaults are those of the SDSS sample of Pasquet et al. 2019: an uncompressed .npz archive
    with the pixels `cube` (659857, 64, 64, 5) and the record array `labels`. The columns are read
    into memory, the pixels never: each sample or batch is read from the disk, or from the system's
    cache of it. The file is opened for each read alone, so that any number of workers, forked or
    spawned, can share a data set.

    Parameters
    ----------
    path : path
        An .npz archive whose pixels are not compressed, or a folder of .npy files.
    image : str
        Name of the array of pixels, 4 dimensions, floating point of any precision and byte order.
    labels : str or None
        Name of the record array with one row per image. None: each column is an array of its own.
    z, ebv : str
        Names of the columns of spectroscopic redshift and of Galactic reddening E(B-V) in
        magnitudes.
    layout : str
        "NHWC" (bands last) or "NCHW", the order of the dimensions in the file.

    Attributes
    ----------
    ebv, z : Tensor
        float32, shape (N,).
    catalogue : dict of str to Tensor
        The other columns of numbers, float32; whole numbers, which can be long identifiers, int64.
        They may hold NaN. Text and other columns are left out.
    rows : Tensor
        Row of each galaxy in the file, int64, shape (N,).

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError
        If the pixels are not floating point.
    ValueError
        If the pixels are compressed, an array or column is missing, the lengths differ, the file
        is truncated, or anything would need unpickling. When a sample is read: if one of its
        numbers is NaN or infinite (the message gives its row in the file).

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

    A file that `CutoutDataset.to_npz` wrote is read by
    ``StoredCutouts(path, image="image", labels=None, ebv="ebv", layout="NCHW")``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        image: str = "cube",
        labels: str | None = "labels",
        z: str = "z",
        ebv: str = "EBV",
        layout: str = "NHWC",
    ) -> None:
        if layout not in ("NHWC", "NCHW"):
            raise ValueError(f"layout must be 'NHWC' or 'NCHW', got {layout!r}")
        path = Path(path)
        names = array_names(path)
        for name in (image, *([z, ebv] if labels is None else [labels])):
            if name not in names:
                ours = "image='image', labels=None, ebv='ebv', layout='NCHW'"
                hint = f"; CutoutDataset.to_npz wrote it? Pass {ours}" if "image" in names else ""
                raise ValueError(f"{path} has no array {name!r}, it has {names}{hint}")
        self.layout = layout
        self._array = find_array(path, image)
        shape, kind = self._array.shape, self._array.dtype
        if kind.kind != "f":
            raise TypeError(f"{image!r} in {path} must be floating point, got {kind}")
        if len(shape) != 4 or 0 in shape:
            raise ValueError(
                f"{image!r} in {path} must have 4 dimensions with none of them 0, got {shape}"
            )
        other = "NCHW" if layout == "NHWC" else "NHWC"
        if not _square(shape, layout) and _square(shape, other):
            raise ValueError(
                f"{image!r} in {path} has the shape {shape}, which is no {layout} of square "
                f"images; pass layout={other!r}"
            )
        if labels is None:
            columns = array_columns(path, set(names) - {image}, shape[0])
        else:
            columns = record_columns(path, labels, shape[0])
        for name in (z, ebv):
            if name not in columns or columns[name].ndim != 1:
                raise ValueError(
                    f"{path} has no column {name!r} with one number for each of {shape[0]} images, "
                    f"it has {sorted(columns)}"
                )
        self.z = columns.pop(z).float()
        self.ebv = columns.pop(ebv).float()
        self.catalogue = columns
        self.rows = torch.arange(shape[0])

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the samples of a whole batch, which a DataLoader asks for at once."""
        chosen = row_numbers(indices, len(self))
        image = torch.from_numpy(self._read(chosen))
        return list(zip(image, self.ebv[chosen], self.z[chosen], strict=True))

    def __repr__(self) -> str:
        bands, height, width = self._shape
        return (
            f"<StoredCutouts: {len(self)} images of {bands} x {height} x {width} pixels "
            f"in {self._array.path.name}>"
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
        part.ebv, part.z = self.ebv[chosen], self.z[chosen]
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
        for block in torch.split(self.rows.argsort(), BLOCK):
            image[block] = torch.from_numpy(self._read(block))
        kept = {name: column for name, column in self.catalogue.items() if name not in unknown}
        return CutoutDataset(image, self.ebv.clone(), self.z.clone(), kept)

    @property
    def _shape(self) -> tuple[int, ...]:
        """Bands, height and width."""
        shape = self._array.shape[1:]
        return shape if self.layout == "NCHW" else (shape[2], *shape[:2])

    def _read(self, chosen: Tensor) -> npt.NDArray[np.float32]:
        """Return images of shape (n, bands, height, width), every number of the samples checked."""
        rows = self.rows[chosen]
        for name, column in (("ebv", self.ebv[chosen]), ("z", self.z[chosen])):
            if not column.isfinite().all():
                bad = int(rows[~column.isfinite()][0])
                raise ValueError(
                    f"{name} of the galaxy in row {bad} of {self._array.path} is not finite; leave "
                    f"such galaxies out: data.subset(data.{name}.isfinite())"
                )
        stored = self._array.read(rows.numpy())
        if self.layout == "NHWC":
            stored = np.moveaxis(stored, 3, 1)
        with np.errstate(over="ignore"):  # what overflows is infinite, and refused below
            image = np.ascontiguousarray(stored, np.float32)
        finite = np.isfinite(image)
        if not finite.all():
            first, *pixel = np.argwhere(~finite)[0].tolist()
            raise ValueError(
                f"the galaxy in row {rows[first]} of {self._array.path} has a pixel that is NaN or "
                f"infinite as float32, the first at (band, y, x) = {tuple(pixel)}; leave it out: "
                f"data.subset(data.rows != {rows[first]})"
            )
        return image


def _square(shape: tuple[int, ...], layout: str) -> bool:
    return shape[1] == shape[2] if layout == "NHWC" else shape[2] == shape[3]
