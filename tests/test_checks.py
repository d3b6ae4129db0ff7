"""The checks of an evaluation: what is broken is named, and a verdict never exceeds the tests."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advphotoz import (
    FGSM,
    PGD,
    GradientAttack,
    LinfBall,
    PointEstimate,
    Square,
    TowardRedshift,
    UniformNoise,
    WorstOf,
    ZeroGradientWarning,
    ZeroPoint,
)
from advphotoz.evaluation import Check, Checks, Evaluation
from advphotoz.models import AverageOverDraws
from networks import TWO, WIDE, Estimate, Momentum, Spoiler, TwoBins, do_nothing, run, sides, split


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def checks_of(result: Evaluation) -> Checks:
    assert result.checks is not None
    return result.checks


def failed(result: Evaluation) -> set[str]:
    return {check.name for check in checks_of(result).of("FAIL")}


def status(result: Evaluation, attack: str | None = None) -> dict[str, str]:
    return {c.name: c.status for c in checks_of(result).checks if c.attack == attack}


def test_a_healthy_model_passes_every_check() -> None:
    attacks = [FGSM(0.05), PGD(LinfBall(0.05))]
    result = run(TwoBins(WIDE), split(sides(100, 3.0, WIDE), 30), attacks)
    checks = checks_of(result)
    assert not checks.of("FAIL")
    assert not checks.of("not checked")
    assert [(c.name, c.attack) for c in checks.of("n/a")] == [("converged", "FGSM 0.05")]
    names = [check.name for check in checks.checks]
    assert names == [
        "same output twice",
        "gradients do not vanish",
        *2 * ["objective rises", "converged", "uses its room"],
        "larger set",
        "attack beats noise",
        "noise is harmless",
        "many steps beat one",
    ]
    assert checks.samples == 64  # the default, of 100
    assert checks.passed
    assert "no sign of a broken attack" in checks.verdict
    assert str(result).startswith("Checks: no sign")
    assert all(row.flags == () for row in result.rows)


# ---- verdicts that would be false -------------------------------------------------------------


def test_a_search_that_has_not_used_its_room_is_not_trusted() -> None:
    attack = PGD(LinfBall(0.3), steps=3, step_size="paper")
    result = run(TwoBins(), split(sides(60), 30), {"PGD": attack})
    row, checks = result["PGD"], checks_of(result)
    assert row.size == pytest.approx(0.3, rel=1e-5)
    assert row.rising == 1
    assert status(result, "PGD")["converged"] == "FAIL"
    assert status(result, "PGD")["uses its room"] == "FAIL"
    assert "use 0.30 of the budget" in checks["uses its room"].sentence
    assert not checks.passed
    for words in ("do not trust these numbers", "not converged (PGD)", "used 0.30 of its room"):
        assert words in checks.verdict
    assert row.flags == ("not converged", "used 0.30 of its room")
    cell = "PGD [not converged] [used 0.30 of its room]"
    assert any(line.startswith(cell) for line in str(result).splitlines())
    assert f"| {cell} |" in result.to_markdown()
    enough = run(TwoBins(), split(sides(60), 30), {"PGD": dataclasses.replace(attack, steps=10)})
    assert not {"converged", "uses its room"} & failed(enough)


def test_little_room_is_fine_where_more_steps_find_no_more() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.eye(2)
    x, z = 1e-3 * torch.rand(50, 2), torch.rand(50)
    attack = PGD(LinfBall(0.1), steps=40, step_size=0.05)
    result = run(model, [(x, z)], {"PGD": attack}, objective=Hill(0.04))
    assert 0.3 < result["PGD"].size < 0.6
    assert status(result, "PGD")["uses its room"] == "pass"
    assert "more steps find no more" in checks_of(result)["uses its room"].sentence


@pytest.mark.parametrize("attacks", [[], [UniformNoise(0.1)], {"nothing": FGSM(0.0)}])
def test_without_an_attack_nothing_is_known(attacks: Any) -> None:
    result = run(TwoBins(), [sides(20)], attacks)
    checks = checks_of(result)
    assert checks.verdict.endswith("no attack was checked, so that nothing is known about "
                                   "robustness.")  # fmt: skip
    assert not checks.passed
    assert "no sign" not in str(result)


def test_an_attack_that_does_nothing_fails_and_the_rest_is_not_checked() -> None:
    result = run(TwoBins(), [sides(20)], {"nothing": do_nothing})
    assert status(result, "nothing") == {
        "objective rises": "FAIL",
        "converged": "not checked",
        "uses its room": "not checked",
        "larger set": "not checked",
        "attack beats noise": "not checked",
        "noise is harmless": "not checked",
    }
    checks = checks_of(result)
    assert "objective does not rise (nothing)" in checks.verdict
    assert not checks.passed
    assert "no sign" not in str(result)
    assert result["nothing"].flags == ("objective does not rise",)
    assert "not said" in str(result)


def climb(
    model: Any, x: Tensor, target: Tensor, context: Any = (), generator: Any = None
) -> Tensor:
    """Step along the sign of the gradient, as a function of a user would."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        loss = nn.functional.cross_entropy(model(x), TWO.index(target), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    return x.detach() + 0.1 * gradient.sign()


