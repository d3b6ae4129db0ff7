"""Metrics of redshift PDFs on bins; exact for a density that is constant within a bin."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from advphotoz._arrays import as_tensor
from advphotoz.redshift import PDFScores, RedshiftBins

__all__ = ["cde_loss", "crps", "nll", "pit"]

Array: TypeAlias = npt.NDArray[np.float64]


def pit(pdf: Any, z_spec: Any, bins: RedshiftBins) -> Array:
    r"""Probability integral transform: the CDF at z_spec, uniform for calibrated PDFs.

    .. math:: \mathrm{PIT} = F(z_{spec})

    Parameters
    ----------
    pdf : array or Tensor, (N, n)
        Probabilities of the bins.
    z_spec : array, Tensor or list, (N,)
        True redshifts, within the bins.
    bins : RedshiftBins
        The grid of the PDFs.

    Returns
    -------
    ndarray, (N,)
        float64 in [0, 1].

    Raises
    ------
    ValueError
        If the shapes do not fit, N is 0, a row is no PDF, or a z_spec is NaN, infinite or outside
        the bins.

    Examples
    --------
    >>> from advphotoz.redshift import PDFScores, RedshiftBins
    >>> pit([[0.5, 0.5]], [0.25], RedshiftBins(n=2))
    array([0.25])
    """
    return _scores(pdf, z_spec, bins).pit.numpy()


def crps(pdf: Any, z_spec: Any, bins: RedshiftBins) -> float:
    r"""Mean continuous ranked probability score; in redshift, 0 is perfect.

    .. math::
        \mathrm{CRPS} = \int_{z_{min}}^{z_{max}} \left(F(z) - [z \ge z_{spec}]\right)^2 dz

    (Gneiting & Raftery 2007, Sec. 4.2; for redshifts Polsterer et al. 2016, arXiv:1608.08016.)
    The CDF is linear in a bin, so the integral is exact. Parameters and errors are those of
    :func:`pit`.

    Examples
    --------
    >>> round(crps([[0.5, 0.5]], [0.5], RedshiftBins(n=2)), 6)
    0.083333
    """
    return float(_scores(pdf, z_spec, bins).crps.mean())


def cde_loss(pdf: Any, z_spec: Any, bins: RedshiftBins) -> float:
    r"""Conditional density estimation loss, up to its constant; lower is better.

    .. math:: L = \langle \textstyle\int p(z)^2 dz \rangle - 2\, \langle p(z_{spec}) \rangle

    (Izbicki & Lee 2017, arXiv:1704.08095.) p is a density, in 1/redshift, and the integral is
    exact. Parameters and errors are those of :func:`pit`.

    Examples
    --------
    >>> cde_loss([[0.5, 0.5]], [0.25], RedshiftBins(n=2))
    -1.0
    """
    return float(_scores(pdf, z_spec, bins).cde_loss.mean())


def nll(pdf: Any, z_spec: Any, bins: RedshiftBins) -> float:
    r"""Mean negative log-likelihood of z_spec.

    .. math:: \mathrm{NLL} = -\langle \log p(z_{spec}) \rangle

    p is a density, in 1/redshift: the cross-entropy on the bins plus log(width). It is infinite
    if the PDF of any sample is 0 at its z_spec. Parameters and errors are those of :func:`pit`.

    Examples
    --------
    >>> round(nll([[0.25, 0.75]], [0.25], RedshiftBins(n=2)), 6)
    0.693147
    """
    return float(_scores(pdf, z_spec, bins).nll.mean())


def _scores(pdf: Any, z_spec: Any, bins: RedshiftBins) -> PDFScores:
    """Return every score in float64, of PDFs divided by their sums."""
    p = bins.check_pdf(pdf).detach().cpu().double()
    z = as_tensor(z_spec).detach().cpu()
    if z.shape != p.shape[:1] or not len(p):
        raise ValueError(
            f"z_spec must hold one redshift per PDF, and there must be at least one; got z_spec "
            f"of shape {tuple(z.shape)} and pdf of shape {tuple(p.shape)}."
        )
    return bins.pdf_scores(p / p.sum(dim=1, keepdim=True), z)
