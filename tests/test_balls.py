"""Balls: exactly inside, nearest point, steepest direction, uniform by volume."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advphotoz import L2Ball, LinfBall, l2_eps_from_linf
from advphotoz._rounding import add_inward, cast_inward, round_down

BALLS = [
    LinfBall(0.3),
    LinfBall([0.1, 0.2, 0.3]),
    L2Ball(0.7),
    L2Ball(0.7, per_band=True),
    L2Ball([0.1, 2.0, 0.3]),
]
balls = pytest.mark.parametrize("ball", BALLS, ids=repr)


def exact_norm(ball, delta):
    """Recompute the norm in float64, without the library."""
    delta = delta.double()
    per_band = isinstance(ball.eps, tuple) or getattr(ball, "per_band", False)
    rows = delta.reshape(len(delta), delta.shape[1], -1) if per_band else delta.flatten(1)
    order = math.inf if isinstance(ball, LinfBall) else 2
    return torch.linalg.vector_norm(rows, ord=order, dim=-1)


@balls
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@given(seed=st.integers(0, 2**31), log_scale=st.floats(-4, 3))
def test_projection_is_inside_and_idempotent(ball, dtype, seed, log_scale):
    generator = torch.Generator().manual_seed(seed)
    delta = (torch.randn(3, 3, 4, 5, generator=generator) * 10**log_scale).to(dtype)
    inside = ball.project(delta)
    assert inside.dtype == dtype
    assert (exact_norm(ball, inside) <= torch.tensor(ball.eps, dtype=torch.float64)).all()
    assert torch.equal(ball.project(inside), inside)


@pytest.mark.parametrize("n", [1, 7, 4096, 20480, 200_001])
@pytest.mark.parametrize("fill", ["equal", "normal"])
def test_l2_projection_is_inside_for_many_pixels(n, fill):
    delta = torch.full((2, n), 0.7341) if fill == "equal" else 10 + torch.randn(2, n)
    inside = L2Ball(0.3097).project(delta)
    norm = torch.linalg.vector_norm(inside.double(), dim=1)
    assert (norm <= 0.3097).all()
    assert (norm >= 0.3097 * (1 - 1e-5)).all()


@balls
@given(seed=st.integers(0, 2**31))
def test_projection_is_the_nearest_point(ball, seed):
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(4, 3, 3, 3, generator=generator, dtype=torch.float64) * 2
    other = ball.sample(torch.empty_like(delta), generator)
    nearest = ball.project(delta)
    # The nearest point of a convex set: from it, every other point lies at an obtuse angle.
    axes = (2, 3) if isinstance(ball.eps, tuple) or getattr(ball, "per_band", False) else (1, 2, 3)
    inner = ((delta - nearest) * (other - nearest)).sum(axes)
    assert (inner <= 1e-9).all()


@balls
@given(seed=st.integers(0, 2**31), log_scale=st.integers(-36, 30))
def test_steepest_has_norm_one_and_ignores_the_scale_of_the_gradient(ball, seed, log_scale):
    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(3, 3, 4, 4, generator=generator)
    step = ball.steepest(grad)
    torch.testing.assert_close(ball.norm(step), torch.ones_like(ball.norm(step)))
    torch.testing.assert_close(ball.steepest(grad * 10.0**log_scale), step, atol=1e-6, rtol=1e-4)


@balls
def test_no_unit_step_rises_faster_than_steepest(ball):
    grad = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    best = (ball.steepest(grad) * grad).sum()
    for _ in range(200):
        u = torch.randn_like(grad)
        norm = ball.norm(u)
        u = u / norm.view(*norm.shape, *[1] * (4 - norm.ndim))
        assert (u * grad).sum() <= best + 1e-9


@balls
def test_zero_gradient_gives_zero_step(ball):
    assert torch.equal(ball.steepest(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_l2_sample_is_uniform_by_volume():
    d = 6
    points = L2Ball(2.0).sample(torch.empty(20_000, d), torch.Generator().manual_seed(0))
    radius = torch.linalg.vector_norm(points.double(), dim=1) / 2
    # By volume, (r / eps)^d is uniform on [0, 1]: mean 1/2, and 95 % of draws within 0.007 of it.
    assert abs((radius**d).mean() - 0.5) < 0.01
    assert abs((radius**d).var() - 1 / 12) < 0.003
    assert points.mean(0).abs().max() < 0.05


def test_linf_sample_is_uniform():
    points = LinfBall([1.0, 3.0]).sample(torch.empty(20_000, 2), torch.Generator().manual_seed(0))
    assert (points.double().var(0) - torch.tensor([1 / 3, 3.0])).abs().max() < 0.05
    assert (points.abs().amax(0) <= torch.tensor([1.0, 3.0])).all()


@balls
def test_sample_is_inside_and_repeatable(ball):
    like = torch.empty(50, 3, 8, 8).to(memory_format=torch.channels_last)
    first, again = (ball.sample(like, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert (exact_norm(ball, first) <= torch.tensor(ball.eps, dtype=torch.float64)).all()


@given(
    dtype=st.sampled_from([torch.float32, torch.float64, torch.float16, torch.bfloat16]),
    x=st.floats(-1e4, 1e4, width=16),
    delta=st.floats(-10, 10, width=16),
    tiny=st.sampled_from([1.0, 1e-3, 1e-7]),
)
def test_add_inward_never_moves_further_than_delta(dtype, x, delta, tiny):
    from fractions import Fraction

    start = torch.tensor([x * math.pi / 4, x * tiny], dtype=dtype)
    change = torch.tensor([delta * tiny, delta], dtype=dtype)
    moved = add_inward(start, change)
    for before, by, after in zip(start.tolist(), change.tolist(), moved.tolist(), strict=True):
        assert abs(Fraction(after) - Fraction(before)) <= abs(Fraction(by))


def test_plain_addition_does_move_further():
    """The reason for add_inward: without it the promise is broken on real pixel values."""
    x, delta = 1e4 * torch.rand(1000), torch.full((1000,), 0.01)
    assert ((x + delta).double() - x.double() > 0.01).any()
    assert ((add_inward(x, delta)).double() - x.double() <= 0.01).all()


def test_cast_and_round_down_never_grow():
    values = torch.randn(1000)
    assert (cast_inward(values, torch.bfloat16).float().abs() <= values.abs()).all()
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert all(round_down(v, dtype) <= v for v in (0.1, 0.01, 0.3097, 1e-3, 0.0))


def test_volume_scale_of_the_paper():
    assert l2_eps_from_linf(0.01) == pytest.approx(0.3097, abs=5e-5)
    # Ratio of the balls' volumes, by Stirling: (2 eps)^n = (pi^(n/2) / Gamma(n/2 + 1)) eps_2^n.
    n = 4096
    log_ratio = math.log(2) - (n / 2 * math.log(math.pi) - math.lgamma(n / 2 + 1)) / n
    assert l2_eps_from_linf(1.0, n) == pytest.approx(math.exp(log_ratio), rel=2e-3)


@pytest.mark.parametrize(
    ("eps", "error", "message"),
    [
        (-0.1, ValueError, "not negative"),
        (math.nan, ValueError, "finite"),
        (math.inf, ValueError, "finite"),
        ([0.1, -1], ValueError, "not negative"),
        ([], ValueError, "per band"),
        ("0.1", TypeError, "number"),
        (True, TypeError, "number"),
        (None, TypeError, "number"),
    ],
)
@pytest.mark.parametrize("kind", [LinfBall, L2Ball])
def test_bad_radius(kind, eps, error, message):
    with pytest.raises(error, match=message):
        kind(eps)


@pytest.mark.parametrize("ball", [LinfBall([1, 2]), L2Ball([1, 2])], ids=repr)
def test_wrong_number_of_bands(ball):
    for call in (ball.project, ball.sample, ball.norm):
        with pytest.raises(ValueError, match=r"2 values were given, one per band, .* 3 bands"):
            call(torch.zeros(1, 3, 4, 4))


@balls
def test_value_semantics(ball):
    import pickle

    assert eval(repr(ball)) == ball == pickle.loads(pickle.dumps(ball))
    assert hash(ball) == hash(eval(repr(ball)))
