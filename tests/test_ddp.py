"""Training in two processes on the CPU: what is shared, what is each one's own, what is refused."""

from __future__ import annotations

import time

import pytest
import torch

from ddp_cases import run_case
from trainings import child_process, different, same

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or not torch.distributed.is_gloo_available(),
    reason="needs gloo",
)
LIMIT = 60  # seconds for a case; a process that waits for another gives up after 20


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Run each case once, and return what each process has found."""
    folder, done = tmp_path_factory.mktemp("ddp"), {}

    def run(*names, world=2):
        for name in names:
            if (name, world) not in done:
                done[name, world] = processes(name, folder, world)
        return [done[name, world] for name in names]

    return run


def processes(name, folder, world):
    own = folder / f"group-{name}-{world}"
    own.mkdir(parents=True)
    children = [child_process(run_case, name, folder, own, rank, world) for rank in range(world)]
    for child in children:
        child.start()
    end = time.monotonic() + LIMIT
    try:
        for child in children:
            child.join(max(0.0, end - time.monotonic()))
        assert all(child.exitcode == 0 for child in children), f"{name} hangs, or has crashed"
    finally:
        for child in children:
            if child.is_alive():
                child.kill()
            child.join()
    found = [torch.load(own / f"{rank}.pt") for rank in range(world)]
    assert not any("error" in one and "steps" not in one for one in found), found
    return found


def test_one_plateau_for_all(results):
    """The learning rates and weights stay equal although the losses of the processes differ."""
    ((one, two),) = results("plateau")
    assert one["rates"] == two["rates"]
    assert one["rates"][-1] < 0.1
    assert one["losses"] == two["losses"]
    assert same(one["weights"], two["weights"])


def test_a_resumed_training_gives_each_process_its_draws_back(results):
    whole, first, again = results("whole", "first", "again")
    assert first[0]["names"][0] == "conv.weight"  # of the network, not of its wrapper
    for rank in range(2):
        assert different(whole[rank], again[rank]) == []
    draws = [one["random"][rank] for rank, one in enumerate(whole)]
    # Which samples of the common batch are attacked is drawn alike; dropout is each one's own.
    assert same(draws[0]["generator"], draws[1]["generator"])
    assert not same(draws[0]["loader"], draws[1]["loader"])
    assert not same(draws[0]["cpu"], draws[1]["cpu"])
    # What is learned is one network.
    for part in ("model", "optimizer", "scheduler", "best_weights"):
        assert same(whole[0][part], whole[1][part])
    rows = [[{**row, "seconds": 0} for row in one["history"]] for one in whole]
    assert rows[0] == rows[1]


def test_warm_starts_are_shared_and_resumed(results):
    (found,) = results("warm")
    # Half of 24 samples, 6 of each process.
    assert [int((~one["first"].flatten(1).isnan().all(1)).sum()) for one in found] == [12, 12]
    assert same(found[0]["first"], found[1]["first"])
    for one in found:
        assert different(one["unbroken"], one["resumed"]) == []


def test_fit_may_be_called_again(results):
    """BatchNorm has seen other samples in each process, and its statistics are shared."""
    ((one, two),) = results("twice")
    assert one["epoch"] == two["epoch"] == 2
    assert same(one["buffers"], two["buffers"])


REFUSED = {
    "other_epochs": "RuntimeError: the processes would begin at different places: epochs [2, 0]",
    "broken_in_one": "is damaged, or no checkpoint",
    "other_arguments": "RuntimeError: the processes must call fit alike",
}


@pytest.mark.parametrize("name", REFUSED)
def test_all_processes_refuse_before_the_first_step(name, results):
    results("first")
    start = time.monotonic()
    (found,) = results(name)
    assert time.monotonic() - start < 18  # nobody waits for the time limit of the group
    for one in found:
        assert REFUSED[name] in one["error"]
        assert one["steps"] == 0
    if name == "broken_in_one":
        assert found[0]["error"].startswith("RuntimeError: process 1 cannot begin")


def test_one_process_may_stop_all(results):
    (found,) = results("stop_in_one")
    assert [(one["epoch"], one["stop"]) for one in found] == [(2, True)] * 2


def test_shares_of_other_sizes_in_validation(results):
    (found,) = results("uneven")
    for one in found:
        assert one["loss"] == pytest.approx(one["expected"], rel=1e-5)


def test_attacks_and_validation_are_given_the_network(results):
    (found,) = results("plain_attack")
    for one in found:
        assert one["kinds"] == ["Small"] * 4  # two attacks and two batches of validation
        assert one["wrapped"] == 2
