"""Checkpoints: what a resumed training needs, what a damaged file is called, what a kill leaves."""

from __future__ import annotations

import copy
import os
import random
import signal
import time
from collections import Counter, OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
)

from advphotoz import FGSM, AdversarialTrainer
from advphotoz.datasets import MappedLoader
from advphotoz.training import Callback, IndexedDataset, Trainer
from advphotoz.training.checkpoint import read_checkpoint, write_checkpoint
from problems import BINS
from trainings import (
    OBJECTIVE,
    child_process,
    different,
    loader,
    make,
    same,
    samples,
    train_for_kills,
)


def fit(trainer, train_loader, epochs, **settings):
    trainer.fit(train_loader, epochs=epochs, progress=False, **settings)
    return trainer


# Every random generator is in the file.


class Jitters(Dataset):
    """A data set that draws noise from a generator of its own."""

    def __init__(self, seed=3):
        self.data, self.generator = samples(), torch.Generator().manual_seed(seed)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, k):
        x, ebv, z = self.data[k]
        return x + torch.randn(x.shape, generator=self.generator), ebv, z


class Swaps(Sampler):
    """A sampler around another one, kept under a name of its own, with a generator beside it."""

    def __init__(self, inner):
        self.inner, self.coin = inner, torch.Generator().manual_seed(5)

    def __iter__(self):
        order = list(self.inner)
        return iter(order if torch.rand(1, generator=self.coin) < 0.5 else order[::-1])

    def __len__(self):
        return len(self.inner)


class PlainData:
    """What a DataLoader takes for a data set without it being derived from Dataset."""

    def __init__(self):
        self.inner = Jitters()
        self.noise = torch.Generator().manual_seed(4)

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, k):
        x, ebv, z = self.inner.data[k]
        return x + torch.randn(x.shape, generator=self.noise), ebv, z


class PlainBatches:
    """Batches of indices, in an order drawn from a generator, derived from nothing."""

    def __init__(self):
        self.draws = torch.Generator().manual_seed(6)

    def __iter__(self):
        return iter(torch.randperm(24, generator=self.draws).view(3, 8).tolist())

    def __len__(self):
        return 3


def generator(seed=1):
    return torch.Generator().manual_seed(seed)


def random_sampler(data):
    return RandomSampler(data, generator=generator(2))


LOADERS = {
    "loader": lambda: loader(),
    "global": lambda: DataLoader(samples(), 8, shuffle=True),
    "batch sampler": lambda: DataLoader(
        samples(), batch_sampler=BatchSampler(random_sampler(samples()), 8, False)
    ),
    "sampler beside the loader's": lambda: DataLoader(
        samples(), 8, sampler=random_sampler(samples()), generator=generator()
    ),
    "sampler within a sampler": lambda: DataLoader(
        samples(), 8, sampler=Swaps(random_sampler(samples()))
    ),
    "one worker": lambda: loader(num_workers=1),
    "data set": lambda: DataLoader(Jitters(), 8),
    "wrapped data set": lambda: DataLoader(IndexedDataset(Subset(Jitters(), range(20))), 8),
    "data sets": lambda: DataLoader(ConcatDataset([Jitters(), Jitters(8)]), 16),
    "plain classes": lambda: DataLoader(PlainData(), batch_sampler=PlainBatches()),
    "mapped": lambda: MappedLoader(loader(), tuple),
}


@pytest.mark.parametrize("kind", LOADERS)
def test_a_resumed_training_draws_the_same(kind, tmp_path):
    build, path = LOADERS[kind], tmp_path / "run.pt"
    whole = fit(make(), build(), 3)
    fit(make(), build(), 1, checkpoint=path)
    torch.manual_seed(777)  # the new process starts anywhere
    given = build()
    again = fit(make(seed=7), given, 3, checkpoint=path)
    assert different(whole.state_dict(), again.state_dict()) == []


def test_a_validation_set_that_draws(tmp_path):
    valid = lambda: DataLoader(Jitters(), 8)  # noqa: E731
    whole = fit(make(), loader(), 3, valid_loader=valid())
    fit(make(), loader(), 1, valid_loader=valid(), checkpoint=tmp_path / "run.pt")
    again = fit(make(5), loader(), 3, valid_loader=valid(), checkpoint=tmp_path / "run.pt")
    assert different(whole.state_dict(), again.state_dict()) == []


