r"""Readouts: how the output of a network becomes a redshift, and a PDF where it holds one.

A network may predict a PDF on redshift bins (`RedshiftBins`, the paper's), one number
(`PointEstimate`), a mixture of Gaussians (`GaussianMixture`) or quantiles (`Quantiles`).
Objectives, evaluations and figures ask a readout and never look at the output themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from advphotoz._arrays import as_tensor, constants_like
from advphotoz._deferred import refuse
from advphotoz._rounding import compute_dtype

__all__ = [
    "GaussianMixture",
    "PDFReadout",
    "PDFScores",
    "PointEstimate",
    "Quantiles",
    "Readout",
    "RedshiftBins",
]


@runtime_checkable
class Readout(Protocol):
    """What is asked of a readout; any object with these two methods is one."""

    def redshift(self, output: Any) -> Tensor:
        """Return the point estimate z_phot, (N,), differentiable with respect to the output."""
        ...

    def check(self, z: Any) -> Tensor:
        """Return true redshifts as a tensor, or refuse those that this output cannot stand for."""
        ...


class PDFScores(NamedTuple):
    """How well the PDF of each sample fits its true redshift; each (N,).

    Attributes
    ----------
    nll : Tensor
        Negative log-likelihood, -log p(z_spec), with p a density in redshift.
    pit : Tensor
        The CDF at z_spec, uniform on [0, 1] for calibrated PDFs.
    crps : Tensor
        Continuous ranked probability score, in redshift.
    cde_loss : Tensor
        Integral of p squared minus 2 p(z_spec).
    """

    nll: Tensor
    pit: Tensor
    crps: Tensor
    cde_loss: Tensor


@runtime_checkable
class PDFReadout(Readout, Protocol):
    """A readout of a network that predicts a PDF."""

    def log_density(self, output: Any, z: Tensor) -> Tensor:
        """Return log p(z), (N,), differentiable with respect to the output."""
        ...

    def scores(self, output: Any, z: Tensor) -> PDFScores:
        """Return every score of the PDFs at the true redshifts z, (N,)."""
        ...


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
        return torch.bucketize(z.contiguous(), constants_like(self.edges[1:-1], z), right=True)

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
        p = self.check_pdf(pdf)
        return (p * constants_like(self.centers, p)).sum(dim=-1)

    def mode(self, pdf: Any) -> Tensor:
        """Centre of the most probable bin; the first one of several.

        Parameters, returned values and errors are those of :meth:`mean`.

        Examples
        --------
        >>> RedshiftBins(n=2).mode(torch.tensor([[0.1, 0.9]]))
        tensor([0.7500])
        """
        p = self.check_pdf(pdf)
        return constants_like(self.centers, p)[p.argmax(dim=-1)]

    def median(self, pdf: Any) -> Tensor:
        """Redshift with half of the row's probability below it.

        The PDF is constant within a bin, so the CDF is interpolated linearly there. Parameters,
        returned values and errors are those of :meth:`mean`.

        Examples
        --------
        >>> RedshiftBins(n=2).median(torch.tensor([[0.25, 0.75]]))
        tensor([0.6667])
        """
        p = self.check_pdf(pdf)
        cdf = p.cumsum(dim=-1)
        half = cdf[:, -1:] / 2
        k = torch.searchsorted(cdf, half)
        part = 1 - (cdf.gather(1, k) - half) / p.gather(1, k)
        return (constants_like(self.edges, p)[k] + self.width * part).squeeze(1)

    def redshift(self, output: Any) -> Tensor:
        """Return the mean of the PDF, z_phot, of logits (N, n); differentiable, no waiting.

        Raises
        ------
        TypeError, ValueError
            If the output is not (N, n) floating-point logits (probabilities included), or holds NaN
            or +inf.

        Examples
        --------
        >>> RedshiftBins(n=2).redshift(torch.zeros(1, 2))
        tensor([0.5000])
        """
        logits = self.logits(output)
        return (logits.softmax(dim=-1) * constants_like(self.centers, logits)).sum(dim=-1)

    def log_density(self, output: Any, z: Tensor) -> Tensor:
        """Return log p(z), (N,), of logits (N, n), with p constant within a bin.

        The errors are those of :meth:`redshift` and :meth:`check`.

        Examples
        --------
        >>> RedshiftBins(n=2).log_density(torch.zeros(1, 2), torch.tensor([0.3]))
        tensor([0.])
        """
        logits = self.logits(output)
        check_target(logits, z)
        at_z = logits.log_softmax(dim=-1).gather(1, self.index(z)[:, None])[:, 0]
        return at_z - math.log(self.width)

    def scores(self, output: Any, z: Tensor) -> PDFScores:
        """Return every score of the PDFs of logits (N, n) at z (N,)."""
        logits = self.logits(output)
        found = self.pdf_scores(logits.softmax(dim=-1), z)
        return found._replace(nll=-self.log_density(logits, z))  # finite where softmax is zero

    def pdf_scores(self, pdf: Tensor, z: Tensor) -> PDFScores:
        """Return every score of PDFs (N, n) at z (N,), computed in the precision of the PDFs.

        The CDF is linear within a bin, so that the integrals are exact: bins below z hold that of
        :math:`F^2`, bins above it that of :math:`(1 - F)^2`.
        """
        check_target(pdf, z)
        k = self.index(z)[:, None]
        left_edge = constants_like(self.edges, pdf)[k[:, 0]]
        # z is compared with the edges in its own precision and may miss its bin by a rounding.
        t = ((self.check(z).to(pdf.dtype) - left_edge) / self.width).clamp(0, 1)
        right = pdf.cumsum(dim=1)
        left = right - pdf
        a, p = left.gather(1, k)[:, 0], pdf.gather(1, k)[:, 0]
        b, middle = a + p, a + p * t
        j = torch.arange(self.n, device=pdf.device)
        outside = torch.where(
            j < k, _mean_square(left, right), _mean_square(1 - left, 1 - right)
        ).masked_fill(j == k, 0)
        inside = t * _mean_square(a, middle) + (1 - t) * _mean_square(1 - middle, 1 - b)
        density = p / self.width
        return PDFScores(
            nll=-density.log(),
            pit=middle.clamp(0, 1),  # rounding of the sum
            crps=self.width * (outside.sum(dim=1) + inside),
            cde_loss=pdf.square().sum(dim=1) / self.width - 2 * density,
        )

    def logits(self, output: Any) -> Tensor:
        """Return logits (N, n) in float32 or wider, or say why the output is none."""
        logits = _floating(output)
        if logits.ndim != 2 or logits.shape[1] != self.n:
            raise ValueError(
                f"The model's output must be logits of shape (N, {self.n}), one per redshift bin; "
                f"got shape {tuple(logits.shape)}. Give the RedshiftBins that the network was "
                "trained on, or another readout: PointEstimate for one redshift per sample."
            )
        values = logits.detach()
        bad = ~(values < torch.inf).all(dim=-1)
        sums_to_one = ((values.sum(dim=-1) - 1).abs() <= 1e-4).all()
        probability = (values >= 0).all() & sums_to_one & (len(values) > 0)
        refuse(bad.any() | probability, lambda: _no_logits(bad))
        return logits

    def _check_shape(self, values: Tensor, name: str) -> None:
        if values.ndim != 2 or values.shape[1] != self.n:
            raise ValueError(
                f"{name} must have shape (N, {self.n}), one column per redshift bin; "
                f"got {tuple(values.shape)}. Give RedshiftBins the n of the network's output."
            )

    def check_pdf(self, pdf: Any) -> Tensor:
        """Return PDFs (N, n) in float32 or wider, or refuse what is none; see :meth:`mean`."""
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


@dataclass(frozen=True)
class PointEstimate:
    """One redshift per sample: an output of shape (N,) or (N, 1).

    There is no PDF, so that what belongs to PDFs (PIT, CRPS) is not available.

    Raises
    ------
    TypeError, ValueError
        From its methods, for an output of another shape, or that is not finite.

    Examples
    --------
    >>> PointEstimate().redshift(torch.tensor([[0.25], [0.5]]))
    tensor([0.2500, 0.5000])
    """

    def redshift(self, output: Any) -> Tensor:
        """Return the output as redshifts (N,)."""
        values = _finite(_floating(output))
        if values.ndim == 2 and values.shape[1] == 1:
            return values[:, 0]
        if values.ndim != 1:
            raise ValueError(
                "The model's output must be one redshift per sample, of shape (N,) or (N, 1); got "
                f"shape {tuple(values.shape)}. Name the readout that fits: RedshiftBins for logits."
            )
        return values

    def check(self, z: Any) -> Tensor:
        """Return finite redshifts above -1 as a tensor."""
        return _finite_redshifts(z)


@dataclass(frozen=True)
class GaussianMixture:
    r"""A mixture density: an output of shape (N, 3 K).

    .. math:: p(z) = \sum_k w_k\, \mathcal{N}(z; \mu_k, \sigma_k^2)

    The first K columns are the logits of the weights (a softmax follows), the next K the means,
    the last K the logarithms of the standard deviations; join the tensors of a network that returns
    them apart with ``torch.cat([...], 1)``. z_phot is the mean. The CRPS is the closed form of
    Grimit et al. 2006 (Q. J. R. Meteorol. Soc. 132, 2925).

    Parameters
    ----------
    components : int
        K.

    Raises
    ------
    TypeError, ValueError
        From its methods, for an output of another shape, or that is not finite.

    References
    ----------
    Bishop 1994; for redshifts D'Isanto & Polsterer 2018 (arXiv:1706.02467).

    Examples
    --------
    >>> GaussianMixture(2).redshift(torch.tensor([[0.0, 0.0, 0.1, 0.3, -3.0, -3.0]]))
    tensor([0.2000])
    """

    components: int

    def __post_init__(self) -> None:
        if isinstance(self.components, bool) or not isinstance(self.components, (int, np.integer)):
            raise TypeError(f"components must be an integer; got {self.components!r}.")
        object.__setattr__(self, "components", int(self.components))
        if self.components < 1:
            raise ValueError(f"components must be at least 1; got {self.components}.")

    def redshift(self, output: Any) -> Tensor:
        """Return the mean of the mixture, (N,)."""
        log_weight, mean, _ = self._parts(output)
        return (log_weight.exp() * mean).sum(1)

    def check(self, z: Any) -> Tensor:
        """Return finite redshifts above -1 as a tensor."""
        return _finite_redshifts(z)

    def log_density(self, output: Any, z: Tensor) -> Tensor:
        """Return log p(z), (N,)."""
        log_weight, mean, log_sigma = self._parts(output)
        check_target(mean, z)
        unit = (self.check(z).to(mean.dtype)[:, None] - mean) * (-log_sigma).exp()
        log_normal = -unit.square() / 2 - log_sigma - math.log(2 * math.pi) / 2
        return (log_weight + log_normal).logsumexp(1)

    def scores(self, output: Any, z: Tensor) -> PDFScores:
        """Return every score of the PDFs at z, (N,)."""
        log_weight, mean, log_sigma = self._parts(output)
        log_density = self.log_density(output, z)
        weight, sigma = log_weight.exp(), log_sigma.exp()
        gap = z.to(mean.dtype)[:, None] - mean
        pairs = weight[:, :, None] * weight[:, None, :]
        apart = mean[:, :, None] - mean[:, None, :]
        width = torch.hypot(sigma[:, :, None], sigma[:, None, :])
        return PDFScores(
            nll=-log_density,
            pit=(weight * torch.special.ndtr(gap / sigma)).sum(1).clamp(0, 1),
            crps=(weight * _mean_distance(gap, sigma)).sum(1)
            - (pairs * _mean_distance(apart, width)).sum((1, 2)) / 2,
            cde_loss=(pairs * _normal(apart / width) / width).sum((1, 2)) - 2 * log_density.exp(),
        )

    def _parts(self, output: Any) -> tuple[Tensor, Tensor, Tensor]:
        values = _finite(_floating(output))
        k = self.components
        if values.ndim != 2 or values.shape[1] != 3 * k:
            raise ValueError(
                f"The model's output must have shape (N, {3 * k}): {k} logits of weights, {k} "
                f"means and {k} logarithms of standard deviations; got shape {tuple(values.shape)}."
            )
        return values[:, :k].log_softmax(1), values[:, k : 2 * k], values[:, 2 * k :]


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of the redshift: an output of shape (N, K), one column per level.

    z_phot is the median, interpolated between the two levels around 0.5. Quantiles alone do not say
    what lies beyond the outermost, so that scores of a whole PDF are not available.

    Parameters
    ----------
    levels : sequence of float
        Rising, within (0, 1), with 0.5 among them or between two of them.

    Raises
    ------
    ValueError
        For levels that are not so; from its methods, for an output of another shape, or not finite.

    Examples
    --------
    >>> Quantiles([0.25, 0.75]).redshift(torch.tensor([[0.1, 0.3]]))
    tensor([0.2000])
    """

    levels: Sequence[float]

    def __post_init__(self) -> None:
        levels = tuple(float(level) for level in self.levels)
        rising = all(a < b for a, b in pairwise(levels))
        if not levels or not rising or not 0 < levels[0] <= 0.5 <= levels[-1] < 1:
            raise ValueError(
                "levels must be rising numbers within (0, 1) that have the median, 0.5, among or "
                f"between them; got {self.levels!r}."
            )
        object.__setattr__(self, "levels", levels)

    def quantiles(self, output: Any) -> Tensor:
        """Return the output as quantiles (N, K)."""
        values = _finite(_floating(output))
        if values.ndim != 2 or values.shape[1] != len(self.levels):
            raise ValueError(
                f"The model's output must have shape (N, {len(self.levels)}), one quantile per "
                f"level; got shape {tuple(values.shape)}."
            )
        return values

    def redshift(self, output: Any) -> Tensor:
        """Return the median, (N,)."""
        values = self.quantiles(output)
        k = sum(level < 0.5 for level in self.levels)  # the first level that is at least 0.5
        high = self.levels[k]
        if high == 0.5:
            return values[:, k]
        part = (0.5 - self.levels[k - 1]) / (high - self.levels[k - 1])
        return values[:, k - 1] + part * (values[:, k] - values[:, k - 1])

    def check(self, z: Any) -> Tensor:
        """Return finite redshifts above -1 as a tensor."""
        return _finite_redshifts(z)


