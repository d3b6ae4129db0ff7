"""Readouts: membership of bins, PDFs and their scores, and estimates of z."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from advphotoz.redshift import (
    GaussianMixture,
    PDFReadout,
    PointEstimate,
    Quantiles,
    Readout,
    RedshiftBins,
)

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


def test_redshift_of_logits_is_the_mean_of_their_pdf() -> None:
    logits = 4 * torch.randn(5, 180)
    torch.testing.assert_close(BINS.redshift(logits), BINS.mean(BINS.pdf(logits)))
    wide = logits.double().requires_grad_()
    z = BINS.redshift(wide)
    assert z.dtype == torch.float64
    (grad,) = torch.autograd.grad(z.sum(), wide)
    p = logits.double().softmax(1)
    mean = (p * BINS.centers).sum(1, keepdim=True)
    torch.testing.assert_close(grad, p * (BINS.centers - mean))
    assert BINS.redshift(logits.bfloat16()).dtype == torch.float32


def _square(a: Any, b: Any) -> Any:
    """Mean over the unit interval of the square of a line from a to b."""
    return (a * a + a * b + b * b) / 3


def _bin_scores(logits: Any, z_spec: Any, bins: RedshiftBins) -> dict[str, Any]:
    """Scores of PDFs on bins in NumPy and float64, sample by sample."""
    rows: dict[str, list[float]] = {"nll": [], "pit": [], "crps": [], "cde_loss": []}
    edges = np.linspace(bins.z_min, bins.z_max, bins.n + 1)
    for row, z in zip(np.asarray(logits, float), np.asarray(z_spec, float), strict=True):
        p = np.exp(row - row.max())
        p /= p.sum()
        k = min(int(np.searchsorted(edges, z, side="right")) - 1, bins.n - 1)
        t = (z - edges[k]) / bins.width
        left, right = np.cumsum(p) - p, np.cumsum(p)
        middle = left[k] + t * p[k]
        crps = (
            _square(left[:k], right[:k]).sum()
            + _square(1 - left[k + 1 :], 1 - right[k + 1 :]).sum()
        )
        crps += t * _square(left[k], middle) + (1 - t) * _square(1 - middle, 1 - right[k])
        rows["nll"].append(-np.log(p[k] / bins.width))
        rows["pit"].append(middle)
        rows["crps"].append(crps * bins.width)
        rows["cde_loss"].append((p**2).sum() / bins.width - 2 * p[k] / bins.width)
    return {name: np.array(values) for name, values in rows.items()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bins", [RedshiftBins(0.0, 1.0, 180), RedshiftBins(0.1, 0.7, 7)])
def test_scores_on_bins(bins: RedshiftBins, dtype: torch.dtype) -> None:
    logits = (4 * torch.randn(30, bins.n)).to(dtype)
    z = bins.z_min + (bins.z_max - bins.z_min) * torch.rand(30, dtype=torch.float64)
    found, expected = bins.scores(logits, z), _bin_scores(logits.double(), z, bins)
    room = 1e-12 if dtype == torch.float64 else 3e-5
    for name, values in expected.items():
        scores = getattr(found, name)
        assert scores.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        np.testing.assert_allclose(scores, values, rtol=room, atol=room, err_msg=name)
    by_pdf = bins.pdf_scores(logits.double().softmax(1), z)
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(by_pdf, name), values, rtol=1e-12, atol=1e-12)


def test_the_crps_on_bins_is_its_integral() -> None:
    bins = RedshiftBins(0.2, 0.8, 5)
    logits = torch.randn(3, 5, dtype=torch.float64)
    z = torch.tensor([0.2, 0.437, 0.8], dtype=torch.float64)
    crps = bins.scores(logits, z).crps
    edges, p = bins.edges.numpy(), logits.softmax(1).numpy()
    for i in range(3):
        cdf = np.concatenate([[0], p[i].cumsum()])
        value, _ = integrate.quad(
            lambda x, cdf=cdf, i=i: (np.interp(x, edges, cdf) - (x >= z[i].item())) ** 2,
            0.2,
            0.8,
            points=[*edges, z[i].item()],
        )
        assert crps[i].item() == pytest.approx(value, abs=1e-10)


def test_scores_of_a_pdf_that_is_almost_zero_are_finite() -> None:
    logits = torch.zeros(1, 4)
    logits[0, 0] = 400.0
    scores = RedshiftBins(n=4).scores(logits, torch.tensor([0.9]))
    assert scores.nll.item() == pytest.approx(400 - np.log(4), rel=1e-6)
    assert scores.pit.item() == 1
    assert all(bool(value.isfinite().all()) for value in scores)


def test_pit_of_the_ends_is_zero_and_one() -> None:
    bins = RedshiftBins(0.1, 0.7, 7)
    scores = bins.scores(torch.randn(2, 7), torch.tensor([0.1, 0.7]))
    assert scores.pit[0] == 0
    assert scores.pit[1] == pytest.approx(1, abs=1e-6)
    assert (scores.pit <= 1).all()


def test_scores_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\); got shape \(3,\)"):
        BINS.scores(torch.zeros(2, 180), torch.zeros(3))
    with pytest.raises(ValueError, match="lie outside the bins"):
        BINS.scores(torch.zeros(2, 180), torch.tensor([0.5, 1.5]))


# A point estimate.


def test_a_point_estimate_is_the_output() -> None:
    readout = PointEstimate()
    z = torch.rand(4, requires_grad=True)
    for output in (z, z[:, None]):
        assert torch.equal(readout.redshift(output), z)
    (grad,) = torch.autograd.grad(readout.redshift(z[:, None]).sum(), z)
    assert torch.equal(grad, torch.ones(4))
    assert readout.redshift(z.half()).dtype == torch.float32
    assert readout.redshift(z.double()).dtype == torch.float64
    assert isinstance(readout, Readout)
    assert not isinstance(readout, PDFReadout)


# A mixture of Gaussians.

MIXTURE = GaussianMixture(3)


def _mixture(n: int = 6, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, Any, Any, Any]:
    """Return an output, and its weights, means and widths in NumPy."""
    logits, mean = torch.randn(n, 3).double(), torch.rand(n, 3).double()
    log_sigma = torch.randn(n, 3).double() - 2
    output = torch.cat([logits, mean, log_sigma], 1)
    return output.to(dtype), logits.softmax(1).numpy(), mean.numpy(), log_sigma.exp().numpy()


@pytest.mark.parametrize(("dtype", "room"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_density_and_cdf_of_a_mixture_are_those_of_scipy(dtype: torch.dtype, room: float) -> None:
    output, weight, mean, sigma = _mixture(dtype=dtype)
    z = torch.rand(6)
    at = z.double().numpy()[:, None]
    density = (weight * stats.norm.pdf(at, mean, sigma)).sum(1)
    cdf = (weight * stats.norm.cdf(at, mean, sigma)).sum(1)
    scores = MIXTURE.scores(output, z)
    found = MIXTURE.log_density(output, z)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, np.log(density), rtol=room, atol=room)
    np.testing.assert_allclose(scores.nll, -np.log(density), rtol=room, atol=room)
    np.testing.assert_allclose(scores.pit, cdf, rtol=room, atol=room)
    np.testing.assert_allclose(MIXTURE.redshift(output), (weight * mean).sum(1), rtol=room)


def test_crps_and_cde_loss_of_a_mixture_are_their_integrals() -> None:
    output, weight, mean, sigma = _mixture()
    z = torch.rand(6).double()
    scores = MIXTURE.scores(output, z)
    for i, at in enumerate(z.tolist()):
        low, high = (mean[i] - 12 * sigma[i]).min(), (mean[i] + 12 * sigma[i]).max()
        low, high = min(low, at), max(high, at)
        # Gauss-Legendre between all places where the integrand bends.
        marks = np.unique(
            np.concatenate(
                [m + s * np.arange(-12, 13) for m, s in zip(mean[i], sigma[i], strict=True)]
            )
        )
        marks = np.concatenate([[low], marks[(marks > low) & (marks < high)], [at], [high]])
        nodes, weights = np.polynomial.legendre.leggauss(20)
        marks.sort()
        half = np.diff(marks)[:, None] / 2
        x = (marks[:-1, None] + half + half * nodes).ravel()
        dx = (half * weights).ravel()
        cdf = (weight[i] * stats.norm.cdf(x[:, None], mean[i], sigma[i])).sum(1)
        pdf = (weight[i] * stats.norm.pdf(x[:, None], mean[i], sigma[i])).sum(1)
        at_z = (weight[i] * stats.norm.pdf(at, mean[i], sigma[i])).sum()
        assert scores.crps[i].item() == pytest.approx(
            (dx * (cdf - (x >= at)) ** 2).sum(), abs=1e-10
        )
        assert scores.cde_loss[i].item() == pytest.approx((dx * pdf**2).sum() - 2 * at_z, rel=1e-9)


def test_the_crps_of_one_gaussian_is_the_closed_form() -> None:
    """Gneiting & Raftery 2007, Eq. 21."""
    output = torch.tensor([[3.0, 0.4, -2.0]], dtype=torch.float64)
    z = torch.tensor([0.55], dtype=torch.float64)
    sigma = np.exp(-2.0)
    u = (0.55 - 0.4) / sigma
    expected = sigma * (u * (2 * stats.norm.cdf(u) - 1) + 2 * stats.norm.pdf(u) - np.pi**-0.5)
    assert GaussianMixture(1).scores(output, z).crps.item() == pytest.approx(expected, rel=1e-12)


def test_gradient_of_the_density_of_a_mixture() -> None:
    output, *_ = _mixture(3)
    z = torch.rand(3).double()
    assert torch.autograd.gradcheck(lambda y: MIXTURE.log_density(y, z), output.requires_grad_())
    assert torch.autograd.gradcheck(MIXTURE.redshift, output)


# Quantiles.


def test_the_median_of_quantiles() -> None:
    output = torch.tensor([[0.1, 0.2, 0.4]], requires_grad=True)
    assert Quantiles([0.16, 0.5, 0.84]).redshift(output).item() == pytest.approx(0.2)
    # Between two levels: 0.4 of the way from 0.3 to 0.8.
    between = Quantiles([0.1, 0.3, 0.8]).redshift(output)
    assert between.item() == pytest.approx(0.2 + 0.4 * 0.2)
    (grad,) = torch.autograd.grad(between.sum(), output)
    torch.testing.assert_close(grad, torch.tensor([[0.0, 0.6, 0.4]]))
    assert not isinstance(Quantiles([0.5]), PDFReadout)


@pytest.mark.parametrize(
    "levels", [[], [0.5, 0.4], [0.4, 0.4, 0.6], [0.6, 0.9], [0.1], [0.0, 0.5], [0.5, 1.0]]
)
def test_levels_that_are_none_are_refused(levels: list[float]) -> None:
    with pytest.raises(ValueError, match="levels must be rising numbers"):
        Quantiles(levels)


@pytest.mark.parametrize(("k", "error"), [(0, ValueError), (2.5, TypeError), (True, TypeError)])
def test_no_mixture_is_refused(k: Any, error: type) -> None:
    with pytest.raises(error, match="components must be"):
        GaussianMixture(k)


# What all readouts have in common.

READOUTS = [
    (RedshiftBins(n=6), 6),
    (PointEstimate(), 1),
    (GaussianMixture(2), 6),
    (Quantiles([0.25, 0.5, 0.75]), 3),
]
readouts = pytest.mark.parametrize(("readout", "columns"), READOUTS, ids=repr)


@readouts
def test_readouts_are_values(readout: Any, columns: int) -> None:
    assert eval(repr(readout)) == readout == pickle.loads(pickle.dumps(readout))
    assert hash(eval(repr(readout))) == hash(readout)


@readouts
def test_a_sample_does_not_depend_on_its_batch(readout: Any, columns: int) -> None:
    output, z = torch.randn(5, columns), torch.rand(5)
    alone = torch.cat([readout.redshift(output[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(readout.redshift(output), alone)
    assert readout.redshift(output).shape == (5,)
    if isinstance(readout, PDFReadout):
        for name, values in readout.scores(output, z)._asdict().items():
            each = [
                getattr(readout.scores(output[i : i + 1], z[i : i + 1]), name) for i in range(5)
            ]
            torch.testing.assert_close(values, torch.cat(each), rtol=1e-5, atol=1e-6)


@readouts
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda y: y[:, :0], ValueError, "output must"),
        (lambda y: torch.cat([y, y], 1), ValueError, "output must"),
        (lambda y: y[None], ValueError, "output must"),
        (
            lambda y: y * torch.tensor([1.0, torch.nan, 1.0])[:, None],
            ValueError,
            "in [13] of 3 rows",
        ),
        (lambda y: y.long(), TypeError, "floating-point"),
        (lambda y: (y, y), TypeError, "must be a torch.Tensor; got tuple.*models.Adapter"),
        (lambda y: y.numpy(), TypeError, "must be a torch.Tensor"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(
    readout: Any, columns: int, change: Any, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        readout.redshift(change(torch.randn(3, columns)))


@pytest.mark.parametrize("readout", [PointEstimate(), GaussianMixture(2), Quantiles([0.5])])
@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (torch.tensor([0.1, torch.nan]), ValueError, r"1 of 2 .* the first at \(1,\)"),
        (torch.tensor([torch.inf, 0.1]), ValueError, "finite and above -1"),
        (torch.tensor([-1.0, 0.1]), ValueError, "finite and above -1"),
        (torch.tensor([1, 2]), TypeError, "floating point"),
    ],
)
def test_redshifts_that_are_none_are_refused(
    readout: Any, z: torch.Tensor, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        readout.check(z)
    assert readout.check(torch.tensor([-0.5, 7.0])).tolist() == [-0.5, 7.0]
