"""From tallies to rows."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from advphotoz import metrics
from advphotoz.evaluation._stream import Setup, Tally
from advphotoz.evaluation.row import Row

__all__ = ["describe", "make_row", "quote"]


def make_row(
    name: str, attack: Any, z_spec: Tensor, tally: Tally, clean: Tally, setup: Setup
) -> Row:
    """Turn what was gathered over all batches into metrics."""
    points = (tally.z_phot.values(), z_spec)
    n = len(z_spec)

    def error(metric: Any) -> float | None:
        if not setup.bootstrap or n < 2:
            return None
        return metrics.bootstrap_error(
            metric, *points, n_resamples=setup.bootstrap, seed=setup.seed
        )

    return Row(
        name=name,
        attack="none" if attack is None else quote(attack),
        n=n,
        bias=metrics.bias(*points),
        sigma_mad=metrics.sigma_mad(*points),
        eta=metrics.outlier_fraction(*points),
        bias_error=error(metrics.bias),
        sigma_mad_error=error(metrics.sigma_mad),
        eta_error=error(metrics.outlier_fraction),
        median_bias=metrics.median_bias(*points),
        sigma_iqr=metrics.sigma_iqr(*points),
        outlier_fraction_desc=metrics.outlier_fraction_desc(*points),
        crps=tally.crps / n,
        cde_loss=tally.cde_loss / n,
        # From the logits: finite also where the PDF is too small for float32.
        nll=tally.cross_entropy.mean() + math.log(setup.bins.width),
        objective_before=clean.value.mean(),
        objective_after=tally.value.mean(),
        linf=tally.linf,
        l2=tally.l2,
    )


def quote(value: Any) -> str:
    """Return the repr; for a function its name, as its repr holds an address that changes."""
    name = getattr(value, "__qualname__", None)
    return repr(value) if name is None else f"{value.__module__}.{name}"


def describe(model: nn.Module, setup: Setup, **more: Any) -> dict[str, Any]:
    """Return the settings as plain values, for the file."""
    return {
        "model": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bins": repr(setup.bins),
        "objective": quote(setup.objective),
        "autocast": None if setup.autocast is None else str(setup.autocast),
        "seed": setup.seed,
        "bootstrap": setup.bootstrap,
        "torch": str(torch.__version__),
        **more,
    }
