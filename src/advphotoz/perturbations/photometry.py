"""Errors of the photometric calibration: zero points."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from advphotoz.perturbations.box import Box

__all__ = ["ZeroPoint"]

Context = tuple[Tensor, ...]


@dataclass(frozen=True)
class ZeroPoint(Box):
    r"""An error of each band's photometric zero point, of at most `budget` magnitudes.

    .. math:: x_b \leftarrow 10^{-0.4\, a_b}\, x_b, \qquad a_b = p_b\, m_b, \quad |p_b| \le 1

    A positive :math:`a_b` is fainter: magnitudes become :math:`m + a_b`. Pixels must be linear in
    flux, so that a stretch or a standardisation belongs inside the network.

    Parameters
    ----------
    budget : float or sequence of float
        :math:`m_b` in magnitudes, for all bands or one per band; 0.01 in griz and 0.02 in u for the
        SDSS.

    Raises
    ------
    ValueError
        For a budget that is negative or not finite; from an attack, for images of another number of
        bands.

    References
    ----------
    Padmanabhan et al. 2008 (arXiv:astro-ph/0703454), the calibration of the SDSS.

    Examples
    --------
    >>> import torch
    >>> x, p = torch.ones(1, 2, 1, 1), torch.tensor([[1.0, -1.0]])
    >>> brighter_and_fainter, _ = ZeroPoint(0.1).apply(x, (), p)
    >>> brighter_and_fainter.flatten()
    tensor([0.9120, 1.0965])
    """

    @property
    @override
    def unit(self) -> str:
        return "zero point mag"

    @override
    def apply(self, x: Tensor, context: Context, p: Tensor) -> tuple[Tensor, Context]:
        factor = (-0.4 * math.log(10) * self.physical(p)).exp()
        return (x * factor.view(*factor.shape, *[1] * (x.ndim - 2))).to(x.dtype), context
