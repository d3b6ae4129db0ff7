"""Objectives: one number per sample, raised by an attack and lowered by training.

An objective is any callable ``(output, target) -> (N,)``; those here take the logits of a network,
shape (N, n), and plain redshifts, shape (N,). They hold the redshift bins, are frozen and
hashable, compute in float32 for a network of half precision too, and can be differentiated with
respect to the output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from advphotoz._arrays import beside
from advphotoz._deferred import refuse
from advphotoz._rounding import compute_dtype
from advphotoz.redshift import RedshiftBins

__all__ = ["CrossEntropy", "Objective", "RedshiftError", "TowardRedshift"]

Objective: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A callable ``(output, target) -> (N,)``."""


@dataclass(frozen=True)
class CrossEntropy:
    r"""Cross-entropy between the predicted PDF and the bin that holds z_spec.

    .. math:: \ell = -\log \mathrm{softmax}(f(x))_{k(z_{spec})}

    The loss of Campagne 2020 (arXiv:2002.10154), Sec. 2 and :math:`\ell` of Eq. 1. The output is
    (N, n) logits, the target (N,) redshifts; the result is (N,), float32, or
    float64 for a float64 output.

    Parameters
    ----------
    bins : RedshiftBins
        The grid that the logits stand for.

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

    bins: RedshiftBins = field(default_factory=RedshiftBins)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of each sample."""
        logits = _logits(output, target, self.bins)
        with _full_precision(logits):
            index = self.bins.index(target)
            return torch.nn.functional.cross_entropy(logits, index, reduction="none")


@dataclass(frozen=True)
class RedshiftError:
    r"""Error of the redshift itself, with z_phot the mean of the predicted PDF.

    .. math:: \ell = \frac{|E[z] - z_{spec}|}{1 + z_{spec}}, \qquad E[z] = \sum_k p_k c_k

    This is the absolute value of Campagne 2020's :math:`\Delta z`. Its gradient is zero for a
    sample whose error is exactly zero (the subgradient that torch takes of the absolute value
    there): an attack cannot start from such a point without a random start.

    Shapes, parameters and errors are those of :class:`CrossEntropy`.

    Examples
    --------
    >>> import torch
    >>> RedshiftError(RedshiftBins(n=2))(torch.zeros(1, 2), torch.tensor([0.25]))
    tensor([0.2000])
    """

    bins: RedshiftBins = field(default_factory=RedshiftBins)

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the redshift error of each sample."""
        logits = _logits(output, target, self.bins)
        z_spec = self.bins.check(target).to(logits.dtype)
        with _full_precision(logits):
            return (_mean(logits, self.bins) - z_spec).abs() / (1 + z_spec)


@dataclass(frozen=True)
class TowardRedshift:
    r"""Closeness to a chosen redshift: raising it pulls every prediction there.

    .. math:: \ell = -\frac{|E[z] - z|}{1 + z}

    It is at most 0, and 0 for a prediction of exactly z. The target z_spec plays no part, but is
    checked as in :class:`CrossEntropy`, whose shapes and errors hold here too.

    Parameters
    ----------
    z : float
        The redshift to move to, within the bins.
    bins : RedshiftBins
        The grid that the logits stand for.

    Raises
    ------
    ValueError
        If z lies outside the bins.

    Examples
    --------
    >>> import torch
    >>> TowardRedshift(0.25, RedshiftBins(n=2))(torch.zeros(1, 2), torch.tensor([0.1]))
    tensor([-0.2000])
    """

    z: float
    bins: RedshiftBins = field(default_factory=RedshiftBins)

    def __post_init__(self) -> None:
        """Refuse a z outside the bins; a plain float keeps ``eval(repr(o)) == o``."""
        object.__setattr__(self, "z", float(self.bins.check(float(self.z))))

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the closeness of each sample."""
        logits = _logits(output, target, self.bins)
        self.bins.check(target)
        with _full_precision(logits):
            return -(_mean(logits, self.bins) - self.z).abs() / (1 + self.z)


def _full_precision(logits: Tensor) -> torch.autocast:
    """Switch autocast off: an objective is computed in float32 inside an autocast region too."""
    return torch.autocast(logits.device.type, enabled=False)


def _mean(logits: Tensor, bins: RedshiftBins) -> Tensor:
    """Mean redshift under the PDF, without the checks of :meth:`RedshiftBins.mean`."""
    return (logits.softmax(dim=-1) * beside(bins.centers, logits)).sum(dim=-1)


def _logits(output: Any, target: Any, bins: RedshiftBins) -> Tensor:
    """Return the logits in float32 or wider, or say why output and target are no such batch."""
    for name, value in (("model's output", output), ("target", target)):
        if not isinstance(value, Tensor):
            raise TypeError(f"The {name} must be a torch.Tensor; got {type(value).__name__}.")
    if not output.is_floating_point():
        raise TypeError(f"The model's output must be floating-point logits; got {output.dtype}.")
    if output.ndim != 2 or output.shape[1] != bins.n:
        raise ValueError(
            f"The model's output must be logits of shape (N, {bins.n}), one per redshift bin; got "
            f"shape {tuple(output.shape)}. Let the network have {bins.n} outputs, or give the "
            "objective the RedshiftBins it was trained on."
        )
    if target.shape != output.shape[:1]:
        raise ValueError(
            f"The target must hold one redshift per sample, shape ({len(output)},); got shape "
            f"{tuple(target.shape)}."
        )
    logits: Tensor = output.to(compute_dtype(output))
    values = logits.detach()
    bad = ~(values < torch.inf).all(dim=-1)
    sums_to_one = ((values.sum(dim=-1) - 1).abs() <= 1e-4).all()
    probability = (values >= 0).all() & sums_to_one & (len(output) > 0)
    refuse(bad.any() | probability, lambda: _no_logits(bad))
    return logits


def _no_logits(bad: Tensor) -> ValueError:
    if bool(bad.any()):
        return ValueError(
            f"The model's output holds NaN or +inf in {int(bad.sum())} of {len(bad)} rows. "
            "Check the network's weights and input."
        )
    return ValueError(
        "The model's output is a probability (non-negative, rows sum to 1) where logits belong: "
        "drop the softmax at the end of the model; the objective applies it."
    )
