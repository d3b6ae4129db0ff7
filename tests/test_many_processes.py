"""Several processes do what one does: batches, rows, steps and reports; killed, and resumed."""

from __future__ import annotations

import time
from itertools import chain

import pytest
import torch

from advphotoz import distributed
from advphotoz.distributed import JointBatches, Shard
from ddp_cases import run_case
from test_ddp import LIMIT, processes
from trainings import child_process, same

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="needs gloo",
)
FOUR = pytest.param(4, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("many")


@pytest.fixture(scope="module")
def alone(folder):
    """What one process finds, each case once."""
    done = {}

    def run(name):
        if name not in done:
            [done[name]] = processes(name, folder, 1)
        return done[name]

    return run


def close(one, other, rtol=1e-9):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=rtol, atol=1e-12)


@pytest.mark.parametrize("world", [2, FOUR])
def test_training_is_that_of_one_process(world, folder, alone):
    """Ten steps in float64 at fraction 0.25: the same rows attacked, the same weights."""
    one, found = alone("as_one"), processes("as_one", folder, world)
    assert [len(rows) for rows in one["attacked"]] == [2] * 10  # a quarter of 8
    for step in range(10):
        together = [z for part in found for z in part["attacked"][step]]
        assert sorted(together) == sorted(one["attacked"][step])
        for part in found:
            torch.testing.assert_close(
                part["weights"][step], one["weights"][step], rtol=1e-10, atol=1e-13
            )
    assert {tuple(part["attacked"][0]) for part in found} != {tuple(one["attacked"][0])}
    for part in found:
        assert part["losses"] == pytest.approx(one["losses"], rel=1e-10)
        assert same(part["drawing"], found[0]["drawing"])
        assert same(part["moving"], found[0]["moving"])
        assert same(part["generator"], found[0]["generator"])


@pytest.mark.slow
def test_random_starts_do_not_depend_on_the_number_of_processes(folder):
    two, four = (processes("as_one", folder / f"r{n}", n)[0] for n in (2, 4))
    close(two["drawing"], four["drawing"])


@pytest.mark.parametrize("world", [2, FOUR])
def test_reports_are_those_of_one_process(world, folder, alone):
    """25 galaxies are no multiple of 2 or 4; none counts twice, and all are in their order."""
    one, found = alone("evaluated"), processes("evaluated", folder, world)
    for part in found:
        assert part["printed"] == one["printed"]
        assert part["data"] == one["data"]
        torch.testing.assert_close(part["pdf"], one["pdf"], rtol=1e-5, atol=1e-6)
        for name, z in one["z_phot"].items():
            torch.testing.assert_close(part["z_phot"][name], z, rtol=1e-5, atol=1e-6)
        assert part["verdict"] == found[0]["verdict"]


def test_parts_of_other_sizes_make_the_step_of_the_whole(folder, alone):
    for part in processes("unlike_sizes", folder, 2):
        close(part, alone("unlike_sizes"))


def moved(folder, *stages):
    """Train two epochs in each number of processes, from one checkpoint."""
    own = folder / "-".join(map(str, stages))
    own.mkdir()
    for name, world in zip(("two_epochs", "four_epochs", "six_epochs"), stages, strict=True):
        found = processes(name, own, world)
    return found


@pytest.mark.parametrize("stages", [(2, 1, 2), pytest.param((2, 4, 1), marks=pytest.mark.slow)])
def test_resumed_in_another_number_of_processes(stages, folder, alone):
    for part in moved(folder, *stages):
        assert part["epoch"] == 6
        close(part["weights"], alone("unbroken")["weights"])
        close(part["best"], alone("unbroken")["best"])


@pytest.mark.parametrize("how", ["killed", "raised"])
def test_a_process_that_dies_ends_all_and_the_training_goes_on(how, folder, alone):
    own = folder / f"group-{how}"
    own.mkdir()
    children = [child_process(run_case, how, folder, own, rank, 2) for rank in range(2)]
    for child in children:
        child.start()
    end = time.monotonic() + LIMIT
    for child in children:
        child.join(max(0.0, end - time.monotonic()))
    ended = [child.exitcode for child in children]
    for child in children:
        if child.is_alive():
            child.kill()
        child.join()
    assert ended == [0, -9 if how == "killed" else 0]  # nobody was left waiting
    error = torch.load(own / "0.pt")["error"]
    assert "RuntimeError" in error or "DistBackendError" in error
    for part in processes(f"after_{how}", folder, 2):
        assert same(part["weights"], processes_once(folder)["weights"])


_done = {}


def processes_once(folder):
    if not _done:
        _done.update(processes("not_broken", folder, 2)[0])
    return _done


# The samplers, without processes.


def joined(lists):
    return list(chain.from_iterable(lists))


def as_process(monkeypatch, number, world):
    monkeypatch.setattr(distributed, "processes", lambda: world)
    monkeypatch.setattr(distributed, "rank", lambda: number)


@pytest.mark.parametrize(("n", "world"), [(25, 2), (25, 4), (7, 7), (8, 4), (9, 1)])
def test_shards_are_blocks_that_add_up(n, world, monkeypatch):
    parts = []
    for number in range(world):
        as_process(monkeypatch, number, world)
        shard = Shard(range(n))
        assert len(shard) == len(list(shard))
        parts.append(list(shard))
    assert joined(parts) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(ValueError, match=f"{world - 1} samples cannot be shared by {world}"):
        Shard(range(world - 1))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_batches_are_the_same_for_any_number_of_processes(world, monkeypatch):
    whole = list(JointBatches(range(27), 8, seed=1))
    assert len(whole) == 3
    assert len(set(joined(whole))) == 24
    parts = []
    for number in range(world):
        as_process(monkeypatch, number, world)
        batches = JointBatches(range(27), 8, seed=1)
        assert len(batches) == 3
        parts.append(list(batches))
        batches.set_epoch(1)
        assert list(batches) != parts[-1]
    for step, batch in enumerate(whole):
        assert joined(part[step] for part in parts) == batch
    as_process(monkeypatch, 0, 3)
    with pytest.raises(ValueError, match="batch of 8 samples cannot be shared evenly by 3"):
        JointBatches(range(27), 8)
    with pytest.raises(ValueError, match="5 samples do not fill a batch of 6"):
        JointBatches(range(5), 6)
