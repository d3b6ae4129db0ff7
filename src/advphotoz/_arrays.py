"""Numbers, lists, arrays and tensors, read as a tensor or as a NumPy array."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["as_numpy", "as_tensor", "check_unmasked", "constants_like", "read_array"]


def check_unmasked(values: Any, name: str = "values") -> None:
    """Refuse masked values of NumPy, Astropy or torch, with their count and the first row.

    An array that could have masked values and has none is accepted.

    Raises
    ------
    ValueError
        If a value is masked; NumPy and torch would otherwise use the number under the mask.
    """
    count, row = _masked(values)
    if count:
        raise ValueError(
            f"{name} must hold no masked values, but {count} "
            f"{'is' if count == 1 else 'are'} masked, the first in row {row}. Masked values hold "
            "no data: drop their rows first, for example values[~mask]"
        )


def _masked(values: Any) -> tuple[int, int]:
    """Return the number of masked values and the first row (0 for a single number) with one."""
    if isinstance(values, (list, tuple)):
        counts = [_masked(value)[0] for value in values if not isinstance(value, (float, int))]
        if not any(counts):
            return 0, 0
        first = next(row for row, value in enumerate(values) if _masked(value)[0])
        return sum(counts), first
    if isinstance(values, Tensor):
        # torch.masked.MaskedTensor: True where a value is valid.
        mask = ~values.get_mask().cpu().numpy() if hasattr(values, "get_mask") else None
    else:
        mask = getattr(values, "mask", None)  # numpy.ma, astropy's MaskedColumn and Masked
    if not isinstance(mask, (np.ndarray, np.bool_)) or mask.dtype != np.bool_ or not mask.any():
        return 0, 0  # pandas has a method `mask`; records have a mask per field and are no numbers
    where = np.argwhere(mask)
    return len(where), int(where[0][0]) if mask.ndim else 0


def read_array(values: Any, name: str = "values", dtype: type | None = None) -> npt.NDArray[Any]:
    """Read an array of booleans or real numbers in native byte order, C order and writable.

    Memory is shared where the array is like that already. Integers beyond 8 bits without a sign,
    which torch barely supports, become int64.

    Parameters
    ----------
    values : array, number or sequence
        What to read; no tensor.
    name : str
        What the messages call it.
    dtype : type, optional
        The dtype of numbers and lists; that of the numbers by default. Arrays keep theirs.

    Raises
    ------
    TypeError
        If it holds anything but booleans and real numbers of at most 64 bits.
    ValueError
        If a value is masked, an integer is too large for int64, or the lengths of lists differ.
    """
    check_unmasked(values, name)
    if isinstance(values, (list, tuple)):  # NumPy does not read tensors that require gradients
        values = [v.detach().cpu() if isinstance(v, Tensor) else v for v in values]
    try:
        array = np.asarray(values, dtype=None if hasattr(values, "__array__") else dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} must be an array of real numbers, or a list of numbers or of rows of one "
            f"length: {error}"
        ) from error
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise TypeError(
            f"{name} must hold real numbers of at most 64 bits, got {array.dtype}; convert it "
            "with .astype(float)"
        )
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.size and array.max() > np.iinfo(np.int64).max:
            raise ValueError(f"{name} must be below 2^63 in whole numbers, got {array.max()}")
        array = array.astype(np.int64)
    # Byte order (FITS is big-endian), negative strides and write protection: torch takes none.
    return np.require(array, array.dtype.newbyteorder("="), ["C", "W"])


def as_tensor(values: Any, name: str = "values") -> Tensor:
    """Read a tensor; arrays and tensors keep their precision, numbers and lists get float64.

    Memory is shared where torch can: do not write to the result.

    Raises
    ------
    TypeError, ValueError
        If it does not hold real numbers, or holds masked ones; see `read_array`.
    """
    if isinstance(values, Tensor):
        check_unmasked(values, name)
        # A masked tensor without a masked value is used as the tensor of its data.
        tensor: Tensor = values.get_data() if hasattr(values, "get_data") else values
        if tensor.is_complex():
            raise TypeError(f"{name} must hold real numbers, got {tensor.dtype}")
        return tensor.to_dense() if tensor.layout != torch.strided else tensor
    return torch.from_numpy(read_array(values, name, np.float64))


def as_numpy(values: Any, name: str = "values") -> npt.NDArray[Any]:
    """Read a NumPy array of the same precision; bfloat16, which NumPy lacks, becomes float32.

    Raises
    ------
    TypeError, ValueError
        As `as_tensor`.
    """
    tensor = as_tensor(values, name).detach().cpu()
    return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def constants_like(values: Tensor, like: Tensor) -> Tensor:
    """Return constants in the dtype and on the device of a tensor, without waiting for a GPU.

    Cast first: some devices have no float64. CUDA has copied a few numbers when the call returns;
    other devices may read them later, and are waited for.
    """
    return values.to(like.dtype).to(like.device, non_blocking=like.is_cuda)
