"""No step of an attack waits for the device, and what is wrong is said all the same.

There may be no GPU here. Tensors on the device "meta" hold no values, so that whatever would make
the host wait for a GPU has to pass through the dispatcher, where it is counted.
"""

from __future__ import annotations

import contextlib
import math

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from advphotoz import (
    PGD,
    CrossEntropy,
    GaussianMixture,
    L2Ball,
    LinfBall,
    NegativeLogLikelihood,
    RedshiftBins,
    RedshiftError,
    SignedRedshift,
    TowardRedshift,
    WorstOf,
    ZeroPoint,
)
from advphotoz._deferred import deferred, refuse
from advphotoz.attacks.problem import opened
from problems import BINS, TwoInputs, two_inputs

OPS = torch.ops.aten


class Waits(TorchDispatchMode):
    """Count what waits for the device; a question to a meta tensor is answered: all is well."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (OPS._local_scalar_dense.default, OPS.nonzero.default, OPS.equal.default):
            self.count += 1
            if args[0].is_meta:
                return getattr(args[0], "answer", False)
        if function is OPS._to_copy.default and "device" in kwargs:
            to, here = kwargs["device"], args[0].device
            if to != here and (to.type == "cpu" or not kwargs.get("non_blocking")):
                self.count += 1
            if here.type == "meta" and to.type == "cpu":
                return torch.zeros(args[0].shape, dtype=args[0].dtype)
        if function in (OPS.index.Tensor, OPS.index_put_.default):
            self.count += any(i is not None and i.dtype == torch.bool for i in args[1])
        result = function(*args, **kwargs)
        if function is OPS.all.default:
            result.answer = True
        return result


class Copies(TorchFunctionMode):
    """Count the tensors that are made of numbers on the host and copied to a device."""

    count = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.tensor and "device" in (kwargs or {})
        return function(*args, **(kwargs or {}))


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Return a device like CUDA, as far as the code can see."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda self: self.is_meta))
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *args: False)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda *args: None)
    return torch.device("meta")


def waits(attack, device):
    problem = two_inputs()
    model = problem.model.to(device)
    x, z, ebv = (value.to(device) for value in (problem.x, problem.z, problem.context[0]))
    with Waits() as seen, Copies() as copies:
        x_adv = attack(model, x, z, context=(ebv,))
    assert x_adv.device == device
    return seen.count + copies.count


BANDS = (0.1, 0.2, 0.3, 0.4, 0.5)
CLIPPED = RedshiftBins(0.0, 1.0, 20, clip=True)


def of_a_mixture(output, target):
    """Read 18 of the network's outputs as a mixture."""
    return NegativeLogLikelihood(GaussianMixture(6))(output[:, :18], target)


@pytest.mark.parametrize("where", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("ball", "settings"),
    [
        (LinfBall(0.1), {"objective": CrossEntropy(BINS)}),
        (LinfBall(0.1), {"objective": CrossEntropy(BINS), "keep": "last"}),
        (LinfBall(BANDS), {"objective": RedshiftError(BINS), "step_size": 0.1}),
        (L2Ball(0.3, bounds=(-1e3, 1e3)), {"objective": TowardRedshift(0.2, BINS)}),
        (L2Ball(BANDS), {"objective": SignedRedshift(CLIPPED, -1)}),
        (LinfBall(0.1), {"objective": RedshiftError(CLIPPED), "eval_mode": False}),
        (ZeroPoint(0.1), {"objective": NegativeLogLikelihood(BINS)}),
        (LinfBall(0.1), {"objective": of_a_mixture}),
    ],
)
def test_the_number_of_steps_adds_no_waiting(request, where, ball, settings):
    device = request.getfixturevalue("meta") if where == "meta" else torch.device("cpu")
    waits(PGD(ball, steps=1, **settings), device)  # some constants are computed once
    few, many = (waits(PGD(ball, steps=n, **settings), device) for n in (10, 20))
    assert many == few <= 9


def test_the_counter_sees_what_waits(meta):
    x = torch.zeros(3, device=meta)
    for wait in (
        lambda: bool((x > 0).any()),
        lambda: x[0].item(),
        lambda: x.tolist(),
        lambda: x.cpu(),
        lambda: torch.zeros(3).to(meta),
        lambda: torch.tensor([1.0, 2.0], device=meta),
        lambda: torch.equal(x, x),
    ):
        with Waits() as seen, Copies() as copies:
            wait()
        assert seen.count + copies.count == 1
    here = torch.zeros(3)
    for mask in (lambda: here[here > 0], lambda: here.__setitem__(here > 0, here[:0])):
        with Waits() as seen:
            mask()
        assert seen.count == 1
    with Waits() as seen:
        torch.zeros(3).to(meta, non_blocking=True)
    assert seen.count == 0


