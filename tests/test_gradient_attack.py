"""The base of gradient attacks: what it keeps, what it tells, and the sets that it searches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advphotoz import (
    FGSM,
    PGD,
    GradientAttack,
    L2Ball,
    LinfBall,
    PerturbationSet,
    RedshiftError,
    UniformNoise,
    WorstOf,
    ZeroPoint,
    l2_pgd,
)
from advphotoz._random import draw
from advphotoz.attacks import SampleGenerators
from advphotoz.attacks.contract import bind_objective, deepened, scaled
from advphotoz.testing import check_attack, check_set
from problems import BINS, Linear, two_inputs


def first(output: Tensor, target: Tensor) -> Tensor:
    return output


@dataclass(frozen=True)
class Tour(GradientAttack):
    """Visits given points of one pixel, and evaluates all but the last."""

    points: tuple[float, ...] = ()

    def search(self, problem: Any, start: Tensor) -> Tensor:
        p = start
        for point in self.points:
            problem.value_and_gradient(p)
            p = torch.full_like(start, point)
        return p


def hills(x: Tensor) -> Tensor:
    """Return -(x - 0.5)^2: at 0 to 1 the largest value is 0, at 0.5."""
    return -(x - 0.5).square().sum(1)


X, Z = torch.zeros(2, 1), torch.zeros(2)


@pytest.mark.parametrize(
    ("points", "best"),
    [
        ((0.1, 0.6, 0.2, 0.9), 0.6),  # in the middle
        ((0.4, 0.9, 0.8), 0.4),  # point 1
        ((-0.2, 0.1, 0.45), 0.45),  # the last, which costs one more forward pass
        ((-0.5, -0.1, -0.3), -0.1),  # all worse than the start, -0.25: still one of them
        ((0.4, 0.6, 0.4), 0.4),  # of equals the first
        ((0.9,), 0.9),  # a single step is what it is
    ],
)
def test_the_best_of_the_points_is_kept_and_never_the_start(points, best):
    attack = Tour(LinfBall(1.0), points=points, objective=first)
    assert attack(hills, X, Z).tolist() == [[pytest.approx(best)]] * 2
    last = dataclasses.replace(attack, keep="last")
    assert last(hills, X, Z).tolist() == [[pytest.approx(points[-1])]] * 2
    for one, end in ((attack, best), (last, points[-1])):
        found = one.find(hills, X, Z)
        torch.testing.assert_close(found.value, hills(torch.full((2, 1), end)))
        assert torch.equal(found.x, one(hills, X, Z))


def test_each_sample_keeps_its_own_best():
    peaks = torch.tensor([[0.1], [0.6], [0.9]])
    attack = Tour(LinfBall(1.0), points=(0.1, 0.6, 0.9, 0.3), objective=first)
    model = lambda x, peak: -(x - peak).abs().sum(1)  # noqa: E731
    found = attack.find(model, torch.zeros(3, 1), torch.zeros(3), context=(peaks,))
    torch.testing.assert_close(found.x, peaks)
    torch.testing.assert_close(found.value, torch.zeros(3))


@pytest.mark.parametrize(
    ("keep", "steps", "calls"), [("last", 4, 4), ("best", 4, 5), ("best", 1, 1), ("last", 1, 1)]
)
def test_number_of_forward_passes(keep, steps, calls):
    seen = []

    def model(x):
        seen.append(x)
        return hills(x)

    PGD(LinfBall(1.0), steps=steps, keep=keep, objective=first)(model, X, Z)
    assert len(seen) == calls
    seen.clear()
    PGD(LinfBall(1.0), steps=steps, keep=keep, objective=first).find(model, X, Z)
    assert len(seen) == steps + 1  # the value at the end is asked for


def test_a_search_that_still_rises_says_so():
    cases = {(0.1, 0.2, 0.3): True, (0.1, 0.45, 0.3): False, (0.2, 0.2): False}
    for points, rising in cases.items():
        for keep in ("best", "last"):
            attack = Tour(LinfBall(1.0), points=points, keep=keep, objective=first)
            assert attack.find(hills, X, Z).rising.tolist() == [rising] * 2
    assert Tour(LinfBall(1.0), points=(0.2,), objective=first).find(hills, X, Z).rising is None


@pytest.mark.parametrize(
    ("perturbations", "order"), [(LinfBall(0.2), 1), (L2Ball(0.2), 2)], ids=repr
)
def test_find_tells_value_and_size_of_a_linear_model(perturbations, order):
    model = Linear(3, 4, 4).double()
    x, z = torch.randn(5, 3, 4, 4).double(), torch.zeros(5)
    whole = 0.2 * torch.linalg.vector_norm(model.weight.detach().flatten(), ord=order)
    for steps, step_size, share in ((4, 0.1, 0.4), (4, None, 1.0), (1, 0.3, 0.3)):
        attack = PGD(perturbations, steps=steps, step_size=step_size, objective=first)
        found = attack.find(model, x, z)
        torch.testing.assert_close(
            found.size, torch.full((5,), share, dtype=torch.float64), rtol=1e-9, atol=0
        )
        expected = model(x).detach() + share * whole
        torch.testing.assert_close(found.value, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found.x - x, found.parameters, rtol=0, atol=1e-15)
        assert found.rising is None or found.rising.all() == (share < 1)
    assert found.context == ()


def test_restarts_tell_of_the_search_that_won():
    model, x, z, context, objective = two_inputs()
    model.eval()
    attack = PGD(L2Ball(50.0), steps=2, step_size="paper", restarts=3, objective=objective)
    found = attack.find(model, x, z, context, torch.Generator().manual_seed(5))
    again = attack(model, x, z, context, torch.Generator().manual_seed(5))
    assert torch.equal(found.x, again)
    with torch.no_grad():
        value = objective(model(found.x, *context), z)
    torch.testing.assert_close(found.value, value, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.size, L2Ball(50.0).size(found.parameters))
    assert found.size.max() > 0.9  # a random start lies at the surface, two steps of 0.1 do not


@dataclass(frozen=True)
class OwnPace(GradientAttack):
    """A step whose length is a number of the sample's own."""

    def search(self, problem: Any, start: Tensor) -> Tensor:
        _, gradient = problem.value_and_gradient(start)
        return problem.step(start, gradient, torch.tensor([0.1, 0.5, 2.0]))


