"""The standard attack: what it is, what it costs, and gradients masked on purpose."""

from __future__ import annotations

import functools
import warnings

import pytest
import torch
from torch import Tensor, nn

import advphotoz
from advphotoz import (
    APGD,
    GaussianMixture,
    L2Ball,
    LinfBall,
    LogOdds,
    PointEstimate,
    Quantiles,
    RedshiftBins,
    RedshiftError,
    SignedRedshift,
    Square,
    ZeroGradientWarning,
    ZeroPoint,
    evaluate,
    standard,
)
from advphotoz.attacks import Budget
from advphotoz.testing import check_attack
from problems import two_inputs

BINS = RedshiftBins(0.0, 0.8, 40)
DAMAGE = RedshiftError(BINS)


class Photoz(nn.Module):
    """Logits of a Gaussian PDF around 0.4 + 0.1 tanh(w x): a smooth network without faults.

    Its gradient can be masked in every way that the tests name.
    """

    def __init__(self, fault: str = "") -> None:
        super().__init__()
        self.fault = fault
        self.weight = nn.Parameter(torch.tensor([1.0, -0.5]).view(2, 1, 1) / 36)

    def forward(self, x: Tensor) -> Tensor:
        if self.fault == "rounding":
            x = (x * 8).round() / 8
        if self.fault == "randomness":
            x = x + 0.5 * torch.randn_like(x)
        h = (x * self.weight).sum((1, 2, 3))
        if self.fault == "clamp":
            h = h - h.clamp(-0.15, 0.15)
        z = 0.4 + 0.1 * (5 * h).tanh()
        scale = {"saturated": 1e6, "tenfold": 10.0}.get(self.fault, 1.0)
        logits: Tensor = -scale * ((BINS.centers.to(z) - z[:, None]) / 0.05).square()
        return logits


def galaxies(n: int = 24) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return 0.1 * torch.randn(n, 2, 6, 6), torch.full((n,), 0.4)


@functools.cache
def report(fault: str, **settings: int):
    x, z = galaxies()
    attacks = {"standard": standard(0.3, BINS, **settings)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroGradientWarning)  # it is why some of them are here
        return evaluate(Photoz(fault), [(x, z)], attacks, BINS, progress=False, bootstrap=0)


def damage(fault: str) -> float:
    """Return the mean abs(dz) under the standard attack."""
    z = report(fault).z_phot["standard"]
    return float(abs(z - 0.4).mean() / 1.4)


# ---- gradients masked on purpose --------------------------------------------------------------


def test_an_honest_network_passes_every_check() -> None:
    checks = report("").checks
    assert not checks.of("FAIL"), checks
    assert checks["gradients beat a search without"].status == "pass"
    assert damage("") > 0.9 * 0.1 / 1.4  # of what tanh leaves


def test_a_clamp_is_unmasked() -> None:
    # A flat zone that random draws do not leave: no gradient leads out of it, stripes do.
    x, z = galaxies()
    with pytest.warns(ZeroGradientWarning):
        along = standard(0.3, BINS).only(True).find(Photoz("clamp"), x, z).value
    assert damage("clamp") > 0.02 > 10 * along.mean()
    checks = report("clamp").checks
    failed = {check.name for check in checks.of("FAIL")}
    assert {"gradients beat a search without", "gradients do not vanish"} <= failed
    assert "gradients masked (standard)" in checks.verdict
    assert "gradients masked" in report("clamp")["standard"].flags


def test_rounding_is_unmasked() -> None:
    assert damage("rounding") > 0.9 * damage("")
    assert "gradients masked (standard)" in report("rounding").checks.verdict


def test_a_saturated_softmax_is_unmasked_by_the_log_odds() -> None:
    model, (x, _) = Photoz("saturated"), galaxies()
    with torch.enable_grad():
        probe = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(BINS.redshift(model(probe)).sum(), probe)
    assert bool((gradient == 0).all())  # a signed search has no direction
    # The middle of a bin is the redshift now; that of the outermost which the set reaches is 0.49.
    assert damage("saturated") > 0.95 * 0.09 / 1.4


def test_a_tenfold_logit_scale_changes_nothing() -> None:
    assert damage("tenfold") == pytest.approx(damage(""), rel=0.05)
    assert not report("tenfold").checks.of("FAIL")


def test_randomness_is_named_and_averaged_over() -> None:
    assert "network random in eval mode" in report("randomness").checks.verdict
    assert "AverageOverDraws" in report("randomness").checks["same output twice"].sentence
    # The worst of one draw each is that of the noise, the worst of a mean is that of the image.
    model, (x, z) = Photoz("randomness"), galaxies()
    found = {
        draws: standard(0.02, BINS, draws=draws)(
            model, x, z, generator=torch.Generator().manual_seed(0)
        )
        for draws in (1, 30)
    }
    with torch.no_grad():
        true = {k: DAMAGE(Photoz()(images), z).mean().item() for k, images in found.items()}
    assert true[30] > 1.1 * true[1]


