"""Algorithm 1: what is mixed, what is trained, and that a resumed training is the same training."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

from advphotoz import FGSM, PGD, AdversarialTrainer, CrossEntropy, LinfBall, mix_adversarial
from advphotoz.datasets import random_dihedral
from problems import BINS, TwoInputs

OBJECTIVE = CrossEntropy(BINS)
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
    assert trainer(attack=FGSM(0.1)).attack == FGSM(0.1, objective=OBJECTIVE)
    own = FGSM(0.1, objective=CrossEntropy())
    assert trainer(attack=own).attack == own

    def plain_function(model, x, target, context=(), generator=None):
        return x + 0.1

    assert trainer(attack=plain_function).attack is plain_function


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
        attack = PGD(LinfBall(0.2), steps=5, step_size=0.1, objective=OBJECTIVE)
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


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def test_a_resumed_training_is_the_same_to_the_last_bit(tmp_path):
    whole = make()
    whole.fit(loader(), validation(), epochs=4, progress=False)

    first = make()
    first.fit(loader(), validation(), epochs=2, progress=False, checkpoint=tmp_path / "run.pt")
    torch.manual_seed(12345)  # the new process starts anywhere
    second = make(seed=99)
    second.fit(loader(), validation(), epochs=4, progress=False, checkpoint=tmp_path / "run.pt")
    a, b = whole.state_dict(), second.state_dict()
    for key in a:
        assert same(a[key], b[key]), key
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
    run = trainer(model, fraction=0)
    run.objective = lambda output, target: output[:, 0] * math.nan
    with pytest.raises(ValueError, match="training loss is nan in epoch 1"):
        run.step((x, ebv, z))
    assert all(torch.equal(v, before[k]) for k, v in model.named_parameters())

    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to the folder"):
        trainer().save(tmp_path / "file" / "run.pt")


def test_broken_checkpoints(tmp_path):
    run = trainer()
    path = tmp_path / "run.pt"
    run.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"run\.pt is truncated or not a checkpoint"):
        run.load(path)
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="it lacks"):
        run.load(path)
    torch.save(run, path)  # a pickled object: weights_only must refuse to build it
    with pytest.raises(ValueError, match="truncated or not a checkpoint"):
        run.load(path)
    with pytest.raises(FileNotFoundError):
        run.load(tmp_path / "none.pt")


def test_plain_model_without_context():
    """A perceptron on magnitudes: no context, eps per feature in units of its error."""
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, BINS.n))
    errors = [0.1, 0.02, 0.02, 0.02, 0.05]
    x, z = torch.randn(12, 5), torch.rand(12)
    run = trainer(model, fraction=1.0, attack=FGSM(errors))
    mixed, _ = mix_adversarial(model, (x, z), run.attack, 1.0)
    moved = (mixed - x).abs().amax(0)
    torch.testing.assert_close(moved, torch.tensor(errors), rtol=1e-4, atol=0)
    assert run.step((x, z)) > 0


def test_a_distributed_sampler_learns_the_epoch():
    data = TensorDataset(*batch(8))
    sampler = torch.utils.data.DistributedSampler(data, num_replicas=2, rank=0)
    seen = []
    sampler.set_epoch = seen.append
    trainer().fit(DataLoader(data, 4, sampler=sampler), epochs=2, progress=False)
    assert seen == [0, 1]
