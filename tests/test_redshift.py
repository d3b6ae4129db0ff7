"""The redshift grid: membership of bins, PDFs, and estimates of z."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advphotoz.redshift import RedshiftBins

BINS = RedshiftBins()


def test_grid_is_the_papers() -> None:
    assert (BINS.n, BINS.width) == (180, 1 / 180)
    assert BINS.edges.dtype == BINS.centers.dtype == torch.float64
    np.testing.assert_allclose(BINS.edges, np.linspace(0, 1, 181), rtol=0, atol=1e-15)
    np.testing.assert_allclose(BINS.centers, (np.arange(180) + 0.5) / 180, rtol=0, atol=1e-15)


def test_ends_of_the_edges_are_exact() -> None:
    edges = RedshiftBins(0.1, 0.7, 7).edges
    assert (float(edges[0]), float(edges[-1]), len(edges)) == (0.1, 0.7, 8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("bins", [BINS, RedshiftBins(0.0, 0.4), RedshiftBins(0.1, 0.7, 7)])
def test_every_edge_opens_its_own_bin(bins: RedshiftBins, dtype: torch.dtype) -> None:
    expected = [*range(bins.n), bins.n - 1]  # the last edge belongs to the last bin
    assert bins.index(bins.edges.to(dtype)).tolist() == expected
    below = torch.nextafter(bins.edges[1:].to(dtype), torch.zeros((), dtype=dtype))
    assert bins.index(below).tolist() == list(range(bins.n))


def test_index_takes_numbers_lists_arrays_and_tensors() -> None:
    assert BINS.index(0.05).item() == 9
    assert BINS.index([0.0, 0.5]).tolist() == [0, 90]
    assert BINS.index(np.array([0.5], ">f4")).tolist() == [90]  # as FITS stores it
    assert BINS.index(torch.rand(2, 3, 4)).shape == (2, 3, 4)
    assert BINS.index(torch.tensor([1.0], dtype=torch.float16)).tolist() == [179]
    assert BINS.index(torch.rand(5)).dtype == torch.int64


def test_a_read_only_array_is_read_without_a_warning() -> None:
    z = np.array([0.5])
    z.flags.writeable = False
    assert BINS.index(z).tolist() == [90]


@given(st.floats(0, 1), st.integers(1, 300))
def test_a_redshift_lies_in_its_bin(z: float, n: int) -> None:
    bins = RedshiftBins(n=n)
    k = int(bins.index(z))
    assert bins.edges[k] <= z
    assert z < bins.edges[k + 1] or z == 1


def test_one_hot() -> None:
    z = torch.rand(20)
    hot = BINS.one_hot(z)
    assert (hot.shape, hot.dtype) == ((20, 180), torch.float32)
    assert torch.equal(hot.argmax(1), BINS.index(z))
    assert hot.sum() == 20


@pytest.mark.parametrize("z", [-0.001, 1.001])
def test_outside_is_refused_unless_clipped(z: float) -> None:
    values = torch.tensor([0.5, z, z], dtype=torch.float64)
    message = (
        rf"2 of 3 redshifts lie outside the bins \[0\.0, 1\.0\].* {z:.9g} at \(1,\).*clip=True"
    )
    with pytest.raises(ValueError, match=message):
        BINS.index(values)
    assert RedshiftBins(clip=True).index(values).tolist() == [90] + [0 if z < 0 else 179] * 2


def test_a_rounding_outside_is_shown() -> None:
    z = np.float32([0.4]).astype(float)  # inside in single precision, outside in double
    with pytest.raises(ValueError, match=r"the first is 0\.400000006"):
        RedshiftBins(0.0, 0.4).index(z)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("z", [float("nan"), float("inf")])
def test_not_finite_is_refused_even_with_clip(z: float, clip: bool) -> None:
    with pytest.raises(ValueError, match=r"1 of 2 values are NaN or infinite, the first at \(1,\)"):
        RedshiftBins(clip=clip).index([0.5, z])


def test_bin_numbers_and_masked_values_are_refused() -> None:
    with pytest.raises(TypeError, match="If these are bin numbers"):
        BINS.index(torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="Masked values"):
        BINS.index(np.ma.masked_invalid([0.5, np.nan]))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n": 0}, ValueError, "at least 1; got 0"),
        ({"n": 2.5}, TypeError, "must be an integer; got 2.5"),
        ({"z_max": 0.0}, ValueError, "z_min < z_max"),
        ({"z_min": -1.0}, ValueError, "z_min < z_max"),
        ({"z_max": float("inf")}, ValueError, "z_min < z_max"),
        ({"z_min": float("nan")}, ValueError, "z_min < z_max"),
    ],
)
def test_no_grid_is_refused(settings: dict[str, float], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        RedshiftBins(**settings)  # type: ignore[arg-type]


def test_bins_are_values() -> None:
    bins = RedshiftBins(np.float64(0), 1, np.int64(10))  # type: ignore[arg-type]
    assert bins == RedshiftBins(0.0, 1.0, 10) == pickle.loads(pickle.dumps(bins))
    assert eval(repr(bins)) == bins
    assert len({bins, RedshiftBins(n=10)}) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_pdf_is_a_float32_softmax(dtype: torch.dtype) -> None:
    logits = (5 * torch.randn(4, 180)).to(dtype)
    pdf = BINS.pdf(logits)
    assert pdf.dtype == torch.float32
    torch.testing.assert_close(pdf.double(), logits.double().softmax(1), rtol=1e-5, atol=1e-8)


def test_estimates_of_a_known_pdf() -> None:
    bins = RedshiftBins(0.0, 1.0, 4)
    pdf = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 0.0], [0.5, 0.0, 0.0, 0.5]])
    torch.testing.assert_close(bins.mean(pdf), torch.tensor([0.625, 0.625, 0.5]))
    torch.testing.assert_close(bins.mode(pdf), torch.tensor([0.875, 0.625, 0.125]))
    torch.testing.assert_close(bins.median(pdf), torch.tensor([2 / 3, 0.625, 0.25]))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20).filter(lambda p: sum(p) > 0.1))
def test_half_of_the_probability_lies_below_the_median(weights: list[float]) -> None:
    p = np.array(weights) / sum(weights)
    bins = RedshiftBins(0.2, 0.9, len(p))
    median = float(bins.median(p[None])[0])
    cdf = np.interp(median, bins.edges.numpy(), np.concatenate([[0], p.cumsum()]))
    assert cdf == pytest.approx(0.5, abs=1e-9)
    assert 0.2 <= float(bins.mean(p[None])[0]) <= 0.9


def test_estimates_keep_float64_and_raise_half_precision() -> None:
    pdf = torch.rand(3, 180, dtype=torch.float64).softmax(1)
    for estimate in (BINS.mean, BINS.mode, BINS.median):
        assert estimate(pdf).dtype == torch.float64
        assert estimate(pdf.numpy()).dtype == torch.float64
        assert estimate(pdf.float()).dtype == torch.float32
        assert estimate(pdf.half()).dtype == torch.float32


def _bad(change: str) -> torch.Tensor:
    pdf = torch.full((3, 4), 0.25)
    if change == "negative":
        pdf[1] = torch.tensor([-0.25, 0.5, 0.5, 0.25])
    elif change == "sum":
        pdf[1] *= 1.01
    elif change == "nan":
        pdf[1, 0] = torch.nan
    return pdf


@pytest.mark.parametrize("change", ["negative", "sum", "nan"])
@pytest.mark.parametrize("estimate", ["mean", "mode", "median"])
def test_what_is_no_pdf_is_refused(estimate: str, change: str) -> None:
    with pytest.raises(ValueError, match=r"1 of 3 rows are not .* the first is row 1"):
        getattr(RedshiftBins(n=4), estimate)(_bad(change))


def test_wrong_number_of_bins_is_refused() -> None:
    for name in ("pdf", "mean", "mode", "median"):
        with pytest.raises(ValueError, match=r"shape \(N, 180\).* got \(2, 4\)"):
            getattr(BINS, name)(torch.full((2, 4), 0.25))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_refused(value: float) -> None:
    logits = torch.zeros(3, 180)
    logits[2, 5] = value
    with pytest.raises(ValueError, match=r"1 of 3 rows .* NaN or \+inf, the first is row 2"):
        BINS.pdf(logits)


def test_gradient_of_the_mean() -> None:
    logits = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    bins = RedshiftBins(n=6)
    (grad,) = torch.autograd.grad(bins.mean(bins.pdf(logits)).sum(), logits)
    p = logits.detach().softmax(1)
    mean = (p * bins.centers).sum(1, keepdim=True)
    torch.testing.assert_close(grad, p * (bins.centers - mean), rtol=1e-4, atol=1e-7)
