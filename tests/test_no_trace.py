"""Networks with habits of their own are attacked without a trace, and one thread at a time."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advphotoz import FGSM, PGD, CrossEntropy, UniformNoise, WorstOf, ZeroPoint
from advphotoz._model import evaluating, untouched
from problems import BINS, TwoInputs, two_inputs

OBJECTIVE = CrossEntropy(BINS)
ATTACKS = [
    FGSM(0.1, objective=OBJECTIVE),
    FGSM(0.1, objective=OBJECTIVE, eval_mode=False),
    PGD(0.1, steps=2, objective=OBJECTIVE),
    PGD(0.1, steps=2, restarts=2, objective=OBJECTIVE, eval_mode=False),
    PGD(ZeroPoint(0.1), steps=2, objective=OBJECTIVE),
    WorstOf([UniformNoise(0.1), PGD(0.1, steps=2)], OBJECTIVE),
]
attacks = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{a.name} {ATTACKS.index(a)}")


class InPlace(TwoInputs):
    """Standardises its inputs where they are."""

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        x.sub_(1.0).div_(30.0)
        ebv.mul_(2.0)
        return super().forward(x, ebv)


class Random(TwoInputs):
    """Draws numbers in eval mode too."""

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        return super().forward(x + 0.1 * torch.randn_like(x), ebv)


class Counting(TwoInputs):
    """Counts its calls in a buffer, in place, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x, ebv)


class Rebinding(Counting):
    """Binds its buffer anew, as a moving average written by hand does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(5))
        self.register_buffer("empty", None)

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
        self.empty = torch.ones(3)
        return super().forward(x, ebv)


class Caching(TwoInputs):
    """Registers a buffer when it is called, on a module that has none, and drops another."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grid", torch.arange(4.0))

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        self.conv.register_buffer("cache", x.detach().mean())
        if hasattr(self, "grid"):
            del self.grid
        return super().forward(x, ebv)


class Resizing(TwoInputs):
    """Binds a buffer of another shape and dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(0))

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        self.seen = torch.cat([self.seen, x.detach().mean()[None]]).double()
        return super().forward(x, ebv)


HABITS = [InPlace, Random, Counting, Rebinding, Caching, Resizing]


def state(model: nn.Module) -> dict[str, Any]:
    """Return everything about a network that an attack could leave changed."""
    return {
        "modes": {name: module.training for name, module in model.named_modules()},
        "flags": {name: p.requires_grad for name, p in model.named_parameters()},
        "parameters": {n: (id(p), p.detach().clone()) for n, p in model.named_parameters()},
        "buffers": {
            f"{name}.{key}": (id(b), None if b is None else b.clone())
            for name, module in model.named_modules()
            for key, b in module._buffers.items()
        },
        "gradients": {
            n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()
        },
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return all(same(one, other) for one, other in zip(a, b, strict=True))
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return a == b


@attacks
@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.__name__)
@pytest.mark.parametrize("train", [True, False])
def test_no_trace(attack, habit, train):
    _, x, z, context, _ = two_inputs()
    model = habit().train(train)
    model.norm.eval()
    model.fc.bias.requires_grad_(False)
    model.conv.weight.grad = torch.ones_like(model.conv.weight)
    before, batch = state(model), (x.clone(), z.clone(), context[0].clone())
    random = torch.get_rng_state()
    x_adv = attack(model, x, z, context, torch.Generator().manual_seed(0))
    assert not torch.equal(x_adv, x)
    after = state(model)
    for name in before:
        assert same(before[name], after[name]), name
    assert all(torch.equal(a, b) for a, b in zip(batch, (x, z, context[0]), strict=True))
    assert torch.equal(random, torch.get_rng_state())


@attacks
@pytest.mark.parametrize("at_call", [1, 2])
def test_no_trace_of_a_failure(attack, at_call):
    model = Rebinding().train()
    _, x, z, context, _ = two_inputs()
    before, random, calls = state(model), torch.get_rng_state(), []

    def fail(*_: Any) -> None:
        calls.append(0)
        torch.rand(1)
        if len(calls) == at_call:
            raise KeyboardInterrupt

    handle = model.fc.register_forward_hook(fail)
    if at_call > 1 and isinstance(attack, FGSM):
        pytest.skip("one call is all there is")
    with pytest.raises(KeyboardInterrupt):
        attack(model, x, z, context, torch.Generator().manual_seed(0))
    handle.remove()
    assert same(before, state(model))
    assert torch.equal(random, torch.get_rng_state())
    attack(model, x, z, context, torch.Generator().manual_seed(0))  # nor is it taken for busy


def test_an_objective_that_writes_into_its_target():
    model, x, z, context, _ = two_inputs()
    before = z.clone()

    def objective(output: Tensor, target: Tensor) -> Tensor:
        return (output.mean(1) - target.mul_(100.0)).abs()

    PGD(0.1, steps=3, objective=objective)(model, x, z, context)
    assert torch.equal(z, before)


def test_a_model_that_writes_into_its_input_is_attacked_as_if_it_did_not():
    _, x, z, context, _ = two_inputs()
    writes = InPlace().eval()
    copies = copy.deepcopy(writes)
    copies.register_forward_pre_hook(lambda module, inputs: tuple(v.clone() for v in inputs))
    for attack in (ATTACKS[0], ATTACKS[2], ATTACKS[4]):
        assert torch.equal(attack(writes, x, z, context), attack(copies, x, z, context))


# Threads.


class Slow(TwoInputs):
    """Waits in its forward pass until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go_on = threading.Event(), threading.Event()

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        self.entered.set()
        assert self.go_on.wait(60)
        return super().forward(x, ebv)