def check_target(output: Tensor, target: Any) -> None:
    """Refuse a target that is not one redshift per row of an output."""
    if not isinstance(target, Tensor):
        raise TypeError(f"The target must be a torch.Tensor; got {type(target).__name__}.")
    if target.shape != output.shape[:1]:
        raise ValueError(
            f"The target must hold one redshift per sample, shape ({len(output)},); got shape "
            f"{tuple(target.shape)}."
        )


def _floating(output: Any) -> Tensor:
    """Return an output in float32 or wider."""
    if not isinstance(output, Tensor):
        raise TypeError(
            f"The model's output must be a torch.Tensor; got {type(output).__name__}. Take the "
            "part that holds the prediction: models.Adapter(network, lambda net, *inputs: "
            "net(*inputs)[0])."
        )
    if not output.is_floating_point():
        raise TypeError(f"The model's output must be floating-point; got {output.dtype}.")
    return output.to(compute_dtype(output))


def _finite(values: Tensor) -> Tensor:
    bad = ~values.detach().isfinite()
    refuse(bad.any(), lambda: _not_finite(bad))
    return values


def _not_finite(bad: Tensor) -> ValueError:
    rows = bad.reshape(len(bad), -1).any(1)
    return ValueError(
        f"The model's output holds NaN or infinite values in {int(rows.sum())} of {len(rows)} "
        "rows. Check the network's weights and input."
    )