def test_a_bare_callable_that_works_is_not_wholly_checked() -> None:
    result = run(TwoBins(), [sides(40)], {"climb": climb})
    checks = checks_of(result)
    assert status(result, "climb")["objective rises"] == "pass"
    assert not checks.of("FAIL")
    assert "nothing failed, but not everything was checked" in checks.verdict
    assert "converged (climb)" in checks.verdict
    assert not checks.passed
    assert result["climb"].flags == ("not checked",)
    assert result["climb"].linf == pytest.approx(0.1, rel=1e-5)
    assert "no sign" not in str(result)
    # In a WorstOf it stays what it is.
    worst = run(TwoBins(), [sides(40)], {"worst": WorstOf([climb, FGSM(0.1)])})
    assert not checks_of(worst).passed
    assert not checks_of(worst).of("FAIL")


# ---- attacks of a user, and of other sets -----------------------------------------------------


def test_an_attack_of_a_user_is_checked_in_full() -> None:
    result = run(TwoBins(WIDE), split(sides(100, 3.0, WIDE), 30), [Momentum(0.05)])
    assert [row.name for row in result.rows] == ["clean", "noise", "Momentum-10 0.05"]
    found = status(result, "Momentum-10 0.05")
    assert set(found) == {
        "objective rises",
        "converged",
        "uses its room",
        "larger set",
        "attack beats noise",
        "noise is harmless",
    }
    assert set(found.values()) == {"pass"}
    assert checks_of(result).passed
    assert result["Momentum-10 0.05"].size == pytest.approx(1, rel=1e-5)
    single = {"FGSM": FGSM(0.05), "mine": Momentum(0.05)}
    both = run(TwoBins(WIDE), split(sides(100, 3.0, WIDE), 30), single)
    assert checks_of(both)["many steps beat one"].attack == "mine"
    worst = run(TwoBins(WIDE), [sides(100, 3.0, WIDE)], [WorstOf([FGSM(0.05), Momentum(0.05)])])
    assert checks_of(worst).passed, worst


def test_zero_points_are_checked_in_full() -> None:
    x, z = sides(100, 3.0, WIDE)
    attacks = [PGD(ZeroPoint(0.1)), FGSM(ZeroPoint(0.1))]
    result = run(TwoBins(WIDE), [(x + 2, z)], attacks)
    assert not checks_of(result).of("not checked")
    assert checks_of(result)["many steps beat one"].status == "pass"


@dataclass(frozen=True)
class Tires(Momentum):
    """One step, which gets shorter with the number of steps asked for."""

    steps: int = 1

    def search(self, problem: Any, start: Tensor) -> Tensor:
        """Return the last point."""
        _, gradient = problem.value_and_gradient(start)
        return problem.step(start, gradient, 1 / self.steps)


