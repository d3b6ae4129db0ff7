"""The worst of several attacks: per sample, under its own objective, and in an evaluation."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch

import advphotoz
from advphotoz import (
    APGD,
    FGSM,
    PGD,
    AdversarialTrainer,
    CrossEntropy,
    L2Ball,
    LinfBall,
    RedshiftError,
    Square,
    TowardRedshift,
    UniformNoise,
    WorstOf,
    ZeroPoint,
    evaluate,
)
from advphotoz.attacks import Budget, SampleGenerators
from advphotoz.attacks.contract import attack_name, bind_objective, perturbations_of
from advphotoz.models import AverageOverDraws
from advphotoz.testing import check_attack
from problems import BINS, two_inputs

BALL = LinfBall(0.1)
ENTROPY, ERROR = CrossEntropy(BINS), RedshiftError(BINS)
STRONG = WorstOf(
    (PGD(BALL, steps=4, restarts=2, objective=ENTROPY), PGD(BALL, steps=4, objective=ERROR)),
    objective=ERROR,
)


def seeds(n):
    return SampleGenerators(range(n))


def values(model, images, z, context, objective):
    with torch.no_grad():
        return objective(model(images, *context), z)


@pytest.mark.parametrize(
    "attack",
    [
        STRONG,
        WorstOf([FGSM(0.1), PGD(BALL, steps=2), UniformNoise(0.1)]),
        WorstOf([WorstOf([FGSM(0.1)]), PGD(BALL, eval_mode=False, random_start=True, steps=2)]),
        WorstOf([PGD(BALL, steps=2), PGD(BALL, steps=2, objective=ENTROPY)], ERROR),
    ],
    ids=repr,
)
def test_contract(attack):
    check_attack(attack, BALL)


def test_contract_of_a_worst_of_several_sets():
    check_attack(WorstOf([FGSM(0.1), FGSM(ZeroPoint(0.1)), UniformNoise(L2Ball(0.1))]))
    check_attack(WorstOf([FGSM(ZeroPoint(0.1)), PGD(ZeroPoint(0.1), steps=2)]))


def test_every_sample_keeps_the_largest_objective():
    model, x, z, context, _ = two_inputs()
    model.eval()
    parts = [
        FGSM(20.0, objective=TowardRedshift(0.9, BINS)),
        FGSM(20.0, objective=TowardRedshift(0.1, BINS)),
        FGSM(1.0, objective=ERROR),
    ]
    found = torch.stack([part(model, x, z, context=context) for part in parts])
    each = torch.stack([values(model, images, z, context, ERROR) for images in found])
    best = each.argmax(0)
    assert len(best.unique()) > 1  # else any one of them would do
    x_adv = WorstOf(parts, objective=ERROR)(model, x, z, context=context)
    assert torch.equal(x_adv, found[best, torch.arange(len(x))])
    x_adv = WorstOf(parts[::-1], objective=ERROR)(model, x, z, context=context)
    assert torch.equal(x_adv, found[best, torch.arange(len(x))])
    # Judged by another objective, other images are kept.
    other = TowardRedshift(0.1, BINS)
    each = torch.stack([values(model, images, z, context, other) for images in found])
    assert (each.argmax(0) != best).any()
    x_adv = WorstOf(parts, objective=other)(model, x, z, context=context)
    assert torch.equal(x_adv, found[each.argmax(0), torch.arange(len(x))])


def test_of_equals_the_first_is_kept():
    model, x, z, context, _ = two_inputs()
    flat = WorstOf([FGSM(0.1, objective=ENTROPY), UniformNoise(0.1)], lambda y, z: 0 * z)
    plain = FGSM(0.1, objective=ENTROPY)(model, x, z, context=context)
    assert torch.equal(flat(model, x, z, context=context), plain)


def test_attacks_without_an_objective_take_that_of_their_caller():
    own = FGSM(0.1, objective=ENTROPY)
    free, noise = PGD(BALL), UniformNoise(0.1)
    assert WorstOf([free, own, noise]).attacks == (free, own, noise)
    bound = bind_objective(WorstOf([WorstOf([free]), own, noise]), ERROR)
    assert bound.objective == ERROR
    assert bound.attacks == (WorstOf([PGD(BALL, objective=ERROR)], ERROR), own, noise)
    assert WorstOf([free], ERROR) == WorstOf([PGD(BALL, objective=ERROR)], ERROR)
    assert bind_objective(WorstOf([free], ERROR), ENTROPY) == WorstOf([free], ERROR)


def test_it_is_a_value():
    again = eval(repr(STRONG), vars(advphotoz))
    assert again == STRONG == pickle.loads(pickle.dumps(STRONG))
    assert hash(again) == hash(STRONG)
    assert WorstOf([FGSM(0.1)]) != WorstOf([FGSM(0.2)])
    with pytest.raises(dataclasses.FrozenInstanceError):
        STRONG.objective = None


def spoil(model, x, target, context=(), generator=None):
    return x.add_(1.0)


def test_an_attack_that_works_in_place_spoils_no_other():
    model, x, z, context, _ = two_inputs()
    before = x.clone()
    x_adv = WorstOf([spoil, FGSM(0.1)], ENTROPY)(model, x, z, context=context)
    assert torch.equal(x, before)
    alone = FGSM(0.1, objective=ENTROPY)(model, x, z, context=context)
    for one, other, start in zip(x_adv, alone, x, strict=True):
        assert torch.equal(one, other) or torch.equal(one, start + 1)


def test_empty_batch():
    model, x, z, context, _ = two_inputs()
    assert STRONG(model, x[:0], z[:0], context=(context[0][:0],)).shape == (0, 5, 16, 16)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: WorstOf(FGSM(0.1)), "needs a sequence of attacks"),
        (lambda: WorstOf({FGSM(0.1)}), "needs a sequence of attacks"),
        (lambda: WorstOf([]), "at least one attack"),
        (lambda: WorstOf([FGSM]), "must be callable as attack"),
        (lambda: WorstOf([0.1]), "must be callable as attack"),
    ],
)
def test_bad_settings(make, match):
    with pytest.raises((ValueError, TypeError), match=match):
        make()


def test_bad_results():
    model, x, z, context, _ = two_inputs()
    shrunk = WorstOf([lambda model, x, *rest: x[:1], FGSM(0.1)], ENTROPY)
    with pytest.raises(ValueError, match="must return images like x, torch.float32 of shape"):
        shrunk(model, x, z, context=context)
    broken = WorstOf(
        [UniformNoise(0.1)] * 2, lambda y, z: torch.where(z > z.median(), z, torch.nan)
    )
    with pytest.raises(ValueError, match="objective is NaN for 3 of 6 samples"):
        broken(model, x, z, context=context)


def test_training_against_it():
    model, x, z, context, _ = two_inputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    attack = WorstOf([FGSM(0.1), PGD(BALL, steps=2)])
    trainer = AdversarialTrainer(model, optimizer, attack, 0.5, objective=ENTROPY)
    assert {part.objective for part in trainer.loss.attack.attacks} == {ENTROPY}
    assert trainer.step((x, *context, z)) > 0
    assert model.training


def run(attacks, **settings):
    torch.manual_seed(1)
    model, x, z, context, _ = two_inputs()
    settings = {"objective": ENTROPY, "progress": False, "bootstrap": 0, **settings}
    return evaluate(model, [(x / 30, *context, z)], attacks, BINS, **settings)


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (STRONG, "worst of PGD-4 x 2 0.1, PGD-4 0.1"),
        (WorstOf([FGSM(0.1), PGD(L2Ball(0.3)), spoil]), "worst of FGSM 0.1, PGD-10 L2 0.3, spoil"),
        (WorstOf([FGSM(0.1, objective=ERROR), FGSM(0.1)]), "worst of 2 FGSM 0.1"),
        (WorstOf([WorstOf([FGSM(0.1)]), FGSM(0.2)]), "worst of worst of FGSM 0.1, FGSM 0.2"),
    ],
)
def test_its_name_and_its_noise(attack, name):
    assert attack_name(attack) == name
    result = run([attack], checks=False, noise=0.1)
    assert [row.name for row in result.rows] == ["clean", "noise", name]


def test_its_set_is_that_of_its_parts_where_they_agree():
    assert perturbations_of(STRONG) == BALL
    assert perturbations_of(WorstOf([FGSM(0.1), FGSM(0.2)])) is None
    assert perturbations_of(WorstOf([FGSM(0.1), spoil])) is None
    assert STRONG.scaled(2).set == LinfBall(0.2)
    assert [part.steps for part in STRONG.deepened().attacks] == [8, 8]
    assert WorstOf([FGSM(0.1), spoil]).scaled(2) is None
    assert WorstOf([FGSM(0.1), spoil]).deepened() is None
    part = WorstOf([FGSM(0.1), PGD(BALL), spoil])
    assert part.deepened() == WorstOf([FGSM(0.1), PGD(BALL, steps=20), spoil])


def test_it_tells_how_large_and_how_bad_each_worst_is():
    model, x, z, context, _ = two_inputs()
    model.eval()
    parts = [FGSM(ZeroPoint(0.3), objective=ERROR), PGD(BALL, steps=3, objective=ERROR)]
    found = WorstOf(parts, ERROR).find(model, x, z, context=context)
    each = [part.find(model, x, z, context=context) for part in parts]
    best = torch.stack([values(model, f.x, z, context, ERROR) for f in each]).argmax(0)
    rows = torch.arange(len(x))
    assert torch.equal(found.x, torch.stack([f.x for f in each])[best, rows])
    assert torch.equal(found.size, torch.stack([f.size for f in each])[best, rows])
    torch.testing.assert_close(found.value, values(model, found.x, z, context, ERROR))
    assert found.parameters is None  # of several sets
    assert found.rising is None  # a single step cannot say
    longer = WorstOf([PGD(BALL, steps=2), PGD(BALL, steps=3)], ERROR)
    assert longer.find(model, x, z, context=context).rising.dtype == torch.bool


def test_the_checks_of_an_evaluation_understand_it():
    checks = run({"worst": STRONG}, objective=ERROR).checks
    named = {check.name: check for check in checks.checks if check.attack == "worst"}
    assert "twice the steps change the mean objective" in named["converged"].sentence
    assert "twice the budget changes the mean objective" in named["larger set"].sentence
    assert named["objective rises"].status == "pass"
    assert named["attack beats noise"].status == "pass"
    mixed = run({"mixed": WorstOf([FGSM(0.1), PGD(L2Ball(0.3))])}).checks
    assert mixed["attack beats noise"].status == "not checked"  # no one set to compare with
    assert mixed["larger set"].status == "pass"
    mixed = run({"no search": WorstOf([spoil, UniformNoise(0.1)])}).checks
    assert mixed["larger set"].status == "not checked"


def test_it_is_at_least_as_strong_as_each_part():
    parts = {"entropy": PGD(BALL, objective=ENTROPY), "error": PGD(BALL, objective=ERROR)}
    every = {**parts, "worst": WorstOf(tuple(parts.values()))}
    result = run(every, objective=ERROR, checks=False)
    worst = result["worst"].objective_after
    assert worst >= max(result[name].objective_after for name in parts)


# ---- a title, an end, draws -------------------------------------------------------------------


def test_a_title_names_it_and_its_set():
    named = dataclasses.replace(STRONG, title="ours 1")
    assert attack_name(named) == "ours 1 0.1"
    assert attack_name(named.scaled(2)) == "ours 1 0.2"
    assert attack_name(WorstOf([FGSM(0.1), FGSM(0.2)], title="ours 1")) == "ours 1"
    assert named.deepened().title == ""  # the title is that of the attacks as they are
    assert eval(repr(named), vars(advphotoz)) == named != STRONG


def test_enough_leaves_a_sample_alone_once_it_is_beyond():
    model, x, z, context, _ = two_inputs()
    model.eval()
    parts = [FGSM(0.1), PGD(BALL, steps=3), UniformNoise(0.1)]
    clean = values(model, x, z, context, ERROR)
    limit = clean.median().item()
    found = WorstOf(parts, ERROR, enough=limit).find(model, x, z, context, seeds(6))
    done = clean > limit
    assert done.any()
    assert not done.all()
    assert torch.equal(found.x[done], x[done])
    torch.testing.assert_close(found.value, values(model, found.x, z, context, ERROR))
    assert bool((found.size[done] == 0).all())
    # A limit that none reaches: everything meets every attack, and draws as it does without.
    plain = WorstOf(parts, ERROR).find(model, x, z, context, seeds(6))
    never = WorstOf(parts, ERROR, enough=1e9).find(model, x, z, context, seeds(6))
    assert torch.equal(never.x, plain.x)
    assert torch.equal(never.value, plain.value)
    noises = [UniformNoise(20.0), UniformNoise(20.0)]  # one after the other, not the same twice
    plain, never, first = (
        WorstOf(attacks, ERROR, enough=enough).find(model, x, z, context, seeds(6)).x
        for attacks, enough in ((noises, None), (noises, 1e9), (noises[:1], None))
    )
    assert torch.equal(never, plain)
    assert not torch.equal(plain, first)
    # One that all are beyond: nothing is attacked.
    model.register_forward_hook(lambda *_: calls.append(1))
    calls = []
    assert torch.equal(WorstOf(parts, ERROR, enough=-1)(model, x, z, context), x)
    assert calls == [1]


def test_enough_stops_in_the_middle_and_never_keeps_the_unchanged():
    model, x, z, context, _ = two_inputs()
    model.eval()
    x = x / 30  # nothing is saturated
    down, up = FGSM(1.0, objective=TowardRedshift(0.1, BINS)), FGSM(1.0, objective=ERROR)
    first = values(model, down(model, x, z, context), z, context, ERROR)
    clean = values(model, x, z, context, ERROR)
    limit = max(first.median().item(), clean.max().item())
    found = WorstOf([down, up], ERROR, enough=limit).find(model, x, z, context)
    beyond = first > limit
    assert beyond.any()
    assert torch.equal(found.x[beyond], down(model, x, z, context)[beyond])
    # A search that lowers the objective does not fall back to the image itself.
    lowers = FGSM(0.1, objective=lambda output, target: -ERROR(output, target))
    found = WorstOf([lowers], ERROR, enough=1e9).find(model, x, z, context)
    assert torch.equal(found.x, lowers(model, x, z, context))
    assert bool((found.value < clean).any())


class Noisy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = two_inputs()[0]
        self.calls = 0

    def forward(self, x, ebv):
        self.calls += len(x)
        return self.inner(x + 20 * torch.randn_like(x), ebv)


def test_draws_are_averaged_over():
    _, x, z, context, _ = two_inputs()
    model = Noisy().eval()
    WorstOf([FGSM(0.1), FGSM(0.1)], ERROR, draws=5)(model, x, z, context)
    assert model.calls == 5 * 6 * (1 + 1 + 1 + 1 + 1 + 1)  # gradient, value there, comparison
    one, many = (
        WorstOf([PGD(BALL, steps=2)], ERROR, draws=n).find(model, x, z, context).value
        for n in (1, 40)
    )
    averaged = AverageOverDraws(model, 40)
    again = FGSM(0.1, objective=ERROR).find(averaged, x, z, context).value
    assert (many - again).abs().mean() < (one - again).abs().mean()
    with pytest.raises(ValueError, match="draws must be at least 1"):
        WorstOf([FGSM(0.1)], draws=0)
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        WorstOf([FGSM(0.1)], ERROR, draws=2)(lambda x, e: x, x, z, context)


def test_what_its_parts_say_of_gradients_and_cost():
    square = Square(0.1, queries=9)
    mixed = WorstOf([FGSM(0.1), square, UniformNoise(0.1), APGD(0.1, steps=3)], ERROR)
    assert mixed.follows_gradients is True
    assert mixed.only(True).attacks == (mixed.attacks[0], mixed.attacks[3])
    assert mixed.only(False).attacks == (mixed.attacks[1],)  # noise is no search
    assert WorstOf([square]).follows_gradients is False
    assert WorstOf([square, spoil]).follows_gradients is None
    assert WorstOf([square]).only(True) is None
    assert mixed.budget is None  # FGSM does not say
    told = WorstOf([square, APGD(0.1, steps=3, restarts=2)], ERROR, draws=2, enough=1.0)
    assert told.budget == Budget(gradients=2 * 6, forward=2 * (9 + 2 + 2 + 1))
