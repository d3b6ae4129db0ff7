"""Median smoothing: against the binomial law, closed forms on linear models, and attacks."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from scipy import stats
from torch import nn

from advphotoz import PGD, L2Ball, PointEstimate, SignedRedshift
from advphotoz.certify import MedianSmoothing, largest_provable_ratio
from advphotoz.evaluation import evaluate
from networks import FIVE, Net, images, split


class Line(nn.Module):
    """0.3 + w x, row by row: the median under any symmetric noise on x is the answer at x."""

    def __init__(self, *shape, scale=0.01):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.weight = nn.Parameter(scale * torch.randn(shape, generator=generator))
        self.most = 0

    def forward(self, x, *context):
        self.most = max(self.most, len(x))
        return 0.3 + (x * self.weight).flatten(1).sum(1)


def smoothed(network, sigma=0.1, draws=200, **settings):
    return MedianSmoothing(network, PointEstimate(), sigma, draws, **settings)


def certified(model, x, context=(), **settings):
    return model.certify(x, context, progress=False, **settings)


def least(n, p, error):
    """Return the largest k for which fewer than k of n lie below with probability error at most."""
    below, k = 0.0, 0
    while True:
        below += math.comb(n, k) * p**k * (1 - p) ** (n - k)
        if below > error:
            return k, below
        k += 1


def chance(n, p, k):
    """Return the probability that fewer than k of n lie below."""
    return sum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k))


def test_the_largest_provable_ratio():
    """2.43 for 1,000 draws and an error of 1e-3 on two sides; the equation for others."""
    assert round(largest_provable_ratio(1000, 0.999), 2) == 2.43
    for draws, confidence in ((20, 0.9), (1000, 0.999), (10**6, 0.99)):
        ratio = largest_provable_ratio(draws, confidence)
        assert stats.norm.cdf(ratio) ** draws == pytest.approx((1 - confidence) / 2, rel=1e-9)
    assert largest_provable_ratio(2, 0.999) == 0  # two draws say nothing about a median


@pytest.mark.parametrize(
    ("draws", "ratio", "confidence"),
    [(20, 0.0, 0.9), (57, 0.3, 0.99), (200, 1.0, 0.9), (300, 2.0, 0.95), (300, 2.3, 0.9)],
)
def test_the_ends_are_the_draws_that_the_binomial_law_names(draws, ratio, confidence):
    model = smoothed(Line(2, 2), sigma=0.5, draws=draws)
    x = torch.randn(3, 2, 2)
    found = certified(model, x, eps=0.5 * ratio, confidence=confidence)
    k, _ = least(draws, stats.norm.cdf(-ratio), (1 - confidence) / 2)
    assert k >= 1
    ordered = model.samples(x).sort(1).values.detach()
    assert torch.equal(found.low, ordered[:, k - 1])
    assert torch.equal(found.high, ordered[:, draws - k])
    middle = ordered[:, (draws - 1) // 2 : draws // 2 + 1].mean(1)
    torch.testing.assert_close(found.redshift, middle)
    assert found.proven


def test_ten_thousand_trials_on_a_linear_model():
    """The exact medians are known: w x, and w x +- eps |w| after the worst changes."""
    trials, draws, sigma, ratio, confidence = 10_000, 200, 0.1, 1.0, 0.9
    model = smoothed(Line(2, 2), sigma, draws, batch_size=8192)
    x = torch.randn(trials, 2, 2, generator=torch.Generator().manual_seed(1))
    found = certified(model, x, eps=ratio * sigma, confidence=confidence)
    with torch.no_grad():
        exact = model.network(x)
        far = ratio * sigma * model.network.weight.norm()
    assert bool(((found.low < exact) & (exact < found.high)).all())
    # How often the median after the worst change is missed: known too, and no more, no less.
    k, _ = least(draws, stats.norm.cdf(-ratio), (1 - confidence) / 2)
    miss = chance(draws, stats.norm.cdf(-ratio), k)
    assert miss <= (1 - confidence) / 2 < chance(draws, stats.norm.cdf(-ratio), k + 1)
    low, high = stats.binom.interval(0.9999, trials, miss)
    assert low <= int((exact - far < found.low).sum()) <= high
    assert low <= int((exact + far > found.high).sum()) <= high


def test_the_interval_tends_to_the_closed_form():
    network, x, eps, sigma = Line(2, 3, 3), torch.randn(4, 2, 3, 3), 0.15, 0.1
    far, exact = eps * float(network.weight.detach().norm()), network(x).detach()
    worst = []
    for draws in (200, 2000, 20_000):
        found = certified(smoothed(network, sigma, draws), x, eps=eps)
        gaps = torch.cat([exact - far - found.low, found.high - exact - far])
        worst.append(float(gaps.abs().max()) / far)
    # The end of 20,000 draws lies 3.3 standard errors of a quantile outside, and scatters by one.
    p = stats.norm.cdf(-1.5)
    error = (p * (1 - p) / 20_000) ** 0.5 / stats.norm.pdf(1.5) / 1.5
    assert worst[0] > 3 * worst[2]
    assert worst[1] > worst[2]
    assert worst[2] < 7 * error < 0.07


def test_where_nothing_can_be_proven_it_says_so():
    x = torch.randn(3, 2, 2)
    for model, eps in ((smoothed(Line(2, 2), 0.1), 1.0), (smoothed(Line(2, 2), 0.1, 5), 0.01)):
        found = certified(model, x, eps=eps)
        assert not found.proven
        assert torch.equal(found.low, torch.full((3,), -math.inf))
        assert torch.equal(found.high, torch.full((3,), math.inf))
        assert bool(found.redshift.isfinite().all())
        assert str(found).startswith("Nothing is proven (eps = ")
    assert "the largest provable ratio is 0.2" not in str(found)
    # Five draws at a ratio of 0.1: the number of draws that it asks for is the first that will do.
    enough = int(re.search(r"at least (\d+) draws", str(found))[1])
    for draws, proven in ((enough, True), (enough - 1, False)):
        found = certified(smoothed(Line(2, 2), 0.1, draws), x, eps=0.01)
        assert found.proven is proven
        assert bool(found.low.isfinite().all()) is proven
    assert "No change of the image with an L2 norm of at most 0.01" in str(
        certified(smoothed(Line(2, 2), 0.1, enough), x, eps=0.01)
    )
    assert "more draws than can be" in str(certified(smoothed(Line(2, 2), 0.01, 5), x, eps=1.0))


class Bent(nn.Module):
    """A network that is rough on the scale of the noise, and takes E(B-V)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(18, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(),
            nn.Linear(32, 1),
        )  # fmt: skip
        with torch.no_grad():
            self.layers[1].weight.mul_(4)
            self.layers[3].weight.mul_(4)

    def forward(self, x, ebv):
        return 0.5 + 0.2 * self.layers(x)[:, 0] + 0 * ebv