def test_restarts_wait_once_in_all():
    attacks = [
        PGD(LinfBall(0.1), steps=2, restarts=n, objective=CrossEntropy(BINS)) for n in (2, 5)
    ]
    waits(attacks[0], torch.device("cpu"))
    few, many = (waits(attack, torch.device("cpu")) for attack in attacks)
    assert many == few


# What is wrong from the second step on is said at the end, in the same words.


class Later(TwoInputs):
    """A network that goes wrong at its second call."""

    def __init__(self, how, first=2):
        super().__init__()
        self.how, self.calls, self.first = how, 0, first

    def forward(self, x, ebv):
        self.calls += 1
        y = super().forward(x, ebv)
        return self.how(y) if self.calls >= self.first else y


def two_rows(y):
    spoilt = torch.zeros(len(y), 1)
    spoilt[[1, 4]] = math.nan
    return y + spoilt


WRONG = [
    (two_rows, "The model's output holds NaN or +inf in 2 of 6 rows"),
    (lambda y: y + math.inf, "The model's output holds NaN or +inf in 6 of 6 rows"),
    (lambda y: y.softmax(1), "drop the softmax at the end of the model"),
    (lambda y: (y - y).sqrt() + y, "not finite for 6 of 6 samples at gradient evaluation 2"),
    (lambda y: y[:, :7], "logits of shape (N, 20)"),
]


@pytest.mark.parametrize(("how", "sentence"), WRONG)
@pytest.mark.parametrize("objective", [CrossEntropy(BINS), RedshiftError(BINS)], ids=repr)
@pytest.mark.parametrize("many", [False, True])
def test_what_goes_wrong_later_is_refused(how, sentence, objective, many):
    _, x, z, context, _ = two_inputs()
    attack = PGD(LinfBall(0.1), steps=4, restarts=1 + many, objective=objective)
    model = Later(how)
    with pytest.raises(ValueError) as caught:
        (WorstOf([attack], objective) if many else attack)(model, x, z, context=context)
    assert sentence in str(caught.value)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="outside the bins"):  # and nothing is put off any longer
        objective(torch.randn(6, 20), z + 1)


@pytest.mark.parametrize(("how", "sentence"), WRONG[:3])
def test_what_is_wrong_at_once_costs_one_step(how, sentence):
    _, x, z, context, _ = two_inputs()
    model = Later(how, first=1)
    with pytest.raises(ValueError) as caught:
        PGD(LinfBall(0.1), steps=9, objective=CrossEntropy(BINS))(model, x, z, context=context)
    assert sentence in str(caught.value)
    assert model.calls == 1


def test_a_bad_target_costs_one_step():
    _, x, z, context, _ = two_inputs()
    model = Later(lambda y: y)
    with pytest.raises(ValueError, match="6 of 6 redshifts lie outside the bins"):
        PGD(LinfBall(0.1), objective=CrossEntropy(BINS))(model, x, z + 1, context=context)
    assert model.calls == 1


def test_inside_the_block_a_value_is_checked_at_its_end():
    _, x, z, context, objective = two_inputs()
    seen = []

    def use():
        with opened(Later(two_rows), x, z, context, LinfBall(0.1), objective) as problem:
            p = torch.zeros_like(x)
            seen.extend(problem.value(p).isnan().sum().item() for _ in range(2))

    with pytest.raises(ValueError, match="NaN or .inf in 2 of 6 rows"):
        use()
    assert seen == [0, 2]


def refuse_each(*names, then=lambda: None):
    """Refuse, deferred, whatever is named "bad ..."."""
    with deferred() as look:
        for name in names:
            refuse(torch.tensor(name.startswith("bad")), lambda name=name: ValueError(name))
        then()
        return look


def raise_key_error():
    raise KeyError


def test_deferred_errors():
    with pytest.raises(ValueError, match="bad 2"):
        refuse_each("good 1", "bad 2", "bad 3")
    assert refuse_each("good 1")() is None
    with deferred() as look:
        with pytest.raises(ValueError, match="bad 1"):
            refuse_each("bad 1")  # an attack inside another keeps its own checks
        refuse(torch.tensor(True), KeyError)
        with pytest.raises(KeyError):
            look()
        look()  # said once
    with pytest.raises(KeyError):
        refuse_each("bad 1", then=raise_key_error)
    with pytest.raises(KeyError):
        refuse(torch.tensor(True), KeyError)  # and nothing is put off any longer
