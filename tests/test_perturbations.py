"""Perturbation sets: exactly inside, nearest point, steepest direction, uniform by volume."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import advphotoz
from advphotoz import L2Ball, LinfBall, ZeroPoint, l2_eps_from_linf
from advphotoz._random import SampleGenerators, draw
from advphotoz._rounding import add_inward, cast_inward, round_down
from advphotoz.testing import check_set

BALLS = [
    LinfBall(0.3),
    LinfBall([0.1, 0.2, 0.3]),
    L2Ball(0.7),
    L2Ball(0.7, per_band=True),
    L2Ball([0.1, 2.0, 0.3]),
]
balls = pytest.mark.parametrize("ball", BALLS, ids=repr)
SETS = [
    *BALLS,
    LinfBall(0.3, bounds=(-1, 1)),
    LinfBall([0.0, 0.2]),
    LinfBall(0.0),
    LinfBall(1e4),
    L2Ball(0.7, bounds=(-1, 1)),
    L2Ball([0.0, 0.2]),
    L2Ball(1e-8),
    L2Ball(0.0),
    ZeroPoint(0.01),
    ZeroPoint([0.02, 0.01, 0.0]),
    ZeroPoint(0.0),
]
sets = pytest.mark.parametrize("perturbations", SETS, ids=repr)


@sets
def test_contract(perturbations):
    check_set(perturbations)


@pytest.mark.parametrize(
    ("perturbations", "shape"),
    [
        (LinfBall(0.3), (7, 5)),
        (L2Ball([0.1] * 4), (2, 4, 64)),
        (ZeroPoint(0.1), (3, 2, 3, 4, 5)),
        (L2Ball(0.31), (2, 5, 64, 64)),
    ],
    ids=repr,
)
def test_contract_for_other_shapes(perturbations, shape):
    check_set(perturbations, 100 * torch.randn(shape), (torch.rand(shape[0], 2),))


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
    inside = ball.project(torch.zeros_like(delta), delta)
    assert inside.dtype == dtype
    assert (exact_norm(ball, inside) <= torch.tensor(ball.eps, dtype=torch.float64)).all()
    assert torch.equal(ball.project(torch.zeros_like(delta), inside), inside)


@pytest.mark.parametrize("n", [1, 7, 4096, 20480, 200_001])
@pytest.mark.parametrize("fill", ["equal", "normal"])
def test_l2_projection_is_inside_for_many_pixels(n, fill):
    delta = torch.full((2, n), 0.7341) if fill == "equal" else 10 + torch.randn(2, n)
    inside = L2Ball(0.3097).project(torch.zeros_like(delta), delta)
    norm = torch.linalg.vector_norm(inside.double(), dim=1)
    assert (norm <= 0.3097).all()
    assert (norm >= 0.3097 * (1 - 1e-5)).all()


@balls
@given(seed=st.integers(0, 2**31))
def test_projection_is_the_nearest_point(ball, seed):
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(4, 3, 3, 3, generator=generator, dtype=torch.float64) * 2
    other = ball.sample(torch.empty_like(delta), generator)
    nearest = ball.project(torch.zeros_like(delta), delta)
    # The nearest point of a convex set: from it, every other point lies at an obtuse angle.
    axes = (2, 3) if isinstance(ball.eps, tuple) or getattr(ball, "per_band", False) else (1, 2, 3)
    inner = ((delta - nearest) * (other - nearest)).sum(axes)
    assert (inner <= 1e-9).all()


@balls
@given(seed=st.integers(0, 2**31), log_scale=st.integers(-36, 30))
def test_steepest_has_size_one_and_ignores_the_scale_of_the_gradient(ball, seed, log_scale):
    generator = torch.Generator().manual_seed(seed)
    grad = torch.randn(3, 3, 4, 4, generator=generator)
    step = ball.steepest(grad)
    torch.testing.assert_close(ball.size(step), torch.ones(3))
    norm = ball.norm(step)
    radii = torch.tensor(ball.eps, dtype=norm.dtype).expand(norm.shape)
    torch.testing.assert_close(norm, radii)  # every band uses its own
    torch.testing.assert_close(ball.steepest(grad * 10.0**log_scale), step, atol=1e-6, rtol=1e-4)


@balls
def test_no_point_of_the_ball_rises_faster_than_steepest(ball):
    grad = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    best = (ball.steepest(grad) * grad).sum()
    for _ in range(200):
        u = torch.randn_like(grad)
        norm = ball.norm(u)
        u = u * (torch.tensor(ball.eps) / norm).view(*norm.shape, *[1] * (4 - norm.ndim))
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
    x = torch.zeros(1, 3, 4, 4)
    calls = [ball.sample, ball.norm, ball.steepest, ball.size]
    calls += [lambda x: ball.project(x, x), lambda x: ball.check(x, ())]
    for call in calls:
        with pytest.raises(ValueError, match=r"2 values were given, one per band, .* 3 bands"):
            call(x)


@sets
def test_value_semantics(perturbations):
    import pickle

    again = eval(repr(perturbations), vars(advphotoz))
    assert again == perturbations == pickle.loads(pickle.dumps(perturbations))
    assert hash(perturbations) == hash(again)
    assert perturbations.scaled(2).scaled(0.5) == perturbations
    with pytest.raises(AttributeError):
        perturbations.eps = 1.0


def test_labels_and_scaling():
    assert [s.label for s in (LinfBall(0.01), LinfBall([0.01, 0.02]), LinfBall([1, 1]))] == [
        "0.01",
        "0.01 to 0.02",
        "1",
    ]
    assert [s.label for s in (L2Ball(0.31), L2Ball([1, 2]))] == ["L2 0.31", "L2 1 to 2 per band"]
    assert ZeroPoint(0.01).label == "zero point 0.01 mag"
    assert ZeroPoint([0.02, 0.01]).label == "zero point 0.01 to 0.02 mag"
    assert LinfBall([1, 2], bounds=(0, 1)).scaled(3) == LinfBall([3, 6], bounds=(0, 1))
    assert L2Ball(1, per_band=True).scaled(3) == L2Ball(3, per_band=True)
    assert ZeroPoint([0.1, 0.0]).scaled(2) == ZeroPoint([0.2, 0.0])


@balls
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_size_is_one_on_the_boundary(ball, dtype):
    delta = 100 * torch.randn(4, 3, 5, 5).to(dtype)
    p = ball.project(torch.zeros_like(delta), delta)
    size = ball.size(p)
    assert (size <= 1).all()
    assert (size > (0.98 if dtype == torch.bfloat16 else 0.997)).all()
    expected = (exact_norm(ball, p) / torch.tensor(ball.eps, dtype=torch.float64)).reshape(4, -1)
    room = 1e-2 if dtype in (torch.bfloat16, torch.float16) else 1e-6
    torch.testing.assert_close(size.double(), expected.amax(1), rtol=room, atol=0)


def test_size_of_a_radius_of_zero():
    for ball in (LinfBall(0.0), L2Ball(0.0), LinfBall([0.0, 1.0]), L2Ball([0.0, 1.0])):
        still = torch.zeros(1, 2, 3)
        assert ball.size(still) == 0
        still[0, 0, 1] = 1e-3
        assert ball.size(still) == math.inf


@pytest.mark.parametrize("ball", [LinfBall(0.3, bounds=(0, 1)), L2Ball(2.0, bounds=(0, 1))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bounds_hold_exactly(ball, dtype):
    x = torch.rand(4, 3, 5, 5).to(dtype)
    p = ball.project(x, torch.randn_like(x))
    placed, _ = ball.place(x, (), p)
    assert placed.min() >= 0
    assert placed.max() <= 1
    assert (placed == 0).any()
    assert (placed == 1).any()
    assert ((placed.double() - x.double()).abs() <= p.double().abs()).all()
    assert (ball.size(ball.sample(x)) <= 1).all()


@balls
def test_steps_of_one_fraction_per_sample(ball):
    x = torch.randn(3, 3, 4, 4, dtype=torch.float64)
    p, grad = ball.sample(x) / 4, torch.randn_like(x)
    each = ball.step(x, p, grad, torch.tensor([0.0, 0.1, 0.7], dtype=torch.float64))
    assert torch.equal(each[0], p[0])
    for i, fraction in enumerate((0.0, 0.1, 0.7)):
        by_hand = ball.project(x, p + fraction * ball.steepest(grad))
        torch.testing.assert_close(each[i], by_hand[i], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(ball.step(x, p, grad, fraction)[i], each[i], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_bounds_hold_where_the_way_to_them_is_rounded(dtype):
    """Adding high - x to x does not give high exactly."""
    low, high = torch.tensor([-0.7, 1.3], dtype=dtype).tolist()
    ball = LinfBall(5.0, bounds=(-0.7, 1.3))
    x = (-0.7 + 2 * torch.rand(1, 20_000)).to(dtype).clamp(-0.7, 1.3)
    for way in (10.0, -10.0):
        placed, _ = ball.place(x, (), ball.project(x, torch.full_like(x, way)))
        assert placed.min() >= low
        assert placed.max() <= high


# Zero points.


def test_zero_points_scale_every_band():
    x = torch.rand(2, 3, 4, 4, dtype=torch.float64) - 0.2
    a = torch.tensor([[0.02, -0.05, 0.03], [-0.01, 0.0, 0.1]], dtype=torch.float64)
    budget = torch.tensor([0.02, 0.05, 0.1], dtype=torch.float64)
    sets = ZeroPoint(budget.tolist())
    p = a / budget
    torch.testing.assert_close(sets.physical(p), a, rtol=0, atol=1e-15)
    moved, context = sets.apply(x, (x[:, 0, 0, 0],), p)
    expected = torch.stack(
        [torch.stack([x[i, b] * 10 ** (-0.4 * a[i, b]) for b in range(3)]) for i in range(2)]
    )
    torch.testing.assert_close(moved, expected, rtol=1e-14, atol=0)
    assert torch.equal(context[0], x[:, 0, 0, 0])
    assert sets.size(p).tolist() == pytest.approx([1, 1])
    assert torch.equal(sets.place(x.half(), (), p)[0], sets.apply(x.half(), (), p)[0])
    assert sets.place(x.half(), (), p)[0].dtype == torch.float16


def test_a_band_without_budget_is_still():
    sets = ZeroPoint([0.1, 0.0])
    x = torch.rand(50, 2, 3)
    for p in (
        sets.project(x, torch.randn(50, 2)),
        sets.sample(x),
        sets.steepest(torch.ones(50, 2)),
    ):
        assert not p[:, 1].any()
        assert p[:, 0].any()
        assert torch.equal(sets.apply(x, (), p)[0][:, 1], x[:, 1])
    assert torch.equal(sets.project(x, torch.full((50, 2), 9.0))[:, 0], torch.ones(50))


def test_zero_points_are_drawn_uniformly():
    p = ZeroPoint(0.1).sample(torch.empty(20_000, 2, 1, 1), torch.Generator().manual_seed(0))
    assert (p.var(0) - 1 / 3).abs().max() < 0.01
    assert p.mean(0).abs().max() < 0.02


@pytest.mark.parametrize("budget", [-0.1, math.nan, [0.1, -1], [], "0.1", None])
def test_bad_budget(budget):
    with pytest.raises((ValueError, TypeError), match="budget must"):
        ZeroPoint(budget)


def test_zero_points_of_another_number_of_bands():
    with pytest.raises(ValueError, match=r"2 values were given, one per band, .* 3 bands"):
        ZeroPoint([0.1, 0.2]).check(torch.zeros(1, 3, 4, 4), ())


# Random draws.


@pytest.mark.parametrize("distribution", [torch.rand, torch.randn])
def test_a_generator_per_sample_makes_draws_independent(distribution):
    whole = draw(distribution, (3, 4), SampleGenerators([5, 6, 7]))
    for order in ([2, 0], [1], [0, 1, 2]):
        part = draw(distribution, (len(order), 4), SampleGenerators([5 + i for i in order]))
        assert torch.equal(part, whole[order])
    assert draw(distribution, (0, 4), SampleGenerators([])).shape == (0, 4)
    assert draw(distribution, (1, 4), SampleGenerators([5]), dtype=torch.float64).dtype == (
        torch.float64
    )
    with pytest.raises(ValueError, match="2 generators were given for 3 samples"):
        draw(distribution, (3, 4), SampleGenerators([5, 6]))
