"""The redshift grid: bins, the PDF a network predicts on them, and estimates of z from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advphotoz._arrays import as_tensor, beside
from advphotoz._deferred import refuse

__all__ = ["RedshiftBins"]


@dataclass(frozen=True)
class RedshiftBins:
    r"""Equal bins in redshift on :math:`[z_{min}, z_{max}]`.

    Bin :math:`k` is :math:`[e_k, e_{k+1})` with :math:`e_k = z_{min} + k (z_{max} - z_{min}) / n`;
    the last bin holds z_max too. The default is the grid of Campagne 2020 (arXiv:2002.10154,
    Sec. 2): 180 bins on [0, 1]. Pasquet et al. 2019 use ``RedshiftBins(0.0, 0.4, 180)``.

    Parameters
    ----------
    z_min, z_max : float
        Range in redshift, ``-1 < z_min < z_max``.
    n : int
        Number of bins.
    clip : bool
        Whether a z outside the range is moved to its nearest end. By default it is an error.

    Raises
    ------
    ValueError
        If the range is empty, not finite or reaches z = -1, or if n is less than 1.
    TypeError
        If n is not an integer.

    Examples
    --------
    >>> bins = RedshiftBins()
    >>> bins.index(0.1)
    tensor(18)
    >>> bins.index(1.0)
    tensor(179)
    """

    z_min: float = 0.0
    z_max: float = 1.0
    n: int = 180
    clip: bool = False

    def __post_init__(self) -> None:
        """Refuse a grid that is none; plain Python numbers keep ``eval(repr(bins)) == bins``."""
        if isinstance(self.n, bool) or not isinstance(self.n, (int, np.integer)):
            raise TypeError(f"n, the number of bins, must be an integer; got {self.n!r}.")
        for name, kind in (("z_min", float), ("z_max", float), ("n", int), ("clip", bool)):
            object.__setattr__(self, name, kind(getattr(self, name)))
        if self.n < 1:
            raise ValueError(f"n, the number of bins, must be at least 1; got {self.n}.")
        if not (-1.0 < self.z_min < self.z_max < math.inf):
            raise ValueError(
                f"The range must be finite with -1 < z_min < z_max; "
                f"got z_min={self.z_min}, z_max={self.z_max}."
            )

    @property
    def width(self) -> float:
        """Width of one bin, in redshift."""
        return (self.z_max - self.z_min) / self.n

    @property
    def edges(self) -> Tensor:
        """The n + 1 bin edges, float64 on the CPU."""
        # One rounding per edge on [0, 1]: edge 9 of 180 is the float 0.05, and index(0.05) is 9.
        k = torch.arange(self.n + 1, dtype=torch.float64, device="cpu")
        edges = (self.z_min * (self.n - k) + self.z_max * k) / self.n
        edges[0], edges[-1] = self.z_min, self.z_max
        return edges

    @property
    def centers(self) -> Tensor:
        """The n bin centres, float64 on the CPU."""
        edges = self.edges
        return (edges[:-1] + edges[1:]) / 2

    def check(self, z: Any) -> Tensor:
        """Return z as a tensor inside the range (float16 and bfloat16 become float32).

        The comparison is made in z's own precision: float32(0.4), which is a little more than
        0.4, lies inside ``RedshiftBins(0.0, 0.4)``.

        Parameters
        ----------
        z : float, array or Tensor
            Redshifts of any shape, which the result keeps. Its values are those of z, or moved to
            the nearest end if ``clip`` is set.

        Raises
        ------
        TypeError
            If z has an integer dtype: those are likely bin numbers, not redshifts.
        ValueError
            If z is NaN or infinite, or outside the range and ``clip`` is not set.

        Examples
        --------
        >>> RedshiftBins(clip=True).check([0.5, 1.5])
        tensor([0.5000, 1.0000], dtype=torch.float64)
        """
        values = as_tensor(z)
        if not values.is_floating_point():
            raise TypeError(
                f"z must be floating point; got {values.dtype}. If these are bin numbers, "
                "use bins.centers[index]; if they are redshifts, convert them with .float()."
            )
        if values.dtype in (torch.float16, torch.bfloat16):
            values = values.float()
        # torch rounds the two numbers to the precision of the tensor.
        inside = (values >= self.z_min) & (values <= self.z_max)
        accepted = values.isfinite() if self.clip else inside
        refuse(~accepted.all(), lambda: self._refusal(values, inside))
        return values.clamp(self.z_min, self.z_max) if self.clip else values

    def _refusal(self, values: Tensor, inside: Tensor) -> ValueError:
        not_finite = ~values.isfinite()
        if bool(not_finite.any()):
            return ValueError(
                f"z must be finite; {int(not_finite.sum())} of {values.numel()} values are NaN or "
                f"infinite, the first at {_first(not_finite)}. Remove these samples."
            )
        return ValueError(
            f"{int((~inside).sum())} of {values.numel()} redshifts lie outside the bins "
            f"[{self.z_min}, {self.z_max}]; the first is {float(values[~inside][0]):.9g} at "
            f"{_first(~inside)}. Give RedshiftBins a wider range, or clip=True to move them to "
            "the nearest end."
        )

    def index(self, z: Any) -> Tensor:
        """Find the bin that holds each z.

        Parameters
        ----------
        z : float, array or Tensor
            Redshifts of any shape; precision and errors as in :meth:`check`.

        Returns
        -------
        Tensor
            int64, shape and device of z.

        Examples
        --------
        >>> RedshiftBins(0.0, 0.4, 4).index(torch.tensor([0.0, 0.1, 0.25, 0.4]))
        tensor([0, 1, 2, 3])
        """
        z = self.check(z)
        # Only inner edges count: z_max falls in the last bin.
        return torch.bucketize(z.contiguous(), beside(self.edges[1:-1], z), right=True)

    def one_hot(self, z: Any) -> Tensor:
        """Return float32 vectors (N, n) with a one in the bin that holds each z of shape (N,).

        Errors are those of :meth:`check`.

        Examples
        --------
        >>> RedshiftBins(n=4).one_hot([0.3])
        tensor([[0., 1., 0., 0.]])
        """
        return torch.nn.functional.one_hot(self.index(z), self.n).float()

    def pdf(self, logits: Any) -> Tensor:
        r"""Redshift PDF of each sample: probabilities of the bins, softmax of the logits.

        Parameters
        ----------
        logits : array or Tensor, (N, n)
            Output of a network, any floating dtype.

        Returns
        -------
        Tensor, (N, n)
            Float32, rows sum to 1. Divide by ``width`` for a density in redshift.

        Raises
        ------
        ValueError
            If the shape is not (N, n), or a row holds NaN or +inf.

        Examples
        --------
        >>> RedshiftBins(n=2).pdf(torch.zeros(1, 2))
        tensor([[0.5000, 0.5000]])
        """
        values = as_tensor(logits)
        self._check_shape(values, "logits")
        pdf = values.float().softmax(dim=-1)
        bad = pdf.isnan().any(dim=-1)
        if bool(bad.any()):
            raise ValueError(
                f"{int(bad.sum())} of {len(bad)} rows of logits hold NaN or +inf, the first is "
                f"row {_first(bad)[0]}. Check the network's weights and input."
            )
        return pdf

    def mean(self, pdf: Any) -> Tensor:
        r"""Mean of the PDF over the bin centres, the paper's z_phot.

        .. math:: z_{phot} = \sum_k p_k\, c_k

        (Campagne 2020, Sec. 2.) Pasquet et al.'s released script puts the left edges in place of
        the centres c_k: half a bin less.

        Parameters
        ----------
        pdf : array or Tensor, (N, n)
            Probabilities of the bins.

        Returns
        -------
        Tensor, (N,)
            Redshift; float64 for a float64 PDF, else float32.

        Raises
        ------
        ValueError
            If pdf has the wrong shape, NaN or negative values, or rows whose sum is not 1
            within 1e-3.

        Examples
        --------
        >>> RedshiftBins(n=2).mean(torch.tensor([[0.5, 0.5]]))
        tensor([0.5000])
        """
        p = self._check_pdf(pdf)
        return (p * beside(self.centers, p)).sum(dim=-1)

    def mode(self, pdf: Any) -> Tensor:
        """Centre of the most probable bin; the first one of several.

        Parameters, returned values and errors are those of :meth:`mean`.

        Examples
        --------
        >>> RedshiftBins(n=2).mode(torch.tensor([[0.1, 0.9]]))
        tensor([0.7500])
        """
        p = self._check_pdf(pdf)
        return beside(self.centers, p)[p.argmax(dim=-1)]

    def median(self, pdf: Any) -> Tensor:
        """Redshift with half of the row's probability below it.

        The PDF is constant within a bin, so the CDF is interpolated linearly there. Parameters,
        returned values and errors are those of :meth:`mean`.

        Examples
        --------
        >>> RedshiftBins(n=2).median(torch.tensor([[0.25, 0.75]]))
        tensor([0.6667])
        """
        p = self._check_pdf(pdf)
        cdf = p.cumsum(dim=-1)
        half = cdf[:, -1:] / 2
        k = torch.searchsorted(cdf, half)
        part = 1 - (cdf.gather(1, k) - half) / p.gather(1, k)
        return (beside(self.edges, p)[k] + self.width * part).squeeze(1)

    def _check_shape(self, values: Tensor, name: str) -> None:
        if values.ndim != 2 or values.shape[1] != self.n:
            raise ValueError(
                f"{name} must have shape (N, {self.n}), one column per redshift bin; "
                f"got {tuple(values.shape)}. Give RedshiftBins the n of the network's output."
            )

    def _check_pdf(self, pdf: Any) -> Tensor:
        p = as_tensor(pdf)
        self._check_shape(p, "pdf")
        p = p if p.dtype == torch.float64 else p.float()
        # Written so that NaN counts as bad.
        bad = ~((p >= 0).all(dim=-1) & ((p.sum(dim=-1) - 1).abs() <= 1e-3))
        if bool(bad.any()):
            row = _first(bad)[0]
            raise ValueError(
                f"A PDF must be non-negative with rows that sum to 1; {int(bad.sum())} of "
                f"{len(bad)} rows are not (NaN counts), the first is row {row}: minimum "
                f"{float(p[row].min()):.6g}, sum {float(p[row].sum()):.6g}. "
                "Use bins.pdf(logits) for logits; divide other rows by their sum."
            )
        return p


def _first(mask: Tensor) -> tuple[int, ...]:
    """Position of the first True."""
    return tuple(mask.nonzero()[0].tolist())
