"""The worst of several attacks: per sample, under its own objective, and in an evaluation."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch

import advphotoz
from advphotoz import (
    FGSM,
    PGD,
    AdversarialTrainer,
    CrossEntropy,
    L2Ball,
    LinfBall,
    RedshiftError,
    TowardRedshift,
    UniformNoise,
    WorstOf,
    evaluate,
)
from advphotoz.attacks.attack import bind_objective
from advphotoz.testing import check_attack
from problems import BINS, two_inputs

BALL = LinfBall(0.1)
ENTROPY, ERROR = CrossEntropy(BINS), RedshiftError(BINS)
STRONG = WorstOf(
    (PGD(BALL, steps=4, restarts=2, objective=ENTROPY), PGD(BALL, steps=4, objective=ERROR)),
    objective=ERROR,
)


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
        (lambda: WorstOf([FGSM(0.1, targeted=True)]), "TowardRedshift in place of targeted=True"),
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
    assert {part.objective for part in trainer.attack.attacks} == {ENTROPY}
    assert trainer.step((x, *context, z)) > 0
    assert model.training


def run(attacks, **settings):
    torch.manual_seed(1)
    model, x, z, context, _ = two_inputs()
    settings = {"bins": BINS, "progress": False, "bootstrap": 0, **settings}
    return evaluate(model, [(x / 30, *context, z)], attacks, **settings)


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (STRONG, "worst of 2 PGD-4 0.1"),
        (WorstOf([FGSM(0.1), PGD(L2Ball(0.3)), spoil]), "worst of FGSM 0.1, L2-PGD-10 0.3, spoil"),
        (WorstOf([WorstOf([FGSM(0.1)]), FGSM(0.1)]), "worst of 2 FGSM 0.1"),
    ],
)
def test_its_name_and_its_noise(attack, name):
    result = run([attack], sanity=False)
    assert [row.name for row in result.rows] == ["clean", "noise", name]
    assert result["noise"].attack == repr(UniformNoise(0.1))


def test_noise_keeps_the_bounds_of_a_part():
    attack = WorstOf([PGD(L2Ball(0.3)), FGSM(0.1, bounds=(-9, 9))])
    assert run([attack], sanity=False)["noise"].attack == repr(UniformNoise(0.1, bounds=(-9, 9)))


def test_the_checks_of_an_evaluation_understand_it():
    sanity = run({"worst": STRONG}, objective=ERROR).sanity
    named = {check.name: check for check in sanity.checks}
    assert "worst with twice the steps" in named["more steps"].sentence
    assert "worst with twice the eps" in named["larger eps"].sentence
    assert "worst raises the objective" in named["objective rises"].sentence
    assert named["attack beats noise"].passed
    assert "under worst" in named["attack beats noise"].sentence
    mixed = {"worst": WorstOf([FGSM(0.1), PGD(L2Ball(0.3)), spoil])}
    sanity = run(mixed).sanity
    assert sanity["attack beats noise"].passed is None  # no one eps to compare at
    assert sanity["larger eps"].passed
    sanity = run({"no search": WorstOf([spoil, UniformNoise(0.1)])}).sanity
    assert sanity["larger eps"].passed is None


def test_it_is_at_least_as_strong_as_each_part():
    parts = {"entropy": PGD(BALL, objective=ENTROPY), "error": PGD(BALL, objective=ERROR)}
    every = {**parts, "worst": WorstOf(tuple(parts.values()))}
    result = run(every, objective=ERROR, sanity=False)
    worst = result["worst"].objective_after
    assert worst >= max(result[name].objective_after for name in parts)