# ---- what it is -------------------------------------------------------------------------------


def test_it_is_this_ensemble() -> None:
    """What version 1 is: to change it is to give it another version."""
    ball = LinfBall(0.01)
    attack = standard(0.01, BINS)
    assert attack.attacks == (
        APGD(ball, steps=20, objective=SignedRedshift(BINS)),
        APGD(ball, steps=20, objective=SignedRedshift(BINS, sign=-1)),
        APGD(ball, steps=10, objective=LogOdds(BINS), random_start=True),
        Square(ball, queries=100, objective=DAMAGE),
    )
    assert attack.objective == DAMAGE
    assert (attack.draws, attack.enough) == (1, None)
    assert attack.name == "advphotoz-standard-1 0.01"
    assert eval(repr(attack), vars(advphotoz)) == attack


def test_its_names() -> None:
    assert standard(ZeroPoint(0.01), BINS).name == "advphotoz-standard-1 zero point 0.01 mag"
    alone = standard(0.01, BINS, enough=0.05)
    assert alone.name == "advphotoz-standard-1 (beyond 0.05 alone) 0.01"
    assert standard(0.01, BINS).scaled(2) == standard(0.02, BINS)
    assert "standard" not in standard(0.01, BINS).deepened().name  # no longer what the name says


@pytest.mark.parametrize(
    ("chosen", "settings"),
    [
        (LinfBall(0.1), {}),
        (L2Ball(0.1), {}),
        (ZeroPoint(0.1), {}),
        (LinfBall(0.1), {"draws": 2}),
        (LinfBall(0.1), {"enough": 10.0, "draws": 2}),
    ],
    ids=repr,
)
def test_its_budget_is_what_is_counted(chosen, settings) -> None:
    model, x, z, context, _ = two_inputs(size=6)
    readout = RedshiftBins(0.0, 1.0, 20)
    calls: list[bool] = []
    model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    attack = standard(chosen, readout, **settings)
    if settings.get("enough"):  # no galaxy may be done, for the budget is the most
        attack(model, x[:1], torch.full((1,), 0.5), (context[0][:1],))
    else:
        attack(model, x, z, context)
    assert attack.budget == Budget(calls.count(True), calls.count(False))
    if not settings:
        assert attack.budget == Budget(gradients=50, forward=107)


@pytest.mark.parametrize("settings", [{"enough": 0.2}, {"draws": 2}], ids=repr)
def test_contract(settings) -> None:
    attack = standard(0.1, RedshiftBins(0.0, 1.0, 10), **settings)
    short = [type(part)(part.set, 2, objective=part.objective) for part in attack.attacks]
    check_attack(advphotoz.WorstOf(short, attack.objective, **settings), LinfBall(0.1))


@pytest.mark.parametrize(
    ("readout", "columns"),
    [(PointEstimate(), 1), (GaussianMixture(2), 6), (Quantiles([0.25, 0.75]), 2)],
)
def test_it_takes_networks_of_every_readout(readout, columns) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, columns))
    batch = (torch.randn(20, 2, 2, 2), 0.3 * torch.rand(20))
    result = evaluate(
        model, [batch], [standard(0.1, readout)], readout, progress=False, bootstrap=0
    )
    assert result.rows[-1].name == "advphotoz-standard-1 0.1"
    z, clean = (result.z_phot[name] for name in ("advphotoz-standard-1 0.1", "clean"))
    worse = abs(z - result.z_spec) > abs(clean - result.z_spec)
    assert worse.mean() > 0.9


def test_it_is_the_worst_of_two_signs_for_each_galaxy() -> None:
    """On a linear network both signed worst cases are known, and so is the worse of them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 1))
    x, z = torch.randn(30, 2, 2, 2), torch.rand(30)
    x_adv = standard(0.1, PointEstimate())(model, x, z)
    reach = 0.1 * model[1].weight.abs().sum()
    with torch.no_grad():
        clean, found = model(x)[:, 0], model(x_adv)[:, 0]
    torch.testing.assert_close((found - z).abs(), (clean - z).abs() + reach)


def test_galaxies_that_are_outliers_may_be_left_out() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(8, 1))
    x, z = torch.randn(30, 2, 2, 2), 0.5 * torch.rand(30)
    readout = PointEstimate()
    error = RedshiftError(readout)
    with torch.no_grad():
        clean = error(model(x), z)
    limit = clean.median().item()
    found = standard(0.01, readout, enough=limit).find(model, x, z)
    done = clean > limit
    assert torch.equal(found.x[done], x[done])
    assert bool((found.x[~done] != x[~done]).flatten(1).any(1).all())
    full = standard(0.01, readout)(model, x, z)
    with torch.no_grad():
        beyond = [(error(model(images), z) > limit) for images in (found.x, full)]
    assert torch.equal(*beyond)  # the share of outliers is the same
    assert bool(beyond[0].float().mean() > done.float().mean())
    torch.testing.assert_close(found.value, error(model(found.x), z).detach())