def test_a_loader_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    fit(make(), LOADERS["loader"](), 1, checkpoint=path)
    with pytest.raises(ValueError, match=r"random states of \['loader.generator'\].*as they were"):
        fit(make(), LOADERS["batch sampler"](), 2, checkpoint=path)


def test_workers_that_live_on(tmp_path):
    given = loader(num_workers=1, persistent_workers=True)
    for each in (given, MappedLoader(given, tuple)):
        with pytest.raises(ValueError, match="make the DataLoader with persistent_workers=False"):
            fit(make(), each, 1, checkpoint=tmp_path / "run.pt")
    assert not list(tmp_path.iterdir())


SCHEDULES = {
    "step": lambda o: lr_scheduler.StepLR(o, 2),
    "multi-step": lambda o: lr_scheduler.MultiStepLR(o, [2, 4]),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "warm restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 1e-4, 1e-2, 3, cycle_momentum=False),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.01, total_steps=20),
    "chained": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "sequential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


@pytest.mark.parametrize("step", ["epoch", "step"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_go_on_where_they_were(name, step, tmp_path):
    if name == "plateau" and step == "step":
        pytest.skip("needs the loss of an epoch")

    def build(seed=0):
        return make(seed, schedule=SCHEDULES[name], scheduler_step=step, attack=FGSM(0.1))

    path = tmp_path / "run.pt"
    whole = fit(build(), loader(), 4)
    fit(build(), loader(), 2, checkpoint=path)
    again = fit(build(seed=5), loader(), 4, checkpoint=path)
    assert different(whole.state_dict(), again.state_dict()) == []
    rates = [row["learning_rate"] for row in whole.history]
    assert len(set(rates)) > 1 or name == "plateau"


# A state, and what does not fit it.


def test_a_loaded_state_is_not_written_into():
    run = fit(make(schedule=SCHEDULES["plateau"]), loader(), 1)
    state = run.state_dict()
    before = copy.deepcopy(state)
    other = make(schedule=SCHEDULES["plateau"])
    other.load_state_dict(state)
    fit(other, loader(), 2)
    assert different(state, before) == []
    assert len(state["optimizer"]["state"]) > 0


def small(optimizer=torch.optim.Adam, hidden=3, scheduler=None, loss=None):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, hidden), nn.Linear(hidden, BINS.n))
    held = optimizer(model.parameters(), lr=0.01)
    schedule = None if scheduler is None else scheduler(held)
    if loss is not None:
        return Trainer(model, held, loss, scheduler=schedule)
    return AdversarialTrainer(model, held, FGSM(0.1), 0.5, OBJECTIVE, scheduler=schedule)


def batches():
    return [(torch.randn(4, 2), torch.rand(4)) for _ in range(2)]


def plain(model, batch, generator):
    return OBJECTIVE(model(batch.x), batch.target).mean()


OTHERS = {
    "model": ({"hidden": 4}, "does not fit this trainer, which is as it was.*size mismatch"),
    "optimizer": (
        {"optimizer": torch.optim.SGD},
        "of a training with the optimizer SGD, and this trainer has Adam",
    ),
    "scheduler": (
        {"scheduler": SCHEDULES["step"]},
        "of a training with the scheduler StepLR, and this trainer has NoneType",
    ),
    "loss": ({"loss": plain}, "of a training with the loss function, and this trainer has Mixed"),
}


@pytest.mark.parametrize("part", OTHERS)
def test_the_checkpoint_of_another_training(part, tmp_path):
    settings, sentence = OTHERS[part]
    path = tmp_path / "run.pt"
    fit(small(**settings), batches(), 1).save(path)
    given = batches()
    run = fit(small(), given, 2)
    before = run.state_dict()
    for load in (run.load, lambda path: fit(run, given, 3, checkpoint=path)):
        with pytest.raises(ValueError, match=f"(?s)run.pt: the state( is)? {sentence}"):
            load(path)
        assert different(run.state_dict(), before) == []
    # And it goes on, with whatever loader.
    fit(run, loader_of_two(), 3)


def loader_of_two():
    data = TensorDataset(torch.randn(4, 2), torch.rand(4))
    return DataLoader(data, 2, shuffle=True, generator=generator())


def test_a_refused_state_waits_for_nobody(tmp_path):
    """After a refusal the next fit must not ask for the loader of the time before."""
    run = fit(small(), loader_of_two(), 1)
    fit(small(hidden=4), batches(), 1).save(tmp_path / "run.pt")
    with pytest.raises(ValueError, match="size mismatch"):
        run.load(tmp_path / "run.pt")
    fit(run, batches(), 2)


def test_states_of_other_processes(tmp_path):
    run = fit(small(), batches(), 1)
    before = run.state_dict()
    for changes, sentence in (
        ({"random": {1: before["random"][0]}}, r"states of processes \[1\], and this is number 0"),
        ({"kinds": {**before["kinds"], "loss": "Trades"}}, "the loss Trades"),
    ):
        with pytest.raises(ValueError, match=sentence):
            run.load_state_dict({**before, **changes})
    with pytest.raises(ValueError, match=r"not the state of a trainer: it lacks \['history'\]"):
        run.load_state_dict({key: value for key, value in before.items() if key != "history"})
    assert different(run.state_dict(), before) == []


# Files that hold none.


def refuses(run, path, error, sentence):
    before = run.state_dict()
    with pytest.raises(error, match=sentence):
        run.load(path)
    assert different(run.state_dict(), before) == []


def test_files_that_are_no_checkpoint(tmp_path):
    run, path = fit(small(), batches(), 1), tmp_path / "run.pt"
    run.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    content = path.read_bytes()

    refuses(run, tmp_path / "none.pt", FileNotFoundError, "cannot read the checkpoint.*none.pt")
    refuses(run, tmp_path, IsADirectoryError, "cannot read the checkpoint")
    for length in (0, 3, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        refuses(run, path, ValueError, "run.pt is damaged, or no checkpoint.*delete it")
    path.write_text("a text")
    refuses(run, path, ValueError, "run.pt is damaged, or no checkpoint")
    torch.save(run, path)  # a pickled object: weights_only must refuse to build it
    refuses(run, path, ValueError, "run.pt is damaged, or no checkpoint")
    for other in ({"model": {}}, torch.zeros(3), [1, 2]):
        torch.save(other, path)
        refuses(run, path, ValueError, "run.pt is not a checkpoint of a trainer: it has no digest")
    write_checkpoint({"model": {}}, path)
    refuses(run, path, ValueError, "run.pt: this is not the state of a trainer: it lacks")
    changed = {**run.state_dict(), "sha256": "0" * 64}
    torch.save(changed, path)
    refuses(run, path, ValueError, "run.pt has changed since it was written")
    torch.save({**changed, "extra": {1, 2}}, path)  # nothing that `save` would write
    refuses(run, path, ValueError, "run.pt has changed|run.pt is damaged")
    path.write_bytes(content)
    run.load(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_without_permission(tmp_path):
    run, path = small(), tmp_path / "run.pt"
    run.save(path)
    path.chmod(0)
    refuses(run, path, PermissionError, "cannot read the checkpoint")


def test_an_unwritable_folder_is_noticed_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    steps = []
    run = small()
    run.model.register_forward_hook(lambda *args: steps.append(1))
    with pytest.raises(OSError, match="cannot write to the folder"):
        fit(run, batches(), 1, checkpoint=tmp_path / "file" / "run.pt")
    with pytest.raises(IsADirectoryError, match="cannot read the checkpoint"):
        fit(run, batches(), 1, checkpoint=tmp_path)
    assert not steps


class Keeps(Callback):
    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"best": [0, self.value]}


@pytest.mark.parametrize(
    "value", [np.float64(0.5), np.zeros(2), object(), {1, 2}, Path("x"), defaultdict(int)]
)
def test_what_could_not_be_read_back_is_refused_before_the_first_step(value, tmp_path):
    run = small()
    with pytest.raises(TypeError, match=r"state\['callbacks'\]\[0\]\[1\]\['best'\]\[1\] is a "):
        fit(run, batches(), 1, checkpoint=tmp_path / "run.pt", callbacks=[Keeps(value)])
    assert run.epoch == 0
    assert not list(tmp_path.iterdir())


def test_what_can_be_read_back(tmp_path):
    state = {
        "numbers": [1, -0.0, float("nan"), float("inf"), 2j, True, None, "a", b"b", 10**30],
        "tensors": (torch.zeros(2, 0), torch.tensor(True), torch.randn(3).bfloat16()),
        "dictionaries": [OrderedDict(a=1), Counter("aab"), torch.device("cpu")],
        1: {"strided": torch.randn(4, 4).t(), "dtype": torch.float16, "size": torch.Size([1])},
    }
    write_checkpoint(state, tmp_path / "state.pt")
    found = read_checkpoint(tmp_path / "state.pt")
    assert same(found, state)
    assert str(found["numbers"][1]) == "-0.0"


def test_flipped_bits(tmp_path):
    """One flipped bit anywhere: refused, or in bytes that mean nothing."""
    run, path = fit(small(), batches(), 1), tmp_path / "run.pt"
    run.save(path)
    before, content = run.state_dict(), path.read_bytes()
    draws, refused = random.Random(3), 0
    for _ in range(60):
        position, bit = draws.randrange(len(content)), draws.randrange(8)
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            run.load(path)
        except ValueError:
            refused += 1
        assert different(run.state_dict(), before) == [], (position, bit)
    assert refused > 10


def test_a_changed_weight_is_refused(tmp_path):
    """The digest, where torch's own checksums say nothing."""
    run, path = fit(small(), batches(), 1), tmp_path / "run.pt"
    state = run.state_dict()
    write_checkpoint(state, path)
    written = torch.load(path)["sha256"]
    for change in (
        lambda s: s["model"]["0.weight"].add_(1e-6),
        lambda s: s["history"][0].update(train_loss=0.1),
        lambda s: s["optimizer"]["param_groups"][0].update(lr=1),
        lambda s: s["random"][0]["cpu"].add_(1),
        lambda s: s.update(best_epoch=0),
        lambda s: s["model"].pop("1.bias"),
    ):
        changed = copy.deepcopy(state)
        change(changed)
        torch.save({**changed, "sha256": written}, path)
        refuses(run, path, ValueError, "has changed since it was written")


# Kills.


def killed_again_and_again(folder, kills, epochs, seed):
    """Train in processes that are killed at random moments; return how often one was."""
    draws, file = random.Random(seed), folder / "run.pt"
    for done in range(10 * kills):
        child = child_process(train_for_kills, folder, epochs)
        child.start()
        if done < kills:
            if draws.random() < 0.75:  # else from the start of the process
                wait_for_change(file, child)
            time.sleep(draws.uniform(0, 0.1))
            child.kill()
        child.join(60)
        assert child.exitcode in (0, -signal.SIGKILL)
        if child.exitcode == 0:
            return done
    raise AssertionError("the training does not come to its end")


def wait_for_change(file, child):
    def written():
        return file.stat().st_mtime_ns if file.exists() else 0

    before, end = written(), time.monotonic() + 30
    while written() == before and child.is_alive() and time.monotonic() < end:
        time.sleep(0.002)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize("kills", [12, pytest.param(30, marks=pytest.mark.slow)])
def test_a_training_that_is_killed(kills, tmp_path):
    folder, whole, epochs = tmp_path / "run", tmp_path / "whole", 3 * kills
    folder.mkdir()
    whole.mkdir()
    train_for_kills(whole, epochs)
    done = killed_again_and_again(folder, kills, epochs, seed=kills)
    assert done >= kills // 2
    states = [read_checkpoint(path / "run.pt") for path in (folder, whole)]
    assert different(*states) == []

    # At most one leftover a kill, and none that is a day old once something is written again.
    leftovers = [path for path in folder.iterdir() if path.name != "run.pt"]
    assert len(leftovers) <= done
    for path in leftovers:
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    make().save(folder / "run.pt")
    assert [path.name for path in folder.iterdir()] == ["run.pt"]
