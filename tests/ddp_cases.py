"""What each of several processes does in the tests of test_ddp.py."""

from __future__ import annotations

import datetime
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from advphotoz import (
    FGSM,
    PGD,
    AdversarialTrainer,
    LinfBall,
    distributed,
    evaluate,
    robustness_curve,
)
from advphotoz.datasets import random_dihedral
from advphotoz.evaluation import transfer_matrix
from advphotoz.training import (
    Callback,
    IndexedDataset,
    MixedLoss,
    Trainer,
    WarmStart,
    WeightAverage,
)
from problems import BINS
from trainings import OBJECTIVE, Small, samples


def run_case(name: str, folder: Path, own: Path, rank: int, world: int) -> None:
    """Join the others, run a case, and write what it returns, or the error that it raises."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(str(own / "store"), world)
    limit = datetime.timedelta(seconds=20)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=limit)
    try:
        found = CASES[name](folder, rank)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    torch.save(found, own / f"{rank}.pt")
    dist.destroy_process_group()


def build(rank: int, **settings: Any) -> AdversarialTrainer:
    """Return a training with BatchNorm, dropout and random attacks, other draws in each process."""
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(Small())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    torch.manual_seed(100 + rank)
    return AdversarialTrainer(
        model,
        optimizer,
        PGD(LinfBall(0.1), steps=2, random_start=True),
        0.5,
        OBJECTIVE,
        scheduler=ReduceLROnPlateau(optimizer, patience=0, threshold=0.05),
        transform=random_dihedral,
        seed=rank,
        **settings,
    )


def share(seed: int = 9) -> DataLoader[Any]:
    data = samples(seed=seed)
    generator = torch.Generator().manual_seed(5 + dist.get_rank())
    return DataLoader(data, 6, sampler=DistributedSampler(data, seed=1), generator=generator)


def state(run: AdversarialTrainer) -> dict[str, Any]:
    return {**run.state_dict(), "next draw": torch.rand(1)}


class Noise:
    """Yields other images in every epoch, so that their loss does not fall."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __iter__(self) -> Any:
        x = 4 * torch.randn(16, 5, 8, 8, generator=self.generator)
        return iter([(x, torch.rand(16, generator=self.generator))])


def plateau(folder: Path, rank: int) -> Any:
    """The loss of one process falls and that of the other does not; one schedule decides."""
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Flatten(), nn.Linear(320, 20)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = ReduceLROnPlateau(optimizer, patience=0, threshold=0.02)
    x, _, z = samples(16, seed=3).tensors
    run = AdversarialTrainer(model, optimizer, None, 0, OBJECTIVE, scheduler=scheduler)
    history = run.fit(Noise() if rank else [(x, z)], epochs=6, progress=False)
    return {
        "rates": [row["learning_rate"] for row in history],
        "losses": [row["train_loss"] for row in history],
        "weights": model.state_dict(),
    }


def whole(folder: Path, rank: int) -> Any:
    run = build(rank)
    run.fit(share(), share(2), 4, callbacks=[WeightAverage(0.9)], progress=False)
    return state(run)


def first(folder: Path, rank: int) -> Any:
    run = build(rank)
    average = WeightAverage(0.9)
    run.fit(share(), share(2), 2, folder / "run.pt", [average], progress=False)
    return {"names": list(average.averaged.module.state_dict())}


def again(folder: Path, rank: int) -> Any:
    run = build(rank)
    torch.manual_seed(999)
    run.generator.manual_seed(999)
    if rank == 0:
        shutil.copy(folder / "run.pt", folder / "again.pt")
    dist.barrier()
    run.fit(share(), share(2), 4, folder / "again.pt", [WeightAverage(0.9)], progress=False)
    return state(run)