def test_an_attack_that_is_weaker_with_more_steps_is_seen() -> None:
    result = run(TwoBins(), [sides(40)], {"tires": Tires(0.1)})
    assert status(result, "tires")["converged"] == "FAIL"
    assert "a fall of more than two standard errors" in checks_of(result)["converged"].sentence
    assert "weaker with more steps" in result["tires"].flags
    assert "weaker with more steps (tires)" in checks_of(result).verdict
    assert not checks_of(result).passed


@dataclass(frozen=True)
class Hill:
    """An objective with its top at x = `top`: a step of 0.1 may hit it, a second goes back."""

    top: float = 0.09

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return -((output[:, 0] - self.top) ** 2)


def test_a_search_that_loses_by_more_steps_or_room_is_seen() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.eye(2)
    data = [(1e-3 * torch.rand(50, 2), torch.rand(50))]
    one = PGD(LinfBall(0.1), steps=1, step_size=1.0, keep="last")
    two = FGSM(0.1)
    result = run(model, data, {"PGD": one, "FGSM": two}, objective=Hill())
    assert status(result, "PGD")["converged"] == "FAIL"
    assert "weaker with more steps" in result["PGD"].flags
    result = run(model, data, {"FGSM": two}, objective=Hill())
    assert status(result, "FGSM")["larger set"] == "FAIL"
    assert result["FGSM"].flags == ("weaker with more room",)
    many = dataclasses.replace(one, steps=2)
    result = run(model, data, {"FGSM": two, "PGD": many}, objective=Hill())
    assert checks_of(result)["many steps beat one"].status == "FAIL"
    assert "weaker than one step" in result["PGD"].flags
    # With keep="best" the second step, which goes back, loses nothing.
    best = dataclasses.replace(many, keep="best")
    result = run(model, data, {"FGSM": two, "PGD": best}, objective=Hill())
    assert checks_of(result)["many steps beat one"].status == "pass"


def test_an_attack_with_an_objective_of_its_own_is_checked_by_that() -> None:
    """The one that pulls all redshifts to 0.25 lowers the likelihood of half of them only."""
    aim = TowardRedshift(0.25, TWO)
    attack = PGD(LinfBall(0.05), objective=aim)
    x, z = sides(100, 3.0, WIDE)
    upper = z > 0.5
    result = run(TwoBins(WIDE), [(x[~upper], z[~upper])], {"PGD": attack})
    assert result["PGD"].objective_after < result["clean"].objective_after
    assert status(result, "PGD")["objective rises"] == "pass"
    assert status(result, "PGD")["converged"] == "pass"
    assert status(result, "PGD")["larger set"] == "pass"


# ---- gradients --------------------------------------------------------------------------------


def test_saturated_logits_are_seen() -> None:
    batches = split(sides(100, 3.0, WIDE), 50)
    attacks = [FGSM(0.05), PGD(LinfBall(0.05))]
    with pytest.warns(ZeroGradientWarning):
        result = run(TwoBins(1e4 * WIDE), batches, attacks)
    assert {"gradients do not vanish", "objective rises", "attack beats noise"} <= failed(result)
    assert "64 of 64 samples" in checks_of(result)["gradients do not vanish"].sentence
    assert not checks_of(result).passed
    assert "do not trust" in str(result)


def test_tenfold_saturated_logits_are_seen() -> None:
    """Some samples keep a gradient, so that attacks warn of nothing."""
    batches = split(sides(200, 3.0, WIDE), 100)
    result = run(TwoBins(10 * WIDE), batches, [FGSM(0.01), PGD(LinfBall(0.01))])
    sentence = checks_of(result)["gradients do not vanish"].sentence
    assert "gradients do not vanish" in failed(result)
    assert 0 < int(sentence.split()[0]) < 128
    assert "gradients vanish" in checks_of(result).verdict
    assert not checks_of(result).passed


