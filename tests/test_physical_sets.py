"""Physical sets: against what GalSim draws, in closed form, and as parts of the library."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advphotoz import (
    PGD,
    AdversarialTrainer,
    Compose,
    CrossEntropy,
    GaussianBudget,
    LinfBall,
    MagnitudeOffset,
    PointEstimate,
    PSFWidth,
    ReddeningError,
    ReddeningInputError,
    RedshiftBins,
    Shift,
    SignedRedshift,
    SkyGradient,
    SkyLevel,
    UniformNoise,
    ZeroPoint,
    evaluate,
    mix_adversarial,
)
from advphotoz.evaluation import robustness_curve
from advphotoz.perturbations import Parameter
from advphotoz.testing import check_attack, check_set

SDSS_DUST = (4.239, 3.303, 2.285, 1.698, 1.263)
CORRELATED = [[4.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 0.0]]
SETS = [
    MagnitudeOffset([0.1, 0.2]),
    SkyLevel([0.1, 0.0]),
    SkyGradient([0.1, 0.0, 0.2]),
    ReddeningError(0.1, SDSS_DUST),
    ReddeningInputError(0.1),
    PSFWidth([0.02, 0.0], [1.3, 1.2], 0.396, beta=2.5),
    Shift([0.04, 0.0], 0.396),
    Compose(ZeroPoint(0.01), ReddeningInputError(0.1), Shift(0.1, 0.4)),
    GaussianBudget(ZeroPoint(0.01), CORRELATED, nsigma=2),
    Compose(GaussianBudget(SkyGradient(0.1)), Compose(SkyLevel(0.1))),
]
PIXEL, FWHM, SIZE = 0.396, 1.3, 48


@pytest.mark.parametrize("perturbations", SETS, ids=lambda s: type(s).__name__)
def test_contract(perturbations):
    check_set(perturbations)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (2, 3, 5, 12)])
def test_contract_on_other_images(shape):
    x = 10 * torch.randn(shape)
    check_set(Compose(PSFWidth(0.01, 1.3, 0.396), Shift(0.1, 0.4), SkyGradient(0.1)), x)


# Against GalSim.


def galaxy(galsim: Any, **changes: Any) -> Any:
    profile = galsim.Sersic(1.5, half_light_radius=1.2, flux=100, trunc=10)
    return profile.shear(q=0.6, beta=30 * galsim.degrees).shift(0.1, -0.13)


def drawn(profile: Any, fwhm: float = FWHM, beta: float = 3.5) -> Tensor:
    """Draw a profile through a Moffat point-spread function, (1, 1, SIZE, SIZE)."""
    galsim = pytest.importorskip("galsim")
    exact = galsim.GSParams(folding_threshold=1e-5, maxk_threshold=1e-5, maximum_fft_size=32768)
    image = galsim.ImageD(SIZE, SIZE, scale=PIXEL)
    psf = galsim.Moffat(beta=beta, fwhm=fwhm)
    galsim.Convolve(profile, psf, gsparams=exact).drawImage(image=image, method="no_pixel")
    return torch.tensor(image.array.copy())[None, None]


def moved(perturbations: Any, x: Tensor, *p: float, context: tuple[Tensor, ...] = ()) -> Tensor:
    return perturbations.apply(x, context, torch.tensor([p], dtype=torch.float64))[0]


def agrees(found: Tensor, expected: Tensor, before: Tensor, rtol: float, margin: int = 0) -> None:
    """Compare two images, relative to the largest change, within a margin of the edges."""
    inside = (..., slice(margin, SIZE - margin), slice(margin, SIZE - margin))
    change = (expected - before).abs().max()
    assert change > 0
    assert (found - expected)[inside].abs().max() < rtol * change


def test_a_fainter_galaxy_is_the_one_that_galsim_draws():
    galsim = pytest.importorskip("galsim")
    profile = galaxy(galsim)
    before, after = drawn(profile), drawn(profile * 10 ** (-0.4 * 0.03))
    agrees(moved(ZeroPoint(0.1), before, 0.3), after, before, 1e-6)


def test_a_galaxy_behind_less_dust_is_the_one_that_galsim_draws():
    galsim = pytest.importorskip("galsim")
    profile, ebv = galaxy(galsim), 0.08
    seen = drawn(profile * 10 ** (-0.4 * 2.285 * ebv))  # reddened
    before = seen * 10 ** (0.4 * 2.285 * ebv)  # corrected
    after = seen * 10 ** (0.4 * 2.285 * ebv * 1.05)  # corrected by five per cent too much
    dust = ReddeningError(0.1, [2.285])
    context = (torch.tensor([ebv], dtype=torch.float64),)
    agrees(moved(dust, before, 0.5, context=context), after, before, 1e-9)


def test_a_sky_is_the_one_that_galsim_adds():
    galsim = pytest.importorskip("galsim")
    before = drawn(galaxy(galsim))
    image = galsim.ImageD(before[0, 0].numpy().copy(), scale=PIXEL)
    image += 0.02
    agrees(moved(SkyLevel(0.1), before, 0.2), torch.tensor(image.array)[None, None], before, 1e-9)
    # A plane, as a function of the position: zero in the middle, 0.02 at the right edge.
    edge = SIZE * PIXEL / 2
    image = galsim.ImageD(before[0, 0].numpy().copy(), scale=PIXEL)
    image.setCenter(0, 0)
    for y in range(image.bounds.ymin, image.bounds.ymax + 1):
        for x in range(image.bounds.xmin, image.bounds.xmax + 1):
            here = image.true_center
            u, v = (PIXEL * (x - here.x) / edge, PIXEL * (y - here.y) / edge)
            image[x, y] += 0.02 * u - 0.05 * v
    after = torch.tensor(image.array)[None, None]
    agrees(moved(SkyGradient(0.1), before, 0.2, -0.5), after, before, 1e-9)


@pytest.mark.parametrize("beta", [2.5, 3.5, 4.5])
@pytest.mark.parametrize("fraction", [0.05, -0.05, 0.002])
def test_a_wider_psf_gives_the_galaxy_that_galsim_draws(beta, fraction):
    galsim = pytest.importorskip("galsim")
    profile = galaxy(galsim)
    before = drawn(profile, beta=beta)
    after = drawn(profile, FWHM * (1 + fraction), beta)
    found = moved(PSFWidth(0.05, FWHM, PIXEL, beta), before, fraction / 0.05)
    agrees(found, after, before, 2e-3, margin=8)
    agrees(found, after, before, 3e-2)  # at the edges what lies beyond is not known


def test_a_small_change_of_the_psf_is_not_lost():
    """A kernel drawn on the pixels would be a single one, and its derivative zero."""
    galsim = pytest.importorskip("galsim")
    profile, h = galaxy(galsim), 1e-3
    before = drawn(profile)
    slope = (drawn(profile, FWHM * (1 + h)) - drawn(profile, FWHM * (1 - h))) / (2 * h)
    p = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(SIZE, SIZE, dtype=torch.float64)[8:-8, 8:-8]
    x, _ = PSFWidth(0.01, FWHM, PIXEL).apply(before, (), p)
    (grad,) = torch.autograd.grad((x[0, 0, 8:-8, 8:-8] * weight).sum(), p)
    expected = 0.01 * (slope[0, 0, 8:-8, 8:-8] * weight).sum()
    assert abs(grad.item() / expected.item() - 1) < 2e-3


@pytest.mark.parametrize("shift", [(0.04, 0.0), (0.02, -0.1), (0.3, 0.17)])
def test_a_shifted_galaxy_is_the_one_that_galsim_draws(shift):
    galsim = pytest.importorskip("galsim")
    profile = galaxy(galsim)
    before, after = drawn(profile), drawn(profile.shift(*shift))
    found = moved(Shift(0.5, PIXEL), before, shift[0] / 0.5, shift[1] / 0.5)
    agrees(found, after, before, 2e-3, margin=8)
    agrees(found, after, before, 2e-2)
    star = galsim.DeltaFunction(flux=100)
    before, after = drawn(star), drawn(star.shift(*shift))
    found = moved(Shift(0.5, PIXEL), before, shift[0] / 0.5, shift[1] / 0.5)
    agrees(found, after, before, 1.5e-2)  # 3.3 pixels per FWHM: GalSim's star aliases that much


def test_white_noise_is_amplified_as_stated():
    widths = PSFWidth([0.04, 0.04], [1.0, 1.5], PIXEL)
    noise = torch.randn(30, 2, 64, 64, dtype=torch.float64)
    for sign in (1, -1):
        x, _ = widths.apply(noise, (), torch.full((30, 2), float(sign), dtype=torch.float64))
        factor = x[..., 8:-8, 8:-8].std((0, 2, 3)) / noise.std()
        torch.testing.assert_close(factor, widths.noise_factor(0.04 * sign), rtol=0.02, atol=0)
    assert (widths.noise_factor(-0.04) > 1).all()
    assert (widths.noise_factor(0.04) < 1).all()
    assert widths.noise_factor(0.0).tolist() == [1, 1]


def test_narrowing_that_amplifies_noise_too_much_is_refused():
    with pytest.raises(ValueError, match=r"amplifies white noise 2\.\d+ times"):
        PSFWidth(0.12, 1.3, 0.396)
    assert PSFWidth(0.12, 1.3, 0.396, max_noise_factor=3).budget == 0.12
    with pytest.raises(ValueError, match="cannot be narrower by 100 %"):
        PSFWidth(1.0, 1.3, 0.396, max_noise_factor=1e9)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 9, 31, 32, 64])
def test_flux_stays_and_nothing_comes_back_at_the_other_edge(n):
    x = torch.zeros(1, 1, n, n, dtype=torch.float64)
    x[..., n // 2, n // 2] = 1.0
    flat = torch.full_like(x, 3.0)
    assert (moved(PSFWidth(0.05, 1.3, PIXEL), flat, 1.0) - 3).abs().max() < 1e-12
    assert (moved(Shift(1.0, PIXEL), flat, 0.7, -0.3) - 3).abs().max() < 1e-12
    if n >= 31:
        wider = moved(PSFWidth(0.05, 1.3, PIXEL), x, 1.0)
        assert abs(wider.sum() - 1) < 1e-3
        # A bright edge is moved out by a pixel and a half: a plain transform brings 0.8 of it back
        # on the other side. What is left is the ringing of the kink at the mirror.
        edge = torch.exp(-0.5 * ((torch.arange(n, dtype=torch.float64) - n) / 2) ** 2)
        out = moved(Shift(1.5 * PIXEL, PIXEL), edge.expand(1, 1, n, n), 1.0, 0.0)
        assert out[..., : n // 2].abs().max() < 1e-2


@pytest.mark.parametrize(
    "perturbations", [PSFWidth(0.05, 1.3, PIXEL), Shift(0.4, PIXEL)], ids=lambda s: s.unit
)
def test_gradients_are_those_of_finite_differences(perturbations):
    x = torch.randn(2, 2, 7, 6, dtype=torch.float64)
    p = (perturbations.sample(x) / 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda q: perturbations.apply(x, (), q)[0], p)


# Compose and Gaussian budgets.


def test_compose_applies_in_the_order_given():
    x, p = torch.full((1, 1, 1, 1), 2.0), torch.tensor([[1.0, 1.0]])
    gain = 10 ** (-0.4 * 0.1)
    first = Compose(ZeroPoint(0.1), SkyLevel(0.5)).apply(x, (), p)[0].item()
    then = Compose(SkyLevel(0.5), ZeroPoint(0.1)).apply(x, (), p)[0].item()
    assert first == pytest.approx(2 * gain + 0.5)
    assert then == pytest.approx((2 + 0.5) * gain)


def test_compose_measures_each_set():
    both = Compose(ZeroPoint(0.1), GaussianBudget(SkyGradient(0.2)))
    x = torch.zeros(1, 3, 4, 4)
    assert both.identity(x).shape == (1, 3 + 6)
    p = torch.tensor([[0.1, -0.2, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 0.0]])
    assert [s.item() for s in both.sizes(p)] == pytest.approx([0.2, 1.0])
    assert both.size(p).item() == pytest.approx(1.0)
    assert both.physical(p)[0].tolist() == pytest.approx([0.01, -0.02, 0, 0.12, 0.16, 0, 0, 0, 0])
    assert [q.name for q in both.parameters(x, "gri")] == [
        *(f"zero point {b}" for b in "gri"),
        *(f"sky gradient {axis} {b}" for axis in "xy" for b in "gri"),
    ]
    assert both.label == "zero point 0.1 mag, then sky gradient 0.2 flux/pixel, Gaussian, 1 sigma"
    assert both.scaled(2).scaled(0.5) == both
    assert not both.changes_context
    assert Compose(ReddeningInputError(0.1)).changes_context
    assert GaussianBudget(Compose(ReddeningInputError(0.1))).changes_context


def test_names_of_parameters():
    x = torch.zeros(1, 2, 4, 4)
    assert ZeroPoint(0.1).parameters(x) == (
        Parameter("zero point", "1", "mag"),
        Parameter("zero point", "2", "mag"),
    )
    assert [p.name for p in ReddeningInputError(0.1).parameters(x)] == ["E(B-V)"]
    assert [p.name for p in Shift(0.1, 0.4).parameters(x, ["g", "r"])] == [
        "shift x g",
        "shift x r",
        "shift y g",
        "shift y r",
    ]
    assert len(LinfBall(0.1).parameters(torch.zeros(1, 3))) == 3
    with pytest.raises(ValueError, match=r"5 names of bands .* 2 bands"):
        ZeroPoint(0.1).parameters(x, "ugriz")


def test_a_gaussian_budget_is_an_ellipsoid():
    covariance = torch.tensor([[25.0, 20.0], [20.0, 36.0]], dtype=torch.float64)  # mmag^2
    budget = GaussianBudget(ZeroPoint(0.001), covariance.tolist(), nsigma=3)
    x = torch.zeros(500, 2, 1, 1, dtype=torch.float64)
    p = budget.sample(x, torch.Generator().manual_seed(0)) * 2
    a = 1e3 * budget.physical(p)  # mmag
    mahalanobis = torch.einsum("ni,ij,nj->n", a, torch.linalg.inv(covariance), a).sqrt()
    torch.testing.assert_close(budget.size(p), mahalanobis / 3)
    assert (budget.size(budget.project(x, 1e3 * p)) <= 1).all()
    # The largest of <g, a> in the ellipsoid: n C g / sqrt(g C g).
    g = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    jacobian = budget.physical(torch.eye(2, dtype=torch.float64))
    found = 1e3 * budget.physical(budget.steepest(g @ jacobian.T))
    expected = 3 * (g @ covariance) / (g @ covariance @ g.T).sqrt()
    torch.testing.assert_close(found, expected)


def test_a_gaussian_budget_draws_from_its_gaussian():
    covariance = [[4.0, 1.0], [1.0, 2.0]]
    budget = GaussianBudget(ZeroPoint(0.001), covariance, nsigma=2)
    x = torch.zeros(40_000, 2, 1, 1, dtype=torch.float64)
    a = 1e3 * budget.physical(budget.realisation(x, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(a.T.cov(), torch.tensor(covariance).double(), rtol=0.05, atol=0.05)
    assert (budget.size(budget.realisation(x)) > 1).any()
    box = ZeroPoint(0.1)
    same = [box.realisation(x[:5], torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(same[0], box.sample(x[:5], torch.Generator().manual_seed(1)))
    assert torch.equal(*same)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Compose(), TypeError, "at least one set"),
        (lambda: Compose(LinfBall(0.1)), TypeError, "handful of parameters"),
        (lambda: Compose(0.1), TypeError, "handful of parameters"),
        (lambda: GaussianBudget(LinfBall(0.1)), TypeError, "handful of parameters"),
        (lambda: GaussianBudget(ZeroPoint(0.1), [[1.0, 2.0]]), ValueError, "square"),
        (lambda: GaussianBudget(ZeroPoint(0.1), [[1, 2], [0, 1]]), ValueError, "symmetric"),
        (lambda: GaussianBudget(ZeroPoint(0.1), [[1, 2], [2, 1]]), ValueError, "eigenvalue"),
        (lambda: GaussianBudget(ZeroPoint(0.1), nsigma=-1), ValueError, "not negative"),
        (lambda: PSFWidth(0.01, 1.3, 0.396, beta=3.0), ValueError, "2.5, 3.5, 4.5"),
        (lambda: PSFWidth(0.01, 0.0, 0.396), ValueError, "fwhm must be positive"),
        (lambda: Shift(0.01, 0.0), ValueError, "pixel_scale must be positive"),
        (lambda: ReddeningError([0.1, 0.1], [4, 2]), TypeError, "one budget"),
        (lambda: ReddeningError(0.1, [4, -2]), ValueError, "coefficients"),
    ],
)
def test_what_makes_no_sense_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("perturbations", "x", "context", "message"),
    [
        (Shift(0.1, 0.4), torch.zeros(2, 3), (), r"Shift needs images .* \(2, 3\)"),
        (PSFWidth(0.01, 1.3, 0.4), torch.zeros(2, 3), (), "PSFWidth needs images"),
        (SkyGradient(0.1), torch.zeros(2, 3), (), "SkyGradient needs images"),
        (SkyLevel([0.1, 0.2]), torch.zeros(1, 3, 4, 4), (), "2 values .* 3 bands"),
        (SkyGradient([0.1, 0.2]), torch.zeros(1, 3, 4, 4), (), "2 values .* 3 bands"),
        (PSFWidth(0.01, [1.3, 1.2], 0.4), torch.zeros(1, 3, 4, 4), (), "2 values .* 3 bands"),
        (ReddeningError(0.1, [4, 2]), torch.zeros(1, 3, 4, 4), (torch.zeros(1),), "3 bands"),
        (ReddeningError(0.1, [4]), torch.zeros(1, 1, 4, 4), (), r"yield \(x, ebv, target\)"),
        (ReddeningInputError(0.1, index=1), torch.zeros(1, 1), (torch.zeros(1),), "input 1"),
        (ReddeningInputError(0.1), torch.zeros(1, 1), (torch.zeros(1, 5),), "one floating-point"),
        (GaussianBudget(ZeroPoint(1), [[1]]), torch.zeros(1, 2, 1, 1), (), "covariance is 1 x 1"),
        (Compose(ZeroPoint([1, 1]), SkyLevel(1)), torch.zeros(1, 3, 1, 1), (), "3 bands"),
    ],
)
def test_images_that_do_not_fit_are_refused(perturbations, x, context, message):
    with pytest.raises(ValueError, match=message):
        perturbations.check(x, context)


# As parts of the library.

BINS = RedshiftBins(0.0, 1.0, 10)


class Small(nn.Module):
    """A convolution and a linear layer, with E(B-V)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.out = nn.Linear(4 * 36 + 1, BINS.n)

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        return self.out(torch.cat([self.conv(x).relu().flatten(1), ebv[:, None]], 1))