def warm(folder: Path, rank: int) -> Any:
    """Warm starts go with their samples to whatever process draws them next, and are resumed."""

    def train(epochs: int, checkpoint: Path | None, seed: int = 0) -> Any:
        run = build(rank)
        attack = WarmStart(PGD(LinfBall(0.1), steps=1, random_start=True), 24)
        run = AdversarialTrainer(
            run.model, run.optimizer, attack, 0.5, OBJECTIVE, transform=random_dihedral, seed=rank
        )
        torch.manual_seed(seed + rank)
        data = IndexedDataset(samples())
        loader = DataLoader(data, 6, sampler=DistributedSampler(data, seed=1))
        run.fit(loader, epochs=epochs, checkpoint=checkpoint, progress=False)
        return state(run)

    first = train(1, None)["loss"]["attack"]["parameters"]
    unbroken = train(4, None)
    train(2, folder / "warm.pt")
    return {"first": first, "unbroken": unbroken, "resumed": train(4, folder / "warm.pt", 99)}


def twice(folder: Path, rank: int) -> Any:
    """Call fit a second time: BatchNorm's statistics are the same in all processes."""
    run = build(rank)
    run.fit(share(), epochs=1, progress=False)
    run.fit(share(), epochs=2, progress=False)
    return {"epoch": run.epoch, "buffers": dict(run.model.named_buffers())}


def steps_of(run: AdversarialTrainer) -> list[int]:
    steps: list[int] = []
    run.model.register_forward_hook(lambda *args: steps.append(1))
    return steps


def refused(run: AdversarialTrainer, folder: Path, epochs: int, *args: Any, **given: Any) -> Any:
    steps = steps_of(run)
    try:
        run.fit(share(), *args, epochs=epochs, progress=False, **given)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "steps": len(steps)}
    return {"steps": len(steps)}


def other_epochs(folder: Path, rank: int) -> Any:
    """Each process has a file of its own, and that of one of them is older."""
    run = build(rank)
    mine = folder / f"own-{rank}"
    if rank == 0:
        # Made by another training of two processes; only one of them kept its file.
        mine.mkdir()
        (mine / "run.pt").write_bytes((folder / "run.pt").read_bytes())
    given = {"checkpoint": mine / "run.pt", "callbacks": [WeightAverage(0.9)]}
    return refused(run, folder, 3, share(2), **given)


def broken_in_one(folder: Path, rank: int) -> Any:
    run = build(rank)
    mine = folder / f"broken-{rank}"
    mine.mkdir()
    if rank == 1:
        (mine / "run.pt").write_text("no checkpoint")
    return refused(run, folder, 2, checkpoint=mine / "run.pt")


def other_arguments(folder: Path, rank: int) -> Any:
    run = build(rank)
    return refused(run, folder, 2, share(2) if rank == 0 else None)


def stop_in_one(folder: Path, rank: int) -> Any:
    """A callback of one process ends the training of all."""

    class Stops(Callback):
        def after_epoch(self, trainer: Any) -> None:
            trainer.stop = rank == 1 and len(trainer.history) == 2

    run = build(rank)
    run.fit(share(), epochs=5, callbacks=[Stops()], progress=False)
    return {"epoch": run.epoch, "stop": run.stop}


def uneven(folder: Path, rank: int) -> Any:
    """Shares of other sizes in validation: the loss is that of all samples, and nobody waits."""
    wrapped = nn.parallel.DistributedDataParallel(Small().eval())
    run = AdversarialTrainer(
        wrapped, torch.optim.SGD(wrapped.parameters(), lr=0.1), None, 0, OBJECTIVE
    )
    x, ebv, z = samples(9, seed=4).tensors
    mine = slice(2, None) if rank else slice(0, 2)
    loss = run.validate(DataLoader(TensorDataset(x[mine], ebv[mine], z[mine]), 1))
    with torch.no_grad():
        expected = OBJECTIVE(wrapped.module(x, ebv), z).mean().item()
    return {"loss": loss, "expected": expected}


