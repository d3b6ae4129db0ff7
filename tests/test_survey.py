"""The survey question: in closed form, on networks that are known functions of the fluxes."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advphotoz import (
    Compose,
    GaussianBudget,
    LinfBall,
    MagnitudeOffset,
    PointEstimate,
    ReddeningInputError,
    RedshiftBins,
    RedshiftError,
    SkyLevel,
    ZeroPoint,
)
from advphotoz.survey import (
    REQUIREMENTS,
    CalibrationBudget,
    RandomSystematics,
    Requirement,
    WorstSystematic,
    calibration_budget,
    random_systematics,
    worst_systematic,
)

POINT = PointEstimate()
WEIGHTS = torch.tensor([0.10, -0.25, 0.05], dtype=torch.float64)


class Colours(nn.Module):
    """z = c + sum_b w_b log10 F_b, with F_b the flux of a band; of known response to zero points.

    With `power`, z is the exponential of that, which is not linear. With `by_brightness` the
    response of galaxies that are bright in the last band has the other sign.
    """

    def __init__(self, weights: Tensor = WEIGHTS, power: bool = False) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.power = power

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        logs = x.flatten(2).sum(2).log10() if x.ndim > 2 else -0.4 * x
        z = 0.3 + (logs * self.weights).sum(1)
        return 10**z if self.power else z


def galaxies(n: int = 120, size: int = 64, bands: int = 3, seed: int = 0) -> list[tuple[Any, ...]]:
    """Return batches of positive images, and redshifts."""
    generator = torch.Generator().manual_seed(seed)
    x = 1 + torch.rand(n, bands, 4, 4, generator=generator, dtype=torch.float64)
    x = x * (1 + 3 * torch.rand(n, bands, 1, 1, generator=generator, dtype=torch.float64))
    z = torch.rand(n, generator=generator, dtype=torch.float64)
    return list(zip(x.split(size), z.split(size), strict=True))


def together(loader: list[tuple[Any, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(parts) for parts in zip(*loader, strict=True))


def worst(model: nn.Module, loader: Any, perturbations: Any, *args: Any, **kwargs: Any) -> Any:
    return worst_systematic(model, loader, perturbations, POINT, *args, progress=False, **kwargs)


def mean_inverse(loader: Any, rows: Any = slice(None)) -> float:
    """Return the mean of 1 / (1 + z), by which a shift of z becomes one of dz."""
    return float((1 / (1 + together(loader)[-1][rows])).mean())


# Closed form.


@pytest.mark.parametrize("sign", [1, -1])
def test_the_worst_zero_points_and_the_shift_are_known(sign):
    mags = [0.02, 0.01, 0.03]
    loader = galaxies()
    s = worst(Colours(), loader, ZeroPoint(mags), split=0.5, bands="gri").of("all", sign)
    assert s.parameters == pytest.approx([-sign * 0.02, sign * 0.01, -sign * 0.03])
    # dz moves by -0.4 sum w a over 1 + z.
    reach = 0.4 * sum(abs(w) * m for w, m in zip(WEIGHTS.tolist(), mags, strict=True))
    assert s.n + s.n_searched == 120
    inverse = {"searched": s.found / (sign * reach), "measured": s.shift / (sign * reach)}
    whole = (inverse["searched"] * s.n_searched + inverse["measured"] * s.n) / 120
    assert whole == pytest.approx(mean_inverse(loader), rel=1e-4)
    assert s.found == pytest.approx(s.bound, rel=1e-4)
    assert s.linear == pytest.approx(s.shift, rel=1e-4)
    assert s.nonlinearity == pytest.approx(1, rel=1e-4)
    assert s.converged
    assert s.size == 1
    assert len(s.trace) == 1  # the corner that the gradient names


def test_response_and_contributions_are_known():
    mags = [0.02, 0.01, 0.0]
    loader = galaxies()
    loader = [(x, torch.zeros_like(z)) for x, z in loader]  # dz is z
    s = worst(Colours(), loader, ZeroPoint(mags)).of("all", 1)
    assert s.shift == pytest.approx(0.4 * (0.1 * 0.02 + 0.25 * 0.01), rel=1e-4)
    assert s.response[:2] == pytest.approx([-0.04, 0.1], rel=1e-4)  # per mag
    assert s.response[2] is None
    assert s.contributions == pytest.approx([0.0008, 0.001, 0.0], rel=1e-4)
    assert sum(s.contributions) == pytest.approx(s.bound)
    assert s.error < 1e-6  # every galaxy shifts alike


def test_a_response_that_is_not_linear():
    """z = 10^s: the corner is the same, and each galaxy is multiplied."""
    loader = galaxies()
    found = worst(Colours(power=True), loader, ZeroPoint(0.5), steps=20)
    x, z = together(loader)
    before = Colours(power=True)(x)
    for sign in (1, -1):
        s = found.of("all", sign)
        factor = 10 ** (sign * 0.4 * 0.5 * float(WEIGHTS.abs().sum()))
        every = (before * (factor - 1) / (1 + z)).numpy()
        both = (s.found * s.n_searched + s.shift * s.n) / len(every)
        assert both == pytest.approx(every.mean(), rel=1e-4)
        assert s.converged
        # It grows faster than linear upwards and slower downwards.
        assert (abs(s.found) > abs(s.bound)) == (sign == 1)


def test_the_paired_error_is_that_of_the_mean_of_the_shifts():
    loader = galaxies(400)
    s = worst(Colours(power=True), loader, ZeroPoint(0.1), split=0.001 + 1 / 2).of("all", 1)
    x, z = together(loader)
    factor = 10 ** (0.04 * float(WEIGHTS.abs().sum())) - 1
    spread = float((Colours(power=True)(x) * factor / (1 + z)).std())
    assert s.error == pytest.approx(spread / math.sqrt(s.n), rel=0.15)


def test_the_worst_of_an_ellipsoid_is_known():
    covariance = torch.tensor([[25.0, 20.0, 0.0], [20.0, 36.0, 0.0], [0.0, 0.0, 4.0]])
    loader = [(x, torch.zeros_like(z)) for x, z in galaxies()]
    budget = GaussianBudget(ZeroPoint(0.001), covariance.tolist(), nsigma=2)
    found = worst(Colours(), loader, budget, tolerance=1e-6)
    g = -0.4 * WEIGHTS  # per mag
    c = covariance.double() * 1e-6
    reach = 2 * float((g @ c @ g).sqrt())
    for sign in (1, -1):
        s = found.of("all", sign)
        assert s.shift == pytest.approx(sign * reach, rel=1e-4)
        assert s.bound == pytest.approx(sign * reach, rel=1e-4)
        expected = sign * 4 * (c @ g) / reach
        assert s.parameters == pytest.approx(expected.tolist(), rel=1e-3)
        assert s.response == pytest.approx(g.tolist(), rel=1e-4)
        assert s.size == pytest.approx(1, rel=1e-5)
        assert s.size <= 1
    assert found.budgets == pytest.approx([2 * math.sqrt(v) for v in (25e-6, 36e-6, 4e-6)])


class Bowl(nn.Module):
    """z = b a - c a^2 / 2 in the sky level a of one band: its best lies within the budget."""

    def forward(self, x: Tensor) -> Tensor:
        level = x[:, 0, 0, 0]  # of an empty pixel
        return 0.3 * level - 0.5 * 2.0 * level**2


def empty() -> list[tuple[Tensor, Tensor]]:
    x = torch.rand(40, 1, 2, 2, dtype=torch.float64)
    x[:, :, 0, 0] = 0
    return [(x, torch.zeros(40, dtype=torch.float64))]


def test_an_optimum_inside_the_budget_is_found():
    loader = empty()
    found = worst(Bowl(), loader, SkyLevel(1.0), steps=40, tolerance=1e-7)
    up, down = found.of("all", 1), found.of("all", -1)
    assert up.parameters[0] == pytest.approx(0.3 / 2.0, rel=0.05)
    assert up.shift == pytest.approx(0.3**2 / (2 * 2.0), rel=2e-2)
    assert up.found < up.bound
    assert list(up.trace) == sorted(up.trace)  # the best so far
    assert up.trace[0] == 0  # the corner is worse than nothing
    assert not worst(Bowl(), loader, SkyLevel(1.0), steps=1).of("all", 1).converged
    assert down.parameters[0] == -1
    assert down.shift == pytest.approx(-0.3 - 1.0, rel=0.05)


class Bowls(nn.Module):
    """The same in three bands, of curvatures that differ: z = sum_b b a - c a^2 / 2."""

    slopes = torch.tensor([0.3, 0.2, 1.0], dtype=torch.float64)
    curvatures = torch.tensor([2.0, 0.5, 0.1], dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        a = x[:, :, 0, 0]
        return (self.slopes * a - 0.5 * self.curvatures * a**2).sum(1)


def test_optima_inside_and_at_the_edge_are_found_in_few_steps():
    x = torch.rand(40, 3, 2, 2, dtype=torch.float64)
    x[:, :, 0, 0] = 0
    loader = [(x, torch.zeros(40, dtype=torch.float64))]
    up = worst(Bowls(), loader, SkyLevel(1.0), steps=12, tolerance=1e-4).of("all", 1)
    best = (Bowls.slopes / Bowls.curvatures).clamp(max=1)
    assert best.tolist() == pytest.approx([0.15, 0.4, 1.0])
    top = float((Bowls.slopes * best - 0.5 * Bowls.curvatures * best**2).sum())
    assert up.converged
    assert up.shift == pytest.approx(top, rel=1e-4)
    assert up.parameters == pytest.approx(best.tolist(), abs=0.02)


class TwoKinds(nn.Module):
    """z = s(F_2) (1 + 0.1 log10 F_0), with s +0.2 for faint galaxies and 0.8 - ... for bright."""

    def forward(self, x: Tensor) -> Tensor:
        flux = x.flatten(2).sum(2).log10()
        bright = (flux[:, 1] > 1).to(x.dtype)
        return 0.2 + 0.1 * flux[:, 0] * (1 - bright) + bright * (0.6 - 0.2 * flux[:, 0])


def two_kinds() -> list[tuple[Tensor, Tensor]]:
    x = torch.ones(80, 2, 1, 1, dtype=torch.float64)
    x[:, 0] = 1 + 0.1 * torch.rand(80, 1, 1, dtype=torch.float64)
    x[::2, 1] = 100.0
    return [(x, torch.zeros(80, dtype=torch.float64))]


def test_every_bin_and_sign_is_a_search_of_its_own():
    found = worst(TwoKinds(), two_kinds(), ZeroPoint(0.1), [0.0, 0.5, 1.0], bands="gr")
    assert [(s.group, s.sign) for s in found.shifts] == [
        (group, sign) for group in ("all", "0 to 0.5", "0.5 to 1") for sign in (1, -1)
    ]
    for group, slope in (("0 to 0.5", 0.1), ("0.5 to 1", -0.2)):
        for sign in (1, -1):
            s = found.of(group, sign)
            assert s.shift == pytest.approx(sign * 0.4 * 0.1 * abs(slope), rel=1e-4)
            assert np.sign(s.parameters[0]) == -sign * np.sign(slope)
    assert found.worst.group == "0.5 to 1"
    assert found.edges == (0.0, 0.5, 1.0)
    assert len(found.bins) == 4
    # All advance in one pass: a first one, one step, the measurement.
    assert found.settings["reads"] == 3
    assert found.settings["gradients"] == pytest.approx(1 + 0.5 * 4, abs=0.6)


def test_bins_of_equal_numbers_are_open_at_the_ends():
    found = worst(Colours(), galaxies(200), ZeroPoint(0.01), 4)
    names = [s.group for s in found.shifts if s.sign == 1]
    assert names[0] == "all"
    assert names[1].startswith("below")
    assert names[-1].startswith("above")
    counts = [s.n + s.n_searched for s in found.shifts if s.sign == 1]
    assert counts == [200, 50, 50, 50, 50]
    again = worst(Colours(), galaxies(200), ZeroPoint(0.01), found.edges)
    assert [s.shift for s in again.shifts] == [s.shift for s in found.shifts]
    assert [s.group for s in worst(Colours(), galaxies(), ZeroPoint(0.1), 1).shifts] == ["all"] * 2


def test_the_shift_of_re_assigned_members_is_that_of_brute_force():
    model, loader = Colours(power=True), galaxies(300)
    x, z = together(loader)
    inner = model(x).quantile(torch.tensor([0.3, 0.7], dtype=torch.float64)).tolist()
    found = worst(model, loader, ZeroPoint(0.2), [0.0, *inner, 10.0])
    measured = measured_rows(loader)
    for s in found.shifts[2:]:
        p = torch.tensor([s.p], dtype=torch.float64)
        after = model(ZeroPoint(0.2).apply(x, (), p.expand(len(x), -1))[0]).numpy()[measured]
        before = model(x).numpy()[measured]
        truth = z.numpy()[measured]
        old, new = (before - truth) / (1 + truth), (after - truth) / (1 + truth)
        was, now = ((v >= s.low) & (v < s.high) for v in (before, after))
        assert (was != now).any()
        assert s.n == was.sum()
        assert s.shift == pytest.approx((new - old)[was].mean(), rel=1e-4)
        assert s.reassigned == pytest.approx(new[now].mean() - old[was].mean(), rel=1e-3, abs=1e-6)
        # The error, against a bootstrap of the galaxies.
        rng = np.random.default_rng(0)
        drawn = [rng.integers(len(old), size=len(old)) for _ in range(400)]
        changes = [new[k][now[k]].mean() - old[k][was[k]].mean() for k in drawn]
        assert s.reassigned_error == pytest.approx(np.std(changes), rel=0.2)
    assert found.of("all", 1).reassigned is None


def measured_rows(loader: Any, split: float = 0.5) -> np.ndarray:
    """Return which galaxies the search does not see, as the library chooses them."""
    from advphotoz.provenance import sample_digests

    digests = [d for batch in loader for d in sample_digests(batch)]
    return np.array([int.from_bytes(d[7:14], "big") / 2**56 >= split for d in digests])


def test_the_search_does_not_see_the_galaxies_that_the_shift_is_measured_on():
    loader = galaxies(200)
    keep = ~measured_rows(loader)
    x, z = together(loader)
    spoiled = x.clone()
    found = worst(Colours(power=True), loader, ZeroPoint(0.1)).of("all", 1)
    assert found.n_searched == keep.sum()
    assert found.n == (~keep).sum()

    class Spy(Colours):
        passes: ClassVar[list[int]] = []

        def forward(self, x: Tensor, *context: Tensor) -> Tensor:
            if torch.is_grad_enabled() and x.requires_grad:
                Spy.passes.append(len(x))
            return super().forward(x)

    worst(Spy(power=True), [(spoiled, z)], ZeroPoint(0.1))
    # The first pass sees all, a step the galaxies of both signs' searches.
    assert Spy.passes[0] == 200
    assert sum(Spy.passes[1:]) == 2 * keep.sum()


def test_a_context_input_that_is_wrong():
    class Dusty(nn.Module):
        def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
            return 0.2 + 3 * ebv

    ebv = torch.rand(100, dtype=torch.float64)
    loader = [(torch.ones(100, 1, 2, 2), ebv, torch.zeros(100))]
    s = worst(Dusty(), loader, ReddeningInputError(0.1)).of("all", 1)
    both = (s.found * s.n_searched + s.shift * s.n) / 100
    assert both == pytest.approx(0.3 * float(ebv.mean()), rel=1e-4)
    assert s.parameters == pytest.approx([0.1])


def test_magnitudes_and_features():
    m = 18 + torch.randn(90, 3, dtype=torch.float64)
    loader = [(m, torch.zeros(90, dtype=torch.float64))]
    reach = 0.4 * 0.01 * float(WEIGHTS.abs().sum())
    for perturbations in (MagnitudeOffset(0.01), LinfBall(0.01)):
        found = worst(Colours(), loader, perturbations)
        assert found.of("all", -1).shift == pytest.approx(-reach, rel=1e-4)
        assert found.budgets == pytest.approx([0.01] * 3)


def test_an_objective_of_the_callers_own():
    loader = [(x, z + 5) for x, z in galaxies()]  # z_phot is too small everywhere
    s = worst(Colours(), loader, ZeroPoint(0.01), objective=RedshiftError(POINT)).of("all", 1)
    assert s.shift > 0
    assert s.parameters == pytest.approx([0.01, -0.01, 0.01])  # |dz| grows where z falls


def test_batches_of_any_size_give_the_same():
    first = worst(Colours(power=True), galaxies(100, size=100), ZeroPoint(0.1), 2)
    for size in (1, 7):
        again = worst(Colours(power=True), galaxies(100, size=size), ZeroPoint(0.1), 2)
        for a, b in zip(first.shifts, again.shifts, strict=True):
            assert a.shift == pytest.approx(b.shift, rel=1e-9)
            assert a.parameters == b.parameters


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.Dropout(), nn.Linear(48, 1))
    model[1].eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    loader = [(x.float(), z.float()) for x, z in galaxies()]
    worst(model, loader, ZeroPoint(0.1))
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model] == [True, False, True, True]
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_images_are_not_kept():
    alive: list[Any] = []
    most = 0

    class Loader:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            nonlocal most
            generator = torch.Generator().manual_seed(0)
            for _ in range(20):
                x = 1 + torch.rand(10, 3, 4, 4, generator=generator)
                alive.append(weakref.ref(x))
                yield x, torch.rand(10, generator=generator)
                del x
                most = max(most, sum(ref() is not None for ref in alive))

    worst(Colours(WEIGHTS.float()), Loader(), ZeroPoint(0.1), 2)
    assert len(alive) == 20 * 3
    assert most <= 2


# What is refused.


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"bins": [0.5, 0.1]}, ValueError, "increasing"),
        ({"bins": [0.5]}, ValueError, "at least two"),
        ({"bins": [0.0, 0.001, 1.0]}, ValueError, "'0 to 0.001' holds 0 galaxies"),
        ({"bins": 0}, ValueError, "bins must be at least 1"),
        ({"split": 0.0}, ValueError, "split must lie between 0 and 1"),
        ({"tolerance": 1.0}, ValueError, "tolerance"),
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"bands": "ugriz"}, ValueError, "5 names of bands"),
    ],
)
def test_settings_that_make_no_sense(kwargs, error, message):
    with pytest.raises(error, match=message):
        worst(Colours(), galaxies(), ZeroPoint(0.1), **kwargs)


def test_loaders_that_cannot_be_read_again():
    with pytest.raises(ValueError, match="gave no samples"):
        worst(Colours(), [], ZeroPoint(0.1))
    with pytest.raises(ValueError, match="gave 0 galaxies after 120"):
        worst(Colours(), iter(galaxies()), ZeroPoint(0.1))

    class Shuffled:
        seed = 0

        def __iter__(self) -> Iterator[Any]:
            Shuffled.seed += 1
            return iter(galaxies(seed=Shuffled.seed))

    with pytest.raises(ValueError, match="shuffle=False"):
        worst(Colours(), Shuffled(), ZeroPoint(0.1))


def test_sets_and_targets_that_do_not_fit():
    with pytest.raises(ValueError, match="a handful of parameters"):
        worst(Colours(), galaxies(), LinfBall(0.1))
    with pytest.raises(TypeError, match="needs a perturbation set"):
        worst(Colours(), galaxies(), 0.1)
    with pytest.raises(ValueError, match=r"batch 0 of the loader: target must hold"):
        worst(Colours(), [(x, z[:, None]) for x, z in galaxies()], ZeroPoint(0.1))
    with pytest.raises(ValueError, match="batch 0 of the loader: .* redshifts lie outside"):
        worst_systematic(
            Colours(),
            [(x, z + 1) for x, z in galaxies()],
            ZeroPoint(0.1),
            RedshiftBins(0, 1, 5),
            progress=False,
        )
    with pytest.raises(TypeError, match="model must be a torch.nn.Module"):
        worst(lambda x: x, galaxies(), ZeroPoint(0.1))


# Tables, words and files.


def test_a_result_is_saved_and_read_again(tmp_path):
    both = Compose(ZeroPoint([0.02, 0.01, 0.0]), SkyLevel(0.001))
    found = worst(Colours(power=True), galaxies(), both, 2, bands="gri")
    found.save(tmp_path / "worst.json")
    again = WorstSystematic.load(tmp_path / "worst.json")
    assert again == found
    assert again.edges == found.edges
    assert str(again) == str(found)
    assert again.to_markdown() == found.to_markdown()
    assert again != worst(Colours(power=True), galaxies(), ZeroPoint(0.01), 2)
    for text in (str(found), found.to_markdown()):
        assert "zero point g" in text
        assert "20 mmag" in text
        assert "0.001 flux/pixel" in text
        assert "found on" in text
        assert "the data were read 3 times" in text
    rows = [r for r in found.to_markdown().splitlines() if r.startswith("| all")]
    cells = [cell.strip() for cell in rows[0].split("|")]
    assert cells[4].startswith(f"{1e4 * found.shifts[0].shift:+.1f} ± ")
    (tmp_path / "cut.json").write_text((tmp_path / "worst.json").read_text()[:-20])
    with pytest.raises(ValueError, match="not whole JSON"):
        WorstSystematic.load(tmp_path / "cut.json")


def test_units_of_the_tables():
    both = Compose(ZeroPoint([0.02, 0.01, 0.0]), ReddeningInputError(0.1))
    x, z = together(galaxies())
    loader = [(x, torch.rand(len(x), dtype=torch.float64), torch.zeros_like(z))]
    found = worst(Colours(), loader, both, bands="gri")
    rows = {r.split(" | ")[0]: r.split(" | ") for r in found.to_markdown().splitlines()}
    assert [cell.strip("| ") for cell in rows["| zero point r"]] == [
        "zero point r",
        "10 mmag",
        "+100",  # 0.4 times 0.25 per mag, in 1e-6 per mmag
        "+10.00",
        "56",
        "+10 mmag",
    ]
    assert rows["| E(B-V)"][1:3] == ["10 %", "+0"]  # this network does not look at it
    assert rows["| zero point i"][1:3] == ["0 mmag", ""]


def test_a_search_that_has_not_converged_is_said_to_be_so():
    found = worst(Bowl(), empty(), SkyLevel(1.0), steps=1)
    assert not found.all_converged
    assert "Not converged: all +" in str(found)
    assert "**Not converged: all +" in found.to_markdown()


def test_in_words():
    loader = [(x, torch.zeros_like(z)) for x, z in galaxies()]
    both = Compose(ZeroPoint([0.02, 0.01, 0.01]), SkyLevel(0.0))
    found = worst(Colours(), loader, both, bands="gri")
    shift = 0.4 * (0.1 * 0.02 + 0.25 * 0.01 + 0.05 * 0.01)  # 20e-4
    words = found.in_words(0.0004)
    assert f"{1e4 * shift:.1f} ± 0.0 e-4, 5 times what requirement" in words
    assert "misses it" in words
    assert "zero point makes 100 % of it" in words
    assert "zero point r (50 %)" in words
    assert "meets it" in found.in_words(0.01)
    assert "not read in its source" in found.in_words("LSST Y1 sources")


# Requirements and budgets.


def test_requirements():
    limits = {name: r.limit for name, r in REQUIREMENTS.items()}
    assert limits == {
        "Euclid": 0.002,
        "LSST Y1 sources": 0.002,
        "LSST Y10 sources": 0.001,
        "LSST Y1 lenses": 0.005,
        "LSST Y10 lenses": 0.003,
    }
    assert [name for name, r in REQUIREMENTS.items() if r.read_there] == ["Euclid"]
    for wrong, error in ((-1.0, ValueError), ("0.1", TypeError), (math.inf, ValueError)):
        with pytest.raises(error, match="limit of a requirement"):
            Requirement("mine", wrong)


@pytest.mark.parametrize("power", [False, True])
def test_the_budget_that_meets_a_requirement_is_known(power, tmp_path):
    """Linear: the ratio. As a power: where a galaxy's factor gives the limit."""
    loader = [(x, torch.zeros_like(z)) for x, z in galaxies()]
    model, limit, mags = Colours(power=power), *((0.25, 1.0) if power else (0.004, 0.05))
    found = calibration_budget(
        model, loader, ZeroPoint(mags), POINT, limit, progress=False, bands="gri"
    )
    reach = 0.4 * mags * float(WEIGHTS.abs().sum())
    if power:
        measured = measured_rows(loader)
        mean = float(model(together(loader)[0]).numpy()[measured].mean())
        expected = math.log10(1 + limit / mean) / reach
    else:
        expected = limit / reach
    assert expected < 0.6
    assert found.factor == pytest.approx(expected, rel=0.02 if power else 1e-4)
    assert abs(found.met.worst.shift) == pytest.approx(limit, rel=0.021)
    assert found.met.budgets == pytest.approx([mags * found.factor] * 3)
    assert f"zero point {1e3 * mags * found.factor:.3g} mmag must be kept" in found.words
    found.save(tmp_path / "budget.json")
    again = CalibrationBudget.load(tmp_path / "budget.json")
    assert again.words == found.words
    assert again == found