class Cut(TwoBins):
    """Its gradient is cut off."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


def test_a_gradient_that_is_cut_is_named_though_no_attack_asks_for_it() -> None:
    result = run(Cut(), [sides(20)], {"spoiler": Spoiler()})
    check = checks_of(result)["gradients do not vanish"]
    assert check.status == "FAIL"
    assert "cuts the gradient" in check.sentence
    assert "no gradient" in checks_of(result).verdict
    assert not checks_of(result).passed
    with pytest.raises(ValueError, match="cuts the gradient"):
        run(Cut(), [sides(20)], [FGSM(0.1)])


def test_a_model_that_noise_misleads_is_seen() -> None:
    batches = split(sides(200, 2.0), 50)
    result = run(TwoBins(), batches, [FGSM(2.0), PGD(LinfBall(2.0))])
    assert failed(result) == {"noise is harmless"}
    assert "noise does as much" in checks_of(result).verdict


@dataclass(frozen=True)
class Guess(GradientAttack):
    """A search that ends anywhere."""

    def search(self, problem: Any, start: Tensor) -> Tensor:
        """Return the last point."""
        generator = torch.Generator().manual_seed(len(problem.x))
        return problem.set.sample(problem.x, generator)


def test_an_attack_no_better_than_noise_is_seen() -> None:
    result = run(TwoBins(), [sides(100)], {"guess": Guess(0.1)})
    assert status(result, "guess")["attack beats noise"] == "FAIL"
    assert "no better than noise" in result["guess"].flags
    assert "objective rises" in failed(result)


# ---- networks that draw -----------------------------------------------------------------------


class Restless(TwoBins):
    """Random in eval mode."""

    def __init__(self, weight: Tensor, scale: float) -> None:
        super().__init__(weight)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.scale * torch.randn_like(x))


def test_a_network_that_is_random_in_eval_mode_is_named_and_averaging_helps() -> None:
    data = split(sides(60, 3.0, WIDE), 30)
    alone = run(Restless(WIDE, 0.05), data, [PGD(LinfBall(0.05))])
    check = checks_of(alone)["same output twice"]
    assert check.status == "FAIL"
    assert "random in eval mode" in check.sentence
    assert "AverageOverDraws" in check.sentence
    assert "network random in eval mode" in checks_of(alone).verdict
    averaged = run(AverageOverDraws(Restless(WIDE, 0.05), 100), data, [PGD(LinfBall(0.05))])

    def largest(result: Evaluation) -> float:
        words = checks_of(result)["same output twice"].sentence.split()
        return float(words[words.index("to") + 1])

    assert largest(averaged) < 0.3 * largest(alone)
    quiet = run(AverageOverDraws(TwoBins(WIDE), 3), data, [PGD(LinfBall(0.05))])
    assert checks_of(quiet)["same output twice"].status == "pass"


# ---- few samples, switches, files ---------------------------------------------------------------


def test_the_checks_take_the_first_samples_and_can_be_switched_off() -> None:
    attacks = [PGD(LinfBall(0.1))]
    assert run(TwoBins(), [sides(20)], attacks, checks=False).checks is None
    few = run(TwoBins(), split(sides(20), 8), attacks, check_samples=10)
    assert checks_of(few).samples == 10
    assert "(10 samples)" in checks_of(
        run(TwoBins(), split(sides(20), 8), attacks, check_samples=10, noise=0.3)
    )["attack beats noise"].sentence  # fmt: skip
    single = run(TwoBins(), [sides(1)], [FGSM(0.1), PGD(LinfBall(0.1))])
    assert status(single, "PGD-10 0.1")["converged"] == "not checked"
    assert not checks_of(single).passed
    assert single["clean"].bias_error is None


def test_the_kept_samples_are_the_first_and_copies() -> None:
    """A loader that reuses its memory spoils no check."""
    x, z = sides(40)
    memory = [torch.empty(10, 3), torch.empty(10)]

    def loader() -> Any:
        for rows in range(0, 40, 10):
            for held, value in zip(memory, (x, z), strict=True):
                held.copy_(value[rows : rows + 10])
            yield tuple(memory)

    attacks = [PGD(LinfBall(0.1))]
    reused = run(TwoBins(), loader(), attacks, check_samples=25)
    assert reused.checks == run(TwoBins(), split((x, z), 10), attacks, check_samples=25).checks


def test_checks_read_and_write_themselves() -> None:
    checks = Checks(
        (
            Check("same output twice", "pass", "0."),
            Check("converged", "FAIL", "It is not.", "PGD", "not converged"),
            Check("uses its room", "not checked", "Unknown.", "mine"),
        ),
        5,
    )
    assert Checks.from_dict(dataclasses.asdict(checks)) == checks
    assert checks.flags("PGD") == ("not converged",)
    assert checks.flags("mine") == ("not checked",)
    assert checks.flags("other") == ()
    assert checks["converged"].attack == "PGD"
    with pytest.raises(KeyError, match="no check 'speed'; the checks are"):
        checks["speed"]
    assert str(checks).splitlines()[2] == "  FAIL         converged, PGD: It is not."
    markdown = checks.to_markdown()
    assert markdown.startswith("Checks: do not trust these numbers yet: not converged (PGD).")
    assert markdown.count("\n- ") == 3
    assert Checks(checks.checks[:1], 5).passed is False
    good = dataclasses.replace(checks.checks[1], status="pass")
    assert Checks((checks.checks[0], good), 5).passed is True
    assert Checks((*checks.checks[:1], good, checks.checks[2]), 5).passed is False


def test_checks_for_a_network_without_a_pdf() -> None:
    x, _ = sides(60)
    z = 0.3 + torch.linspace(-0.1, 0.1, 60)
    result = run(Estimate(), [(x, z)], [FGSM(0.1), PGD(LinfBall(0.1))], PointEstimate())
    assert status(result)["gradients do not vanish"] == "pass"
    assert status(result, "PGD-10 0.1")["converged"] == "pass"


# ---- gradients beside a search without them ---------------------------------------------------


class Stepped(nn.Module):
    """`TwoBins` of rounded pixels, with a slope of no use left to follow: gradients mislead."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(WIDE.clone())
        self.slope = nn.Parameter(torch.ones(len(WIDE)))

    def forward(self, x: Tensor) -> Tensor:
        s = ((x * 8).round() / 8) @ self.weight + 1e-4 * x @ self.slope
        return torch.stack([s, -s], dim=1)


