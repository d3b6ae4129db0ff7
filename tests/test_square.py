"""The search without gradients: its candidates, its schedule, and what it finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advphotoz import (
    FGSM,
    L2Ball,
    LinfBall,
    PointEstimate,
    RedshiftError,
    SignedRedshift,
    Square,
    ZeroPoint,
    evaluate,
)
from advphotoz.attacks import Budget, SampleGenerators
from advphotoz.testing import check_attack, check_set
from problems import BINS, two_inputs

SETS = [
    LinfBall(0.1),
    LinfBall([0.1, 0.2, 0.0, 0.1, 0.3], bounds=(-1, 1)),
    L2Ball(0.1),
    L2Ball([0.1, 0.2, 0.3, 0.1, 0.1]),
    ZeroPoint(0.1),
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("chosen", SETS, ids=repr)
def test_contract(chosen):
    check_attack(Square(chosen, queries=4), chosen)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 7), (3, 5, 7, 9), (3, 5, 4, 3, 6)])
@pytest.mark.parametrize("chosen", SETS, ids=repr)
def test_a_set_proposes_candidates_inside_for_images_of_any_dimension(chosen, shape):
    check_set(chosen, torch.randn(shape).clamp(-1, 1))


# ---- candidates in balls of pixels ------------------------------------------------------------


@pytest.mark.parametrize(("share", "side"), [(0.8, 9), (0.4, 6), (0.2, 4), (0.05, 2), (0.001, 1)])
def test_a_candidate_sets_one_square_to_plus_or_minus_eps(share, side):
    eps = torch.tensor([0.5, 0.25, 1.0])
    x, ball = torch.randn(400, 3, 10, 10), LinfBall(eps.tolist())
    p = torch.zeros_like(x)
    changed = ball.propose(x, p, share, seeded())
    where = changed != 0
    rows, columns = where.any(3), where.any(2)
    assert bool((rows.sum(2) == side).all()), rows.sum(2).unique()
    assert bool((columns.sum(2) == side).all())
    assert bool((where.flatten(2).sum(2) == side**2).all())  # full: no holes
    assert bool((where[:, :1] == where).all())  # the same place in every band
    for band in range(3):
        values = changed[:, band][where[:, band]].view(400, -1)
        assert bool((values == values[:, :1]).all())  # one sign per band
        assert set(values[:, 0].tolist()) == {eps[band].item(), -eps[band].item()}
    corners = rows[:, 0].float().argmax(1)
    assert sorted(set(corners.tolist())) == list(range(10 - side + 1))  # every place, edges too
    signs = changed.flatten(2).sum(2).sign()
    assert len({tuple(row) for row in signs.tolist()}) == 8  # bands are independent


def test_what_a_square_does_not_cover_stays():
    x, ball = torch.randn(20, 2, 6, 6), LinfBall(0.5)
    p = ball.sample(x, seeded())
    changed = ball.propose(x, p, 0.1, seeded(1))
    moved = changed != p
    assert bool((moved.flatten(1).sum(1) == 2 * 2 * 2).all())  # two bands, two by two pixels


def test_the_first_candidate_is_vertical_stripes():
    x = torch.randn(50, 2, 6, 7)
    p = LinfBall([0.5, 0.25]).propose(x, None, 0.8, seeded())
    assert bool((p == p[:, :, :1]).all())  # constant along a column
    assert p[:, 0].unique().tolist() == [-0.5, 0.5]
    assert p[:, 1].unique().tolist() == [-0.25, 0.25]
    assert len({tuple(row) for row in p[:, 0, 0].sign().tolist()}) > 30  # columns are independent


def test_bounds_are_kept():
    x = torch.rand(20, 2, 6, 6)
    ball = LinfBall(0.5, bounds=(0, 1))
    stripes = ball.propose(x, None, 0.8, seeded())
    for p in (stripes, ball.propose(x, stripes, 0.3, seeded(1))):
        assert bool(((x + p >= 0) & (x + p <= 1)).all())


def test_features_without_pixels_change_by_share():
    x, ball = torch.randn(200, 10), LinfBall(0.5)
    for share, count in ((0.8, 8), (0.2, 2), (0.01, 1)):
        p = ball.propose(x, torch.zeros_like(x), share, seeded())
        assert bool(((p != 0).sum(1) == count).all())


@pytest.mark.parametrize("ball", [L2Ball(0.5), L2Ball([0.5, 0.2])])
def test_an_l2_candidate_moves_the_norm_of_one_square_into_another(ball):
    x = torch.randn(300, 2, 12, 12).double()
    p = ball.propose(x, None, 0.8, seeded())
    torch.testing.assert_close(ball.size(p), torch.ones(300).double())
    share = 0.05  # three by three pixels
    new = ball.propose(x, p, share, seeded(1))
    torch.testing.assert_close(ball.size(new), torch.ones(300).double())
    gone = ((new == 0) & (p != 0)).flatten(2).sum(2)
    kept = torch.isclose(new, p, rtol=1e-6).flatten(2).sum(2)
    other = 144 - gone - kept
    assert bool((gone <= 9).all())  # the square that was emptied, but where the other covers it
    assert bool((other <= 9).all())
    assert bool(((gone == 9) & (other >= 6)).any())
    # A band's norm is where it was, for nothing is left to the boundary.
    torch.testing.assert_close(new.flatten(2).norm(dim=2), p.flatten(2).norm(dim=2))


def test_what_is_left_of_an_l2_ball_is_used():
    x, ball = torch.randn(5, 2, 8, 8).double(), L2Ball(0.5)
    p = ball.propose(x, torch.zeros_like(x), 0.1, seeded())
    torch.testing.assert_close(ball.size(p), torch.ones(5).double())
    p = ball.propose(x, 0.1 * ball.propose(x, None, 1.0, seeded()), 0.1, seeded())
    torch.testing.assert_close(ball.size(p), torch.ones(5).double())


# ---- the search -------------------------------------------------------------------------------


def test_the_shares_are_the_papers():
    # Andriushchenko et al. 2020, Section 4.3: p is halved at 10, 50, 200, 500, 1000, 2000, 4000,
    # 6000 and 8000 of 10,000 iterations, and rescaled for other budgets.
    shares = []

    class Spy(LinfBall):
        def propose(self, x, p, share, generator=None):
            shares.append(share)
            return super().propose(x, p, share, generator)

    zeros = torch.zeros(1, 1, 2, 2), torch.zeros(1)
    attack = Square(Spy(0.1), queries=1000, objective=lambda output, target: output)
    attack(lambda x: x.flatten(1).sum(1), *zeros)  # each stands for ten of 10,000
    powers = [round(np.log2(0.8 / share)) for share in shares]
    marks = {0: 0, 1: 0, 2: 1, 5: 1, 6: 2, 20: 2, 21: 3, 50: 3, 51: 4, 100: 4, 101: 5}
    marks |= {200: 5, 201: 6, 400: 6, 401: 7, 600: 7, 601: 8, 800: 8, 801: 9, 999: 9}
    for at, power in marks.items():
        assert powers[at] == power, at
    shares.clear()
    Square(Spy(0.1), queries=100, objective=attack.objective)(lambda x: x.flatten(1).sum(1), *zeros)
    assert shares == [0.8 / 2**power for power in powers[::10]]


def test_it_keeps_what_raises_the_objective():
    """The search written out once more, one sample at a time."""
    model, x, z, context, objective = two_inputs(size=8)
    model.eval()
    ball = LinfBall(20.0)
    found = Square(ball, queries=30, objective=objective).find(
        model, x, z, context, SampleGenerators(range(6))
    )
    shares = [0.8 / 2 ** sum(int(i / 30 * 10_000) > at for at in (10, 50, 200, 500, 1000, 2000,
              4000, 6000, 8000)) for i in range(30)]  # fmt: skip
    for i in range(6):
        one, generator = x[i : i + 1], SampleGenerators([i])
        best, highest, kept = None, -np.inf, []
        for share in shares:
            p = ball.propose(one, best, share, generator)
            with torch.no_grad():
                value = float(objective(model(one + p, context[0][i : i + 1]), z[i : i + 1]))
            kept.append(value > highest)
            if kept[-1]:
                best, highest = p, value
        assert any(kept[1:])
        torch.testing.assert_close(found.parameters[i : i + 1], best)
        assert found.value[i].item() == pytest.approx(highest, rel=1e-4)
        assert found.rising[i].item() == kept[-1]


def test_the_unchanged_image_is_no_candidate():
    hill = lambda output, target: -output.abs().flatten(1).sum(1)  # noqa: E731
    found = Square(0.5, queries=5, objective=hill).find(
        lambda x: x, torch.zeros(4, 1, 3, 3), torch.zeros(4), generator=seeded()
    )
    assert bool((found.size == 1).all())
    assert bool((found.value < 0).all())


def test_it_takes_a_model_of_another_framework_and_an_objective_without_gradient():
    weight = np.random.default_rng(0).normal(size=(5, 6, 6))

    def foreign(x: Tensor) -> Tensor:  # NumPy: nothing here has a gradient
        return torch.from_numpy(np.tensordot(x.detach().numpy(), weight, 3)).float()

    x = torch.randn(8, 5, 6, 6)
    attack = Square(0.1, queries=300, objective=SignedRedshift(PointEstimate()))
    best = 0.1 * np.abs(weight).sum()
    rise = foreign(attack(foreign, x, torch.zeros(8), generator=seeded())) - foreign(x)
    assert bool((rise > 0.35 * best).all()), rise / best  # signs of single pixels are hard to find
    with pytest.raises(ValueError, match="does not depend on the images in a differentiable way"):
        FGSM(0.1, objective=attack.objective)(foreign, x, torch.zeros(8))


def test_the_best_of_a_linear_model_per_band():
    torch.manual_seed(0)
    weight = torch.tensor([1.0, -2.0, 0.5]).view(3, 1, 1)
    model = lambda x: (x * weight).sum((1, 2, 3))  # noqa: E731
    eps = torch.tensor([0.3, 0.1, 0.2])
    x = torch.randn(10, 3, 6, 6)
    attack = Square(eps.tolist(), queries=1500, objective=lambda output, target: output)
    rise = model(attack(model, x, torch.zeros(10), generator=seeded())) - model(x)
    best = 36 * (eps * weight.flatten().abs()).sum()
    assert bool((rise > 0.95 * best).all()), rise / best
    assert bool((rise <= best * (1 + 1e-5)).all())


def test_a_random_search_in_the_parameters_of_a_physical_set():
    weight = torch.tensor([1.0, -2.0, 0.5, 1.0, -1.0])
    flux = lambda x: (x.mean((2, 3)) * weight).sum(1)  # noqa: E731
    x = 1 + torch.rand(10, 5, 4, 4)
    attack = Square(ZeroPoint(0.1), queries=500, objective=lambda output, target: output)
    found = attack.find(flux, x, torch.zeros(10), generator=seeded())
    corner = -weight.sign().expand(10, 5)  # brighter where the weight is positive
    best = flux(ZeroPoint(0.1).apply(x, (), corner)[0]) - flux(x)
    assert bool((found.value - flux(x) > 0.98 * best).all())


def test_in_an_l2_ball_it_beats_draws_of_as_many():
    torch.manual_seed(0)
    weight = torch.nn.functional.interpolate(torch.randn(1, 3, 4, 4), size=12)[0]
    model = lambda x: (x * weight).sum((1, 2, 3))  # noqa: E731
    x, ball = torch.randn(20, 3, 12, 12), L2Ball(1.0)
    attack = Square(ball, queries=500, objective=lambda output, target: output)
    rise = model(attack(model, x, torch.zeros(20), generator=seeded())) - model(x)
    drawn = torch.stack([model(ball.sample(x, seeded(k))) for k in range(500)]).amax(0)
    assert bool((rise > 2 * drawn).all())
    assert bool((rise <= weight.norm() * (1 + 1e-5)).all())


def test_it_counts_its_passes():
    model, x, z, context, objective = two_inputs()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    attack = Square(0.1, queries=7, objective=objective)
    attack(model, x, z, context=context)
    assert calls == [False] * 7
    assert attack.budget == Budget(gradients=0, forward=7)


def test_what_is_asked_of_it():
    attack = Square(0.1, queries=7)
    assert attack.name == "Square-7 0.1"
    assert attack.set == LinfBall(0.1)
    assert attack.deepened() == Square(0.1, queries=14)
    assert attack.scaled(2) == Square(0.2, queries=7)
    objective = RedshiftError(BINS)
    assert attack.bind(objective) == Square(0.1, queries=7, objective=objective)
    assert Square(0.1, objective=objective).bind(lambda *_: 0) == Square(0.1, objective=objective)


def test_bad_settings():
    with pytest.raises(ValueError, match="queries must be at least 1"):
        Square(0.1, queries=0)
    with pytest.raises(TypeError, match="Square needs a perturbation set"):
        Square("0.1")
    with pytest.raises(ValueError, match="Square has no objective"):
        Square(0.1)(*two_inputs()[:3])


def test_an_empty_batch():
    found = Square(0.1, objective=lambda o, t: o).find(
        nn.Identity(), torch.zeros(0, 5), torch.zeros(0)
    )
    assert found.x.shape == (0, 5)


class Foreign(nn.Module):
    """A network of another framework behind a function: no parameters, no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(0.3 + 0.05 * x.numpy().mean((1, 2, 3)))


def test_an_evaluation_of_a_network_without_gradients():
    x = 0.01 * torch.randn(40, 2, 6, 6)
    result = evaluate(
        Foreign(), [(x, 0.3 + 0.01 * torch.randn(40))], [Square(1.0, queries=800)],
        PointEstimate(), progress=False, bootstrap=0,
    )  # fmt: skip
    assert result.checks["gradients do not vanish"].status == "n/a"
    assert not result.checks.of("FAIL"), str(result)
    row = result["Square-800 1"]
    assert row.objective_after > row.objective_before + 0.02