@pytest.mark.parametrize(
    "perturbations", [LinfBall(0.2), LinfBall([0.1, 0.2, 0.3]), L2Ball(0.2), ZeroPoint(0.1)]
)
def test_step_sizes_per_sample(perturbations):
    found = OwnPace(perturbations, objective=first).find(
        Linear(3, 4, 4), torch.randn(3, 3, 4, 4), torch.zeros(3)
    )
    torch.testing.assert_close(found.size, torch.tensor([0.1, 0.5, 1.0]), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "attack",
    [FGSM(0.1), PGD(L2Ball(0.1), steps=3), l2_pgd(0.1), PGD(ZeroPoint([0.1, 0.2]), restarts=2)],
    ids=lambda attack: attack.name,
)
def test_what_an_attack_can_be_asked(attack):
    objective = RedshiftError(BINS)
    assert bind_objective(attack, objective) == dataclasses.replace(attack, objective=objective)
    assert scaled(attack, 3.0).set == attack.set.scaled(3.0)
    steps = getattr(attack, "steps", None)
    more = deepened(attack)
    assert more is None if steps is None else more.steps == 2 * steps
    assert dataclasses.replace(attack, perturbations=[0.1, 0.2]).set == LinfBall([0.1, 0.2])


def test_names():
    names = [
        FGSM(0.01).name,
        PGD(0.01).name,
        PGD(LinfBall([0.01, 0.02]), steps=30).name,
        l2_pgd(0.31).name,
        PGD(ZeroPoint(0.02), restarts=3).name,
        UniformNoise(0.01).name,
    ]
    assert names == [
        "FGSM 0.01",
        "PGD-10 0.01",
        "PGD-30 0.01 to 0.02",
        "PGD-40 L2 0.31",
        "PGD-10 x 3 zero point 0.02 mag",
        "uniform noise 0.01",
    ]


class Bare:
    """An attack class that is no dataclass: nobody can give it an objective."""

    def __init__(self, objective: Any = None) -> None:
        self.objective = objective

    def __call__(self, model, x, target, context=(), generator=None):
        return x.clone()


def test_an_attack_that_cannot_take_an_objective_is_refused():
    objective = RedshiftError(BINS)
    with pytest.raises(TypeError, match=r"no bind\(objective\).*derive it from GradientAttack"):
        bind_objective(Bare(), objective)
    own = Bare(objective)
    assert bind_objective(own, first) is own
    assert bind_objective(hills, objective) is hills  # a function states none and needs none
    noise = UniformNoise(0.1)
    assert bind_objective(noise, objective) is noise

    @dataclass(frozen=True)
    class Plain:
        objective: Any = None

    assert bind_objective(Plain(), objective) == Plain(objective)
    assert bind_objective(WorstOf([FGSM(0.1)]), objective).attacks[0].objective == objective


# Zero points.