@pytest.mark.parametrize(("model", "end"), [(TwoBins(WIDE), "pass"), (Stepped(), "FAIL")])
def test_a_search_without_gradients_tells_where_they_are_masked(model: Any, end: str) -> None:
    attacks = {"PGD": PGD(LinfBall(0.3)), "Square": Square(0.3, queries=60)}
    title = "gradients beat a search without"
    result = run(model, [sides(40, 3.0, WIDE)], attacks, check_samples=40)
    assert status(result, "Square")[title] == end
    assert title not in status(result, "PGD")
    assert ("gradients masked (Square)" in checks_of(result).verdict) == (end == "FAIL")
    both = WorstOf(tuple(attacks.values()))
    result = run(model, [sides(40, 3.0, WIDE)], {"both": both}, check_samples=40)
    assert status(result, "both")[title] == end


def test_searches_are_compared_in_one_set_and_on_one_objective_alone() -> None:
    title = "gradients beat a search without"
    for other in (Square(0.2, queries=2), Square(0.3, queries=2, objective=Hill(0.1)), climb):
        attacks = {"PGD": PGD(LinfBall(0.3)), "other": other}
        result = run(TwoBins(WIDE), [sides(20, 3.0, WIDE)], attacks)
        assert title not in {check.name for check in checks_of(result).checks}
