"""Validation with an attack of its own, which sees a collapse that the training attack hides."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advphotoz import FGSM, PGD, AdversarialTrainer, CrossEntropy, LinfBall
from problems import BINS

OBJECTIVE = CrossEntropy(BINS)
STRONG = PGD(LinfBall(0.3), steps=8, step_size=0.25, objective=OBJECTIVE)
BLIND_FROM = 6


def data(seed):
    """Return one strong feature that an attack cannot turn, and many weak ones that it can."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(2, (256,), generator=generator) * 0.9 + 0.02
    sign = torch.where(z > 0.5, 1.0, -1.0)[:, None]
    noise = torch.randn(256, 40, generator=generator)
    strong = sign + 0.6 * noise[:, :1]
    return torch.cat([strong, 0.2 * sign + 0.3 * noise[:, 1:]], 1), z


class GoesBlind:
    """An attack that works, and after some epochs no longer moves a pixel: a collapse, on order."""

    def __init__(self):
        self.trainer = None

    def __call__(self, model, x, target, context=(), generator=None):
        if self.trainer.epoch >= BLIND_FROM:
            return x.clone()
        return STRONG(model, x, target, context, generator)


def train(valid_attack, epochs=9):
    torch.manual_seed(1)
    model = nn.Linear(40, BINS.n)
    attack = GoesBlind()
    attack.trainer = run = AdversarialTrainer(
        model,
        torch.optim.Adam(model.parameters(), lr=0.05),
        attack,
        fraction=1.0,
        objective=OBJECTIVE,
        valid_attack=valid_attack,
    )
    run.fit([data(0)] * 10, [data(1)], epochs=epochs, progress=False)
    return run


def robust_loss(run):
    x, z = data(2)
    with torch.no_grad():
        return OBJECTIVE(run.model(STRONG(run.model, x, z)), z).mean().item()


def test_the_guard_returns_the_weights_from_before_a_collapse():
    guarded, unguarded = train(STRONG), train(None)
    # The same training, seen by another attack.
    assert [row["train_loss"] for row in guarded.history] == [
        row["train_loss"] for row in unguarded.history
    ]
    collapsed = robust_loss(guarded)
    assert guarded.best_epoch == BLIND_FROM
    assert unguarded.best_epoch > BLIND_FROM
    guarded.load_best()
    unguarded.load_best()
    assert robust_loss(guarded) < 0.8 * min(collapsed, robust_loss(unguarded))


def test_the_share_of_attacked_samples_is_that_of_the_training():
    seen = []

    def counting(model, x, target, context=(), generator=None):
        seen.append(len(x))
        return x

    model = nn.Linear(40, BINS.n)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = AdversarialTrainer(
        model, optimizer, FGSM(0.1), 0.25, objective=OBJECTIVE, valid_attack=counting
    )
    run.fit([data(0)], [data(1)], epochs=1, progress=False)
    assert seen == [64]


def test_a_valid_attack_takes_the_trainers_objective():
    model = nn.Linear(40, BINS.n)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def trainer(fraction=0.5, **settings):
        return AdversarialTrainer(model, optimizer, FGSM(0.1), fraction, OBJECTIVE, **settings)

    weak = trainer(valid_attack=PGD(LinfBall(0.1)))
    assert weak.valid_loss.attack == PGD(LinfBall(0.1), objective=OBJECTIVE)
    assert weak.loss.attack == FGSM(0.1, objective=OBJECTIVE)
    both = trainer()
    assert both.valid_loss is both.loss
    with pytest.raises(ValueError, match="valid_attack would attack nothing"):
        trainer(fraction=0, valid_attack=FGSM(0.1))


def test_epochs_without_a_validation_loss_do_not_hide_the_best():
    model = nn.Linear(40, BINS.n)
    run = AdversarialTrainer(model, torch.optim.SGD(model.parameters(), lr=0.1), None, 0, OBJECTIVE)
    run.fit([data(0)], epochs=1, progress=False)
    run.fit([data(0)], [data(1)], epochs=2, progress=False)
    assert run.best_epoch == 2
    run.load_best()