def batches(n: int = 2) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(3)
    rand = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    return [(rand(8, 3, 8, 8), rand(8), rand(8)) for _ in range(n)]


EVERYTHING = Compose(
    PSFWidth(0.02, 1.3, 0.396),
    Shift([0.05, 0.0, 0.05], 0.396),
    ReddeningError(0.1, SDSS_DUST[:3]),
    ReddeningInputError(0.1),
    ZeroPoint(0.02),
    SkyLevel(0.01),
    SkyGradient(0.01),
)


def test_attacks_search_every_effect_at_once():
    check_attack(PGD(Compose(ZeroPoint(0.02), SkyLevel(0.01)), steps=3))
    check_attack(PGD(Compose(ReddeningInputError(0.1), Shift(0.1, 0.4)), steps=2))
    check_attack(PGD(GaussianBudget(ZeroPoint(0.02)), steps=3))


def test_evaluation_and_curves_take_every_effect():
    model = Small()
    result = evaluate(
        model, batches(), [PGD(EVERYTHING, steps=4)], BINS, progress=False, check_samples=4
    )
    clean, noise, attacked = result.rows
    assert attacked.objective_after > clean.objective_after
    assert attacked.objective_after > noise.objective_after
    assert 0.9 < attacked.size <= 1
    curve = robustness_curve(
        model,
        batches(),
        {"PGD": lambda eps: PGD(ZeroPoint(eps), steps=2)},
        [0.01, 0.1],
        BINS,
        progress=False,
    )
    values = curve.line("PGD", "objective_after")[1]
    assert values[0] < values[1] < values[2]


