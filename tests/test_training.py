"""Algorithm 1: what is mixed, what is trained, and that a resumed training is the same training."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

from advphotoz import (
    FGSM,
    PGD,
    AdversarialTrainer,
    CrossEntropy,
    LinfBall,
    PointEstimate,
    RedshiftError,
    mix_adversarial,
)
from advphotoz.attacks import Found
from advphotoz.batch import Indexed
from advphotoz.datasets import MappedLoader, random_dihedral
from advphotoz.perturbations import PerturbationSet
from advphotoz.training import MixedLoss, Trainer, WarmStart
from problems import BINS, TwoInputs
from trainings import OBJECTIVE, Small, different, same

ATTACK = FGSM(0.1, objective=OBJECTIVE)


def batch(n=10):
    x, ebv = torch.randn(n, 5, 16, 16), torch.rand(n)
    return x, ebv, torch.rand(n)


def trainer(model=None, fraction=0.5, attack=ATTACK, **settings):
    model = TwoInputs() if model is None else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return AdversarialTrainer(model, optimizer, attack, fraction, objective=OBJECTIVE, **settings)


def loader(n=24, seed=1, size=8):
    generator = torch.Generator().manual_seed(9)
    data = TensorDataset(
        torch.randn(n, 5, 16, 16, generator=generator),
        torch.rand(n, generator=generator),
        torch.rand(n, generator=generator),
    )
    shuffle = torch.Generator().manual_seed(seed)
    return DataLoader(data, size, shuffle=True, generator=shuffle)


def validation():
    return list(loader(16, seed=2))


@pytest.mark.parametrize(
    ("fraction", "rows"), [(0, 0), (0.04, 0), (0.05, 0), (0.2, 2), (0.36, 4), (1, 10)]
)
def test_round_fraction_of_the_rows_is_replaced(fraction, rows):
    x, ebv, z = batch()
    model = TwoInputs()
    mixed, same_ebv, same_z = mix_adversarial(model, (x, ebv, z), ATTACK, fraction)
    changed = (mixed != x).flatten(1).any(1)
    assert int(changed.sum()) == rows == round(fraction * 10)
    assert torch.equal(same_ebv, ebv)
    assert torch.equal(same_z, z)
    # The replaced rows are what the attack makes of just these rows.
    crafted = ATTACK(model, x, z, context=(ebv,))
    torch.testing.assert_close(mixed[changed], crafted[changed], atol=1e-6, rtol=0)


def test_rows_are_random_and_repeatable():
    model, full = TwoInputs(), batch()

    def rows(seed):
        generator = torch.Generator().manual_seed(seed)
        mixed = mix_adversarial(model, full, ATTACK, 0.5, generator)[0]
        return (mixed != full[0]).flatten(1).any(1)

    assert torch.equal(rows(0), rows(0))
    assert len({tuple(rows(seed).tolist()) for seed in range(8)}) > 4


def test_mix_leaves_batch_and_model_alone():
    model, full = TwoInputs().train(), batch()
    before = [value.clone() for value in full]
    state = copy.deepcopy(model.state_dict())
    mixed = mix_adversarial(model, full, PGD(LinfBall(0.1), steps=2, objective=OBJECTIVE), 0.5)
    assert all(torch.equal(a, b) for a, b in zip(full, before, strict=True))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert model.training
    assert not mixed[0].requires_grad


@pytest.mark.parametrize("fraction", [-0.1, 1.1, 20, math.nan, "half"])
def test_bad_fraction(fraction):
    with pytest.raises((ValueError, TypeError), match=r"\[0, 1\]"):
        mix_adversarial(TwoInputs(), batch(), ATTACK, fraction)
    with pytest.raises((ValueError, TypeError), match=r"\[0, 1\]"):
        trainer(fraction=fraction)


def test_step_is_algorithm_1_written_out():
    """One step equals: craft half of the batch at these weights, then one plain gradient step."""
    model = TwoInputs()
    by_hand = copy.deepcopy(model)
    run = trainer(model)
    full = batch()
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=1e-3)
    mixed = mix_adversarial(by_hand, full, ATTACK, 0.5, torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    loss = nn.functional.cross_entropy(by_hand(*mixed[:-1]), BINS.index(mixed[-1]))
    loss.backward()
    optimizer.step()
    torch.manual_seed(3)
    assert run.step(full) == pytest.approx(loss.item(), rel=1e-6)
    for a, b in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_attack_without_objective_takes_the_trainers():
    assert trainer(attack=FGSM(0.1)).loss.attack == FGSM(0.1, objective=OBJECTIVE)
    own = FGSM(0.1, objective=RedshiftError(BINS))
    assert trainer(attack=own).loss.attack == own

    def plain_function(model, x, target, context=(), generator=None):
        return x + 0.1

    assert trainer(attack=plain_function).loss.attack is plain_function


def test_adversarial_training_defends_a_small_network():
    """On a separable problem, training with attacks must lower the loss under attack."""
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(256, generator=generator)
    x = 0.3 * torch.randn(256, 2, 4, 4, generator=generator) + z.view(-1, 1, 1, 1)
    losses = {}
    for fraction in (0.0, 0.5):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, BINS.n))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        attack = PGD(LinfBall(0.2), steps=5, step_size=0.5, objective=OBJECTIVE)
        run = AdversarialTrainer(model, optimizer, attack, fraction, objective=OBJECTIVE)
        run.fit([(x, z)], epochs=200, progress=False)
        x_adv = attack(model, x, z)
        losses[fraction] = OBJECTIVE(model(x_adv), z).mean().item()
    assert losses[0.5] < 0.8 * losses[0.0]


def test_frozen_layers_stay_frozen():
    model = TwoInputs().train()
    model.norm.eval()
    model.conv.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    trainer(model).fit(loader(), validation(), epochs=1, progress=False)
    assert model.training
    assert not model.norm.training
    for name in ("norm.running_mean", "norm.running_var", "conv.weight"):
        assert torch.equal(model.state_dict()[name], before[name])
    assert not torch.equal(model.state_dict()["fc.weight"], before["fc.weight"])


def test_a_model_in_eval_mode_is_trained_in_train_mode():
    model = TwoInputs().eval()
    trainer(model).fit(loader(), epochs=1, progress=False)
    assert model.training


def make(seed=0):
    torch.manual_seed(seed)
    model = TwoInputs()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return AdversarialTrainer(
        model,
        optimizer,
        PGD(LinfBall(0.1), steps=2, random_start=True),
        0.5,
        objective=OBJECTIVE,
        scheduler=ReduceLROnPlateau(optimizer, factor=0.8, patience=0),
        transform=random_dihedral,
    )


def test_a_resumed_training_is_the_same_to_the_last_bit(tmp_path):
    whole = make()
    whole.fit(loader(), validation(), epochs=4, progress=False)

    first = make()
    first.fit(loader(), validation(), epochs=2, progress=False, checkpoint=tmp_path / "run.pt")
    torch.manual_seed(12345)  # the new process starts anywhere
    second = make(seed=99)
    second.fit(loader(), validation(), epochs=4, progress=False, checkpoint=tmp_path / "run.pt")
    assert different(whole.state_dict(), second.state_dict()) == []
    assert len(second.history) == 4


def test_resume_after_an_interruption_inside_an_epoch(tmp_path):
    whole = make()
    whole.fit(loader(), validation(), epochs=3, progress=False)

    class Interrupted(Exception):
        pass

    class Stops:
        """Breaks off in the second batch of the second epoch."""

        def __init__(self):
            self.inner, self.generator, self.batches = loader(), None, 0
            self.generator = self.inner.generator

        def __iter__(self):
            for item in self.inner:
                self.batches += 1
                if self.batches == 5:
                    raise Interrupted
                yield item

    run = make()
    with pytest.raises(Interrupted):
        run.fit(Stops(), validation(), epochs=3, progress=False, checkpoint=tmp_path / "run.pt")
    again = make(seed=5)
    again.fit(loader(), validation(), epochs=3, progress=False, checkpoint=tmp_path / "run.pt")
    assert same(whole.state_dict()["model"], again.state_dict()["model"])


def test_state_dict_is_a_copy():
    run = make()
    run.fit(loader(), validation(), epochs=1, progress=False)
    state = run.state_dict()
    kept = copy.deepcopy(state)
    run.fit(loader(), validation(), epochs=2, progress=False)
    assert same(state, kept)


def test_best_weights():
    run = make()
    history = run.fit(loader(), validation(), epochs=5, progress=False)
    best = min(history, key=lambda row: row["valid_loss"])
    assert run.best_epoch == best["epoch"]
    run.load_best()
    assert run.validate(validation()) == pytest.approx(best["valid_loss"], rel=1e-5)
    fresh = make()
    with pytest.raises(ValueError, match="fit with a valid_loader first"):
        fresh.load_best()


def test_schedulers():
    model = TwoInputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = AdversarialTrainer(
        model, optimizer, None, 0, OBJECTIVE, scheduler=StepLR(optimizer, 1, gamma=0.5)
    )
    run.fit(loader(), epochs=2, progress=False)
    assert [row["learning_rate"] for row in run.history] == [0.05, 0.025]


def test_autocast_runs_the_model_in_bfloat16():
    model = TwoInputs()
    seen = []
    model.fc.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer(model, autocast=torch.bfloat16).step(batch())
    assert set(seen) == {torch.bfloat16}
    assert len(seen) == 2  # once to craft, once to train
    with pytest.raises(ValueError, match="bfloat16"):
        trainer(autocast=torch.float16)


def test_ddp(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        plain = TwoInputs()
        plain.dropout.p = 0.0
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
        full = batch()
        losses = [trainer(model).step(full) for model in (plain, wrapped)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        for a, b in zip(plain.parameters(), wrapped.parameters(), strict=True):
            torch.testing.assert_close(a, b)
    finally:
        torch.distributed.destroy_process_group()


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="train_loader yields no sample"):
        trainer().fit([], epochs=1, progress=False)
    with pytest.raises(ValueError, match="valid_loader yields no sample"):
        trainer().fit(loader(), [], epochs=1, progress=False)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        trainer().fit(loader(), epochs=0)
    with pytest.raises(TypeError, match=r"\(x, \*context, target\)"):
        trainer().step(torch.zeros(3))
    with pytest.raises(TypeError, match="item 1 is a list"):
        trainer().step((torch.zeros(3, 5), [1, 2, 3]))
    with pytest.raises(ValueError, match="there is no attack"):
        trainer(attack=None, fraction=0.5)
    x, ebv, z = batch()
    with pytest.raises(ValueError, match="outside the bins"):
        trainer().step((x, ebv, z + 3))
    model = TwoInputs()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = AdversarialTrainer(
        model, optimizer, None, 0, objective=lambda output, target: output[:, 0] * math.nan
    )
    with pytest.raises(ValueError, match="training loss is nan in epoch 1"):
        run.step((x, ebv, z))
    assert all(torch.equal(v, before[k]) for k, v in model.named_parameters())

    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to the folder"):
        trainer().save(tmp_path / "file" / "run.pt")


def test_plain_model_without_context():
    """A perceptron on magnitudes: no context, eps per feature in units of its error."""
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, BINS.n))
    errors = [0.1, 0.02, 0.02, 0.02, 0.05]
    x, z = torch.randn(12, 5), torch.rand(12)
    run = trainer(model, fraction=1.0, attack=FGSM(errors))
    mixed, _ = mix_adversarial(model, (x, z), run.loss.attack, 1.0)
    moved = (mixed - x).abs().amax(0)
    torch.testing.assert_close(moved, torch.tensor(errors), rtol=1e-4, atol=0)
    assert run.step((x, z)) > 0


@pytest.mark.parametrize("how", ["sampler", "batch sampler", "mapped", "dataset", "loader"])
def test_whatever_has_epochs_learns_which_begins(how):
    class KnowsEpochs(TensorDataset):
        def set_epoch(self, epoch):
            seen.append(epoch)

    data = KnowsEpochs(*batch(8)) if how == "dataset" else TensorDataset(*batch(8))
    sampler = torch.utils.data.DistributedSampler(data, num_replicas=2, rank=0)
    seen = []
    sampler.set_epoch = seen.append
    given = DataLoader(data, 4, sampler=sampler)
    if how == "batch sampler":
        given = DataLoader(data, batch_sampler=torch.utils.data.BatchSampler(sampler, 4, False))
    elif how == "mapped":
        given = MappedLoader(given, tuple)
    elif how == "dataset":
        given = DataLoader(torch.utils.data.Subset(data, range(6)), 4)
    elif how == "loader":
        given = DataLoader(data, 4)
        given.set_epoch = seen.append
    trainer().fit(given, epochs=2, progress=False)
    assert seen == [0, 1]


# Any training loss.


class Trades:
    """TRADES (Zhang et al. 2019): the clean loss, and how far an attack moves the PDF."""

    def __init__(self, beta=2.0):
        self.beta = beta

    def __call__(self, model, batch, generator):
        x, context, z = batch.x, batch.context, batch.target
        with torch.no_grad():
            pdf = model(x, *context).softmax(1)

        def divergence(output, target):
            return nn.functional.kl_div(output.log_softmax(1), pdf, reduction="none").sum(1)

        attack = PGD(LinfBall(0.1), steps=2, random_start=True, objective=divergence)
        x_adv = attack(model, x, z, context, generator)
        clean, moved = model(x, *context), model(x_adv, *context)
        apart = nn.functional.kl_div(moved.log_softmax(1), clean.softmax(1), reduction="batchmean")
        return OBJECTIVE(clean, z).mean() + self.beta * apart


def make_trades(seed=0, loss=None):
    torch.manual_seed(seed)
    model = TwoInputs()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return Trainer(model, optimizer, loss or Trades(), transform=random_dihedral)


def test_another_defense_is_a_class_of_twenty_lines(tmp_path):
    whole = make_trades()
    history = whole.fit(loader(), validation(), epochs=4, progress=False)
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]
    path = tmp_path / "run.pt"
    make_trades().fit(loader(), validation(), epochs=2, progress=False, checkpoint=path)
    again = make_trades(seed=5)
    again.fit(loader(), validation(), epochs=4, progress=False, checkpoint=path)
    assert different(whole.state_dict(), again.state_dict()) == []


def test_a_loss_of_its_own_in_validation():
    calls = []

    def valid_loss(model, batch, generator):
        calls.append((model.training, torch.rand(1, generator=generator).item()))
        return OBJECTIVE(model(batch.x, *batch.context), batch.target).mean()

    model = TwoInputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = Trainer(model, optimizer, Trades(), valid_loss=valid_loss)
    run.fit(loader(), validation()[:1], epochs=2, progress=False)
    assert calls[0] == calls[1]  # the same draws in every epoch, in eval mode
    assert not calls[0][0]


def test_a_loss_with_a_state_is_told_the_epoch_and_saved(tmp_path):
    class Counts:
        def __init__(self):
            self.epochs, self.batches = [], 0

        def start_epoch(self, epoch):
            self.epochs.append(epoch)

        def __call__(self, model, batch, generator):
            self.batches += model.training
            return OBJECTIVE(model(batch.x, *batch.context), batch.target).mean()

        def state_dict(self):
            return {"batches": self.batches}

        def load_state_dict(self, state):
            self.batches = state["batches"]

    first, second, path = Counts(), Counts(), tmp_path / "run.pt"
    make_trades(loss=first).fit(loader(), epochs=2, progress=False, checkpoint=path)
    make_trades(loss=second).fit(loader(), epochs=3, progress=False, checkpoint=path)
    assert (first.epochs, first.batches) == ([0, 1], 6)
    assert (second.epochs, second.batches) == ([2], 9)


def test_mixed_loss_is_the_mixed_step_by_hand():
    torch.manual_seed(0)
    model, by_hand = TwoInputs(), TwoInputs()
    by_hand.load_state_dict(model.state_dict())
    attack = PGD(LinfBall(0.1), steps=2, random_start=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = Trainer(model, optimizer, MixedLoss(OBJECTIVE, attack, 0.3), seed=7)
    generator = torch.Generator().manual_seed(7)
    for full in loader(seed=3):
        x, ebv, z = full
        rows = torch.randperm(8, generator=generator)[:2]
        bound = attack.bind(OBJECTIVE)
        x_adv = x.clone()
        x_adv[rows] = bound(by_hand, x[rows], z[rows], (ebv[rows],), generator)
        torch.manual_seed(3)
        loss = OBJECTIVE(by_hand(x_adv, ebv), z).mean()
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(by_hand.parameters(), gradients, strict=True):
                parameter.add_(gradient, alpha=-0.1)  # as SGD does
        torch.manual_seed(3)
        assert run.step(full) == loss.item()
    assert different(model.state_dict(), by_hand.state_dict()) == []


# A set that changes another input than the image.


class ReddeningShift(PerturbationSet):
    """One parameter per galaxy, in units of the budget, that is added to the first context."""

    changes_context = True
    label = "E(B-V) 0.1"

    def __init__(self, budget=0.1):
        self.budget = budget

    def identity(self, x):
        return x.new_zeros(len(x), 1)

    def apply(self, x, context, p):
        return x, (context[0] + self.budget * p[:, 0], *context[1:])

    def project(self, x, p):
        return p.clamp(-1, 1)

    def steepest(self, grad):
        return grad.sign()

    def sample(self, x, generator=None):
        return 2 * torch.rand(len(x), 1, generator=generator) - 1

    def size(self, p):
        return p.abs().amax(1)

    def scaled(self, factor):
        return ReddeningShift(self.budget * factor)


@pytest.mark.parametrize("warm", [False, True])
def test_a_set_that_changes_the_context(warm):
    model, full = TwoInputs(), batch()
    before = [value.clone() for value in full]
    attack = PGD(ReddeningShift(), steps=2, objective=OBJECTIVE)
    used = WarmStart(attack, 10) if warm else attack
    given = Indexed(full, torch.arange(10)) if warm else full
    x, ebv, z = mix_adversarial(model, given, used, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(x, before[0])
    assert torch.equal(z, before[2])
    moved = ebv - before[1]
    assert int((moved != 0).sum()) == 5
    found = attack.find(model, full[0], z, (full[1],))
    rows = moved != 0
    torch.testing.assert_close(ebv[rows], found.context[0][rows])
    torch.testing.assert_close(moved[rows].abs(), torch.full((5,), 0.1))
    assert all(torch.equal(a, b) for a, b in zip(full, before, strict=True))
    with pytest.raises(ValueError, match="changes an input of the network beside the image"):
        used(model, full[0], z, (full[1],))

    seen = []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1].clone()))
    trainer(model, attack=used, fraction=1.0).step(given)
    torch.testing.assert_close((seen[-1] - before[1]).abs(), torch.full((10,), 0.1))
    assert all(torch.equal(a, b) for a, b in zip(full, before, strict=True))


def test_what_an_attack_returns_is_looked_at():
    def one_for_all(model, x, target, context=(), generator=None):
        return x.mean(0, keepdim=True)

    with pytest.raises(ValueError, match="one_for_all must return images like x"):
        mix_adversarial(TwoInputs(), batch(), one_for_all, 0.5)

    class Double:
        def __call__(self, model, x, target, context=(), generator=None):
            return x.double()

        def find(self, model, x, target, context=(), generator=None, value=True):
            return Found(x, context)

    with pytest.raises(ValueError, match="Double must return images like x"):
        mix_adversarial(TwoInputs(), batch(), Double(), 0.5)


# Objectives, outputs, optimizers, batches that make no sense.


@pytest.mark.parametrize(
    ("objective", "shape"),
    [
        (lambda output, target: output[:, :1] - target, r"\(10, 10\)"),  # (N, 1) minus (N,)
        (lambda output, target: torch.zeros(10, 10), r"\(10, 10\)"),
        (lambda output, target: output[:, :1], r"\(10, 1\)"),
        (lambda output, target: output.mean(), r"\(\)"),
        (lambda output, target: 1.0, "float"),
    ],
)
@pytest.mark.parametrize("fraction", [0, 0.5])
def test_an_objective_must_give_one_value_per_sample(objective, shape, fraction):
    model = TwoInputs()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = AdversarialTrainer(model, optimizer, FGSM(0.1), fraction, objective)
    with pytest.raises(ValueError, match=f"one value per sample.*got {shape}"):
        run.step(batch() if fraction == 0 else tuple(torch.cat([v, v]) for v in batch()))


def test_a_point_estimate_of_shape_n_1():
    model = nn.Sequential(nn.Flatten(), nn.Linear(5 * 64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x, z = torch.randn(10, 5, 8, 8), torch.rand(10)
    run = AdversarialTrainer(model, optimizer, FGSM(0.1), 0.5, RedshiftError(PointEstimate()))
    assert math.isfinite(run.step((x, z)))


class TupleOutput(Small):
    def forward(self, x, ebv):
        return super().forward(x, ebv), ebv


def test_a_tuple_of_outputs_in_classical_training():
    model = TupleOutput()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run = AdversarialTrainer(model, optimizer, None, 0, OBJECTIVE)
    x, ebv, z = batch()
    with pytest.raises(TypeError, match="tuple"):
        run.step((x[..., :8, :8], ebv, z))


def test_optimizers_that_could_not_train():
    model, other = Small(), Small()
    with pytest.raises(ValueError, match="none of the model's parameters.*model.parameters"):
        AdversarialTrainer(model, torch.optim.SGD(other.parameters()), None, 0, OBJECTIVE)
    with pytest.raises(TypeError, match="LBFGS.*take SGD, Adam or AdamW"):
        AdversarialTrainer(model, torch.optim.LBFGS(model.parameters()), None, 0, OBJECTIVE)
    with pytest.raises(TypeError, match="must be a torch.optim.Optimizer"):
        AdversarialTrainer(model, model.parameters(), None, 0, OBJECTIVE)
    AdversarialTrainer(model, torch.optim.SGD(model.fc.parameters()), None, 0, OBJECTIVE)
    here, there = (torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2))
    with pytest.raises(ValueError, match="scheduler is of another optimizer"):
        AdversarialTrainer(model, here, None, 0, OBJECTIVE, scheduler=StepLR(there, 1))


def test_settings_that_make_no_sense():
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match='scheduler_step must be "epoch" or "step"'):
        AdversarialTrainer(model, optimizer, None, 0, OBJECTIVE, scheduler_step="batch")
    with pytest.raises(ValueError, match="ReduceLROnPlateau needs the loss of an epoch"):
        AdversarialTrainer(
            model,
            optimizer,
            None,
            0,
            OBJECTIVE,
            scheduler=ReduceLROnPlateau(optimizer),
            scheduler_step="step",
        )
    for objective in (None, CrossEntropy, "mse"):
        with pytest.raises(TypeError, match="objective must be a callable"):
            AdversarialTrainer(model, optimizer, None, 0, objective)
    for loss in (None, nn.CrossEntropyLoss):
        with pytest.raises(TypeError, match=r"loss\(model, batch, generator\)"):
            Trainer(model, optimizer, loss)
    with pytest.raises(TypeError, match=r"valid_loss\(model, batch, generator\)"):
        Trainer(model, optimizer, Trades(), valid_loss=3)


@pytest.mark.parametrize("fraction", [0, 0.5])
def test_an_empty_batch(fraction):
    full, empty = batch(), tuple(value[:0] for value in batch())
    run = trainer(fraction=fraction)
    with pytest.raises(ValueError, match="a training batch holds no samples"):
        run.fit([full, empty], epochs=1, progress=False)
    with pytest.raises(ValueError, match="a validation batch holds no samples"):
        run.fit([full], [full, empty], epochs=1, progress=False)


def test_batches_of_dicts():
    x, ebv, z = batch(2)
    rows = [{"image": x[k], "ebv": ebv[k], "z": z[k]} for k in range(2)]
    for given in (rows, {"image": x, "ebv": ebv, "z": z}):
        with pytest.raises(TypeError, match="image.*MappedLoader"):
            trainer().step(given)
    mapped = MappedLoader(DataLoader(rows, 2), lambda b: (b["image"], b["ebv"], b["z"]))
    trainer().fit(mapped, epochs=1, progress=False)


@pytest.mark.parametrize(
    ("loss", "error", "sentence"),
    [
        (lambda m, b, g: OBJECTIVE(m(b.x, *b.context), b.target), TypeError, r"shape \(10,\)"),
        (lambda m, b, g: 0.5, TypeError, "got float"),
        (lambda m, b, g: m(b.x, *b.context).mean().detach(), ValueError, "not depend on the weig"),
    ],
)
def test_a_loss_that_is_none(loss, error, sentence):
    with pytest.raises(error, match=sentence):
        make_trades(loss=loss).step(batch())
