"""One line of a table of results: every metric of one model on one set of images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

__all__ = ["Row"]


@dataclass(frozen=True)
class Row:
    r"""Metrics of one model on images that one attack has changed.

    Redshift metrics are those of :mod:`advphotoz.metrics`, with
    :math:`\Delta z = (z_{phot} - z_{spec}) / (1 + z_{spec})` and z_phot the mean of the PDF.
    They are plain numbers: the factors 1e4, 1e3 and 100 of the printed tables are not applied.

    Attributes
    ----------
    name : str
        Name of the attack; ``clean`` and ``noise`` are the controls.
    attack : str
        ``repr`` of the attack, its objective included; ``none`` for clean images.
    n : int
        Number of samples.
    bias, sigma_mad, eta : float
        The paper's three metrics; `eta` is the fraction with :math:`|\Delta z| > 0.05`.
    bias_error, sigma_mad_error, eta_error : float or None
        Their bootstrap standard errors; None if none were asked for.
    median_bias, sigma_iqr, outlier_fraction_desc : float
        The same in the conventions of LSST DESC.
    crps, cde_loss, nll : float
        Of the PDFs: continuous ranked probability score (in redshift), loss of the conditional
        density estimate, negative log-likelihood.
    objective_before, objective_after : float
        Mean objective of the clean images, and of the changed ones.
    linf, l2 : float
        Largest norms of x_adv - x over the samples, in the units of the image.
    """

    name: str
    attack: str
    n: int
    bias: float
    sigma_mad: float
    eta: float
    bias_error: float | None
    sigma_mad_error: float | None
    eta_error: float | None
    median_bias: float
    sigma_iqr: float
    outlier_fraction_desc: float
    crps: float
    cde_loss: float
    nll: float
    objective_before: float
    objective_after: float
    linf: float
    l2: float

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Row:
        """Build a row from what JSON gave back, where NaN and infinities are strings."""
        kinds: dict[str, Any] = {"name": str, "attack": str, "n": int}
        parsed: dict[str, Any] = {}
        for f in dataclasses.fields(cls):
            value = values[f.name]
            parsed[f.name] = None if value is None else kinds.get(f.name, float)(value)
        return cls(**parsed)
