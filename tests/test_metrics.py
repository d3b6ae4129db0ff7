"""Metrics against known values, qp, numerical integrals and their symmetries."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest

from advphotoz import metrics
from advphotoz.redshift import RedshiftBins

BINS = RedshiftBins(0.1, 0.9, 12)
POINT = [
    metrics.bias,
    metrics.sigma_mad,
    metrics.outlier_fraction,
    metrics.median_bias,
    metrics.sigma_iqr,
    metrics.outlier_fraction_desc,
]
PDF = [metrics.crps, metrics.cde_loss, metrics.nll, metrics.pit]


def _points(n: int = 501) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    z_spec = rng.uniform(0, 1, n)
    return z_spec + 0.03 * rng.standard_t(2, n), z_spec


def _pdfs(n: int = 40, bins: RedshiftBins = BINS) -> tuple[Any, Any]:
    rng = np.random.default_rng(2)
    return rng.dirichlet(np.full(bins.n, 0.5), n), rng.uniform(bins.z_min, bins.z_max, n)


def test_point_metrics_of_a_known_sample() -> None:
    dz = np.array([-0.1, -0.02, 0.0, 0.01, 0.04, 0.3])
    z_spec = np.linspace(0, 1, 6)
    z_phot = z_spec + dz * (1 + z_spec)
    np.testing.assert_allclose(metrics.delta_z(z_phot, z_spec), dz, atol=1e-15)
    assert metrics.bias(z_phot, z_spec) == pytest.approx(0.23 / 6)
    assert metrics.median_bias(z_phot, z_spec) == pytest.approx(0.005)
    # |dz - 0.005| = 0.105, 0.025, 0.005, 0.005, 0.035, 0.295
    assert metrics.sigma_mad(z_phot, z_spec) == pytest.approx(1.4826 * 0.03)
    assert metrics.outlier_fraction(z_phot, z_spec) == pytest.approx(2 / 6)
    assert metrics.outlier_fraction(z_phot, z_spec, threshold=0.2) == pytest.approx(1 / 6)
    # Quartiles -0.015 and 0.0325: 3 sigma_iqr = 0.1056
    assert metrics.sigma_iqr(z_phot, z_spec) == pytest.approx(0.0475 / 1.349)
    assert metrics.outlier_fraction_desc(z_phot, z_spec) == pytest.approx(1 / 6)


def test_desc_outliers_have_a_floor() -> None:
    z_phot = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.059, 0.061]
    assert metrics.outlier_fraction_desc(z_phot, [0.0] * 8) == 1 / 8


def test_sigmas_of_a_gaussian_are_its_sigma() -> None:
    z_phot = np.random.default_rng(0).normal(0, 0.02, 200_000)
    for sigma in (metrics.sigma_mad, metrics.sigma_iqr):
        assert sigma(z_phot, np.zeros(200_000)) == pytest.approx(0.02, rel=0.01)


def test_point_metrics_equal_qp() -> None:
    qp = pytest.importorskip("qp.metrics")
    z_phot, z_spec = _points()
    for ours, theirs in (
        (metrics.delta_z, qp.PointStatsEz),
        (metrics.median_bias, qp.PointBias),
        (metrics.sigma_iqr, qp.PointSigmaIQR),
        (metrics.sigma_mad, qp.PointSigmaMAD),
        (metrics.outlier_fraction_desc, qp.PointOutlierRate),
    ):
        expected = theirs().evaluate(z_phot, z_spec)
        np.testing.assert_allclose(ours(z_phot, z_spec), expected, rtol=0, atol=1e-12)


def test_pdf_metrics_equal_qp() -> None:
    qp = pytest.importorskip("qp")
    pdf, z_spec = _pdfs()
    # qp's CDE loss is a trapezoidal sum over a grid, and takes p at the grid point next to z_spec.
    # On the bin centres both are exact if the first and last bin are empty.
    pdf[:, [0, -1]] = 0
    pdf /= pdf.sum(axis=1, keepdims=True)
    ensemble = qp.Ensemble(qp.hist, {"bins": BINS.edges.numpy(), "pdfs": pdf})
    expected = qp.metrics.PIT(ensemble, z_spec).pit_samps
    np.testing.assert_allclose(metrics.pit(pdf, z_spec, BINS), expected, rtol=0, atol=1e-12)
    expected = qp.metrics.CDELossMetric(BINS.centers.numpy()).evaluate(ensemble, z_spec)
    assert metrics.cde_loss(pdf, z_spec, BINS) == pytest.approx(expected, rel=0, abs=1e-12)
    pdf, z_spec = _pdfs()
    ensemble = qp.Ensemble(qp.hist, {"bins": BINS.edges.numpy(), "pdfs": pdf})
    expected = -np.log(ensemble.pdf(z_spec[:, None])).mean()
    assert metrics.nll(pdf, z_spec, BINS) == pytest.approx(expected, rel=0, abs=1e-12)


def test_integrals_equal_dense_quadrature() -> None:
    pdf, z_spec = _pdfs()
    edges = BINS.edges.numpy()
    crps, squares = [], []
    nodes, weights = np.polynomial.legendre.leggauss(3)  # exact for the polynomial pieces
    for p, z in zip(pdf, z_spec, strict=True):
        cdf = np.concatenate([[0], p.cumsum()])
        cuts = np.sort(np.append(edges, z))
        half = np.diff(cuts)[:, None] / 2
        x = (cuts[:-1] + cuts[1:])[:, None] / 2 + half * nodes
        crps.append((half * weights * (np.interp(x, edges, cdf) - (x >= z)) ** 2).sum())
        density = p[np.searchsorted(edges, x, side="right") - 1] / BINS.width
        squares.append((half * weights * density**2).sum())
        # And a plain sum on a fine grid, so that no cleverness is shared with the code.
        fine = np.linspace(0.1, 0.9, 200_001)
        plain = np.trapezoid((np.interp(fine, edges, cdf) - (fine >= z)) ** 2, fine)
        assert plain == pytest.approx(crps[-1], abs=1e-5)
    assert metrics.crps(pdf, z_spec, BINS) == pytest.approx(np.mean(crps), rel=1e-13)
    at = pdf[np.arange(40), np.searchsorted(edges, z_spec, side="right") - 1] / BINS.width
    expected = np.mean(squares) - 2 * at.mean()
    assert metrics.cde_loss(pdf, z_spec, BINS) == pytest.approx(expected, rel=1e-13)
    assert metrics.nll(pdf, z_spec, BINS) == pytest.approx(-np.log(at).mean(), rel=1e-13)


def test_pit_of_draws_from_the_pdf_is_uniform() -> None:
    rng = np.random.default_rng(3)
    p = rng.dirichlet(np.ones(12))
    k = rng.choice(12, 20_000, p=p)
    z = BINS.edges.numpy()[k] + BINS.width * rng.uniform(0, 1, 20_000)
    values = np.sort(metrics.pit(np.tile(p, (20_000, 1)), z, BINS))
    assert np.abs(values - np.linspace(0, 1, 20_000)).max() < 0.015  # Kolmogorov-Smirnov


def test_nll_is_the_cross_entropy_up_to_the_width() -> None:
    logits, z = torch.randn(30, 12), torch.empty(30).uniform_(0.1, 0.9)
    cross_entropy = torch.nn.functional.cross_entropy(logits.double(), BINS.index(z))
    expected = float(cross_entropy) + math.log(BINS.width)
    assert metrics.nll(BINS.pdf(logits), z, BINS) == pytest.approx(expected, abs=1e-6)


def test_nll_of_an_impossible_redshift_is_infinite() -> None:
    assert metrics.nll([[1.0, 0.0]], [0.9], RedshiftBins(n=2)) == math.inf


def test_ends_of_the_range_in_single_precision() -> None:
    bins = RedshiftBins(0.7, 1.2, 12)
    pdf, _ = _pdfs(1)
    low, high = torch.tensor([0.7]), torch.tensor([1.2])
    assert low.double() < 0.7 < 1.2 < high.double()  # both outside by a rounding
    assert metrics.pit(pdf, low, bins) == 0
    assert metrics.pit(pdf, high, bins) == 1
    expected = metrics.crps(pdf, [1.2], bins)
    assert metrics.crps(pdf, high, bins) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("metric", POINT + PDF)
def test_kinds_of_input_agree(metric: Callable[..., Any]) -> None:
    if metric in PDF:
        values, z, context = *_pdfs(), (BINS,)
    else:
        values, z, context = *_points(), ()
    expected = metric(values, z, *context)
    assert type(expected) is (np.ndarray if metric is metrics.pit else float)
    tensor = torch.tensor(values, requires_grad=True)
    for inputs in (
        (values.tolist(), z.tolist()),
        (tensor, torch.tensor(z)),
        (values.astype(">f8"), z.astype(">f8")),
    ):
        np.testing.assert_array_equal(metric(*inputs, *context), expected)


@pytest.mark.parametrize("metric", POINT + PDF[:3])
def test_order_does_not_matter(metric: Callable[..., float]) -> None:
    values, z = _pdfs() if metric in PDF else _points()
    context = (BINS,) if metric in PDF else ()
    order = np.random.default_rng(4).permutation(len(z))
    permuted = metric(values[order], z[order], *context)
    assert permuted == pytest.approx(metric(values, z, *context), abs=1e-14)


dz_arrays = arrays(np.float64, st.integers(1, 40), elements=st.floats(-0.5, 0.5, width=32))


@given(dz_arrays, st.floats(-0.3, 0.3))
def test_a_shift_of_dz_moves_the_bias_and_no_width(dz: Any, shift: float) -> None:
    zero = np.zeros_like(dz)
    for location in (metrics.bias, metrics.median_bias):
        assert location(dz + shift, zero) == pytest.approx(location(dz, zero) + shift, abs=1e-12)
    for scale in (metrics.sigma_mad, metrics.sigma_iqr):
        assert scale(dz + shift, zero) == pytest.approx(scale(dz, zero), abs=1e-12)


@given(dz_arrays, st.floats(0.0, 2.0))
def test_metrics_depend_on_dz_alone(dz: Any, z: float) -> None:
    z_spec = np.full_like(dz, z)
    for metric in (metrics.bias, metrics.sigma_mad, metrics.median_bias, metrics.sigma_iqr):
        moved = metric(z_spec + dz * (1 + z), z_spec)
        assert moved == pytest.approx(metric(dz, np.zeros_like(dz)), abs=1e-12)


@given(st.floats(-0.5, 3.0))
def test_pdf_metrics_do_not_depend_on_the_origin(shift: float) -> None:
    pdf, z = _pdfs()
    moved = RedshiftBins(BINS.z_min + shift, BINS.z_max + shift, BINS.n)
    for metric in PDF:
        expected = metric(pdf, z, BINS)
        np.testing.assert_allclose(metric(pdf, z + shift, moved), expected, atol=1e-9)


def test_bootstrap_error_of_a_mean() -> None:
    rng = np.random.default_rng(5)
    z_phot = rng.normal(0, 0.02, 2000)
    error = metrics.bootstrap_error(metrics.bias, z_phot, np.zeros(2000), n_resamples=500)
    assert error == pytest.approx(0.02 / math.sqrt(2000), rel=0.15)
    again = metrics.bootstrap_error(metrics.bias, z_phot, np.zeros(2000), n_resamples=500)
    assert again == error
    other = metrics.bootstrap_error(metrics.bias, z_phot, np.zeros(2000), n_resamples=500, seed=1)
    assert other != error


def test_bootstrap_draws_rows_jointly_and_passes_arguments() -> None:
    z = np.linspace(0, 1, 50)
    assert metrics.bootstrap_error(metrics.bias, z, torch.tensor(z)) == 0
    pdf, z_spec = _pdfs()
    assert metrics.bootstrap_error(metrics.crps, pdf, z_spec, bins=BINS, n_resamples=20) > 0
    z_phot, z_spec = _points()
    assert metrics.bootstrap_error(metrics.outlier_fraction, z_phot, z_spec, threshold=99.0) == 0


def test_bootstrap_refusals() -> None:
    z = [0.1, 0.2]
    with pytest.raises(ValueError, match=r"lengths \[2, 1\]"):
        metrics.bootstrap_error(metrics.bias, z, z[:1])
    with pytest.raises(ValueError, match=r"lengths \[1, 1\]"):
        metrics.bootstrap_error(metrics.bias, z[:1], z[:1])
    with pytest.raises(ValueError, match=r"lengths \[\]"):
        metrics.bootstrap_error(metrics.bias)
    with pytest.raises(ValueError, match="n_resamples=1"):
        metrics.bootstrap_error(metrics.bias, z, z, n_resamples=1)
    with pytest.raises(TypeError, match=r"one number; got an array of shape \(2,\)"):
        metrics.bootstrap_error(metrics.delta_z, z, z)


def test_paired_change_of_a_mean_has_the_error_of_the_mean_difference() -> None:
    rng = np.random.default_rng(6)
    n = 2000
    z_spec = rng.uniform(0, 0.4, n)
    common = 0.05 * rng.standard_normal(n)  # an error that both predictions share
    reference = z_spec + common
    z_phot = reference + 0.004 + 0.002 * rng.standard_normal(n)
    change, error = metrics.paired_change(
        metrics.bias, z_phot, torch.tensor(reference), z_spec, n_resamples=1000
    )
    difference = (z_phot - reference) / (1 + z_spec)
    assert change == pytest.approx(difference.mean(), abs=1e-14)
    assert error == pytest.approx(difference.std(ddof=1) / math.sqrt(n), rel=0.08)
    alone = metrics.bootstrap_error(metrics.bias, z_phot, z_spec)
    assert error < 0.1 * alone
    other = metrics.paired_change(metrics.bias, z_phot, reference, z_spec, seed=1)
    assert other[0] == change
    assert other[1] != metrics.paired_change(metrics.bias, z_phot, reference, z_spec)[1]


def test_paired_change_of_a_constant_shift_has_no_error() -> None:
    z_phot, z_spec = _points()
    change, error = metrics.paired_change(
        metrics.median_bias, z_phot + 0.01 * (1 + z_spec), z_phot, z_spec
    )
    assert change == pytest.approx(0.01, abs=1e-15)
    assert error == pytest.approx(0, abs=1e-15)
    change, error = metrics.paired_change(metrics.bias, z_phot, z_phot, z_spec)
    assert (change, error) == (0, 0)


def test_paired_change_takes_pdfs_and_arguments() -> None:
    pdf, z_spec = _pdfs()
    flat = np.full_like(pdf, 1 / BINS.n)
    change, error = metrics.paired_change(
        metrics.crps, pdf, flat, z_spec, n_resamples=20, bins=BINS
    )
    expected = metrics.crps(pdf, z_spec, BINS) - metrics.crps(flat, z_spec, BINS)
    assert change == pytest.approx(expected, abs=1e-15)
    assert error > 0
    z_phot, z_spec = _points()
    result = metrics.paired_change(metrics.outlier_fraction, z_phot, z_spec, z_spec, threshold=99.0)
    assert result == (0, 0)


def test_paired_change_refusals() -> None:
    z = [0.1, 0.2, 0.3]
    with pytest.raises(ValueError, match=r"lengths \[3, 2, 3\]"):
        metrics.paired_change(metrics.bias, z, z[:2], z)
    with pytest.raises(ValueError, match="n_resamples=1"):
        metrics.paired_change(metrics.bias, z, z, z, n_resamples=1)
    with pytest.raises(ValueError, match="must be finite"):
        metrics.paired_change(metrics.bias, z, [0.1, math.nan, 0.2], z)
    with pytest.raises(TypeError, match=r"one number; got an array of shape \(3,\)"):
        metrics.paired_change(metrics.delta_z, z, z, z)


@pytest.mark.parametrize("level", [0.3, 0.6827, 0.95, 0.9999])
def test_wilson_interval_equals_scipys(level: float) -> None:
    for n in (1, 2, 7, 100, 12_345):
        for count in sorted({0, 1, n // 3, n // 2, n - 1, n}):
            test = binomtest(count, n).proportion_ci(level, method="wilson")
            found = metrics.wilson_interval(count, n, level)
            assert found == pytest.approx((test.low, test.high), rel=1e-12, abs=1e-15)


def test_wilson_interval_is_one_sigma_by_default() -> None:
    n, k = 40, 7
    for end in metrics.wilson_interval(k, n):
        assert abs(k / n - end) == pytest.approx(math.sqrt(end * (1 - end) / n), rel=1e-13)


def test_wilson_interval_of_arrays_is_that_of_each() -> None:
    count, n = np.array([[0], [3]]), torch.tensor([5, 9, 2_000_000_000])
    low, high = metrics.wilson_interval(count, n)
    assert low.shape == high.shape == (2, 3)
    for i, k in enumerate([0, 3]):
        for j, total in enumerate(n.tolist()):
            pair = metrics.wilson_interval(k, total)
            assert all(type(end) is float for end in pair)
            assert pair == (low[i, j], high[i, j])
    assert [len(a) for a in metrics.wilson_interval([], [])] == [0, 0]


@given(st.integers(1, 10**9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_contains_the_share(pair: tuple[int, int]) -> None:
    count, n = pair
    low, high = metrics.wilson_interval(count, n)
    assert 0 <= low <= count / n <= high <= 1
    assert low < high
    assert (low == 0) == (count == 0)
    assert (high == 1) == (count == n)


def test_binned_outliers_have_the_interval_of_one_sigma() -> None:
    z_phot, z_spec = _points(2000)
    found = metrics.binned_outliers(z_spec, z_phot, z_spec, [-2, -1, 0.001, 0.3, 0.9, 1])
    n, eta = found.n[1:], found.eta[1:]
    assert (n > 0).all()
    middle = (eta + 0.5 / n) / (1 + 1 / n)
    half = np.sqrt(eta * (1 - eta) / n + 0.25 / n**2) / (1 + 1 / n)
    np.testing.assert_allclose(found.low[1:], middle - half, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.high[1:], middle + half, rtol=0, atol=1e-12)
    assert found.n[0] == 0
    assert np.isnan([found.mean[0], found.eta[0], found.low[0], found.high[0]]).all()


@pytest.mark.parametrize(
    ("count", "n", "level", "message"),
    [
        (0.1, 100, 0.68, "count must be a number of samples, whole .* got 0.1 of 100"),
        (-1, 100, 0.68, "from 0 to n; got -1 of 100"),
        (101, 100, 0.68, "from 0 to n; got 101 of 100"),
        (math.nan, 100, 0.68, "count must be a number of samples"),
        (0, 0, 0.68, "n must be a number of samples, whole and at least 1; got 0"),
        ([1, 0], [3, 0], 0.68, r"at least 1; got \[3, 0\]"),
        (1, 2.5, 0.68, "n must be a number of samples"),
        (1, math.inf, 0.68, "n must be a number of samples"),
        (1, 2, 0.0, "level must lie between 0 and 1"),
        (1, 2, 95, "level must lie between 0 and 1, such as 0.95; got 95"),
        (1, 2, math.nan, "level must lie between 0 and 1"),
    ],
)
def test_refused_wilson(count: Any, n: Any, level: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.wilson_interval(count, n, level)


@pytest.mark.parametrize("metric", [metrics.delta_z, *POINT])
@pytest.mark.parametrize(
    ("z_phot", "z_spec", "message"),
    [
        ([0.1, 0.2], [0.1], "same length; got 2 and 1"),
        ([], [], r"N at least 1; got \(0,\)"),
        ([[0.1]], [[0.1]], r"shape \(N,\) with N at least 1; got \(1, 1\)"),
        ([0.1, math.nan], [0.1, 0.2], "z_phot must be finite; 1 of 2 values .* first at 1"),
        ([0.1, 0.2], [math.inf, 0.2], "z_spec must be finite; 1 of 2 values .* first at 0"),
        ([0.1], [-1.0], "z_spec must lie above -1"),
        (np.ma.masked_invalid([math.nan]), [0.1], "Masked values"),
    ],
)
def test_refused_points(metric: Any, z_phot: Any, z_spec: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(z_phot, z_spec)


@pytest.mark.parametrize("threshold", [0.0, -1.0, math.nan])
def test_refused_threshold(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must be positive"):
        metrics.outlier_fraction([0.1], [0.1], threshold)


@pytest.mark.parametrize("metric", PDF)
@pytest.mark.parametrize(
    ("pdf", "z_spec", "message"),
    [
        ([[0.5, 0.5]], [0.1, 0.2], r"z_spec of shape \(2,\) and pdf of shape \(1, 2\)"),
        ([[0.5, 0.5]], [[0.1]], r"z_spec of shape \(1, 1\)"),
        (np.empty((0, 2)), [], "at least one"),
        ([[0.5, 0.3, 0.2]], [0.1], r"shape \(N, 2\).* got \(1, 3\)"),
        ([[0.5, 0.6]], [0.1], "rows that sum to 1; 1 of 1"),
        ([[1.5, -0.5]], [0.1], "must be non-negative"),
        ([[math.nan, 0.5]], [0.1], "1 of 1 rows are not"),
        ([[0.5, 0.5]], [math.nan], "1 of 1 values are NaN"),
        ([[0.5, 0.5]], [1.2], "1 of 1 redshifts lie outside the bins"),
    ],
)
def test_refused_pdfs(metric: Any, pdf: Any, z_spec: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(pdf, z_spec, RedshiftBins(n=2))