def test_a_budget_that_meets_the_requirement_already():
    loader = [(x, torch.zeros_like(z)) for x, z in galaxies()]
    found = calibration_budget(Colours(), loader, ZeroPoint(0.01), POINT, 0.01, progress=False)
    assert found.factor == 1
    assert found.margin == pytest.approx(0.01 / (0.4 * 0.01 * 0.4), rel=1e-4)
    assert "meets it" in found.words
    assert "could grow 6.2 times" in found.words
    with pytest.raises(ValueError, match="no requirement 'Euclide'"):
        calibration_budget(Colours(), loader, ZeroPoint(0.01), POINT, "Euclide", progress=False)


# Random draws.


def test_random_draws_shift_as_the_linear_response_says(tmp_path):
    loader = [(x, torch.zeros_like(z)) for x, z in galaxies()]
    drawn = random_systematics(
        Colours(), loader, ZeroPoint(0.02), POINT, draws=100, progress=False, seed=5
    )
    expected = drawn.parameters @ (-0.4 * WEIGHTS.numpy())
    np.testing.assert_allclose(drawn.of("all"), expected, rtol=1e-3, atol=1e-7)
    assert (abs(drawn.parameters) <= 0.02).all()
    assert drawn.parameters.std() == pytest.approx(0.02 / math.sqrt(3), rel=0.1)
    missed, low, high = drawn.share(0.001)
    assert missed == pytest.approx((abs(expected) > 0.001).mean())
    assert low < missed < high
    assert drawn.share(0.4 * 0.02 * 0.4)[0] == 0  # nothing beyond the worst case
    again = random_systematics(
        Colours(), loader, ZeroPoint(0.02), POINT, draws=100, progress=False, seed=5
    )
    assert np.array_equal(again.shifts, drawn.shifts)
    drawn.save(tmp_path / "drawn.json")
    read = RandomSystematics.load(tmp_path / "drawn.json")
    assert np.array_equal(read.shifts, drawn.shifts)
    assert read.to_markdown(0.001) == drawn.to_markdown(0.001)
    assert "| all |" in drawn.to_markdown("Euclid")