class Fluxes(nn.Module):
    """Sees only the flux of every band: c + w . log10(flux)."""

    def __init__(self, weight: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return 0.3 + x.flatten(2).sum(2).log10() @ self.weight.to(x.dtype)


BUDGET = [0.02, 0.01, 0.0, 0.05]
WEIGHT = [0.7, -1.3, 2.0, 0.2]


@pytest.mark.parametrize(
    "attack",
    [
        FGSM(ZeroPoint(BUDGET), objective=first),
        PGD(ZeroPoint(BUDGET), objective=first),
        PGD(ZeroPoint(BUDGET), objective=first, step_size="paper", keep="last"),
        PGD(ZeroPoint(BUDGET), objective=first, random_start=True, steps=30),
    ],
    ids=lambda attack: attack.name,
)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_worst_zero_points_of_a_network_of_fluxes(attack, sign):
    """Output c + w . log10 f moves by -0.4 w . a: the worst a is -budget sign(w), by sign."""
    attack = dataclasses.replace(attack, objective=lambda output, target: sign * output)
    model, x = Fluxes(WEIGHT), 1 + torch.rand(3, 4, 5, 5).double()
    found = attack.find(model, x, torch.zeros(3), generator=torch.Generator().manual_seed(0))
    budget, weight = (torch.tensor(v, dtype=torch.float64) for v in (BUDGET, WEIGHT))
    worst = -sign * budget * weight.sign()
    physical = attack.set.physical(found.parameters)
    torch.testing.assert_close(physical, worst.expand(3, 4), rtol=1e-12, atol=1e-12)
    shift = (model(found.x) - model(x)).detach()
    known = sign * 0.4 * (weight.abs() * budget).sum()
    torch.testing.assert_close(shift, known.expand(3), rtol=0, atol=1e-6)
    scaling = 10 ** (-0.4 * worst)
    torch.testing.assert_close(found.x, x * scaling.view(1, 4, 1, 1), rtol=1e-12, atol=0)
    assert torch.equal(found.x[:, 2], x[:, 2])  # no budget, no change
    assert (found.size <= 1).all()
    torch.testing.assert_close(found.size, torch.ones(3).double(), rtol=1e-12, atol=0)
    assert torch.equal(
        found.x, attack(model, x, torch.zeros(3), (), torch.Generator().manual_seed(0))
    )


def test_no_other_zero_points_are_worse():
    model, x = Fluxes(WEIGHT), 1 + torch.rand(3, 4, 5, 5).double()
    sets = ZeroPoint(BUDGET)
    found = FGSM(sets, objective=first).find(model, x, torch.zeros(3))
    for seed in range(50):
        seeded = torch.Generator().manual_seed(seed)
        noisy = UniformNoise(sets)(None, x, torch.zeros(3), (), seeded)
        assert (model(noisy) <= found.value + 1e-12).all()


# A set that changes another input of the network.


@dataclass(frozen=True)
class Reddening(PerturbationSet):
    """An error of E(B-V), the first context, of at most a budget."""

    budget: float
    changes_context = True

    @property
    def label(self) -> str:
        return f"E(B-V) {self.budget:g} mag"

    def identity(self, x):
        return torch.zeros(len(x), 1, dtype=torch.promote_types(x.dtype, torch.float32))

    def apply(self, x, context, p):
        return x, ((context[0] + self.budget * p[:, 0]).to(context[0].dtype), *context[1:])

    def project(self, x, p):
        return p.clamp(-1, 1)

    def steepest(self, grad):
        return grad.sign()

    def sample(self, x, generator=None):
        return draw(torch.rand, (len(x), 1), generator, dtype=self.identity(x).dtype) * 2 - 1

    def size(self, p):
        return p.abs().amax(1)

    def scaled(self, factor):
        return Reddening(self.budget * factor)


def test_a_set_that_changes_context_works_in_find_and_is_refused_by_a_call():
    sets = Reddening(0.02)
    check_set(sets)
    for attack in (FGSM(sets), PGD(sets, steps=2), WorstOf([FGSM(sets)]), UniformNoise(sets)):
        check_attack(attack)
    model = lambda x, ebv: x.flatten(1).sum(1) * 0 + 3 * ebv  # noqa: E731
    x, z, ebv = torch.randn(4, 2, 3, 3), torch.zeros(4), torch.rand(4)
    before = (x.clone(), ebv.clone())
    for attack in (
        FGSM(sets, objective=first),
        PGD(sets, objective=first),
        WorstOf([FGSM(sets)], first),
        UniformNoise(sets),
    ):
        with pytest.raises(ValueError, match="changes an input of the network beside the image"):
            attack(model, x, z, context=(ebv,))
        found = attack.find(model, x, z, context=(ebv,))
        assert torch.equal(found.x, x)
        if isinstance(attack, UniformNoise):
            assert ((found.context[0] - ebv).abs() <= 0.02 + 1e-6).all()
            continue
        torch.testing.assert_close(found.context[0], ebv + 0.02)
        torch.testing.assert_close(found.value, 3 * (ebv + 0.02))
    assert torch.equal(x, before[0])
    assert torch.equal(ebv, before[1])


def test_a_model_that_writes_into_images_that_the_set_did_not_change():
    def model(x, ebv):
        x.mul_(0)
        ebv.mul_(2)
        return ebv

    x, ebv = torch.randn(4, 2, 3, 3), torch.rand(4)
    before = (x.clone(), ebv.clone())
    found = PGD(Reddening(0.1), steps=2, objective=first).find(model, x, torch.zeros(4), (ebv,))
    assert torch.equal(x, before[0])
    assert torch.equal(ebv, before[1])
    torch.testing.assert_close(found.context[0], ebv + 0.1)
    assert torch.equal(found.x, x)


# One generator per sample.


@pytest.mark.parametrize(
    "attack",
    [
        PGD(LinfBall(0.1), steps=2, random_start=True),
        PGD(L2Ball(5.0), steps=2, random_start=True, restarts=2, step_size="paper"),
        PGD(ZeroPoint(0.1), steps=2, random_start=True),
        UniformNoise(LinfBall(0.1)),
        WorstOf([UniformNoise(0.1), PGD(0.1, steps=1, random_start=True)]),
    ],
    ids=lambda attack: attack.name,
)
def test_a_sample_draws_the_same_in_any_batch(attack):
    model, x, z, context, objective = two_inputs()
    model, x, context = model.double().eval(), x.double(), (context[0].double(),)
    attack = bind_objective(attack, objective)
    whole = attack(model, x, z, context, SampleGenerators(range(10, 16)))
    for rows in ([3], [5, 1], [0, 2, 4], [5, 4, 3, 2, 1, 0]):
        generators = SampleGenerators(10 + row for row in rows)
        part = attack(model, x[rows], z[rows], (context[0][rows],), generators)
        torch.testing.assert_close(part, whole[rows], rtol=0, atol=1e-12)
    other = attack(model, x, z, context, SampleGenerators(range(20, 26)))
    assert not torch.equal(other, whole)


def test_not_as_many_generators_as_samples_and_none_at_all():
    model, x, z, context, objective = two_inputs()
    attack = PGD(0.1, random_start=True, objective=objective)
    with pytest.raises(ValueError, match="5 generators were given for 6 samples"):
        attack(model, x, z, context, SampleGenerators(range(5)))
    for one in (attack, UniformNoise(0.1)):
        with pytest.raises(TypeError, match=r"generator must be a torch.Generator, got 7"):
            one(model, x, z, context, 7)


# Starts.


def test_a_start_is_brought_into_the_set_and_nan_means_the_usual():
    model, x, z, context, objective = two_inputs()
    seen: list[Tensor] = []

    @dataclass(frozen=True)
    class Stay(GradientAttack):
        def search(self, problem, start):
            seen.append(start)
            return start

    attack = Stay(LinfBall(0.1), objective=objective)
    start = torch.full_like(x, 0.05)
    start[0], start[1] = torch.nan, 7.0
    attack(model, x, z, context, start=start)
    assert not seen[0][0].any()
    assert (seen[0][1] == seen[0][1].max()).all()
    assert seen[0][1].max() <= 0.1
    assert torch.equal(seen[0][2:], start[2:])
    with pytest.raises(ValueError, match=r"of shape \(6, 5, 16, 16\), got \(6, 5\)"):
        attack(model, x, z, context, start=start[:, :, 0, 0])
    zero = Stay(ZeroPoint(0.1), objective=objective)
    with pytest.raises(ValueError, match=r"parameters of the set, of shape \(6, 5\)"):
        zero(model, x, z, context, start=start)


def test_empty_batches_tell_nothing():
    model, x, z, context, objective = two_inputs()
    attacks: list[Callable[..., Any]] = [
        PGD(0.1, objective=objective).find,
        PGD(ZeroPoint(0.1), objective=objective).find,
        UniformNoise(ZeroPoint(0.1)).find,
    ]
    for find in attacks:
        found = find(model, x[:0], z[:0], (context[0][:0],))
        assert found.x.shape == (0, 5, 16, 16)
        assert len(found.size) == len(found.parameters) == 0
