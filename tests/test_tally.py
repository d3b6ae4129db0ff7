"""Tallies: what they keep, how they merge, and how processes gather them."""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from advphotoz import PGD, LinfBall, distributed, metrics
from advphotoz.evaluation import Evaluation, Tally
from advphotoz.evaluation.tally import COLUMNS, LARGEST, SUMS, Column
from advphotoz.provenance import DataDigest, sample_digests
from networks import FIVE, Net, Spoiler, TwoBins, images, run, sides, split

NAMES = (*COLUMNS, *SUMS, *LARGEST)


def test_columns_keep_every_number_in_order() -> None:
    column = Column()
    parts = [torch.randn(n) for n in (700, 0, 700, 5000, 1)]  # past two doublings of the block
    for part in parts:
        column.append(part)
    assert torch.equal(column.values(), torch.cat(parts))
    assert len(column) == 6401
    assert column.mean() == pytest.approx(torch.cat(parts).double().mean().item(), abs=1e-12)


def measured(n: int = 3000) -> dict[str, torch.Tensor]:
    """Multiples of 1/1024, whose sums are exact in any order."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 1024, (len(NAMES), n), generator=generator) / 1024
    return dict(zip(NAMES, drawn, strict=True))


def tally_of(values: dict[str, torch.Tensor], sizes: list[int]) -> Tally:
    tally = Tally()
    n = len(next(iter(values.values())))
    assert sum(sizes) == n
    for part in zip(*(v.split(sizes) for v in values.values()), strict=True):
        tally.update(dict(zip(values, part, strict=True)))
    return tally


def assert_same(one: Tally, other: Tally) -> None:
    assert one.n == other.n
    assert set(one.columns) == set(other.columns)
    for name, column in one.columns.items():
        assert torch.equal(column.values(), other.columns[name].values()), name
    assert one.sums == other.sums
    assert one.largest == other.largest


def test_a_tally_holds_columns_sums_and_maxima() -> None:
    values = measured()
    tally = tally_of(values, [1000, 1, 1999])
    assert tally.n == 3000
    for name in COLUMNS:
        assert torch.equal(tally.column(name), values[name])
    for name in SUMS:
        assert tally.sums[name] == values[name].double().sum().item()
    for name in (*SUMS, *COLUMNS):
        assert tally.mean(name) == pytest.approx(values[name].double().mean().item(), abs=1e-12)
    for name in LARGEST:
        assert tally.largest[name] == values[name].max().item()
    assert Tally().mean("crps") is None
    without = Tally()
    without.update({"objective": torch.tensor([1.0, 2.0])})
    assert without.column("own").tolist() == [1.0, 2.0]


@pytest.mark.parametrize("cut", [1, 1500, 2999])
def test_parts_merge_to_the_whole(cut: int) -> None:
    values = measured()
    whole = tally_of(values, [3000])
    first = tally_of({n: v[:cut] for n, v in values.items()}, [cut])
    rest = tally_of({n: v[cut:] for n, v in values.items()}, [3000 - cut])
    kept = copy.deepcopy(rest)
    first.merge(rest)
    assert_same(first, whole)
    assert_same(rest, kept)
    empty = Tally()
    empty.merge(first)
    empty.merge(Tally())
    assert_same(empty, whole)
    assert_same(pickle.loads(pickle.dumps(first)), whole)


def test_a_process_alone_gets_its_own_tally_back() -> None:
    tally = tally_of(measured(), [3000])
    assert distributed.gather(tally) is tally
    assert not distributed.several()
    assert (distributed.rank(), distributed.processes()) == (0, 1)


# ---- two processes ----------------------------------------------------------------------------


def gathered(rank: int) -> Any:
    """Gather the two parts of a tally."""
    values = measured()
    rows = slice(None, 1234) if rank == 0 else slice(1234, None)
    mine = {name: v[rows] for name, v in values.items()}
    tally = distributed.gather(tally_of(mine, [len(mine["pit"])]))
    digest = DataDigest()
    digest.update(sample_digests((mine["z_phot"], mine["pit"])))
    answers = distributed.gather_all(10 + rank)
    return tally, distributed.gather(digest), answers, distributed.several()


RANDOM = PGD(LinfBall(0.1), random_start=True)


def evaluated(rank: int) -> tuple[Evaluation, Evaluation]:
    """Evaluate a share of the data each, of different sizes; then with few samples for checks."""
    torch.manual_seed(0)
    model = Net()
    rows = slice(None, 45) if rank == 0 else slice(45, None)
    mine = tuple(value[rows] for value in images())
    both = [run(model, split(mine, 15), [RANDOM], FIVE, check_samples=n) for n in (128, 20)]
    return both[0], both[1]


class Cut(TwoBins):
    """Its gradient is cut off."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.detach())


