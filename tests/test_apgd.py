"""Auto-PGD against a transcription of its rules for one sample, and its contract."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advphotoz import (
    APGD,
    PGD,
    CrossEntropy,
    L2Ball,
    LinfBall,
    SignedRedshift,
    ZeroPoint,
    evaluate,
)
from advphotoz.testing import check_attack
from problems import BINS, Linear, two_inputs


def wiggly(seed=0):
    """A network whose objective has ridges: steps are halved for all reasons there are."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(6, 6, 3, stride=2),
        nn.SiLU(),
        nn.Flatten(),
        nn.Linear(54, BINS.n),
    ).double()
    for parameter in model.parameters():
        parameter.data *= 3
    return model.eval(), torch.randn(12, 2, 8, 8).double(), torch.rand(12)


def checkpoints(n):
    """The steps after which the search looks back, as the authors' code counts them."""
    found, width = [0], max(int(0.22 * n), 1)
    while found[-1] <= n:
        found.append(found[-1] + width)
        width = max(width - max(int(0.03 * n), 1), max(int(0.06 * n), 1))
    return found


def by_hand(value_of, project, unit, start, n):
    """Auto-PGD for one sample in plain words, all of its past kept in lists.

    Croce & Hein 2020, Algorithm 1, but for three things in which their code differs from it: a step
    is kept above 75 % and not at 75 %, checkpoints are rounded down, and after a restart the next
    step counts as a rise if it is above the point that was left, not above the best one. Written by
    reading, with none of their or our lines. Returns the points 1 to n, their values, and why steps
    were halved.
    """

    def look(p):
        p = p.clone().requires_grad_()
        value = value_of(p)
        (slope,) = torch.autograd.grad(value, p)
        return float(value.detach()), slope

    value, slope = look(start)
    values, everywhere = [value], [(value, start, slope)]
    here, there, eta = start, start, 2.0
    best_at, halved_at, reasons = {0: value}, {0}, []
    marks = checkpoints(n)
    for k in range(1, n + 1):
        target = project(here + eta * unit(slope))
        new = target if k == 1 else project(here + 0.75 * (target - here) + 0.25 * (here - there))
        there, here = here, new
        value, slope = look(here)
        values.append(value)
        everywhere.append((value, here, slope))
        if k not in marks:
            continue
        last = marks[marks.index(k) - 1]
        rises = sum(values[i] > values[i - 1] for i in range(last + 1, k + 1))
        best_value, best_point, best_slope = max(everywhere, key=lambda point: point[0])
        few = rises <= 0.75 * (k - last)
        stuck = last not in halved_at and best_value == best_at[last]
        best_at[k] = best_value
        if few or stuck:
            halved_at.add(k)
            reasons.append("few" if few else "stuck")
            eta, here, slope = eta / 2, best_point, best_slope
    return [point for _, point, _ in everywhere[1:]], values[1:], reasons


CASES = [
    (LinfBall(0.3), CrossEntropy(BINS)),
    (LinfBall([0.2, 0.4], bounds=(-4, 4)), SignedRedshift(BINS, sign=-1)),
    (L2Ball(2.0), SignedRedshift(BINS)),
    (L2Ball([1.0, 2.0]), CrossEntropy(BINS)),
    (ZeroPoint(0.3), SignedRedshift(BINS)),
]


def alone(ball, objective, n, model, x, z):
    return by_hand(
        lambda p: objective(model(ball.apply(x, (), p)[0]), z)[0],
        lambda p: ball.project(x, p),
        ball.steepest,
        ball.identity(x),
        n,
    )


def compare(ball, objective, steps, model, x, z):
    """Compare the search with the transcription; return why that halved its steps."""
    every = set()
    for n in steps:
        found = APGD(ball, steps=n, objective=objective).find(model, x, z)
        for i in range(len(x)):
            points, values, reasons = alone(ball, objective, n, model, x[i : i + 1], z[i : i + 1])
            every |= set(reasons)
            best = max(range(n), key=lambda k: values[k])
            torch.testing.assert_close(found.value[i].item(), values[best])
            torch.testing.assert_close(found.parameters[i : i + 1], points[best])
    return every


