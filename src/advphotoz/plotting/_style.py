"""What the pictures have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["BLUE", "COLOURS", "GREY", "MARKERS", "ORANGE", "VERMILLION", "as_float64"]

BLUE, VERMILLION, ORANGE, GREY = "#0072B2", "#D55E00", "#E69F00", "#767676"
COLOURS = (BLUE, VERMILLION, "#009E73", "#CC79A7", ORANGE, "#56B4E9", "#000000")
MARKERS = "osD^vP*"


def as_float64(values: Any) -> npt.NDArray[Any]:
    """Return a float64 array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, dtype=np.float64)
