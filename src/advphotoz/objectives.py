"""Objectives: one number per sample, raised by an attack and lowered by training.

An objective is any callable ``(output, target) -> (N,)`` of what the network returns and of the
true redshifts (N,). Those here hold the readout that the output is for, are frozen and hashable,
compute in float32 for a network of half precision too, and can be differentiated with respect to
the output. None has a readout by default: the bins of a network are never guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from advphotoz._arrays import constants_like
from advphotoz.redshift import PDFReadout, Quantiles, Readout, RedshiftBins, check_target

__all__ = [
    "CrossEntropy",
    "LogOdds",
    "NegativeLogLikelihood",
    "Objective",
    "PinballLoss",
    "RedshiftError",
    "SignedRedshift",
    "TowardRedshift",
    "default_objective",
    "per_sample",
]

Objective: TypeAlias = Callable[[Any, Tensor], Tensor]
"""A callable ``(output, target) -> (N,)``."""


@dataclass(frozen=True)
class CrossEntropy:
    r"""Cross-entropy between the predicted PDF and the bin of z_spec, or a Gaussian label on it.

    .. math:: \ell = -\sum_k t_k \log \mathrm{softmax}(f(x))_k, \qquad
        t_k \propto \int_{e_k}^{e_{k+1}} \mathcal{N}(z; z_{spec}, w^2)\, dz

    With w = 0 all of t is in the bin that holds z_spec: the loss of Campagne 2020
    (arXiv:2002.10154), Sec. 2 and :math:`\ell` of Eq. 1. A width of about a bin tells the network
    that bins are ordered (soft labels; Diaz & Marathe 2019, CVPR), and trains faster. The output
    is (N, n) logits, the target (N,) redshifts; the result is (N,), float32, or float64 for a
    float64 output.

    Parameters
    ----------
    bins : RedshiftBins
        The grid that the logits stand for.
    width : float
        w, the standard deviation of the label in redshift; what lies beyond the ends of the grid is
        left out, and the rest divided by its sum.

    Raises
    ------
    TypeError, ValueError
        When called with an output that is not (N, n) floating-point logits (probabilities
        included) or holds NaN or +inf, or a target that is not (N,) redshifts within the bins.

    Examples
    --------
    >>> import torch
    >>> CrossEntropy(RedshiftBins(n=2))(torch.zeros(1, 2), torch.tensor([0.3]))
    tensor([0.6931])
    """

    bins: RedshiftBins
    width: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.bins, RedshiftBins):
            raise TypeError(
                f"CrossEntropy needs the RedshiftBins of the network's logits, got {self.bins!r}"
            )
        object.__setattr__(self, "width", float(self.width))
        if not 0 <= self.width < float("inf"):
            raise ValueError(
                f"width must be finite and not negative, in redshift, got {self.width}"
            )

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """Return the cross-entropy of each sample."""
        logits = self.bins.logits(output)
        check_target(logits, target)
        with _full_precision(logits):
            if self.width:
                return -(self._labels(logits, target) * logits.log_softmax(dim=-1)).sum(dim=-1)
            index = self.bins.index(target)
            return torch.nn.functional.cross_entropy(logits, index, reduction="none")

    def _labels(self, logits: Tensor, target: Tensor) -> Tensor:
        z = self.bins.check(target).to(logits.dtype)[:, None]
        below = torch.special.ndtr((constants_like(self.bins.edges, logits) - z) / self.width)
        share: Tensor = below.diff(dim=-1)
        return share / share.sum(dim=-1, keepdim=True)


@dataclass(frozen=True)
class NegativeLogLikelihood:
    r"""Negative log-likelihood of z_spec under the predicted PDF.

    .. math:: \ell = -\log p(z_{spec})

    p is a density in redshift; on bins this is the cross-entropy plus log(width).

    Parameters
    ----------
    readout : PDFReadout
        How the output becomes a PDF: `RedshiftBins`, `GaussianMixture`, or one of your own.

    Raises
    ------
    TypeError
        If the readout has no PDF.

    Examples
    --------
    >>> import torch
    >>> NegativeLogLikelihood(RedshiftBins(n=2))(torch.zeros(1, 2), torch.tensor([0.3]))
    tensor([-0.])
    """

    readout: PDFReadout

    def __post_init__(self) -> None:
        if isinstance(self.readout, type) or not isinstance(self.readout, PDFReadout):
            raise TypeError(
                f"a likelihood needs a readout with a PDF, such as RedshiftBins, got "
                f"{self.readout!r}; RedshiftError works for any readout"
            )

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """Return -log p(z_spec) of each sample."""
        with _full_precision(output):
            return -self.readout.log_density(output, target)


@dataclass(frozen=True)
class LogOdds:
    r"""Log odds against the bin of z_spec, which no softmax saturates.

    .. math:: \ell = \log \frac{1 - p_s}{p_s}
        = \log \sum_{k \neq s} e^{f(x)_k} - f(x)_s, \qquad s = \mathrm{index}(z_{spec})

    It rises with the cross-entropy, and is largest where that is. But the gradient of the
    cross-entropy vanishes with :math:`1 - p_s`, and is exactly zero for a network that is sure and
    right, as float32 has it; that of the log odds is of the size of the logits' everywhere.

    Parameters
    ----------
    bins : RedshiftBins
        The grid that the logits stand for, of at least two bins.

    Raises
    ------
    TypeError, ValueError
        As `CrossEntropy`.

    Examples
    --------
    >>> import torch
    >>> LogOdds(RedshiftBins(n=2))(torch.tensor([[200.0, 0.0]]), torch.tensor([0.3]))
    tensor([-200.])
    """

    bins: RedshiftBins

    def __post_init__(self) -> None:
        if not isinstance(self.bins, RedshiftBins) or self.bins.n < 2:
            raise TypeError(
                "LogOdds needs the RedshiftBins of the network's logits, at least two of them, "
                f"got {self.bins!r}"
            )

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """Return the log odds of each sample."""
        logits = self.bins.logits(output)
        check_target(logits, target)
        with _full_precision(logits):
            index = self.bins.index(target)[:, None]
            others = logits.scatter(1, index, -torch.inf).logsumexp(1)
            return others - logits.gather(1, index)[:, 0]


@dataclass(frozen=True)
class RedshiftError:
    r"""Error of the redshift itself.

    .. math:: \ell = \frac{|z_{phot} - z_{spec}|}{1 + z_{spec}}

    This is the absolute value of Campagne 2020's :math:`\Delta z`, with the z_phot of the readout.
    Its gradient is zero for a sample whose error is exactly zero (the subgradient that torch takes
    of the absolute value there): an attack cannot start from such a point without a random start.

    Parameters
    ----------
    readout : Readout
        How the output becomes a redshift.

    Examples
    --------
    >>> import torch
    >>> RedshiftError(RedshiftBins(n=2))(torch.zeros(1, 2), torch.tensor([0.25]))
    tensor([0.2000])
    """

    readout: Readout

    def __post_init__(self) -> None:
        _check_readout(self.readout)

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """Return the redshift error of each sample."""
        z_phot, z_spec = _estimate(self.readout, output, target)
        return (z_phot - z_spec).abs() / (1 + z_spec)


@dataclass(frozen=True)
class SignedRedshift:
    r"""The predicted redshift with a sign: a search for the largest, or for the smallest.

    .. math:: \ell = \pm\, \frac{z_{phot} - z_{spec}}{1 + z_{spec}}

    Two searches, one per sign, find more than one search on the absolute error, which follows the
    sign that the error has at the start.

    Parameters
    ----------
    readout : Readout
        How the output becomes a redshift.
    sign : int
        1 for a larger redshift, -1 for a smaller one.

    Examples
    --------
    >>> import torch
    >>> SignedRedshift(RedshiftBins(n=2), sign=-1)(torch.zeros(1, 2), torch.tensor([0.25]))
    tensor([-0.2000])
    """

    readout: Readout
    sign: int = 1

    def __post_init__(self) -> None:
        _check_readout(self.readout)
        if self.sign not in (1, -1):
            raise ValueError(f"sign must be 1 or -1, got {self.sign!r}")

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """Return the signed redshift error of each sample."""
        z_phot, z_spec = _estimate(self.readout, output, target)
        return self.sign * (z_phot - z_spec) / (1 + z_spec)


@dataclass(frozen=True)
class TowardRedshift:
    r"""Closeness to a chosen redshift: raising it pulls every prediction there.

    .. math:: \ell = -\frac{|z_{phot} - z|}{1 + z}

    It is at most 0, and 0 for a prediction of exactly z. The target z_spec plays no part, but is
    checked as everywhere.

    Parameters
    ----------
    z : float
        The redshift to move to, one that the readout can stand for.
    readout : Readout
        How the output becomes a redshift.

    Raises
    ------
    ValueError
        If z lies outside the bins of the readout.

    Examples
    --------
    >>> import torch
    >>> TowardRedshift(0.25, RedshiftBins(n=2))(torch.zeros(1, 2), torch.tensor([0.1]))
    tensor([-0.2000])
    """

    z: float
    readout: Readout

    def __post_init__(self) -> None:
        """Refuse a z outside the bins; a plain float keeps ``eval(repr(o)) == o``."""
        _check_readout(self.readout)
        object.__setattr__(self, "z", float(self.readout.check(float(self.z))))

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """Return the closeness of each sample."""
        z_phot, _ = _estimate(self.readout, output, target)
        return -(z_phot - self.z).abs() / (1 + self.z)


@dataclass(frozen=True)
class PinballLoss:
    r"""Mean pinball loss of quantiles, what a quantile network is trained on.

    .. math:: \ell = \frac{1}{K} \sum_k \max\left(\tau_k u_k, (\tau_k - 1) u_k\right), \qquad
        u_k = z_{spec} - q_k

    (Koenker & Bassett 1978.)

    Parameters
    ----------
    readout : Quantiles
        The levels of the output's columns.

    Raises
    ------
    TypeError
        If the readout holds no levels.

    Examples
    --------
    >>> import torch
    >>> PinballLoss(Quantiles([0.5]))(torch.tensor([[0.2]]), torch.tensor([0.3]))
    tensor([0.0500])
    """

    readout: Quantiles

    def __post_init__(self) -> None:
        if not isinstance(self.readout, Quantiles):
            raise TypeError(
                f"PinballLoss needs the Quantiles of the network's output, got {self.readout!r}"
            )

    def __call__(self, output: Any, target: Tensor) -> Tensor:
        """Return the pinball loss of each sample."""
        with _full_precision(output):
            quantiles = self.readout.quantiles(output)
            check_target(quantiles, target)
            levels = constants_like(
                torch.tensor(self.readout.levels, dtype=torch.float64), quantiles
            )
            gap = self.readout.check(target).to(quantiles.dtype)[:, None] - quantiles
            return torch.maximum(levels * gap, (levels - 1) * gap).mean(1)


def default_objective(readout: Readout) -> Objective:
    """Return what an evaluation maximises where nothing is said: the likelihood, or the error.

    `NegativeLogLikelihood` where the readout has a PDF, else `RedshiftError`.
    """
    _check_readout(readout)
    if isinstance(readout, PDFReadout):
        return NegativeLogLikelihood(readout)
    return RedshiftError(readout)


def per_sample(objective: Objective, output: Any, target: Tensor) -> Tensor:
    """Return the values of an objective, (N,), in float32 or wider; refuse any other shape.

    A mean over the batch would tie each sample's perturbation to the others, and an (N, 1) output
    minus an (N,) target is an N x N matrix.

    Raises
    ------
    ValueError
        If the objective does not return one value per sample.
    """
    if isinstance(output, Tensor) and output.dtype in (torch.float16, torch.bfloat16):
        output = output.float()
    with _full_precision(output):
        value: Any = objective(output, target)
    if not isinstance(value, Tensor) or value.shape != (len(target),):
        came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"an objective must return one value per sample, shape ({len(target)},), got {came}; "
            "write reduction='none' where a loss would average, and squeeze an output of shape "
            "(N, 1)"
        )
    return value


def _check_readout(readout: Any) -> None:
    if isinstance(readout, type) or not isinstance(readout, Readout):
        raise TypeError(
            "a readout says how the network's output becomes a redshift: RedshiftBins(z_min, "
            "z_max, n) for logits on bins, PointEstimate() for one redshift per sample, "
            f"GaussianMixture or Quantiles; got {readout!r}"
        )


def _estimate(readout: Readout, output: Any, target: Tensor) -> tuple[Tensor, Tensor]:
    with _full_precision(output):
        z_phot = readout.redshift(output)
        check_target(z_phot, target)
        return z_phot, readout.check(target).to(z_phot.dtype)


def _full_precision(output: Any) -> torch.autocast:
    """Switch autocast off: an objective is computed in float32 inside an autocast region too."""
    device = output.device.type if isinstance(output, Tensor) else "cpu"
    return torch.autocast(device, enabled=False)
