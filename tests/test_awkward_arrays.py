"""Every public function of arrays, fed what astronomers' files hold.

Masked, NaN, infinite and empty arrays are refused with a sentence; big-endian, reversed, strided
and read-only ones, lists and half precision give what a plain array gives. (For data sets see
test_datasets_inputs.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from advphotoz import RedshiftBins, metrics

N, BINS = 12, RedshiftBins(0.0, 1.0, 4)
RNG = np.random.default_rng(1)
Z_SPEC = np.linspace(0.125, 0.9, N)  # within the bins, in half precision too
Z_PHOT = (Z_SPEC + 0.05 * RNG.normal(size=N)).clip(0, 1)
OTHER = (Z_SPEC + 0.05 * RNG.normal(size=N)).clip(0, 1)
PDF = RNG.dirichlet(np.ones(4), N)
LOGITS = RNG.normal(size=(N, 4))
MAGNITUDES = np.linspace(14.0, 18.0, N)


def of_pdfs(name: str) -> Callable[..., Any]:
    """Return a metric of PDFs on the bins."""
    metric = getattr(metrics, name)
    return lambda pdf, z: metric(pdf, z, BINS)


def wilson(count: Any) -> Any:
    return metrics.wilson_interval(count, 20)


# Name -> the function and its arrays.
CALLS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    **{
        name: (getattr(metrics, name), (Z_PHOT, Z_SPEC))
        for name in (
            "delta_z bias sigma_mad outlier_fraction median_bias sigma_iqr outlier_fraction_desc"
        ).split()
    },
    **{name: (of_pdfs(name), (PDF, Z_SPEC)) for name in ("pit", "crps", "cde_loss", "nll")},
    "binned_outliers": (
        lambda m, p, z: metrics.binned_outliers(m, p, z, 3),
        (MAGNITUDES, Z_PHOT, Z_SPEC),
    ),
    "bootstrap_error": (
        lambda p, z: metrics.bootstrap_error(metrics.bias, p, z, n_resamples=5),
        (Z_PHOT, Z_SPEC),
    ),
    "paired_change": (
        lambda p, q, z: metrics.paired_change(metrics.bias, p, q, z, n_resamples=5),
        (Z_PHOT, OTHER, Z_SPEC),
    ),
    "wilson_interval": (wilson, (np.arange(N, dtype=np.float64),)),
    "bins.check": (BINS.check, (Z_SPEC,)),
    "bins.index": (BINS.index, (Z_SPEC,)),
    "bins.one_hot": (BINS.one_hot, (Z_SPEC,)),
    "bins.pdf": (BINS.pdf, (LOGITS,)),
    "bins.mean": (BINS.mean, (PDF,)),
    "bins.mode": (BINS.mode, (PDF,)),
    "bins.median": (BINS.median, (PDF,)),
}
EMPTY_IS_WELCOME = {"bins.check", "bins.index", "bins.one_hot", "bins.pdf"} | {
    "bins.mean",
    "bins.mode",
    "bins.median",
    "wilson_interval",
}  # they return one value per row, of which there may be none
ANY_SHAPE = {"bins.check", "bins.index", "bins.one_hot", "wilson_interval"}
REFUSED: dict[str, Callable[[np.ndarray], Any]] = {
    "masked": lambda a: np.ma.array(a, mask=_one(a)),
    "NaN": lambda a: np.where(_one(a), np.nan, a),
    "infinite": lambda a: np.where(_one(a), np.inf, a),
    "empty": lambda a: a[:0],
    "a column too many": lambda a: np.stack([a, a], -1),
}
TAKEN: dict[str, Callable[[np.ndarray], Any]] = {
    "big-endian": lambda a: a.astype(">f8"),
    "reversed": lambda a: a[::-1].copy()[::-1],
    "strided": lambda a: np.repeat(a, 2, 0)[::2],
    "read-only": lambda a: _read_only(a),
    "Fortran order": np.asfortranarray,
    "a list": lambda a: a.tolist(),
    "a tensor": torch.from_numpy,
    "a tensor that needs a gradient": lambda a: torch.from_numpy(a.copy()).requires_grad_(),
    "masked nowhere": lambda a: np.ma.array(a, mask=np.zeros(a.shape, bool)),
}


def _one(a: np.ndarray) -> np.ndarray:
    mask = np.zeros(a.shape, bool)
    mask[3] = True
    return mask


def _read_only(a: np.ndarray) -> np.ndarray:
    copy = a.copy()
    copy.flags.writeable = False
    return copy


def numbers(value: Any) -> np.ndarray:
    """Return what a function gave as one row of float64."""
    if isinstance(value, tuple):
        return np.concatenate([numbers(part) for part in value])
    if isinstance(value, torch.Tensor):
        value = value.detach()
    return np.asarray(value, dtype=np.float64).ravel()


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("name", CALLS)
def test_what_holds_no_data_is_refused_with_a_sentence(name: str, kind: str) -> None:
    function, arrays = CALLS[name]
    if kind == "empty" and name in EMPTY_IS_WELCOME:
        assert len(numbers(function(arrays[0][:0]))) == 0
        return
    if kind == "a column too many" and name in ANY_SHAPE:
        pytest.skip("takes any shape")
    for position in range(len(arrays)):
        given = [REFUSED[kind](a) if k == position else a for k, a in enumerate(arrays)]
        with pytest.raises((ValueError, TypeError)) as caught:
            function(*given)
        assert len(str(caught.value).split()) >= 6, caught.value  # a sentence, not a raw error


@pytest.mark.parametrize("kind", TAKEN)
@pytest.mark.parametrize("name", CALLS)
def test_other_ways_to_hold_the_same_numbers_give_the_same(name: str, kind: str) -> None:
    function, arrays = CALLS[name]
    expected = numbers(function(*arrays))
    copies = [a.copy() for a in arrays]
    found = numbers(function(*(TAKEN[kind](a) for a in arrays)))
    # Results for a tensor may be float32, for the same numbers.
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


# Not those of PDFs, whose rounded rows do not sum to one, nor counts.
HALF = ["bins.check", "bins.index", "bins.one_hot", "bins.pdf", "binned_outliers", "paired_change"]
HALF += ["delta_z", "bias", "sigma_mad", "outlier_fraction", "median_bias", "sigma_iqr"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", HALF)
def test_half_precision_is_read_as_it_is(name: str, dtype: torch.dtype) -> None:
    function, arrays = CALLS[name]
    given = [torch.from_numpy(a).to(dtype) for a in arrays]
    same = [a.double().numpy() for a in given]
    found, expected = numbers(function(*given)), numbers(function(*same))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