def test_a_gaussian_budget_is_drawn_from_its_gaussian():
    loader = [(x, torch.zeros_like(z)) for x, z in galaxies()]
    budget = GaussianBudget(ZeroPoint([0.01, 0.02, 0.03]), nsigma=2)
    drawn = random_systematics(Colours(), loader, budget, POINT, draws=400, progress=False)
    sigma = 0.4 * float((WEIGHTS * torch.tensor([0.01, 0.02, 0.03])).norm())
    assert drawn.of("all").std() == pytest.approx(sigma, rel=0.12)  # 3.5 % is one sigma
    top = worst(Colours(), loader, budget).of("all", 1)
    assert top.shift == pytest.approx(2 * sigma, rel=1e-4)
    assert drawn.share(top.shift)[0] == pytest.approx(0.0455, abs=0.035)


def test_a_draw_misses_if_any_bin_does():
    loader = two_kinds()
    drawn = random_systematics(
        TwoKinds(), loader, ZeroPoint(0.1), POINT, [0.0, 0.5, 1.0], draws=100, progress=False
    )
    first, second = drawn.of("0 to 0.5"), drawn.of("0.5 to 1")
    np.testing.assert_allclose(second, -2 * first, rtol=1e-4, atol=1e-7)
    assert drawn.share(0.005)[0] == (abs(second) > 0.005).mean()
    assert drawn.share(0.005, "0 to 0.5")[0] == 0
    with pytest.raises(KeyError, match="no group '1 to 2'"):
        drawn.of("1 to 2")
