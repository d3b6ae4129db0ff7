"""Objectives: their values, their gradients, and what they refuse."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from advphotoz.objectives import (
    CrossEntropy,
    LogOdds,
    NegativeLogLikelihood,
    Objective,
    PinballLoss,
    RedshiftError,
    SignedRedshift,
    TowardRedshift,
    default_objective,
    per_sample,
)
from advphotoz.redshift import GaussianMixture, PointEstimate, Quantiles, RedshiftBins

BINS = RedshiftBins(0.0, 1.0, 6)
OBJECTIVES = [
    CrossEntropy(BINS),
    NegativeLogLikelihood(BINS),
    LogOdds(BINS),
    RedshiftError(BINS),
    SignedRedshift(BINS),
    SignedRedshift(BINS, -1),
    TowardRedshift(0.3, BINS),
]
each = pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)


def _expected(objective: Any, logits: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Each objective from its equation, in float64, sample by sample."""
    rows = []
    for row, z_spec in zip(logits.double(), z.tolist(), strict=True):
        p = row.exp() / row.exp().sum()
        mean = sum(p[k] * (k + 0.5) / 6 for k in range(6))
        if isinstance(objective, CrossEntropy):
            rows.append(-p[min(int(z_spec * 6), 5)].log())
        elif isinstance(objective, LogOdds):
            true = p[min(int(z_spec * 6), 5)]
            rows.append(((1 - true) / true).log())
        elif isinstance(objective, NegativeLogLikelihood):
            rows.append(-(p[min(int(z_spec * 6), 5)] * 6).log())
        elif isinstance(objective, SignedRedshift):
            rows.append(objective.sign * (mean - z_spec) / (1 + z_spec))
        elif isinstance(objective, RedshiftError):
            rows.append(abs(mean - z_spec) / (1 + z_spec))
        else:
            rows.append(-abs(mean - objective.z) / (1 + objective.z))
    return torch.stack(rows)


@each
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_values_and_gradients(objective: Objective, dtype: torch.dtype) -> None:
    logits = (3 * torch.randn(9, 6)).to(dtype).requires_grad_()
    z = torch.rand(9)
    values = objective(logits, z)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert (values.shape, values.dtype) == ((9,), wide)
    expected = _expected(objective, logits, z)
    torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=1e-6)
    (grad,) = torch.autograd.grad(values.sum(), logits)
    (expected_grad,) = torch.autograd.grad(expected.sum(), logits)
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(grad, expected_grad, rtol=tolerance, atol=tolerance / 10)


