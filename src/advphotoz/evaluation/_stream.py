"""The one loop: every batch is read once, attacked in every way, and shown to every model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from advphotoz import metrics
from advphotoz._checks import check_finite
from advphotoz._modes import autocasting, check_autocast, device_of, evaluating, to_device
from advphotoz.attacks import Attack
from advphotoz.attacks.attack import check_batch, check_result
from advphotoz.evaluation._column import Column
from advphotoz.evaluation._searches import is_search, is_targeted
from advphotoz.objectives import CrossEntropy, Objective
from advphotoz.redshift import RedshiftBins

__all__ = ["Batch", "Crafter", "Setup", "Tally", "on_device", "stream"]

Batch = tuple[Tensor, tuple[Tensor, ...], Tensor]
Crafter = tuple[nn.Module, Attack]


@dataclass(frozen=True)
class Setup:
    """What all passes over the data have in common."""

    bins: RedshiftBins
    objective: Objective
    autocast: torch.dtype | None = None
    seed: int = 0
    progress: bool = True
    bootstrap: int = 200
    title: str = "evaluate"

    def __post_init__(self) -> None:
        check_autocast(self.autocast)
        if isinstance(self.bootstrap, bool) or self.bootstrap < 0 or self.bootstrap == 1:
            raise ValueError(
                f"bootstrap must be 0 (no standard errors) or at least 2 resamples, got "
                f"{self.bootstrap}"
            )


@dataclass
class Tally:
    """What one model said about one attack's images, gathered batch by batch on the CPU."""

    z_phot: Column = field(default_factory=Column)
    pit: Column = field(default_factory=Column)
    value: Column = field(default_factory=Column)  # the objective, per sample
    own: Column = field(default_factory=Column)  # what the attack itself maximises
    own_before: Column = field(default_factory=Column)
    cross_entropy: Column = field(default_factory=Column)
    crps: float = 0.0  # sums over samples
    cde_loss: float = 0.0
    linf: float = 0.0
    l2: float = 0.0


def stream(
    loader: Iterable[Any],
    crafters: Mapping[str, Crafter],
    judges: Mapping[str, nn.Module],
    setup: Setup,
    look: Callable[[Batch], None] | None = None,
) -> tuple[Tensor, dict[tuple[str, str], Tally]]:
    """Craft every attack on every batch, show the images to every judge, and tally the answers.

    Returns the redshifts (N,) and a tally per (crafter, judge); the crafter ``""`` stands for clean
    images. `look` sees every batch, on the CPU.
    """
    tallies = {(craft, judge): Tally() for craft in ("", *crafters) for judge in judges}
    models = {id(m): m for m in (*judges.values(), *(m for m, _ in crafters.values()))}
    devices = {device_of(m) for m in models.values()}
    z_spec = Column()
    with ExitStack() as stack:
        # A shuffling loader and a careless attack draw from the global state: put it back.
        stack.enter_context(torch.random.fork_rng([d for d in devices if d.type == "cuda"]))
        for model in models.values():
            stack.enter_context(evaluating(model))
        generators = {
            name: torch.Generator(device_of(model)).manual_seed(setup.seed)
            for name, (model, _) in crafters.items()
        }
        bar = stack.enter_context(
            tqdm(
                total=_total(loader, len(crafters) + 1),
                disable=not setup.progress,
                desc=setup.title,
                unit="image",
            )
        )
        for number, given in enumerate(loader):
            batch = _checked(given, number, setup.bins)
            n = len(batch[0])
            if not n:
                continue
            if look is not None:
                look(batch)
            z_spec.append(batch[2])
            clean = {
                judge: _show("", tallies["", judge], model, batch, batch[0], setup)
                for judge, model in judges.items()
            }
            bar.update(n)
            for name, (model, attack) in crafters.items():
                x_adv = _craft(name, attack, model, batch, generators[name], setup)
                for judge, judging in judges.items():
                    tally = tallies[name, judge]
                    logits, target = _show(name, tally, judging, batch, x_adv, setup)
                    if is_search(attack):
                        tally.own_before.append(_own(attack, clean[judge][0], target, setup))
                        tally.own.append(_own(attack, logits, target, setup))
                bar.update(n)
    if not len(z_spec.values()):
        raise ValueError(
            "the loader gave no samples: it is empty, or an iterator that was already used up; "
            "pass a DataLoader or a list of batches"
        )
    return z_spec.values(), tallies