def plain_attack(folder: Path, rank: int) -> Any:
    """Attacks and validation are given the network and not its wrapper, training is."""
    kinds = []

    def attack(model: Any, x: Any, target: Any, context: Any = (), generator: Any = None) -> Any:
        kinds.append(type(model).__name__)
        return x + 0.1

    run = build(rank)

    def valid_loss(model: Any, batch: Any, generator: Any) -> Any:
        kinds.append(type(model).__name__)
        return MixedLoss(OBJECTIVE, None, 0)(model, batch, generator)

    wrapped = []
    run.model.register_forward_hook(lambda *args: wrapped.append(1))
    loss = MixedLoss(OBJECTIVE, attack, 0.5)
    trainer = Trainer(run.model, run.optimizer, loss, valid_loss=valid_loss)
    trainer.fit(share(), share(2), epochs=1, progress=False)
    return {"kinds": kinds, "wrapped": len(wrapped)}


class Plain(nn.Module):
    """No BatchNorm and no dropout, in float64: the same on any number of processes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 3, 3, padding=1)
        self.fc = nn.Linear(3 * 64 + 1, OBJECTIVE.bins.n)

    def forward(self, x: torch.Tensor, ebv: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.conv(x)).flatten(1)
        return self.fc(torch.cat([hidden, ebv.view(-1, 1)], 1))


def wide(n: int = 24) -> TensorDataset:
    return TensorDataset(*(tensor.double() for tensor in samples(n).tensors))


def joint(rank: int, attack: Any, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    model: nn.Module = Plain().double()
    if distributed.several():
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return AdversarialTrainer(model, optimizer, attack, 0.25, OBJECTIVE, seed=5, **settings)


def joint_loader(n: int = 24) -> DataLoader[Any]:
    data = wide(n)
    return DataLoader(data, batch_sampler=distributed.JointBatches(data, 8, seed=3))


def network_of(run: Trainer) -> dict[str, Any]:
    inner = getattr(run.model, "module", run.model)
    return {name: value.clone() for name, value in inner.state_dict().items()}


class Steps(Callback):
    """Keep the weights after every step, and the targets that were attacked in it."""

    def __init__(self) -> None:
        self.weights: list[Any] = []
        self.attacked: list[list[float]] = []
        self.now: list[float] = []

    def __call__(
        self, model: Any, x: Any, target: Any, context: Any = (), generator: Any = None
    ) -> Any:
        self.now += target.tolist()
        return FGSM(0.1, objective=OBJECTIVE)(model, x, target, context, generator)

    def after_step(self, trainer: Any, loss: float) -> None:
        self.weights.append(network_of(trainer)["fc.weight"])
        self.attacked.append(self.now)
        self.now = []


def as_one(folder: Path, rank: int) -> Any:
    """Ten steps at fraction 0.25; and some with an attack that draws, and with a transform."""
    steps = Steps()
    run = joint(rank, steps)
    history = run.fit(joint_loader(), epochs=4, callbacks=[steps], progress=False)
    drawing = joint(rank + 7, PGD(LinfBall(0.1), steps=1, random_start=True))
    drawing.fit(joint_loader(), epochs=2, progress=False)
    moving = joint(rank, FGSM(0.1), transform=random_dihedral)
    moving.fit(joint_loader(), epochs=2, progress=False)
    return {
        "weights": steps.weights[:10],
        "attacked": steps.attacked[:10],
        "losses": [row["train_loss"] for row in history],
        "drawing": network_of(drawing),
        "moving": network_of(moving),
        "generator": moving.generator.get_state(),
    }


def evaluated(folder: Path, rank: int) -> Any:
    """Reports of a network on 25 galaxies: as they are printed, and the redshifts in order."""
    torch.manual_seed(0)
    net: nn.Module = Small()
    other = Small()
    if distributed.several():
        net = nn.parallel.DistributedDataParallel(net)
    data = samples(25)
    loader = DataLoader(data, 4, sampler=distributed.Shard(data))
    attacks = {
        "FGSM": FGSM(0.1),
        "PGD": PGD(LinfBall(0.2), steps=2, random_start=True),
    }
    common = {"progress": False, "bootstrap": 20}
    result = evaluate(net, loader, attacks, BINS, checks=False, keep_pdf=True, **common)
    curve = robustness_curve(net, loader, {"FGSM": FGSM}, [0.1, 0.2], BINS, **common)
    matrix = transfer_matrix({"A": net, "B": other}, loader, FGSM(0.1), BINS, **common)
    checked = evaluate(net, loader, attacks, BINS, check_samples=8, **common)
    return {
        "printed": [str(result), str(curve), str(matrix)],
        "z_phot": {name: torch.from_numpy(z) for name, z in result.z_phot.items()},
        "pdf": torch.from_numpy(result.pdf["PGD"]),
        "data": result.settings["data_sha256_sum"],
        "verdict": checked.checks.verdict,
    }


def unlike_sizes(folder: Path, rank: int) -> Any:
    """Two samples here and six there: the step is that of all eight."""
    run = joint(rank, FGSM(0.1))
    tensors = wide(8).tensors
    mine = slice(None)
    if distributed.several():
        mine = slice(2, None) if rank else slice(0, 2)
    run.step([tensor[mine] for tensor in tensors])
    return network_of(run)


def unbroken(folder: Path, rank: int) -> Any:
    run = joint(rank, FGSM(0.1))
    run.fit(joint_loader(), list(DataLoader(wide(6), 3)), epochs=6, progress=False)
    return {"weights": network_of(run), "best": run._best_weights}


def part_of_training(epochs: int) -> Any:
    def go(folder: Path, rank: int) -> Any:
        run = joint(rank, FGSM(0.1))
        run.fit(
            joint_loader(),
            list(DataLoader(wide(6), 3)),
            epochs,
            folder / "moves.pt",
            progress=False,
        )
        return {"weights": network_of(run), "best": run._best_weights, "epoch": run.epoch}

    return go


class Dies(Callback):
    def __init__(self, how: str, rank: int) -> None:
        self.how, self.rank = how, rank

    def after_step(self, trainer: Any, loss: float) -> None:
        if self.rank == 1 and trainer.epoch == 2:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("a galaxy that is none")


def dies(how: str) -> Any:
    def go(folder: Path, rank: int) -> Any:
        run = joint(rank, FGSM(0.1))
        calls = [Dies(how, rank)]
        run.fit(joint_loader(), None, 4, folder / f"{how}.pt", calls, progress=False)

    return go


def goes_on(how: str) -> Any:
    def go(folder: Path, rank: int) -> Any:
        run = joint(rank, FGSM(0.1))
        calls = [Dies(how, -1)]
        run.fit(joint_loader(), None, 4, folder / f"{how}.pt", calls, progress=False)
        return {"weights": network_of(run)}

    return go


def not_broken(folder: Path, rank: int) -> Any:
    run = joint(rank, FGSM(0.1))
    run.fit(joint_loader(), None, 4, callbacks=[Dies("no", -1)], progress=False)
    return {"weights": network_of(run)}


CASES = {
    "as_one": as_one,
    "evaluated": evaluated,
    "unlike_sizes": unlike_sizes,
    "unbroken": unbroken,
    "two_epochs": part_of_training(2),
    "four_epochs": part_of_training(4),
    "six_epochs": part_of_training(6),
    "killed": dies("killed"),
    "raised": dies("raised"),
    "after_killed": goes_on("killed"),
    "after_raised": goes_on("raised"),
    "not_broken": not_broken,
    "plateau": plateau,
    "whole": whole,
    "first": first,
    "again": again,
    "twice": twice,
    "warm": warm,
    "other_epochs": other_epochs,
    "broken_in_one": broken_in_one,
    "other_arguments": other_arguments,
    "stop_in_one": stop_in_one,
    "uneven": uneven,
    "plain_attack": plain_attack,
}