def cut_in_one(rank: int) -> Any:
    """The gradient is cut in one process only: the other must not wait for ever."""
    return run([TwoBins, Cut][rank](), [sides(8)], [Spoiler()]).checks


def _worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    # A file to meet at, in place of a port that somebody else might take.
    limit = timedelta(minutes=5)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2, timeout=limit)
    try:
        torch.save([work(rank) for work in (gathered, evaluated, cut_in_one)], f"{folder}/{rank}")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Return what two connected processes found: one after the other, in each."""
    folder = tmp_path_factory.mktemp("processes")
    multiprocessing.spawn(_worker, (str(folder),), nprocs=2)
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(2)]


def test_two_processes_gather_the_tally_of_one(two: list[Any]) -> None:
    values = measured()
    whole = tally_of(values, [3000])
    digest = DataDigest()
    digest.update(sample_digests((values["z_phot"], values["pit"])))
    for (tally, total, answers, several), *_ in two:
        assert_same(tally, whole)
        pair = tally.column("z_phot").numpy(), tally.column("own").numpy()
        expected = values["z_phot"].numpy(), values["own"].numpy()
        for metric in (metrics.sigma_mad, metrics.median_bias, metrics.sigma_iqr):
            assert metric(*pair) == metric(*expected)
        assert total == digest
        assert answers == [10, 11]
        assert several


def test_two_processes_evaluate_as_one(two: list[Any]) -> None:
    torch.set_num_threads(1)
    (_, (first, few), _), (_, (second, _), _) = two
    assert first.rows == second.rows
    assert first.checks == second.checks
    torch.manual_seed(0)
    alone = run(Net(), split(images(), 15), [RANDOM], FIVE)
    assert first.settings["data_sha256_sum"] == alone.settings["data_sha256_sum"]
    assert first.settings["samples"] == 60
    assert first.z_spec.tolist() == alone.z_spec.tolist()
    for name in ("clean", "noise", "PGD-10 0.1"):
        assert np.array_equal(first.z_phot[name], alone.z_phot[name])
        assert np.array_equal(first.pit[name], alone.pit[name])
        for metric in ("sigma_mad", "median_bias", "sigma_iqr", "eta", "bias_error", "linf"):
            assert getattr(first[name], metric) == getattr(alone[name], metric)
        assert first[name].nll == pytest.approx(alone[name].nll, rel=1e-12)
    assert first.checks.samples == alone.checks.samples == 60
    for ours, theirs in zip(first.checks.checks, alone.checks.checks, strict=True):
        assert (ours.name, ours.attack, ours.status) == (theirs.name, theirs.attack, theirs.status)
    # Each keeps half of the samples for the checks; one process that reads these first agrees.
    order = torch.tensor([*range(10), *range(45, 55), *range(10, 45), *range(55, 60)])
    data = tuple(value[order] for value in images())
    torch.manual_seed(0)
    same = run(Net(), split(data, 15), [RANDOM], FIVE, check_samples=20)
    assert few.checks == same.checks
    assert few.checks.samples == 20


def test_processes_whose_gradients_fail_apart_do_not_wait_for_ever(two: list[Any]) -> None:
    for _, _, checks in two:
        assert checks["gradients do not vanish"].status == "FAIL"
        assert "cuts the gradient" in checks["gradients do not vanish"].sentence