def _checked(batch: Any, number: int, bins: RedshiftBins) -> Batch:
    """Return (x, context, target), or say what is wrong with which batch."""
    if isinstance(batch, (tuple, list)):
        # Waits for the device, which a non-blocking copy to the CPU would not.
        batch = tuple(value.cpu() if isinstance(value, Tensor) else value for value in batch)
    try:
        x, context, target = to_device(batch, torch.device("cpu"))
        check_batch(x, target, context)
        if target.ndim != 1:
            raise ValueError(
                f"target must hold one redshift per sample, shape ({len(x)},), got the shape "
                f"{tuple(target.shape)}; write target.squeeze(1) for a column"
            )
        bins.check(target)
    except (TypeError, ValueError) as error:
        raise _same_kind(error)(f"batch {number} of the loader: {error}") from error
    return x, context, target


def on_device(device: torch.device, batch: Batch) -> Batch:
    """Move a batch."""
    x, context, target = batch
    if target.dtype == torch.float64 and device.type != "cpu":
        target = target.float()  # some devices have no float64
    return x.to(device), tuple(value.to(device) for value in context), target.to(device)


def _craft(
    name: str,
    attack: Attack,
    model: nn.Module,
    batch: Batch,
    generator: torch.Generator,
    setup: Setup,
) -> Tensor:
    """Return the attack's images, checked."""
    device = device_of(model)
    x, context, target = on_device(device, batch)
    with autocasting(device, setup.autocast):
        # A copy, so that an attack that works in place spoils neither x nor the other attacks.
        found: Any = attack(model, x.clone(), target, context, generator)
    images = check_result(found, x, repr(name))
    check_finite(images, f"what the attack {name!r} returned")
    return images


@torch.no_grad()
def _show(
    name: str, tally: Tally, model: nn.Module, batch: Batch, x_adv: Tensor, setup: Setup
) -> tuple[Tensor, Tensor]:
    """Let a model judge images and add to the tally; return the logits and the target."""
    device = device_of(model)
    _, context, target = on_device(device, batch)
    with autocasting(device, setup.autocast):
        output = model(x_adv.to(device), *context)
    try:
        # Cross-entropy too: it refuses probabilities and NaN, and is the log-likelihood.
        cross_entropy = CrossEntropy(setup.bins)(output, target)
        value: Any = setup.objective(output.float(), target)
        if not isinstance(value, Tensor) or value.shape != target.shape:
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"the objective must return one value per sample, shape ({len(target)},), got "
                f"{came}; write reduction='none' where a loss would average"
            )
    except (TypeError, ValueError) as error:
        where = f"under the attack {name!r}" if name else "on the clean images"
        raise _same_kind(error)(f"{where}: {error}") from error
    logits = output.float()
    pdf = setup.bins.pdf(logits).cpu()
    x, _, z = batch
    delta = (x_adv.cpu().double() - x.double()).flatten(1)
    tally.z_phot.append(setup.bins.mean(pdf))
    tally.pit.append(torch.from_numpy(metrics.pit(pdf, z, setup.bins)))
    tally.value.append(value)
    tally.cross_entropy.append(cross_entropy)
    tally.crps += len(z) * metrics.crps(pdf, z, setup.bins)
    tally.cde_loss += len(z) * metrics.cde_loss(pdf, z, setup.bins)
    tally.linf = max(tally.linf, float(delta.abs().max()))
    tally.l2 = max(tally.l2, float(delta.norm(dim=1).max()))
    return logits, target


@torch.no_grad()
def _own(attack: Any, logits: Tensor, target: Tensor, setup: Setup) -> Tensor:
    """Return what the attack maximises: its own objective, or ours, with the sign of a target."""
    value: Tensor = (attack.objective or setup.objective)(logits, target)
    return -value if is_targeted(attack) else value


def _same_kind(error: Exception) -> type[Exception]:
    return TypeError if isinstance(error, TypeError) else ValueError


def _total(loader: Any, times: int) -> int | None:
    """Return the number of images to work through, where the loader knows it."""
    try:
        if isinstance(loader, (list, tuple)):
            return times * sum(len(batch[0]) for batch in loader)
        return times * len(loader.sampler)
    except (AttributeError, TypeError, IndexError):
        return None
