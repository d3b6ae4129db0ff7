"""Numbers, lists, arrays and tensors, read as a tensor or as a NumPy array."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["as_numpy", "as_tensor", "beside"]


def as_tensor(values: Any) -> Tensor:
    """Read a tensor; arrays and tensors keep their precision, numbers and lists get float64."""
    if isinstance(values, Tensor):
        return values
    if np.ma.is_masked(values):
        raise ValueError("Masked values hold no data; drop their rows first: values[~mask].")
    array = np.array(values, dtype=None if hasattr(values, "__array__") else np.float64)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))  # FITS is big-endian


def as_numpy(values: Any) -> npt.NDArray[Any]:
    """Read a NumPy array of the same precision; bfloat16, which NumPy lacks, becomes float32."""
    tensor = as_tensor(values).detach().cpu()
    return tensor.float().numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def beside(values: Tensor, like: Tensor) -> Tensor:
    """Return constants in the dtype and on the device of a tensor, without waiting for a GPU.

    Cast first: some devices have no float64. CUDA has copied a few numbers when the call returns;
    other devices may read them later, and are waited for.
    """
    return values.to(like.dtype).to(like.device, non_blocking=like.is_cuda)