@pytest.mark.parametrize(("ball", "objective"), CASES, ids=repr)
def test_it_is_the_search_written_out_for_one_sample(ball, objective):
    model, x, z = wiggly()
    compare(ball, objective, (1, 2, 7, 20, 35), model, x[:2], z[:2])


def test_a_step_is_halved_too_where_the_best_has_not_moved():
    # The rarer reason: steps rise, but from below the best point. It needs a rough objective, and
    # of these samples two have no rise above their start before the first checkpoint.
    torch.manual_seed(2)
    x, waves = torch.randn(500, 3).double()[110:122], torch.randn(3, 8).double() * 6
    rough = lambda output, target: (output @ waves).sin().sum(1)  # noqa: E731
    for ball in (LinfBall(1.0), L2Ball(1.0)):
        reasons = compare(ball, rough, (12, 24), nn.Identity(), x, torch.zeros(12))
        assert reasons == {"few", "stuck"}


@pytest.mark.parametrize("ball", [LinfBall(0.1), L2Ball(0.1), LinfBall([0.1, 0.2, 0.1, 0.1, 0.1])])
def test_contract(ball):
    check_attack(APGD(ball, steps=4), ball)


def test_contract_of_physical_sets_restarts_and_the_last_point():
    check_attack(APGD(ZeroPoint(0.1), steps=3, random_start=True, restarts=2))
    check_attack(APGD(0.1, steps=3, keep="last"))


def test_linear_closed_form():
    torch.manual_seed(0)
    model = Linear(3, 4, 4).double()
    x, w = torch.randn(5, 3, 4, 4).double(), model.weight.data
    objective = lambda output, target: output - 1e6  # negative everywhere  # noqa: E731
    for steps in (1, 5, 30):
        x_adv = APGD(0.5, steps=steps, objective=objective)(model, x, torch.zeros(5))
        torch.testing.assert_close(x_adv, x + 0.5 * w.sign().expand_as(x))
        x_adv = APGD(L2Ball(0.5), steps=steps, objective=objective)(model, x, torch.zeros(5))
        torch.testing.assert_close(x_adv, x + 0.5 * (w / w.norm()).expand_as(x))


def test_an_objective_may_be_shifted():
    """A constant changes no search; one that compares with zero would take other steps."""
    model, x, z = wiggly()
    plain = CrossEntropy(BINS)
    found = [
        APGD(0.3, steps=12, objective=lambda o, t, c=c: plain(o, t) + c).find(model, x, z)
        for c in (0.0, -1024.0)
    ]
    assert torch.equal(found[0].x, found[1].x)


def test_it_counts_its_gradients():
    model, x, z, context, objective = two_inputs()
    calls = []
    model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    APGD(0.1, steps=9, objective=objective)(model, x, z, context=context)
    assert calls == [True] * 9 + [False]


def test_a_sound_search_gets_stronger_with_steps_and_beats_pgd_of_as_many():
    model, x, z = wiggly(2)
    x, z = x.repeat(4, 1, 1, 1) + 0.2 * torch.randn(48, 2, 8, 8), z.repeat(4)
    objective = CrossEntropy(BINS)

    def mean(attack):
        return attack.find(model, x, z).value.mean().item()

    few, more = (mean(APGD(0.3, steps=n, objective=objective)) for n in (5, 40))
    assert few < more
    paper = mean(PGD(0.3, steps=40, step_size=0.1, keep="last", objective=objective))
    assert more > paper


def test_evaluation_can_ask_it():
    model, x, z = wiggly()
    result = evaluate(model, [(x, z)], [APGD(0.1)], BINS, progress=False, bootstrap=0)
    assert [row.name for row in result.rows] == ["clean", "noise", "APGD-20 0.1"]
    assert result.checks["converged"].status != "not checked"
    assert APGD(0.1).deepened() == APGD(0.1, steps=40)
    assert APGD(0.1).scaled(2) == APGD(0.2)


def test_bad_settings():
    with pytest.raises(ValueError, match="steps must be at least 1"):
        APGD(0.1, steps=0)
    with pytest.raises(ValueError, match="has no objective"):
        APGD(0.1)(*two_inputs()[:3])
