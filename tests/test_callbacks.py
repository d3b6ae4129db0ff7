"""Callbacks: what they are told, and that a resumed training goes on with what they had."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from advphotoz import FGSM
from advphotoz.training import Callback, EarlyStopping, WeightAverage
from trainings import Small, different, loader, make, same


class ValidLosses(Callback):
    """Put given numbers in the place of the validation losses."""

    def __init__(self, losses):
        self.losses = losses

    def after_epoch(self, trainer):
        row = trainer.history[-1]
        row["valid_loss"] = self.losses[int(row["epoch"]) - 1]


def fit(trainer, epochs, callbacks=(), **settings):
    trainer.fit(loader(), epochs=epochs, callbacks=callbacks, progress=False, **settings)
    return trainer


def quick(seed=0, **settings):
    return make(seed, attack=FGSM(0.1), **settings)


@pytest.mark.parametrize(
    ("losses", "settings", "epochs"),
    [
        ([5, 4, 4, 4, 3, 2], {"patience": 2}, 4),
        ([5, 4, 4, 3, 3, 3], {"patience": 2}, 6),
        ([5, 4, 3.9, 3.8, 3.7, 3], {"patience": 2, "min_delta": 0.5}, 4),
        ([5, 4, 3, 2, 1, 0], {"patience": 1}, 6),
        ([5, math.inf, 4, 4, 4, 4], {"patience": 2}, 5),
    ],
)
def test_early_stopping(losses, settings, epochs):
    run = fit(quick(), 6, [ValidLosses(losses), EarlyStopping(**settings)])
    assert run.epoch == epochs
    assert run.stop == (epochs < 6 or losses[-1] == losses[-3])


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_early_stopping_goes_on_counting(at, tmp_path):
    def callbacks():
        return [ValidLosses([5, 4, 4, 4.5, 3, 2]), EarlyStopping(2)]

    path = tmp_path / "run.pt"
    whole = fit(quick(), 6, callbacks())
    fit(quick(), at, callbacks(), checkpoint=path)
    again = fit(quick(seed=5), 6, callbacks(), checkpoint=path)
    assert again.epoch == whole.epoch == 4
    assert different(whole.state_dict(), again.state_dict()) == []
    again.stop = False  # someone wants to go on
    assert fit(again, 5, callbacks()).epoch == 5


def test_early_stopping_needs_a_validation():
    with pytest.raises(ValueError, match="needs a validation loss.*fit with a valid_loader"):
        fit(quick(), 2, [EarlyStopping()])
    with pytest.raises(ValueError, match="patience must be at least 1"):
        EarlyStopping(0)


class Weights(Callback):
    """Keep the weights and statistics after every step."""

    def __init__(self):
        self.steps = []

    def after_step(self, trainer, loss):
        self.steps.append({k: v.clone() for k, v in trainer.model.state_dict().items()})


def test_the_average_is_the_one_by_hand():
    average, weights = WeightAverage(0.8), Weights()
    fit(quick(), 2, [weights, average])
    expected = weights.steps[0]
    for state in weights.steps[1:]:
        for name, value in state.items():
            # Written as in the equation; the number of batches of BatchNorm is an integer.
            new = 0.8 * expected[name].double() + 0.2 * value.double()
            expected[name] = new if value.is_floating_point() else new.to(value.dtype)
    assert len(weights.steps) == 6
    found = average.averaged.module.state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-5, atol=1e-7)
    other = Small()
    average.load_into(other)
    assert same(other.state_dict(), found)
    assert not same(found, weights.steps[-1])


def test_the_average_resumes(tmp_path):
    path = tmp_path / "run.pt"
    whole, again = WeightAverage(0.9), WeightAverage(0.9)
    one = fit(quick(), 4, [whole])
    fit(quick(), 2, [WeightAverage(0.9)], checkpoint=path)
    two = fit(quick(seed=5), 4, [again], checkpoint=path)
    assert different(one.state_dict(), two.state_dict()) == []
    assert same(whole.averaged.state_dict(), again.averaged.state_dict())
    assert not same(whole.averaged.module.state_dict(), one.model.state_dict())
    # The same without an average: it changes nothing of the training.
    assert same(fit(quick(), 4).model.state_dict(), one.model.state_dict())


def test_the_average_refuses():
    for decay in (0, 1, 1.5, math.nan):
        with pytest.raises(ValueError, match="decay must lie between 0 and 1"):
            WeightAverage(decay)
    with pytest.raises(ValueError, match="nothing is averaged yet"):
        WeightAverage().load_into(Small())


def test_one_cycle_per_step_resumes(tmp_path):
    def build(seed=0):
        return quick(
            seed, schedule=lambda o: OneCycleLR(o, 0.01, total_steps=12), scheduler_step="step"
        )

    path = tmp_path / "run.pt"
    whole = fit(build(), 4)
    fit(build(), 2, checkpoint=path)
    again = fit(build(seed=5), 4, checkpoint=path)
    assert different(whole.state_dict(), again.state_dict()) == []
    assert whole.scheduler.last_epoch == 12
    rates = [row["learning_rate"] for row in whole.history]
    assert rates[0] > rates[1] > rates[3]  # up within the first 30 %, then down


@pytest.mark.parametrize(
    ("callbacks", "told"),
    [
        ([], r"fit was given 0 \[\]"),
        ([WeightAverage()], r"fit was given 1 \['WeightAverage'\]"),
        ([EarlyStopping(), WeightAverage()], r"fit was given 2 \['EarlyStopping', 'WeightAverage'"),
        ([WeightAverage()] * 3, "fit was given 3"),
    ],
)
def test_other_callbacks_are_refused(callbacks, told, tmp_path):
    path = tmp_path / "run.pt"
    fit(quick(), 1, [WeightAverage(), EarlyStopping()], checkpoint=path, valid_loader=loader())
    sentence = rf"holds 2 callbacks \['WeightAverage', 'EarlyStopping'\], and {told}.*same order"
    with pytest.raises(ValueError, match=sentence):
        fit(quick(), 2, callbacks, checkpoint=path, valid_loader=loader())
    fit(quick(), 2, [WeightAverage(), EarlyStopping()], checkpoint=path, valid_loader=loader())


class Log(Callback):
    """Write down all that a callback is told, and count its starts."""

    def __init__(self):
        self.started, self.losses, self.rows = 0, [], []

    def start(self, trainer):
        self.started += 1

    def after_step(self, trainer, loss):
        self.losses.append(loss)

    def after_epoch(self, trainer):
        self.rows.append(dict(trainer.history[-1]))

    def state_dict(self):
        return {"losses": self.losses, "rows": self.rows}

    def load_state_dict(self, state):
        self.losses, self.rows = list(state["losses"]), list(state["rows"])


def test_a_log(tmp_path):
    path, first, log = tmp_path / "run.pt", Log(), Log()
    fit(quick(), 2, [first], checkpoint=path, valid_loader=loader())
    run = fit(quick(seed=5), 3, [log], checkpoint=path, valid_loader=loader())
    assert (first.started, log.started) == (1, 1)
    assert len(log.losses) == 9
    assert log.losses[:6] == first.losses
    assert same(log.rows, run.history)
    mean = sum(log.losses[6:]) / 3
    assert run.history[-1]["train_loss"] == pytest.approx(mean)


def test_a_state_waits_for_its_callbacks():
    """Loaded by hand, what callbacks keep is given to them by the next fit."""
    first, log = Log(), Log()
    state = fit(quick(), 2, [first]).state_dict()
    run = quick(seed=5)
    run.load_state_dict(state)
    assert different(run.state_dict(), state) == []
    fit(run, 3, [log])
    assert log.losses[:6] == first.losses
    other = quick()
    other.load_state_dict(state)
    with pytest.raises(ValueError, match="holds 1 callbacks"):
        fit(other, 3)


@pytest.mark.parametrize("callbacks", [EarlyStopping, EarlyStopping(), [EarlyStopping], [print]])
def test_what_is_no_list_of_callbacks(callbacks):
    with pytest.raises(TypeError, match=r"must be a list of Callback, such as \[EarlyStopping\(10"):
        fit(quick(), 1, callbacks)
