"""The attack contract as a function, for people who write an attack of their own."""

from __future__ import annotations

import dataclasses
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

import advphotoz
from advphotoz.attacks.attack import Attack, ZeroGradientWarning
from advphotoz.balls import Ball, LinfBall

__all__ = ["check_attack"]


def check_attack(attack: Attack, ball: Ball | None = None) -> None:
    """Check that an attack keeps the contract that trainer and evaluation rely on.

    It returns detached images of x's shape, dtype, device and memory format; it modifies neither
    its inputs nor the model (flags, gradients, BatchNorm statistics) nor the global random state,
    also when the model raises; it works under ``no_grad`` and ``inference_mode``; the same seed
    gives the same result, and a sample's result does not depend on its batch; no perturbation
    leaves the ball, whatever the size of the pixels; bad input is refused; a dataclass attack is
    hashable, picklable and equal to what its repr evaluates to.

    Parameters
    ----------
    attack : Attack
        What to check, on small networks made here.
    ball : Ball, optional
        The promised ball. None: the attack's own ``ball``, or the L-infinity ball of its ``eps``,
        or no promise.

    Raises
    ------
    AssertionError
        At the first broken promise, with a sentence that says which.

    Examples
    --------
    >>> from advphotoz import FGSM
    >>> check_attack(FGSM(0.01))
    """
    if ball is None:
        eps = getattr(attack, "eps", None)
        ball = getattr(attack, "ball", None if eps is None else LinfBall(eps))
    problem = _problem(attack, ball)
    _check_result(attack, problem)
    _check_no_trace(attack, problem)
    _check_independence(attack, problem)
    if ball is not None:
        _check_ball(attack, problem, ball)
    _check_refusals(attack, problem)
    if dataclasses.is_dataclass(attack):
        _check_value(attack)


Problem = tuple[Any, Tensor, Tensor, tuple[Tensor, ...]]


