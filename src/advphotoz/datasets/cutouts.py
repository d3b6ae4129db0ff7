"""Image cubes with redshift, reddening and catalogue columns, in memory, as a torch data set."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from advphotoz._arrays import as_tensor, read_array
from advphotoz._checks import check_finite
from advphotoz.datasets.columns import EXACT
from advphotoz.datasets.npy_files import read_npz, write_npz
from advphotoz.datasets.selection import random_split, row_numbers

__all__ = ["CutoutDataset"]


def _real(value: Any, name: str) -> Tensor:
    """Return finite real numbers as a CPU tensor, without a copy where none is needed."""
    tensor = as_tensor(value if isinstance(value, Tensor) else read_array(value, name), name)
    tensor = tensor.detach().to("cpu")
    if tensor.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, got {tensor.dtype}")
    check_finite(tensor, name)
    return tensor


def _float32(tensor: Tensor, name: str) -> Tensor:
    """Return finite numbers as a contiguous float32 tensor."""
    single = tensor.to(torch.float32).contiguous()
    if tensor.dtype == torch.float64:  # the one that can overflow
        check_finite(single, f"{name} as float32")
    return single


def _catalogue_column(value: Any, name: str) -> Tensor:
    """Return a column as float32, or as int64 where float32 would round its integers."""
    tensor = _real(value, name)
    if not tensor.is_floating_point():
        tensor = tensor.long()
        if bool(((tensor > EXACT) | (tensor < -EXACT)).any()):
            return tensor.contiguous()
    return _float32(tensor, name)


def _column(value: Any, name: str, rows: int) -> Tensor:
    column = _float32(_real(value, name), name)
    if column.ndim != 1 or len(column) != rows:
        raise ValueError(
            f"{name} must hold one number per image, of shape ({rows},), got {tuple(column.shape)}"
        )
    return column


class CutoutDataset(Dataset[tuple[Tensor, ...]]):
    """Cutouts of galaxies with reddening and redshift; sample k is `(image, ebv, z)`.

    Parameters
    ----------
    image : array or tensor
        Pixels of shape (N, bands, height, width), floating point, in any unit (nanomaggies for
        the simulated ones). Any number of bands and any size.
    ebv : array or tensor, or None
        Galactic reddening E(B-V) in magnitudes, shape (N,); zeros where it is corrected already.
        None: samples without it, `(image, z)`, for a network that does not take it.
    z : array or tensor
        Spectroscopic redshift, shape (N,).
    catalogue : mapping of str to array or tensor, optional
        A dict or a table of further columns with one row per image, such as the magnitudes `mag`
        of shape (N, bands). They follow their galaxies through `subset`, `split` and files, but
        are no part of a sample.
    context : sequence of str
        Names of catalogue columns that are part of a sample after all: the network takes them
        after E(B-V).

    Attributes
    ----------
    image, ebv, z : Tensor
        float32 on the CPU. They share memory with what was given where that was float32 already.
    catalogue : dict of str to Tensor
        float32 on the CPU. Columns of integers that float32 would round, beyond 2^24 as
        identifiers are, stay int64.

    Raises
    ------
    TypeError
        If the images are integers, or anything is not made of real numbers.
    ValueError
        If a shape is wrong, the lengths differ, or a value is NaN, infinite or masked (the message
        counts them and gives the first position).

    Examples
    --------
    >>> data = CutoutDataset(torch.zeros(10, 4, 23, 23), torch.zeros(10), torch.full((10,), 0.1))
    >>> image, ebv, z = data[0]
    >>> image.shape, z
    (torch.Size([4, 23, 23]), tensor(0.1000))
    >>> [len(part) for part in data.split(0.8, 0.2)]
    [8, 2]
    """

    def __init__(
        self,
        image: Any,
        ebv: Any,
        z: Any,
        catalogue: Mapping[str, Any] | None = None,
        context: Sequence[str] = (),
    ) -> None:
        pixels = _real(image, "image")
        if not pixels.is_floating_point():
            raise TypeError(
                f"image must be floating point, got {pixels.dtype}: its changes are smaller than "
                "one unit; convert it to float32"
            )
        self.image = _float32(pixels, "image")
        if self.image.ndim != 4 or 0 in self.image.shape:
            raise ValueError(
                f"image must have the shape (N, bands, height, width) with none of them 0, "
                f"got {tuple(self.image.shape)}"
            )
        rows = len(self.image)
        self.ebv = None if ebv is None else _column(ebv, "ebv", rows)
        self.z = _column(z, "z", rows)
        columns = {} if catalogue is None else catalogue
        if not hasattr(columns, "items"):
            raise TypeError(
                "catalogue must be a dict of columns, or a table with a method items(), got "
                f"{type(columns).__name__}; write {{name: records[name] for name in names}}"
            )
        self.catalogue = {name: _catalogue_column(value, name) for name, value in columns.items()}
        for name, value in self.catalogue.items():
            if value.ndim == 0 or len(value) != rows:
                raise ValueError(
                    f"catalogue column {name!r} must have {rows} rows like image, "
                    f"got shape {tuple(value.shape)}"
                )
        if isinstance(context, str) or not set(context) <= self.catalogue.keys():
            raise ValueError(
                f"context must be a list of names of catalogue columns, out of "
                f"{list(self.catalogue)}, got {context!r}"
            )
        self.context = tuple(context)

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        ebv = () if self.ebv is None else (self.ebv[index],)
        further = (self.catalogue[name][index].float() for name in self.context)
        return self.image[index], *ebv, *further, self.z[index]

    def __repr__(self) -> str:
        bands, height, width = self.image.shape[1:]
        return f"<CutoutDataset: {len(self)} images of {bands} x {height} x {width} pixels>"

    def subset(self, indices: Any) -> CutoutDataset:
        """Return the galaxies at the given positions (integers or a mask), as a copy.

        Raises
        ------
        IndexError
            If a position does not exist or a mask has another length.
        TypeError
            If the positions are neither integers nor booleans.
        ValueError
            If no galaxy is chosen, the indices are not of shape (n,), or one of them is masked.

        Examples
        --------
        >>> data = CutoutDataset(torch.zeros(3, 1, 2, 2), torch.zeros(3), torch.tensor([1., 2, 3]))
        >>> data.subset([2, 0]).z
        tensor([3., 1.])
        """
        rows = row_numbers(indices, len(self))
        part = copy.copy(self)
        part.image, part.z = self.image[rows], self.z[rows]
        part.ebv = None if self.ebv is None else self.ebv[rows]
        part.catalogue = {name: value[rows] for name, value in self.catalogue.items()}
        return part

    def split(self, *fractions: float, seed: int = 0) -> tuple[CutoutDataset, ...]:
        """Split the galaxies at random into disjoint parts.

        Parameters
        ----------
        *fractions : float
            Share of each part; they add up to 1.
        seed : int
            The same seed gives the same parts.

        Returns
        -------
        tuple of CutoutDataset
            As many as fractions; copies.

        Raises
        ------
        ValueError
            If the fractions do not add up to 1, or one of the parts would be empty.

        Examples
        --------
        >>> data = CutoutDataset(torch.zeros(9, 1, 2, 2), torch.zeros(9), torch.zeros(9))
        >>> [len(part) for part in data.split(0.5, 0.25, 0.25, seed=1)]
        [4, 3, 2]
        """
        return tuple(self.subset(part) for part in random_split(len(self), fractions, seed))

    def to_npz(self, path: str | os.PathLike[str]) -> None:
        """Write everything to an uncompressed .npz file that `from_npz` reads.

        The keys are `image`, `ebv`, `z` and `catalogue.NAME`, and `context` with the names of
        further inputs where there are some or no `ebv`. The file appears when it is complete; an
        existing one is replaced.
        """
        columns = {f"catalogue.{name}": value for name, value in self.catalogue.items()}
        inputs = {"image": self.image, "ebv": self.ebv, "z": self.z}
        held = {name: value for name, value in {**inputs, **columns}.items() if value is not None}
        arrays = {name: value.numpy() for name, value in held.items()}
        if self.ebv is None or self.context:
            arrays["context"] = np.array(self.context, dtype=np.str_)
        write_npz(Path(path), arrays)

    @classmethod
    def from_npz(cls, path: str | os.PathLike[str]) -> CutoutDataset:
        """Read an .npz file with the keys `image`, `ebv`, `z` (and `catalogue.NAME`, if any).

        Other keys are left alone. Nothing that would need unpickling is read. Without `ebv` it must
        have been written by `to_npz`.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is truncated, is no .npz file, or lacks a key; and as for the class.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> data = CutoutDataset(torch.zeros(3, 1, 2, 2), torch.zeros(3), torch.ones(3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "galaxies.npz"
        ...     data.to_npz(path)
        ...     CutoutDataset.from_npz(path)
        <CutoutDataset: 3 images of 1 x 2 x 2 pixels>
        """
        arrays = read_npz(
            Path(path),
            ("image", "ebv", "z"),
            "write it with CutoutDataset.to_npz, or numpy.savez(path, image=..., ebv=..., z=...); "
            "other names, and files without E(B-V), are read by StoredCutouts(path, ...).load()",
        )
        names = [key for key in arrays if key.startswith("catalogue.")]
        columns = {name.removeprefix("catalogue."): arrays[name] for name in names}
        context = arrays["context"].tolist() if "context" in arrays else ()
        return cls(arrays["image"], arrays.get("ebv"), arrays["z"], columns, context)