@pytest.mark.parametrize("sign", [1, -1])
def test_attacks_on_the_smoothed_network_stay_inside(sign):
    model, sigma, eps = Bent(), 0.2, 0.2
    x, ebv, z = torch.randn(12, 2, 3, 3), torch.rand(12), torch.rand(12)
    found = certified(smoothed(model, sigma, 1000), x, (ebv,), eps=eps)
    target = smoothed(model, sigma, 64)
    attack = PGD(L2Ball(eps), steps=10, objective=SignedRedshift(PointEstimate(), sign))
    x_adv = attack(target, x, z, (ebv,))
    assert bool(((x_adv - x).flatten(1).norm(dim=1) <= eps).all())
    many = smoothed(model, sigma, 4000, seed=1)
    with torch.no_grad():
        before, after = many(x, ebv), many(x_adv, ebv)
    assert bool(((found.low < after) & (after < found.high)).all())
    # It is an attack: every median moves its way, and in the mean most of the way to the end.
    end = found.high if sign == 1 else found.low
    assert bool((sign * (after - before) > 0).all())
    assert float(((after - before) / (end - before)).mean()) > 0.4


def test_the_gradient_is_that_of_the_median():
    x = torch.randn(3, 2, 2, requires_grad=True)
    model = smoothed(Line(2, 2), draws=70, batch_size=32)
    value = model(x)
    with torch.no_grad():
        assert torch.equal(value, model(x))
    (gradient,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(gradient, model.network.weight.detach().expand(3, 2, 2))

    class Steep(Line):
        def forward(self, x):
            return super().forward(x).mul(3).sinh()

    # A rising function of w x: so is the median; its derivative is that at the median.
    model = smoothed(Steep(2, 2, scale=1.0), sigma=0.02, draws=400)
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    u = 3 * (0.3 + (x * model.network.weight).flatten(1).sum(1)).detach()
    expected = 3 * u.cosh()[:, None, None] * model.network.weight.detach()
    torch.testing.assert_close(gradient, expected, rtol=0.03, atol=0)


def test_the_gradient_is_an_expectation_and_not_that_of_one_draw():
    """A ripple too fine for the noise: every draw has its slope, the median has none."""

    class Ripple(nn.Module):
        def forward(self, x):
            return x[:, 0] + (1000 * x[:, 1]).sin() / 1000

    x = torch.randn(8, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(smoothed(Ripple(), draws=400)(x).sum(), x)
    torch.testing.assert_close(gradient[:, 0], torch.ones(8))
    assert float(gradient[:, 1].abs().max()) < 0.25  # of one draw it is a cosine, up to 1


def test_weights_can_be_trained_through_it():
    model, x = smoothed(Line(2, 2), draws=70), torch.randn(3, 2, 2)
    model(x).sum().backward()
    # Each weight's gradient is the sum over samples of its pixel, under the middle of the noise.
    assert bool((model.network.weight.grad - x.sum(0)).abs().max() < 0.3)


class Pixel(nn.Module):
    """Returns one pixel, or E(B-V)."""

    def __init__(self, context=False):
        super().__init__()
        self.context = context

    def forward(self, x, ebv):
        return ebv if self.context else x[:, 1, 2, 0]


def test_the_noise():
    x, ebv = torch.randn(6, 2, 3, 3), torch.rand(6)
    model = smoothed(Pixel(), sigma=0.3, draws=2000)
    unit = (model.samples(x, (ebv,)) - x[:, 1, 2, 0, None]) / 0.3
    for row in unit:
        assert stats.kstest(row.numpy(), "norm").pvalue > 1e-3
    assert float((torch.corrcoef(unit) - torch.eye(6)).abs().max()) < 0.1
    # E(B-V) is shown as it is, with its own image.
    shown = smoothed(Pixel(context=True), draws=40).samples(x, (ebv,))
    assert torch.equal(shown, ebv[:, None].expand(6, 40))


def test_what_the_noise_depends_on():
    """The seed and the sample; not the batch, the size of the batches, or the number of draws."""
    x = torch.randn(20, 2, 2)
    whole = smoothed(Line(2, 2), draws=80).samples(x)
    assert torch.equal(smoothed(Line(2, 2), draws=80).samples(x[5:8]), whole[5:8])
    assert torch.equal(smoothed(Line(2, 2), draws=50).samples(x), whole[:, :50])
    few = smoothed(Line(2, 2), draws=80, batch_size=32)
    assert torch.equal(few.samples(x), whole)
    assert few.network.most == 32
    larger = smoothed(Line(2, 2), draws=80, batch_size=100)
    larger.samples(x)
    assert larger.network.most == 96
    other = smoothed(Line(2, 2), draws=80, seed=1).samples(x)
    assert not set(other[0].tolist()) & set(whole[0].tolist())
    assert len(set(whole[0].tolist())) > 75
    moved = smoothed(Line(2, 2), draws=80).samples(x + 1e-6)
    assert not torch.allclose(moved, whole, atol=1e-4)


def test_no_trace_is_left():
    torch.manual_seed(0)
    x, ebv, _ = images(10)
    network = Net()
    network.norm.eval()
    network.conv.weight.requires_grad_(False)
    model = MedianSmoothing(network, FIVE, 0.1, draws=40)
    state, flags = copy.deepcopy(model.state_dict()), [p.requires_grad for p in model.parameters()]
    modes, random = [m.training for m in model.modules()], torch.get_rng_state()
    given = x.clone()
    found = certified(model, x, (ebv,), eps=0.01)
    assert modes == [m.training for m in model.modules()]
    assert flags == [p.requires_grad for p in model.parameters()]
    assert torch.equal(random, torch.get_rng_state())
    assert torch.equal(x, given)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(p.grad is None for p in model.parameters())
    assert not found.low.requires_grad
    # In eval mode, and so without dropout.
    model.eval()
    assert torch.equal(certified(model, x, (ebv,), eps=0.01).redshift, found.redshift)


def test_a_smoothed_network_is_evaluated_like_any_other():
    model = MedianSmoothing(Net(), FIVE, sigma=0.2, draws=48)
    attacks = [
        PGD(L2Ball(1.0), steps=4, objective=SignedRedshift(PointEstimate(), sign))
        for sign in (1, -1)
    ]
    named = dict(zip(("up", "down"), attacks, strict=True))
    batches = split(images(16), 8)
    found = evaluate(model, batches, named, PointEstimate(), progress=False, bootstrap=0)
    same = next(check for check in found.checks.checks if check.name == "same output twice")
    assert same.status == "pass"
    shifts = {name: found.z_phot[name] - found.z_phot["clean"] for name in named}
    assert shifts["up"].mean() > 0.005
    assert shifts["down"].mean() < -0.005
    other = evaluate(model, [images(16)], named, PointEstimate(), progress=False, checks=False)
    assert abs(other.z_phot["clean"] - found.z_phot["clean"]).max() < 1e-5


def test_half_precision_and_empty_batches():
    x = torch.randn(4, 2, 2)
    model = smoothed(Line(2, 2), sigma=0.5, draws=64)
    model.network.bfloat16()
    assert bool((model(x.bfloat16()) - 0.3).abs().max() < 0.1)
    assert certified(smoothed(Line(2, 2)), torch.zeros(0, 2, 2), eps=0.01).low.shape == (0,)


def test_refusals():
    line = Line(2, 2)
    for sigma in (0, -1, math.nan, [0.1, 0.2]):
        with pytest.raises((ValueError, TypeError), match=r"sigma must be"):
            smoothed(line, sigma)
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module.*wrap a function"):
        smoothed(lambda x: x)
    with pytest.raises(TypeError, match="a readout says how"):
        MedianSmoothing(line, PointEstimate, 0.1)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        smoothed(line, draws=0)
    with pytest.raises(ValueError, match="batch_size must be at least 32"):
        smoothed(line, batch_size=8)
    x = torch.zeros(2, 2, 2)
    for eps in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="eps must be finite and not negative"):
            certified(smoothed(line), x, eps=eps)
    for confidence in (0, 1, 99.9):
        with pytest.raises(ValueError, match="confidence must lie between 0 and 1"):
            certified(smoothed(line), x, eps=0.1, confidence=confidence)
    with pytest.raises(ValueError, match="x must be finite"):
        certified(smoothed(line), x / 0, eps=0.1)
    with pytest.raises(ValueError, match="one row per sample"):
        certified(smoothed(line), x, (torch.zeros(3),), eps=0.1)