class _Net(nn.Module):
    """Convolution, BatchNorm, dropout and a second input, as small as can be."""

    def __init__(self, bands: int, bins: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(bands, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(6 * 8 * 8 + 1, bins)
        self.saw_gradient = False

    def forward(self, image: Tensor, ebv: Tensor) -> Tensor:
        self.saw_gradient |= image.requires_grad
        hidden = self.dropout(torch.relu(self.norm(self.conv(image.to(self.fc.weight.dtype)))))
        logits: Tensor = self.fc(torch.cat([hidden.flatten(1), ebv.view(-1, 1)], 1))
        return logits


def _problem(attack: Attack, ball: Ball | None) -> Problem:
    """Return a half-frozen network in train mode with one BatchNorm in eval mode, and a batch."""
    eps = getattr(ball, "eps", 0.0)
    bands = len(eps) if isinstance(eps, tuple) else 5
    grid = getattr(getattr(attack, "objective", None), "bins", None) or advphotoz.RedshiftBins()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = _Net(bands, grid.n).train()
        x = torch.randn(6, bands, 8, 8)
        z = grid.z_min + (grid.z_max - grid.z_min) * torch.rand(6)
        ebv = torch.rand(6)
    model.norm.eval()
    model.conv.weight.requires_grad_(False)
    bounds = getattr(attack, "bounds", None)
    return model, x if bounds is None else x.clamp(*bounds), z, (ebv,)


def _run(attack: Attack, problem: Problem, seed: int = 0) -> Tensor:
    model, x, z, context = problem
    generator = torch.Generator().manual_seed(seed)
    return attack(model, x, z, context=context, generator=generator)


def _check_result(attack: Attack, problem: Problem) -> None:
    model, x, z, context = problem
    x_last = x.contiguous(memory_format=torch.channels_last)
    for images in (x, x_last, x.double(), x.bfloat16(), x.half()):
        net = model if images.dtype != torch.float64 else _copy(model).double()
        inputs = tuple(value.to(net.fc.weight.dtype) for value in context)
        before = images.clone()
        result = _run(attack, (net, images, z, inputs))
        for name in ("shape", "dtype", "device"):
            got, want = getattr(result, name), getattr(images, name)
            assert got == want, f"the result's {name} is {got}, and x's is {want}"
        assert result.stride() == images.stride(), "the result's memory format is not that of x"
        assert not result.requires_grad, "the result is not detached"
        assert result.data_ptr() != images.data_ptr(), "the result shares its memory with x"
        assert torch.equal(images, before), "x itself was modified"
        assert bool(result.isfinite().all()), "the result has pixels that are not finite"
    plain = _run(attack, problem)
    with torch.no_grad():
        assert torch.equal(_run(attack, problem), plain), "the result differs under no_grad"
    with torch.inference_mode():
        batch = (x.clone(), z.clone(), tuple(value.clone() for value in context))
        result = _run(attack, (model, *batch))
        assert torch.equal(result, plain), "the result differs under inference_mode"


def _check_no_trace(attack: Attack, problem: Problem) -> None:
    model = problem[0]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with _unchanged(problem, "after an attack"):
        _run(attack, problem)
    calls = 0

    def fail(*_: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise _Failure

    for at_call in (1, 2):
        calls = 2 - at_call
        handle = model.register_forward_hook(fail)
        with _unchanged(problem, "after an error inside the model"), suppress(_Failure):
            _run(attack, problem)
        handle.remove()


@contextmanager
def _unchanged(problem: Problem, when: str) -> Iterator[None]:
    before, random = _snapshot(problem), torch.get_rng_state()
    yield
    after = _snapshot(problem)
    for name, value in before.items():
        same = (
            torch.equal(value, after[name]) if isinstance(value, Tensor) else value == after[name]
        )
        assert same, f"{name} is not what it was {when}"
    assert torch.equal(random, torch.get_rng_state()), (
        f"torch's global random state is not what it was {when}, though a generator was given"
    )


def _snapshot(problem: Problem) -> dict[str, Any]:
    model, x, z, context = problem
    state: dict[str, Any] = {
        f"the flag 'training' of {n!r}": m.training for n, m in model.named_modules()
    }
    for name, parameter in model.named_parameters():
        state[f"the parameter {name!r}"] = parameter.detach().clone()
        state[f"requires_grad of {name!r}"] = parameter.requires_grad
        state[f"the gradient of {name!r}"] = (
            None if parameter.grad is None else parameter.grad.clone()
        )
    for name, buffer in model.named_buffers():
        state[f"the buffer {name!r}"] = buffer.clone()
    for name, value in (("x", x), ("the target", z), ("the context", context[0])):
        state[name] = value.clone()
    return state


def _check_independence(attack: Attack, problem: Problem) -> None:
    model, x, z, context = problem
    first = _run(attack, problem)
    assert torch.equal(first, _run(attack, problem)), "the same seed gives another result"
    if not torch.equal(first, _run(attack, problem, seed=1)):
        return  # a random attack: its draws for a sample depend on those before it
    single = _copy(model).double().eval()
    batch = (x.double(), z, tuple(value.double() for value in context))
    whole = _run(attack, (single, *batch))
    for row in range(len(x)):
        one = slice(row, row + 1)
        alone = _run(attack, (single, batch[0][one], z[one], tuple(c[one] for c in batch[2])))
        assert torch.allclose(alone, whole[one], atol=1e-9), (
            f"sample {row} is attacked differently alone and in a batch"
        )


def _check_ball(attack: Attack, problem: Problem, ball: Ball) -> None:
    model, x, z, context = problem
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for scale in (1e-6, 1.0, 1e4):
            bounds = getattr(attack, "bounds", None)
            images = (x * scale).to(dtype)
            images = images if bounds is None else images.clamp(*bounds)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ZeroGradientWarning)
                result = _run(attack, (model, images, z, context))
            norm = ball.norm(result.double() - images.double())
            eps = torch.tensor(ball.eps, dtype=torch.float64)
            limit = torch.maximum(eps, eps.to(dtype).double())
            assert bool((norm <= limit).all()), (
                f"pixels of size {scale:g} in {dtype}: the norm reaches {norm.max().item()!r}, "
                f"more than eps = {ball.eps}"
            )


def _check_refusals(attack: Attack, problem: Problem) -> None:
    model, x, z, context = problem
    holed = x.clone()
    holed[1, 2 % x.shape[1], 3, 4] = float("nan")
    _refused(attack, (model, holed, z, context), "NaN pixels")
    _refused(attack, (model, x.long(), z, context), "integer images")
    _refused(attack, (model, x, z[:-1], context), "a target of another length")
    _refused(attack, (model, x, z, (context[0][:-1],)), "a context of another length")
    probe = _copy(model)
    _run(attack, (probe, x, z, context))
    if probe.saw_gradient:
        flat = _Flat(model.fc.out_features)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _run(attack, (flat, x, z, context))
        assert any(issubclass(w.category, ZeroGradientWarning) for w in caught), (
            "a gradient that is zero in the whole batch raised no ZeroGradientWarning"
        )
        flat.factor = float("nan")
        _refused(attack, (flat, x, z, context), "a gradient that is not finite")


def _refused(attack: Attack, problem: Problem, what: str) -> None:
    try:
        _run(attack, problem)
    except (ValueError, TypeError):
        return
    raise AssertionError(f"{what}: accepted without a ValueError or TypeError")


def _check_value(attack: Attack) -> None:
    again = pickle.loads(pickle.dumps(attack))
    assert again == attack, "a pickled attack is not equal to it"
    assert hash(again) == hash(attack), "equal attacks have different hashes"
    names = {**vars(advphotoz), "torch": torch, type(attack).__name__: type(attack)}
    assert eval(repr(attack), names) == attack, f"eval(repr) is not equal to it: {attack!r}"


class _Failure(Exception):
    """Raised inside the model, to see what the attack leaves behind."""


class _Flat(nn.Module):
    """Logits whose gradient with respect to the image is zero, or NaN for a NaN factor."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.factor = 0.0

    def forward(self, image: Tensor, ebv: Tensor) -> Tensor:
        total = image.flatten(1).sum(1, keepdim=True)
        bent = total * self.factor if self.factor == 0.0 else (total - total).sqrt()
        return bent * torch.ones(self.bins)


def _copy(model: nn.Module) -> _Net:
    copied: _Net = pickle.loads(pickle.dumps(model))
    return copied