def test_a_plain_call_refuses_a_set_that_changes_the_context():
    model, (x, ebv, z) = Small(), batches()[0]
    attack = PGD(EVERYTHING, objective=CrossEntropy(BINS), steps=2)
    with pytest.raises(ValueError, match="changes an input of the network beside the image"):
        attack(model, x, z, (ebv,))
    found = attack.find(model, x, z, (ebv,))
    factor = found.context[0] / ebv
    place = [p.name for p in EVERYTHING.parameters(x)].index("E(B-V)")
    assert [p.effect for p in EVERYTHING.parameters(x)].count("E(B-V)") == 2
    at = EVERYTHING.physical(found.parameters)[:, place + 1]  # the second is that of the context
    torch.testing.assert_close(factor, 1 + at)
    assert (factor - 1).abs().max() <= 0.1 + 1e-6


@pytest.mark.parametrize("attack", [UniformNoise(EVERYTHING), PGD(EVERYTHING, steps=2)], ids=str)
def test_training_with_random_draws_and_with_the_worst_case(attack):
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = [p.clone() for p in model.parameters()]
    trainer = AdversarialTrainer(model, optimizer, attack, 0.5, CrossEntropy(BINS))
    trainer.fit(batches(4), epochs=2, progress=False)
    assert all((a != b).any() for a, b in zip(before, model.parameters(), strict=True))
    assert trainer.history[-1]["train_loss"] < trainer.history[0]["train_loss"]