def _finite_redshifts(z: Any) -> Tensor:
    values = as_tensor(z)
    if not values.is_floating_point():
        raise TypeError(f"z must be floating point; got {values.dtype}. Convert it with .float().")
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    good = values.isfinite() & (values > -1)
    refuse(
        ~good.all(),
        lambda: ValueError(
            f"z must be finite and above -1; {int((~good).sum())} of {good.numel()} values are "
            f"not, the first at {_first(~good)}. Remove these samples."
        ),
    )
    return values


def _no_logits(bad: Tensor) -> ValueError:
    if bool(bad.any()):
        return ValueError(
            f"The model's output holds NaN or +inf in {int(bad.sum())} of {len(bad)} rows. "
            "Check the network's weights and input."
        )
    return ValueError(
        "The model's output is a probability (non-negative, rows sum to 1) where logits belong: "
        "drop the softmax at the end of the model; the readout applies it."
    )


def _mean_square(a: Tensor, b: Tensor) -> Tensor:
    """Mean over the unit interval of the square of a line from a to b."""
    return (a * a + a * b + b * b) / 3


def _normal(x: Tensor) -> Tensor:
    """Density of the standard normal distribution."""
    return (-x.square() / 2).exp() / math.sqrt(2 * math.pi)


def _mean_distance(mean: Tensor, sigma: Tensor) -> Tensor:
    """Mean absolute value of a normal variable."""
    unit = mean / sigma
    distance: Tensor = 2 * sigma * _normal(unit) + mean * (2 * torch.special.ndtr(unit) - 1)
    return distance