@each
def test_a_sample_does_not_depend_on_its_batch(objective: Objective) -> None:
    logits, z = torch.randn(5, 6), torch.rand(5)
    alone = torch.cat([objective(logits[i : i + 1], z[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(objective(logits, z), alone, rtol=1e-6, atol=1e-7)


@each
def test_autocast_changes_nothing(objective: Objective) -> None:
    logits, z = 3 * torch.randn(5, 6), torch.rand(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = objective(logits, z)
    assert torch.equal(inside, objective(logits, z))


@each
def test_objectives_are_values(objective: Objective) -> None:
    assert eval(repr(objective)) == objective
    assert pickle.loads(pickle.dumps(objective)) == objective
    assert hash(eval(repr(objective))) == hash(objective)
    assert len({*OBJECTIVES, CrossEntropy(RedshiftBins())}) == len(OBJECTIVES) + 1
    for name in ("bins", "readout"):
        with pytest.raises(AttributeError):
            setattr(objective, name, RedshiftBins())


def test_redshift_error_is_flat_where_it_is_zero() -> None:
    logits = torch.zeros(1, 6, requires_grad=True)
    error = RedshiftError(BINS)(logits, BINS.mean(BINS.pdf(logits)).detach())
    (grad,) = torch.autograd.grad(error.sum(), logits)
    assert error.item() == 0
    assert not grad.any()


def test_toward_redshift_rises_as_the_mean_comes_closer() -> None:
    near, far = torch.eye(6)[[1]] * 9, torch.eye(6)[[5]] * 9
    toward = TowardRedshift(0.25, BINS)
    assert toward(far, torch.tensor([0.9])) < toward(near, torch.tensor([0.9])) <= 0


def test_toward_redshift_wants_its_redshift_in_the_bins() -> None:
    with pytest.raises(ValueError, match="outside the bins"):
        TowardRedshift(1.5, BINS)
    assert TowardRedshift(1.5, RedshiftBins(clip=True)).z == 1
    assert TowardRedshift(1.5, PointEstimate()).z == 1.5
    with pytest.raises(ValueError, match="z must be finite and above -1"):
        TowardRedshift(-2.0, PointEstimate())


def test_clipped_bins_clip_the_target() -> None:
    bins = RedshiftBins(0.0, 1.0, 6, clip=True)
    logits = torch.randn(1, 6)
    for objective in (CrossEntropy(bins), NegativeLogLikelihood(bins), RedshiftError(bins)):
        clipped = objective(logits, torch.tensor([1.7]))
        assert torch.equal(clipped, objective(logits, torch.tensor([1.0])))


LOGITS, Z = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)), torch.full((4,), 0.5)
BAD_ROW = torch.tensor([0.0, torch.nan, 0.0, torch.inf])[:, None]


@each
@pytest.mark.parametrize(
    ("output", "target", "error", "message"),
    [
        (LOGITS[:, :5], Z, ValueError, r"shape \(N, 6\).* got shape \(4, 5\)"),
        (LOGITS[0], Z, ValueError, r"shape \(N, 6\).* got shape \(6,\)"),
        (LOGITS.softmax(1), Z, ValueError, "probability .* drop the softmax"),
        (LOGITS + BAD_ROW, Z, ValueError, r"NaN or \+inf in 2 of 4 rows"),
        (LOGITS.long(), Z, TypeError, "floating-point; got torch.int64"),
        ((LOGITS, LOGITS), Z, TypeError, "must be a torch.Tensor; got tuple"),
        (LOGITS, Z[:3], ValueError, r"shape \(4,\); got shape \(3,\)"),
        (LOGITS, Z[:, None], ValueError, r"shape \(4,\); got shape \(4, 1\)"),
        (LOGITS, Z + 1, ValueError, "4 of 4 redshifts lie outside the bins"),
        (LOGITS, Z * torch.nan, ValueError, "4 of 4 values are NaN"),
        (LOGITS, Z.long(), TypeError, "z must be floating point"),
    ],
)
def test_refused(objective: Objective, output: Any, target: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        objective(output, target)


NEGATIVE = torch.tensor([-0.5, 1.0, 0.5, 0.0, 0.0, 0.0]).expand(4, 6)
ONE_ROW_TOO_LARGE = LOGITS.softmax(1) * torch.tensor([1.0, 1.0, 1.001, 1.0])[:, None]


@each
@pytest.mark.parametrize("logits", [NEGATIVE, ONE_ROW_TOO_LARGE, LOGITS.relu(), LOGITS[:0]])
def test_logits_that_resemble_a_probability_are_accepted(
    objective: Objective, logits: torch.Tensor
) -> None:
    values = objective(logits, Z[: len(logits)])
    assert values.shape == (len(logits),)
    assert values.isfinite().all()


def test_the_likelihood_on_bins_is_the_cross_entropy_plus_the_log_of_the_width() -> None:
    bins = RedshiftBins(0.1, 0.7, 6)
    logits, z = 5 * torch.randn(9, 6), 0.1 + 0.6 * torch.rand(9)
    entropy = CrossEntropy(bins)(logits, z) + np.log(0.1)
    torch.testing.assert_close(NegativeLogLikelihood(bins)(logits, z), entropy)


def test_signed_redshifts_are_opposite_and_bound_the_error() -> None:
    logits, z = torch.randn(9, 6), torch.rand(9)
    up, down = SignedRedshift(BINS)(logits, z), SignedRedshift(BINS, -1)(logits, z)
    assert torch.equal(up, -down)
    assert torch.equal(torch.maximum(up, down), RedshiftError(BINS)(logits, z))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_pinball_loss_is_its_formula(dtype: torch.dtype) -> None:
    levels = (0.05, 0.16, 0.5, 0.9)
    loss = PinballLoss(Quantiles(levels))
    output = torch.rand(8, 4).to(dtype).requires_grad_()
    z = torch.rand(8)
    values = loss(output, z)
    rows = []
    for quantiles, z_spec in zip(output.double().tolist(), z.tolist(), strict=True):
        each = [
            tau * (z_spec - q) if z_spec >= q else (1 - tau) * (q - z_spec)
            for tau, q in zip(levels, quantiles, strict=True)
        ]
        rows.append(sum(each) / 4)
    np.testing.assert_allclose(values.detach().numpy(), rows, rtol=1e-5, atol=1e-7)
    (grad,) = torch.autograd.grad(values.sum(), output)
    below = z[:, None] < output.detach().to(values.dtype)
    expected = torch.where(below, 1 - torch.tensor(levels), -torch.tensor(levels)) / 4
    np.testing.assert_allclose(
        grad.double(), expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-6
    )


def test_the_expected_pinball_loss_is_least_at_the_quantile() -> None:
    z = torch.linspace(0, 1, 10_001)  # uniform: its quantile of level tau is tau
    loss = PinballLoss(Quantiles([0.3, 0.5]))
    guess = torch.linspace(0.1, 0.9, 81)
    for column, level in enumerate((0.3, 0.5)):
        means = []
        for value in guess:
            output = torch.full((len(z), 2), 0.5)
            output[:, column] = value
            means.append(loss(output, z).mean())
        assert guess[torch.stack(means).argmin()].item() == pytest.approx(level, abs=0.011)


def test_what_an_evaluation_maximises_by_default() -> None:
    assert default_objective(BINS) == NegativeLogLikelihood(BINS)
    assert default_objective(GaussianMixture(2)) == NegativeLogLikelihood(GaussianMixture(2))
    assert default_objective(PointEstimate()) == RedshiftError(PointEstimate())
    assert default_objective(Quantiles([0.5])) == RedshiftError(Quantiles([0.5]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy(PointEstimate()), "CrossEntropy needs the RedshiftBins"),
        (lambda: CrossEntropy(RedshiftBins), "CrossEntropy needs the RedshiftBins"),
        (lambda: NegativeLogLikelihood(PointEstimate()), "needs a readout with a PDF"),
        (lambda: NegativeLogLikelihood(Quantiles([0.5])), "needs a readout with a PDF"),
        (lambda: NegativeLogLikelihood(RedshiftBins), "needs a readout with a PDF"),
        (lambda: RedshiftError(RedshiftBins), "a readout says how .* got <class"),
        (lambda: RedshiftError(None), "a readout says how .* got None"),
        (lambda: SignedRedshift(180), "a readout says how .* got 180"),
        (lambda: TowardRedshift(0.1, None), "a readout says how"),
        (lambda: default_objective(None), "a readout says how"),
        (lambda: PinballLoss(RedshiftBins()), "PinballLoss needs the Quantiles"),
        (lambda: SignedRedshift(BINS, 2), "sign must be 1 or -1, got 2"),
        (lambda: CrossEntropy(), "bins"),
        (lambda: RedshiftError(), "readout"),
    ],
)
def test_readouts_that_do_not_fit_are_refused(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("objective", "came"),
    [
        (lambda output, target: output.mean(), r"\(\)"),
        (lambda output, target: output - target, r"\(4, 4\)"),  # (4, 1) - (4,)
        (lambda output, target: 1.0, "float"),
        (lambda output, target: output, r"\(4, 1\)"),
    ],
)
def test_an_objective_must_give_one_value_per_sample(objective: Objective, came: str) -> None:
    with pytest.raises(ValueError, match=rf"shape \(4,\), got {came}; .*reduction='none'"):
        per_sample(objective, torch.zeros(4, 1), torch.zeros(4))


def test_objectives_are_computed_in_full_precision() -> None:
    seen = []

    def objective(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.append((output.dtype, torch.is_autocast_enabled("cpu")))
        return output[:, 0]

    with torch.autocast("cpu", torch.bfloat16):
        assert per_sample(objective, torch.zeros(4, 1).bfloat16(), Z).dtype == torch.float32
    assert seen == [(torch.float32, False)]


def test_log_odds_have_a_gradient_where_the_softmax_has_none() -> None:
    logits = torch.tensor([[0.0, 300.0, 100.0, 0.0, 0.0, 0.0]], requires_grad=True)
    z = torch.tensor([0.2])  # the network is sure, and right
    (flat,) = torch.autograd.grad(CrossEntropy(BINS)(logits, z).sum(), logits)
    assert bool((flat == 0).all())
    value = LogOdds(BINS)(logits, z)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    assert value.item() == -200
    torch.testing.assert_close(gradient, torch.tensor([[0.0, -1.0, 1.0, 0.0, 0.0, 0.0]]))
    with pytest.raises(TypeError, match="at least two of them"):
        LogOdds(RedshiftBins(n=1))
    with pytest.raises(TypeError, match="needs the RedshiftBins"):
        LogOdds(PointEstimate())  # type: ignore[arg-type]