def test_random_draws_mixed_into_a_batch_change_half_of_it():
    x, ebv, z = batches()[0]
    new_x, new_ebv, new_z = mix_adversarial(
        None, (x, ebv, z), UniformNoise(EVERYTHING), 0.5, torch.Generator().manual_seed(0)
    )
    changed = (new_x != x).flatten(1).any(1)
    assert int(changed.sum()) == 4
    assert torch.equal(new_ebv != ebv, changed)
    assert torch.equal(new_z, z)


def test_the_worst_zero_points_of_one_galaxy_are_known():
    """Of a network that sees a colour: opposite corners."""

    class Colour(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            flux = x.sum((2, 3))
            return 0.3 * (flux[:, 0] / flux[:, 1]).log10()

    x = 1 + torch.rand(5, 2, 4, 4)
    attack = PGD(ZeroPoint([0.01, 0.03]), objective=SignedRedshift(PointEstimate()))
    found = attack.find(Colour(), x, torch.zeros(5))
    assert found.parameters.tolist() == [[-1, 1]] * 5
    shift = Colour()(found.x) - Colour()(x)
    assert shift.tolist() == pytest.approx([0.3 * 0.4 * 0.04] * 5, rel=1e-4)


def test_moffat_transform_is_the_bessel_function():
    from scipy.special import gamma, kv

    x = np.array([0.01, 0.3, 1.0, 4.0, 11.0])
    for beta in (2.5, 3.5, 4.5):
        expected = 2 / gamma(beta - 1) * (x / 2) ** (beta - 1) * kv(beta - 1, x)
        found = PSFWidth(0.01, 1.3, 0.396, beta)._log_mtf(torch.tensor(x)).exp()
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert math.isclose(2 * math.sqrt(2 ** (1 / 3.5) - 1), 0.4681 * 2, rel_tol=1e-3)
