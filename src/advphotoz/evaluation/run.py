"""One pass over the data: every batch is read once, attacked in every way, shown to every network.

A network is prepared once for all passes (device, eval mode, precision, random state) and put back
at the end; a batch is checked once, moved once to each device in use, and what is measured of it is
computed there and comes back in one tensor of a few numbers per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm
from typing_extensions import Self

from advphotoz import distributed
from advphotoz._checks import check_finite
from advphotoz._model import autocasting, check_autocast, check_model, device_of, untouched
from advphotoz._random import SampleGenerators
from advphotoz._rounding import compute_dtype
from advphotoz.attacks.contract import Found, check_batch, objective_of, run_attack
from advphotoz.batch import Batch, parse_batch
from advphotoz.evaluation.tally import Column, Tally
from advphotoz.objectives import Objective, default_objective, per_sample
from advphotoz.provenance import DataDigest, sample_digests
from advphotoz.redshift import PDFReadout, Readout

__all__ = ["CLEAN", "NO_SAMPLES", "Pass", "Prepared", "Settings", "first_samples", "prepared"]

A = TypeVar("A", bound=Hashable)
K = TypeVar("K", bound=Hashable)

CLEAN = "clean"
NO_SAMPLES = (
    "the loader gave no samples: it is empty, or an iterator that was already used up; pass a "
    "DataLoader or a list of batches"
)


@dataclass(frozen=True)
class Settings:
    """What all passes over the data have in common."""

    readout: Readout
    objective: Objective
    autocast: torch.dtype | None = None
    seed: int = 0
    progress: bool = True
    bootstrap: int = 200
    keep_pdf: bool = False

    @classmethod
    def of(
        cls,
        readout: Readout,
        objective: Objective | None,
        autocast: torch.dtype | None,
        seed: int,
        progress: bool,
        bootstrap: int,
    ) -> Settings:
        """Check the settings that every evaluation takes; the readout gives an objective."""
        natural = default_objective(readout)
        check_autocast(autocast)
        if isinstance(bootstrap, bool) or bootstrap < 0 or bootstrap == 1:
            raise ValueError(
                f"bootstrap must be 0 (no standard errors) or at least 2 resamples, got {bootstrap}"
            )
        maximised = natural if objective is None else objective
        if not callable(maximised):
            raise TypeError(
                "objective must be callable as objective(output, target), one value per sample, "
                f"such as CrossEntropy(bins), got {objective!r}"
            )
        return cls(readout, maximised, autocast, seed, progress, bootstrap)


@dataclass
class Pass:
    """What one pass over the data gathered.

    Attributes
    ----------
    z_spec : Column
        The true redshifts.
    clean : dict
        Per network, the tally of the unchanged images.
    attacked : dict
        Per attack and network, the tally of the attacked ones.
    data : DataDigest
        Which samples were seen.
    kept : Column
        1 for each sample that was kept for the checks, 0 for the others.
    batch_size : int
        The largest batch.
    """

    z_spec: Column
    clean: dict[Any, Tally]
    attacked: dict[tuple[Any, Any], Tally]
    data: DataDigest
    kept: Column
    batch_size: int = 0

    def merge(self, other: Self) -> None:
        """Add the samples that another process saw, behind those of this one."""
        self.z_spec.append(other.z_spec.values())
        self.kept.append(other.kept.values())
        self.data.merge(other.data)
        self.batch_size = max(self.batch_size, other.batch_size)
        for name, tally in self.clean.items():
            tally.merge(other.clean[name])
        for key, tally in self.attacked.items():
            tally.merge(other.attacked[key])


class Prepared:
    """Networks in eval mode, frozen, on their devices; made by `prepared`."""

    def __init__(self, devices: Mapping[int, torch.device], settings: Settings) -> None:
        self.settings = settings
        self._devices = devices  # by the id of a network

    def device(self, network: nn.Module) -> torch.device:
        """Return the device of a network."""
        return self._devices[id(network)]

    def output(self, network: nn.Module, x: Tensor, context: tuple[Tensor, ...]) -> Any:
        """Show a batch to a network; copies, since a network may write into its inputs."""
        with torch.no_grad(), autocasting(self.device(network), self.settings.autocast):
            return network(x.clone(), *(value.clone() for value in context))

    def one_pass(
        self,
        loader: Iterable[Any],
        networks: Mapping[K, nn.Module],
        attacks: Mapping[A, tuple[nn.Module, Any]],
        title: str,
        look: Callable[[Batch], int] | None = None,
    ) -> Pass:
        """Run every attack on its network on every batch, and show the images to all networks.

        Processes that evaluate together each read their share of the data, and get the whole.

        Parameters
        ----------
        loader : iterable of batches
            Read once.
        networks : mapping
            By name, those that see all images.
        attacks : mapping
            By name, the network that an attack is run on, and the attack.
        title : str
            Of the progress bar.
        look : callable, optional
            Sees every batch as it was read, on the CPU, and returns how many of its first samples
            it keeps.
        """
        done = Pass(
            Column(),
            {name: Tally() for name in networks},
            {(attack, name): Tally() for attack in attacks for name in networks},
            DataDigest(),
            Column(),
        )
        batch_generators = {
            name: torch.Generator(self.device(model)).manual_seed(self.settings.seed)
            for name, (model, _) in attacks.items()
        }
        total = _total(loader, len(attacks) + 1)
        hidden = not self.settings.progress
        with tqdm(total=total, disable=hidden, desc=title, unit="image") as bar:
            for number, given in enumerate(loader):
                batch = self.checked(given, number)
                if not len(batch.x):
                    continue
                kept = 0 if look is None else look(batch)
                done.kept.append((torch.arange(len(batch.x)) < kept).float())
                digests = sample_digests((batch.x, *batch.context, batch.target))
                done.data.update(digests)
                done.batch_size = max(done.batch_size, len(batch.x))
                done.z_spec.append(batch.target)
                seeds = [int.from_bytes(d[:7], "big") + self.settings.seed for d in digests]
                here = {device: batch.to(device) for device in set(self._devices.values())}
                clean = {}
                for name, network in networks.items():
                    on = here[self.device(network)]
                    clean[name] = self.output(network, on.x, on.context)
                    measured = self._measure("on the clean images", clean[name], on.target)
                    done.clean[name].update(measured)
                bar.update(len(batch.x))
                for key, (source, attack) in attacks.items():
                    on = here[self.device(source)]
                    generators = SampleGenerators(seeds), batch_generators[key]
                    found = self._craft(key, attack, source, on, *generators)
                    for name, network in networks.items():
                        measured = self._attacked(key, attack, network, found, on, clean[name])
                        done.attacked[key, name].update(measured)
                    bar.update(len(batch.x))
        done = distributed.gather(done)
        if not done.data.count:
            raise ValueError(NO_SAMPLES)
        return done

    def checked(self, given: Any, number: int) -> Batch:
        """Return what a loader gave as a batch on the CPU, or say what is wrong with which one."""
        try:
            batch = parse_batch(given)
            # Waits for the device, which a non-blocking copy to the CPU would not.
            x, target, *context = (v.cpu() for v in (batch.x, batch.target, *batch.context))
            check_batch(x, target, context)
            if target.ndim != 1:
                raise ValueError(
                    f"target must hold one redshift per sample, shape ({len(x)},), got the shape "
                    f"{tuple(target.shape)}; write target.squeeze(1) for a column"
                )
            self.settings.readout.check(target)
        except (TypeError, ValueError) as error:
            raise _same_kind(error)(f"batch {number} of the loader: {error}") from error
        return Batch(x, tuple(context), target)

    def _craft(
        self,
        key: Hashable,
        attack: Any,
        network: nn.Module,
        batch: Batch,
        generators: SampleGenerators,
        batch_generator: torch.Generator,
    ) -> Found:
        """Return what the attack found, checked."""
        x, context, target, _ = batch
        with autocasting(self.device(network), self.settings.autocast):
            found = run_attack(attack, network, x, target, context, generators, batch_generator)
        check_finite(found.x, f"what the attack {key!r} returned")
        return found

    def _attacked(
        self,
        key: Hashable,
        attack: Any,
        network: nn.Module,
        found: Found,
        batch: Batch,
        clean: Any,
    ) -> dict[str, Tensor]:
        """Show attacked images to a network and measure its answer."""
        device = self.device(network)
        x_adv, *context = (value.to(device) for value in (found.x, *found.context))
        target = batch.target.to(device)
        output = self.output(network, x_adv, tuple(context))
        measured = self._measure(f"under the attack {key!r}", output, target)
        wide = compute_dtype(batch.x)
        delta = (found.x.to(wide) - batch.x.to(wide)).flatten(1)
        norms = {"linf": delta.abs().amax(1), "l2": delta.norm(dim=1)}
        measured.update({name: norm.to(device) for name, norm in norms.items()})
        for name, value in (("size", found.size), ("rising", found.rising)):
            if value is not None:
                measured[name] = value.to(device)
        own = objective_of(attack)
        if own is not None and own != self.settings.objective:
            measured["own"] = per_sample(own, output, target)
            measured["own_before"] = per_sample(own, clean, target)
        return measured

    @torch.no_grad()
    def _measure(self, where: str, output: Any, target: Tensor) -> dict[str, Tensor]:
        """Compute on the device what is kept of an output, each (N,)."""
        readout = self.settings.readout
        try:
            if isinstance(output, Tensor) and output.dtype in (torch.float16, torch.bfloat16):
                output = output.float()
            measured = {
                "z_phot": readout.redshift(output),
                "objective": per_sample(self.settings.objective, output, target),
            }
            if isinstance(readout, PDFReadout):
                measured.update(readout.scores(output, target)._asdict())
            if self.settings.keep_pdf:
                measured["pdf"] = readout.pdf(output)  # type: ignore[attr-defined]  # asked before
        except (TypeError, ValueError) as error:
            raise _same_kind(error)(f"{where}: {error}") from error
        return measured


@contextmanager
def prepared(networks: Iterable[nn.Module], settings: Settings) -> Iterator[Prepared]:
    """Prepare networks for evaluation, and put them and the random state back at the end.

    The global random state is seeded, so that a network that draws in eval mode, or a loader that
    shuffles, gives the same result again.
    """
    distinct = {id(network): check_model(network) for network in networks}
    devices = {key: device_of(network) for key, network in distinct.items()}
    with ExitStack() as stack:
        for key, network in distinct.items():
            stack.enter_context(untouched(network, devices[key]))
        # Not torch.manual_seed, which seeds the GPUs of others too.
        torch.default_generator.manual_seed(settings.seed)
        for device in set(devices.values()):
            if device.type == "cuda":
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(settings.seed)
        yield Prepared(devices, settings)


def first_samples(kept: list[Batch], samples: int) -> Callable[[Batch], int]:
    """Return a function that copies batches into `kept` until it holds that many samples.

    Of processes that evaluate together each keeps its share of them.
    """
    share = -(-samples // distributed.processes())

    def look(batch: Batch) -> int:
        room = share - sum(len(rows.x) for rows in kept)
        if room <= 0:
            return 0
        # Copies: a loader may reuse its memory.
        x, context, target, _ = batch.rows(slice(0, room))
        kept.append(Batch(x.clone(), tuple(c.clone() for c in context), target.clone()))
        return len(x)

    return look


def _same_kind(error: Exception) -> type[Exception]:
    return TypeError if isinstance(error, TypeError) else ValueError


def _total(loader: Any, times: int) -> int | None:
    """Return the number of images to work through, where the loader knows it."""
    try:
        if isinstance(loader, (list, tuple)):
            return times * sum(len(batch[0]) for batch in loader)
        return times * len(loader.sampler)
    except (AttributeError, TypeError, IndexError, KeyError):
        return None