def test_two_threads_on_one_model_are_refused_and_it_is_left_as_it_was():
    _, x, z, context, _ = two_inputs()
    model = Slow().train()
    model.norm.eval()
    before = state(model)
    results: list[Any] = []

    def attack() -> None:
        try:
            results.append(FGSM(0.1, objective=OBJECTIVE)(model, x, z, context))
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=attack)
    thread.start()
    try:
        assert model.entered.wait(60)
        inside = state(model)
        for one in (ATTACKS[0], ATTACKS[3], ATTACKS[5]):
            with pytest.raises(RuntimeError, match=r"in another thread.*copy\.deepcopy\(model\)"):
                one(model, x, z, context)
            assert same(inside, state(model))  # the other thread's modes and flags still hold
        noisy = UniformNoise(0.1)(model, x, z, context)  # which does not touch the model
        assert noisy.shape == x.shape
    finally:
        model.go_on.set()
        thread.join(60)
    assert isinstance(results[0], Tensor), results[0]
    assert same(before, state(model))
    assert ATTACKS[0](model, x, z, context).shape == x.shape  # free again


def test_threads_with_a_copy_each_are_welcome():
    model, x, z, context, _ = two_inputs()
    attack = PGD(0.1, steps=3, objective=OBJECTIVE)
    expected = attack(model, x, z, context)
    results: list[Any] = [None] * 3

    def run(i: int, own: nn.Module) -> None:
        results[i] = attack(own, x, z, context)

    threads = [
        threading.Thread(target=run, args=(i, copy.deepcopy(model))) for i in range(len(results))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(torch.equal(found, expected) for found in results)


def test_one_thread_may_enter_again():
    """A search inside a search, as an objective that attacks would be."""
    model, x, z, context, _ = two_inputs()
    before = state(model)
    with untouched(model, x.device):
        inside = state(model)
        FGSM(0.1, objective=OBJECTIVE)(model, x, z, context)
        assert same(inside, state(model))
    assert same(before, state(model))


def test_eval_mode_is_put_back_flag_by_flag():
    model = TwoInputs().train()
    model.norm.eval()

    def fail() -> None:
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [name for name, module in model.named_modules() if not module.training] == ["norm"]


def test_what_is_no_module_is_attacked_too():
    x, z = torch.randn(3, 2, 4), torch.rand(3)
    random = torch.get_rng_state()
    noisy = lambda x: (x + torch.randn_like(x)).flatten(1).sum(1)  # noqa: E731
    moved = FGSM(0.1, objective=lambda output, target: output)(noisy, x, z) - x
    torch.testing.assert_close(moved, torch.full_like(x, 0.1))
    assert torch.equal(random, torch.get_rng_state())
