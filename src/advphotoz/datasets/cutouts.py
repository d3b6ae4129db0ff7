"""Image cubes with what is known about them, as a torch data set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from advphotoz._checks import check_finite
from advphotoz.datasets._npz import read_npz, write_npz
from advphotoz.datasets._split import deal

__all__ = ["CutoutDataset"]


def _float32(value: Any, name: str) -> Tensor:
    """Return real numbers as a contiguous float32 CPU tensor, without a copy where none is due."""
    if isinstance(value, Tensor):
        tensor = value.detach().to("cpu")
        if tensor.dtype == torch.bool or tensor.is_complex():
            raise TypeError(f"{name} must hold real numbers, got {tensor.dtype}")
    else:
        array = np.asarray(value)
        if array.dtype.kind not in "iuf":
            raise TypeError(f"{name} must hold real numbers, got an array of {array.dtype}")
        # Byte order, strides and write protection are things that torch cannot take.
        tensor = torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    check_finite(tensor, name)
    single = tensor.to(torch.float32).contiguous()
    if tensor.dtype == torch.float64:  # the one that can overflow
        check_finite(single, f"{name} as float32")
    return single


def _column(value: Any, name: str, rows: int) -> Tensor:
    column = _float32(value, name)
    if column.ndim != 1 or len(column) != rows:
        raise ValueError(
            f"{name} must hold one number per image, of shape ({rows},), got {tuple(column.shape)}"
        )
    return column


class CutoutDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Cutouts of galaxies with reddening and redshift; sample k is `(image, ebv, z)`.

    Parameters
    ----------
    image : array or tensor
        Pixels of shape (N, bands, height, width), floating point, in any unit (nanomaggies for
        the simulated ones). Any number of bands and any size.
    ebv : array or tensor
        Galactic reddening E(B-V) in magnitudes, shape (N,); zeros where it is corrected already.
    z : array or tensor
        Spectroscopic redshift, shape (N,).
    catalogue : mapping of str to array or tensor, optional
        Further columns with one row per image, such as the magnitudes `mag` of shape (N, bands).
        They follow their galaxies through `subset`, `split` and files, but are no part of a
        sample.

    Attributes
    ----------
    image, ebv, z : Tensor
        float32 on the CPU. They share memory with what was given where that was float32 already.
    catalogue : dict of str to Tensor
        float32 on the CPU.

    Raises
    ------
    TypeError
        If the images are integers, or anything is not made of real numbers.
    ValueError
        If a shape is wrong, the lengths differ, or a value is NaN or infinite (the message counts
        them and gives the first position).

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
        self, image: Any, ebv: Any, z: Any, catalogue: Mapping[str, Any] | None = None
    ) -> None:
        kind = image.dtype if hasattr(image, "dtype") else np.asarray(image).dtype
        floating = kind.is_floating_point if isinstance(kind, torch.dtype) else kind.kind == "f"
        if not floating:
            raise TypeError(
                f"image must be floating point, got {kind}: its changes are smaller than one unit; "
                f"convert it to float32"
            )
        self.image = _float32(image, "image")
        if self.image.ndim != 4 or 0 in self.image.shape:
            raise ValueError(
                f"image must have the shape (N, bands, height, width) with none of them 0, "
                f"got {tuple(self.image.shape)}"
            )
        rows = len(self.image)
        self.ebv = _column(ebv, "ebv", rows)
        self.z = _column(z, "z", rows)
        self.catalogue = {name: _float32(value, name) for name, value in (catalogue or {}).items()}
        for name, value in self.catalogue.items():
            if value.ndim == 0 or len(value) != rows:
                raise ValueError(
                    f"catalogue column {name!r} must have {rows} rows like image, "
                    f"got shape {tuple(value.shape)}"
                )

    def __len__(self) -> int:
        return len(self.z)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        return self.image[index], self.ebv[index], self.z[index]

    def __repr__(self) -> str:
        bands, height, width = self.image.shape[1:]
        return f"<CutoutDataset: {len(self)} images of {bands} x {height} x {width} pixels>"

    def subset(self, indices: Any) -> CutoutDataset:
        """Return the galaxies at the given positions (integers or a mask), as a copy.

        Raises
        ------
        IndexError
            If a position does not exist or a mask has another length.

        Examples
        --------
        >>> data = CutoutDataset(torch.zeros(3, 1, 2, 2), torch.zeros(3), torch.tensor([1., 2, 3]))
        >>> data.subset([2, 0]).z
        tensor([3., 1.])
        """
        rows = torch.as_tensor(indices)
        return CutoutDataset(
            self.image[rows],
            self.ebv[rows],
            self.z[rows],
            {name: value[rows] for name, value in self.catalogue.items()},
        )

    def split(self, *fractions: float, seed: int = 0) -> tuple[CutoutDataset, ...]:
        """Deal the galaxies at random into parts, each galaxy into one.

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
        return tuple(self.subset(part) for part in deal(len(self), fractions, seed))

    def to_npz(self, path: str | os.PathLike[str]) -> None:
        """Write everything to an uncompressed .npz file that `from_npz` reads.

        The keys are `image`, `ebv`, `z` and `catalogue.NAME`. The file appears when it is
        complete; an existing one is replaced.
        """
        columns = {f"catalogue.{name}": value for name, value in self.catalogue.items()}
        arrays = {"image": self.image, "ebv": self.ebv, "z": self.z, **columns}
        write_npz(Path(path), {name: value.numpy() for name, value in arrays.items()})

    @classmethod
    def from_npz(cls, path: str | os.PathLike[str]) -> CutoutDataset:
        """Read an .npz file with the keys `image`, `ebv`, `z` (and `catalogue.NAME`, if any).

        Other keys are left alone. Nothing that would need unpickling is read.

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
            "write it with CutoutDataset.to_npz, or numpy.savez(path, image=..., ebv=..., z=...)",
        )
        names = [key for key in arrays if key.startswith("catalogue.")]
        columns = {name.removeprefix("catalogue."): arrays[name] for name in names}
        return cls(arrays["image"], arrays["ebv"], arrays["z"], columns)
