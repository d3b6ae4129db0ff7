"""The contracts of an attack and of a perturbation set as functions, for people who write one."""

from __future__ import annotations

import dataclasses
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

import advphotoz
from advphotoz import perturbations as sets
from advphotoz._random import Generator, SampleGenerators
from advphotoz.attacks.contract import (
    Attack,
    Found,
    ZeroGradientWarning,
    attack_name,
    bind_objective,
    objective_of,
    perturbations_of,
    scaled,
)
from advphotoz.objectives import CrossEntropy, per_sample
from advphotoz.perturbations import PerturbationSet, PixelBall
from advphotoz.redshift import GaussianMixture, PointEstimate, Quantiles, Readout, RedshiftBins

__all__ = ["check_attack", "check_set"]

HALF = (torch.bfloat16, torch.float16)


def check_attack(attack: Attack, perturbations: PerturbationSet | None = None) -> None:
    """Check that an attack keeps the contract that trainer and evaluation rely on.

    It returns detached images of x's shape, dtype, device and memory format; it modifies neither
    its inputs nor the model (flags, gradients, BatchNorm statistics) nor the global random state,
    also when the model raises; it works under ``no_grad`` and ``inference_mode``; the same seed
    gives the same result, and a sample's result does not depend on its batch; no perturbation
    leaves the set, whatever the size of the pixels; what ``find`` tells agrees with what the attack
    returns; bad input is refused; a dataclass attack is hashable, picklable and equal to what its
    repr evaluates to.

    Parameters
    ----------
    attack : Attack
        What to check, on small networks made here. One without an objective gets the cross-entropy
        of their bins.
    perturbations : PerturbationSet, optional
        The promised set. None: the one that the attack states, or no promise.

    Raises
    ------
    AssertionError
        At the first broken promise, with a sentence that says which.
    TypeError
        If a set other than a pixel ball is promised by an attack that has no ``find``, which alone
        tells the parameters.

    Examples
    --------
    >>> from advphotoz import FGSM
    >>> check_attack(FGSM(0.01))
    """
    promised = perturbations_of(attack) if perturbations is None else perturbations
    readout = _readout_of(attack)
    bins = readout if isinstance(readout, RedshiftBins) else RedshiftBins()
    bound = bind_objective(attack, CrossEntropy(bins))
    stated = [s for a in _parts(attack) if (s := perturbations_of(a)) is not None]
    if perturbations is not None:
        stated.append(perturbations)
    # A new network for each check: one that an attack has changed would hide the change.
    _check_no_trace(bound, _problem(readout, stated))
    _check_result(bound, _problem(readout, stated))
    _check_independence(bound, _problem(readout, stated))
    if promised is not None:
        _check_inside(bound, _problem(readout, stated), promised)
    if hasattr(bound, "find"):
        _check_find(bound, _problem(readout, stated), promised)
    _check_refusals(bound, _problem(readout, stated))
    _check_relatives(attack)
    if dataclasses.is_dataclass(attack):
        _check_value(attack)


def check_set(
    perturbations: PerturbationSet,
    x: Tensor | None = None,
    context: Sequence[Tensor] | None = None,
) -> None:
    """Check that a perturbation set keeps the contract that attacks rely on.

    The identity changes nothing and has size 0; `apply` is differentiable in p, which is compared
    with finite differences, and modifies none of its arguments; `project` is idempotent, changes
    nothing inside and gives ``size <= 1`` exactly; `steepest` has size 1 and no point of the set
    rises faster; `sample` is inside, repeatable, and with `SampleGenerators` the same in any batch;
    so is `propose`;
    `place` keeps dtype, device and memory format; samples are independent; steps of one fraction
    and of one per sample agree; the same change is half as large in ``scaled(2)``; the set is
    hashable, picklable and equal to what its repr evaluates to. All of it in single, double and
    half precision where that can differ.

    Parameters
    ----------
    perturbations : PerturbationSet
        What to check.
    x : Tensor, optional
        Images (N, C, ...) that the set fits, N at least 2. None: small random ones.
    context : sequence of Tensor, optional
        The other inputs of the network, each with N rows. None: one number per sample.

    Raises
    ------
    AssertionError
        At the first broken promise, with a sentence that says which.

    Examples
    --------
    >>> from advphotoz import LinfBall
    >>> check_set(LinfBall(0.01, bounds=(0, 1)))
    """
    assert isinstance(perturbations, PerturbationSet), (
        f"a perturbation set is derived from PerturbationSet, got {type(perturbations).__name__}"
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        if x is None:
            x = _within([perturbations], torch.randn(4, _bands([perturbations]), 6, 6))
        others = (torch.rand(len(x)),) if context is None else tuple(context)
    others = tuple(value.to(x.device) for value in others)
    assert perturbations.label, "its label, for the tables of a report, is empty"
    for dtype in (torch.float64, torch.float32, *HALF):
        inputs = tuple(v.to(dtype) if v.is_floating_point() else v for v in others)
        case = _Case(perturbations, x.detach().to(dtype), inputs)
        _check_identity(case)
        _check_project(case)
        _check_sample(case)
        _check_propose(case)
        _check_place(case)
        _check_step(case)
    exact = _Case(
        perturbations,
        x.detach().double(),
        tuple(v.double() if v.is_floating_point() else v for v in others),
    )
    _check_rows(exact)
    _check_derivative(exact)
    _check_steepest(exact)
    _check_scaled(exact)
    _check_value(perturbations)


# Attacks.

Problem = tuple[Any, Tensor, Tensor, tuple[Tensor, ...]]


class _Net(nn.Module):
    """Convolution, BatchNorm, dropout and a second input, as small as can be."""

    def __init__(self, bands: int, columns: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(bands, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(6 * 8 * 8 + 1, columns)
        self.saw_gradient = False

    def forward(self, image: Tensor, ebv: Tensor) -> Tensor:
        self.saw_gradient |= image.requires_grad
        hidden = torch.relu(self.norm(self.conv(image.to(self.fc.weight.dtype)))).flatten(1)
        # Relative to their mean, so that no output overflows however large the pixels are.
        hidden = self.dropout(hidden / (1 + hidden.mean(1, keepdim=True)))
        joined = torch.cat([hidden, ebv.to(hidden.dtype).view(-1, 1)], 1)
        output: Tensor = self.fc(joined)
        return output


def _parts(attack: Any) -> Iterator[Any]:
    """Yield an attack and the attacks that it consists of."""
    yield attack
    inner = getattr(attack, "attacks", ())
    for part in inner if isinstance(inner, (tuple, list)) else ():
        yield from _parts(part)


def _readout_of(attack: Any) -> Readout:
    """Return the readout that the objective of an attack holds, or the paper's bins."""
    for part in _parts(attack):
        for name in ("bins", "readout"):
            found = getattr(objective_of(part), name, None)
            if isinstance(found, Readout) and not isinstance(found, type):
                return found
    return RedshiftBins()


def _columns(readout: Readout) -> int:
    """Return how many numbers per sample the output of a network has."""
    if isinstance(readout, RedshiftBins):
        return readout.n
    if isinstance(readout, GaussianMixture):
        return 3 * readout.components
    if isinstance(readout, Quantiles):
        return len(readout.levels)
    # A readout of the user's own may say it as bins do.
    return 1 if isinstance(readout, PointEstimate) else int(getattr(readout, "n", 180))


def _bands(stated: Sequence[PerturbationSet]) -> int:
    """Return a number of bands that all sets fit."""
    candidates: list[int] = [5, *range(1, 33)]
    for bands in candidates:
        x = _within(stated, torch.zeros(1, bands, 8, 8))
        with suppress(ValueError):
            for one in stated:
                one.check(x, (torch.zeros(1),))
            return bands
    raise ValueError(f"no images of 1 to 32 bands fit {stated}; give check_set images of your own")


def _within(stated: Sequence[PerturbationSet], x: Tensor) -> Tensor:
    """Return images inside the bounds of all sets."""
    for one in stated:
        bounds = getattr(one, "bounds", None)
        x = x if bounds is None else x.clamp(*bounds)
    return x


def _problem(readout: Readout, stated: Sequence[PerturbationSet]) -> Problem:
    """Return a half-frozen network in train mode with one BatchNorm in eval mode, and a batch."""
    low, high = getattr(readout, "z_min", 0.0), getattr(readout, "z_max", 1.0)
    bands = _bands(stated)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = _Net(bands, _columns(readout)).train()
        x = _within(stated, torch.randn(6, bands, 8, 8))
        z = low + (high - low) * torch.rand(6)
        ebv = torch.rand(6)
    model.norm.eval()
    model.conv.weight.requires_grad_(False)
    return model, x, z, (ebv,)


def _run(attack: Any, problem: Problem, generator: Generator = None) -> Tensor:
    """Return what a plain call gives; that of `find` for a set that a plain call refuses."""
    model, x, z, context = problem
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    changed = perturbations_of(attack)
    if changed is not None and changed.changes_context:
        found: Tensor = _find(attack, problem, generator).x
        return found
    images: Tensor = attack(model, x, z, context=context, generator=generator)
    return images


def _find(attack: Any, problem: Problem, generator: Generator = None) -> Found:
    model, x, z, context = problem
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    found: Found = attack.find(model, x, z, context=context, generator=generator)
    return found


def _check_result(attack: Any, problem: Problem) -> None:
    model, x, z, context = problem
    x_last = x.contiguous(memory_format=torch.channels_last)
    for images in (x, x_last, x.double(), *(x.to(dtype) for dtype in HALF)):
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


def _check_no_trace(attack: Any, problem: Problem) -> None:
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


def _check_independence(attack: Any, problem: Problem) -> None:
    model, x, z, context = problem
    first = _run(attack, problem)
    assert torch.equal(first, _run(attack, problem)), "the same seed gives another result"
    seeds: list[int] | None = list(range(len(x)))
    if not all(hasattr(part, "find") for part in _parts(attack)):
        if not torch.equal(first, _run(attack, problem, torch.Generator().manual_seed(1))):
            return  # it knows one generator per batch: a sample's draws depend on those before it
        seeds = None
    single = _copy(model).double().eval()
    batch = (x.double(), z, tuple(value.double() for value in context))
    whole = _run(attack, (single, *batch), None if seeds is None else SampleGenerators(seeds))
    for row in range(len(x)):
        one = slice(row, row + 1)
        generator = None if seeds is None else SampleGenerators(seeds[one])
        rows = (batch[0][one], z[one], tuple(c[one] for c in batch[2]))
        alone = _run(attack, (single, *rows), generator)
        assert torch.allclose(alone, whole[one], atol=1e-9), (
            f"sample {row} is attacked differently alone and in a batch"
        )


def _check_inside(attack: Any, problem: Problem, promised: PerturbationSet) -> None:
    if not isinstance(promised, PixelBall) and not hasattr(attack, "find"):
        raise TypeError(
            f"whether a result lies in {promised!r} can be checked only for an attack that tells "
            "the parameters: derive it from GradientAttack, or give it a find that returns Found"
        )
    model, x, z, context = problem
    for dtype in (torch.float32, *HALF):
        for scale in (1e-6, 1.0, 1e4):
            images = _within([promised], (x * scale).to(dtype))
            case = (model, images, z, context)
            where = f"pixels of size {scale:g} in {dtype}"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ZeroGradientWarning)
                if isinstance(promised, PixelBall):
                    _check_norm(promised, images, _run(attack, case), where)
                    continue
                found = _find(attack, case)
            size = found.size if found.parameters is None else promised.size(found.parameters)
            assert size is not None, "find tells neither the parameters nor their size"
            assert bool((size <= 1).all()), (
                f"{where}: the size reaches {size.max().item()!r}, more than 1, in {promised!r}"
            )


def _check_norm(ball: PixelBall, images: Tensor, result: Tensor, where: str) -> None:
    norm = ball.norm(result.double() - images.double())
    eps = torch.tensor(ball.eps, dtype=torch.float64)
    limit = torch.maximum(eps, eps.to(images.dtype).double())
    assert bool((norm <= limit).all()), (
        f"{where}: the norm reaches {norm.max().item()!r}, more than eps = {ball.eps}"
    )
    if ball.bounds is not None:
        low, high = torch.tensor(ball.bounds, dtype=images.dtype).tolist()
        assert bool(((result >= low) & (result <= high)).all()), (
            f"{where}: the result leaves the bounds {ball.bounds}"
        )


def _check_find(attack: Any, problem: Problem, promised: PerturbationSet | None) -> None:
    model, x, z, context = problem
    found = _find(attack, problem)
    if promised is None or not promised.changes_context:
        assert torch.equal(found.x, _run(attack, problem)), "find and a plain call differ"
        for before, after in zip(context, found.context, strict=True):
            assert torch.equal(before, after), "find returns another context"
    else:
        try:
            attack(model, x, z, context=context)
        except ValueError:
            pass
        else:
            raise AssertionError("a plain call returns without the context that its set changes")
    own = perturbations_of(attack)
    if found.parameters is not None and own is not None:
        placed, _ = own.place(x, context, found.parameters)
        assert torch.equal(placed, found.x), "the parameters of find do not give its images"
        if found.size is not None:
            assert torch.equal(own.size(found.parameters), found.size), (
                "the size of find is not that of its parameters"
            )
    for name in ("size", "value", "rising"):
        told = getattr(found, name)
        assert told is None or told.shape == (len(x),), f"find's {name} is not one per sample"
    objective = objective_of(attack)
    in_full = getattr(attack, "eval_mode", True) and getattr(attack, "autocast", None) is None
    if found.value is not None and objective is not None and in_full:
        with torch.no_grad():
            value = per_sample(objective, _copy(model).eval()(found.x, *found.context), z)
        # Not exact: pixel balls round the images that they hand out.
        assert torch.allclose(value, found.value.to(value.dtype), rtol=1e-3, atol=1e-5), (
            "the value of find is not the objective of its images"
        )


def _check_refusals(attack: Any, problem: Problem) -> None:
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


def _refused(attack: Any, problem: Problem, what: str) -> None:
    try:
        _run(attack, problem)
    except (ValueError, TypeError):
        return
    raise AssertionError(f"{what}: accepted without a ValueError or TypeError")


def _check_relatives(attack: Any) -> None:
    """Check its name, and that a larger version of it has the larger set."""
    assert attack_name(attack), "its name is empty"
    own, larger = perturbations_of(attack), scaled(attack, 2.0)
    if own is not None and larger is not None:
        assert perturbations_of(larger) == own.scaled(2.0), (
            f"scaled(2) searches {perturbations_of(larger)!r}, not {own.scaled(2.0)!r}"
        )


def _check_value(value: Any) -> None:
    again = pickle.loads(pickle.dumps(value))
    assert again == value, f"a pickled copy is not equal to it: {value!r}"
    assert hash(again) == hash(value), "equal values have different hashes"
    assert eval(repr(value), _names(value)) == value, f"eval(repr) is not equal to it: {value!r}"


def _names(value: Any) -> dict[str, Any]:
    """Return the names that the repr of a value may use: the library's, and its parts' classes."""
    names = {**vars(advphotoz), **vars(sets), "torch": torch, type(value).__name__: type(value)}
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            part = getattr(value, field.name)
            for one in part if isinstance(part, (tuple, list)) else (part,):
                if dataclasses.is_dataclass(one):
                    names.update(_names(one))
    return names


class _Failure(Exception):
    """Raised inside the model, to see what the attack leaves behind."""


class _Flat(nn.Module):
    """An output whose gradient with respect to the image is zero, or NaN for a NaN factor."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.factor = 0.0

    def forward(self, image: Tensor, ebv: Tensor) -> Tensor:
        total = image.flatten(1).sum(1, keepdim=True)
        bent = total * self.factor if self.factor == 0.0 else (total - total).sqrt()
        return bent * torch.ones(self.columns)


def _copy(model: nn.Module) -> _Net:
    copied: _Net = pickle.loads(pickle.dumps(model))
    return copied


# Perturbation sets.


class _Case:
    """A set and a batch of one dtype; every call here checks that its arguments are left alone."""

    def __init__(self, perturbations: PerturbationSet, x: Tensor, context: tuple[Tensor, ...]):
        self.set, self.x, self.context = perturbations, x, context
        self.room = 100 * torch.finfo(x.dtype).eps  # rounding that is no fault
        self.name = f"{type(perturbations).__name__}, {x.dtype}"
        perturbations.check(x, context)

    def apply(self, p: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        found: tuple[Tensor, tuple[Tensor, ...]] = self._call(
            self.set.apply, "apply", self.x, self.context, p
        )
        return found

    def place(self, p: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        found: tuple[Tensor, tuple[Tensor, ...]] = self._call(
            self.set.place, "place", self.x, self.context, p
        )
        return found

    def project(self, p: Tensor) -> Tensor:
        found: Tensor = self._call(self.set.project, "project", self.x, p)
        return found

    def propose(self, p: Tensor | None, share: float, generator: Generator) -> Tensor:
        found: Tensor = self._call(self.set.propose, "propose", self.x, p, share, generator)
        return found

    def steepest(self, grad: Tensor) -> Tensor:
        found: Tensor = self._call(self.set.steepest, "steepest", grad)
        return found

    def size(self, p: Tensor) -> Tensor:
        size: Tensor = self._call(self.set.size, "size", p)
        self.require(size.shape == (len(p),), f"size has the shape {tuple(size.shape)}, not (N,)")
        return size

    def step(self, p: Tensor, direction: Tensor, fraction: float | Tensor) -> Tensor:
        found: Tensor = self._call(self.set.step, "step", self.x, p, direction, fraction)
        return found

    def sample(self, generator: Generator = None) -> Tensor:
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        p: Tensor = self._call(self.set.sample, "sample", self.x, generator)
        return p

    def row(self, i: int) -> _Case:
        one = slice(i, i + 1)
        return _Case(self.set, self.x[one], tuple(c[one] for c in self.context))

    def noise(self, p: Tensor, seed: int = 0) -> Tensor:
        """Return normal numbers in the shape and dtype of p."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p)

    def require(self, kept: bool | Tensor, what: str) -> None:
        assert bool(kept), f"{self.name}: {what}"

    def close(self, a: Tensor, b: Tensor, scale: Tensor | None = None) -> bool:
        """Compare to rounding, relative to the largest number of either."""
        reach = torch.cat([t.detach().double().abs().flatten() for t in (a, b)]).amax()
        reach = (
            reach if scale is None else torch.maximum(reach, scale.detach().double().abs().amax())
        )
        return bool(((a.double() - b.double()).abs() <= self.room * reach).all())

    def _call(self, function: Callable[..., Any], name: str, *arguments: Any) -> Any:
        tensors: list[Tensor] = []
        for value in arguments:
            tensors += value if isinstance(value, tuple) else [value]
        tensors = [value for value in tensors if isinstance(value, Tensor)]
        before, random = [t.detach().clone() for t in tensors], torch.get_rng_state()
        result = function(*arguments)
        for old, new in zip(before, tensors, strict=True):
            self.require(torch.equal(old, new), f"{name} modifies its arguments")
        self.require(
            torch.equal(random, torch.get_rng_state()), f"{name} draws from the global generator"
        )
        return result


def _check_identity(case: _Case) -> None:
    p = case.set.identity(case.x)
    case.require(len(p) == len(case.x), "identity has not one row per sample")
    case.require(p.device == case.x.device, "identity is on another device than x")
    case.require((case.size(p) == 0).all(), "the size of the identity is not 0")
    for name, (x, context) in (("apply", case.apply(p)), ("place", case.place(p))):
        case.require(case.close(x, case.x), f"{name} changes x at the identity")
        for before, after in zip(case.context, context, strict=True):
            case.require(case.close(after, before), f"{name} changes the context at the identity")


def _check_project(case: _Case) -> None:
    drawn = case.sample()
    noise = case.noise(case.set.identity(case.x))
    for p in (drawn / 2, drawn, 3 * drawn, 30 * drawn, noise / 1000, noise, 30 * noise):
        inside = case.project(p)
        case.require(inside.dtype == p.dtype, "project changes the dtype of p")
        case.require(inside.isfinite().all(), "project gives numbers that are not finite")
        for size in (case.size(inside), case.size(inside.double())):
            case.require(
                (size <= 1).all(), f"project leaves the set: the size is {size.max().item()!r}"
            )
        case.require(torch.equal(case.project(inside), inside), "project is not idempotent")
    case.require(torch.equal(case.project(drawn / 2), drawn / 2), "project moves a point inside")


def _check_sample(case: _Case) -> None:
    p = case.sample()
    identity = case.set.identity(case.x)
    case.require(
        p.shape == identity.shape and p.dtype == identity.dtype,
        "sample has another shape or dtype than identity",
    )
    case.require(torch.equal(p, case.sample()), "the same seed draws another sample")
    if bool(p.any()):
        other = case.sample(torch.Generator().manual_seed(1))
        case.require(not torch.equal(p, other), "sample does not depend on the seed")
    for drawn in (p, p.double()):
        case.require((case.size(drawn) <= 1).all(), "a sample lies outside the set")
    seeds = list(range(7, 7 + len(case.x)))
    whole = case.sample(SampleGenerators(seeds))
    case.require((case.size(whole) <= 1).all(), "a sample lies outside the set")
    for i, seed in enumerate(seeds):
        alone = case.row(i).sample(SampleGenerators([seed]))
        case.require(
            case.close(alone, whole[i : i + 1]),
            "with one generator per sample, a draw depends on the rest of its batch",
        )


def _check_propose(case: _Case) -> None:
    seeds = list(range(7, 7 + len(case.x)))

    def search(one: _Case, seeds: Sequence[int]) -> list[Tensor]:
        generator, p, found = SampleGenerators(seeds), None, []
        for share in (1.0, 0.5, 0.1, 0.001):
            p = one.propose(p, share, generator)
            found.append(p)
        return found

    whole, identity = search(case, seeds), case.set.identity(case.x)
    for p in whole:
        case.require(
            p.shape == identity.shape and p.dtype == identity.dtype,
            "propose gives another shape or dtype than identity",
        )
        case.require((case.size(p) <= 1).all(), "a candidate of propose lies outside the set")
    for i, seed in enumerate(seeds):
        for alone, together in zip(search(case.row(i), [seed]), whole, strict=True):
            case.require(
                case.close(alone, together[i : i + 1]),
                "with one generator per sample, a candidate depends on the rest of its batch",
            )


def _check_place(case: _Case) -> None:
    p = case.sample()
    edge = case.project(30 * p)
    images = [case.x]
    if case.x.ndim == 4:
        images.append(case.x.contiguous(memory_format=torch.channels_last))
    for x in images:
        placed, context = _Case(case.set, x, case.context).place(p)
        for name in ("shape", "dtype", "device"):
            got, want = getattr(placed, name), getattr(x, name)
            case.require(got == want, f"place returns {name} {got} for {want}")
        case.require(placed.stride() == x.stride(), "place changes the memory format")
        case.require(placed.data_ptr() != x.data_ptr(), "what place returns shares memory with x")
        for before, after in zip(case.context, context, strict=True):
            case.require(
                (before.shape, before.dtype) == (after.shape, after.dtype),
                "place changes the shape or dtype of the context",
            )
            if not case.set.changes_context:
                case.require(
                    torch.equal(before, after),
                    "place changes the context, and changes_context is False",
                )
        if isinstance(case.set, PixelBall):
            for point in (p, edge):
                _check_norm(case.set, x, case.place(point)[0], case.name)
    moved, context = case.apply(p)
    placed, _ = case.place(p)
    case.require(case.close(moved, placed), "place and apply differ by more than rounding")
    if not case.set.changes_context:
        for before, after in zip(case.context, context, strict=True):
            case.require(
                torch.equal(before, after),
                "apply changes the context, and changes_context is False",
            )


def _check_step(case: _Case) -> None:
    p = case.sample() / 2
    direction = case.noise(p)
    fractions = torch.linspace(0.1, 1.5, len(p), device=p.device)
    each = case.step(p, direction, fractions)
    case.require((case.size(each) <= 1).all(), "a step leaves the set")
    for i, fraction in enumerate(fractions.tolist()):
        one = case.step(p, direction, fraction)
        case.require((case.size(one) <= 1).all(), "a step leaves the set")
        case.require(
            case.close(one[i], each[i]), "steps of one fraction and of one per sample differ"
        )
    by_hand = case.project(p + 0.5 * case.steepest(direction))
    case.require(
        case.close(case.step(p, direction, 0.5), by_hand),
        "step is not project(p + fraction * steepest(direction))",
    )


def _check_derivative(case: _Case) -> None:
    start = case.sample() / 2
    ahead = case.sample(torch.Generator().manual_seed(1))
    h = 1e-3

    def weighed(p: Tensor) -> Tensor:
        x, context = case.apply(p)
        changed = [x, *context] if case.set.changes_context else [x]
        terms = [(y * case.noise(y, 2)).flatten(1 if y.ndim > 1 else 0) for y in changed]
        return torch.stack([t.sum(1) if t.ndim > 1 else t for t in terms]).sum(0)

    with torch.enable_grad():
        p = start.clone().requires_grad_()
        value = weighed(p)
        case.require(value.requires_grad, "apply is not differentiable with respect to p")
        (grad,) = torch.autograd.grad(value.sum(), p, allow_unused=True)
    case.require(grad is not None, "apply is not differentiable with respect to p")
    terms = (grad * ahead).flatten(1)
    numeric = (weighed(start + h * ahead) - weighed(start - h * ahead)) / (2 * h)
    gap, scale = (terms.sum(1) - numeric).abs(), terms.abs().sum(1).amax()
    case.require(
        (gap <= 1e-4 * scale).all(),
        "the derivative of apply is not that of finite differences: "
        f"{terms.sum(1).tolist()}, not {numeric.tolist()}",
    )


def _check_steepest(case: _Case) -> None:
    identity = case.set.identity(case.x)
    grad = case.noise(identity, 3)
    best = case.steepest(grad)
    case.require(best.shape == grad.shape, "steepest changes the shape")
    size = case.size(best)
    case.require((size <= 1 + 1e-9).all(), f"steepest has the size {size.max().item()!r}, above 1")

    def rise(u: Tensor) -> Tensor:
        return (grad * u).flatten(1).sum(1)

    # Points of the set to compare with: draws, and further along the gradient, brought back.
    points = [case.sample(torch.Generator().manual_seed(seed)) for seed in range(50)]
    points += [case.project(case.noise(identity, seed) * 10) for seed in range(50)]
    pace = best.abs().amax() + 1e-3 * (best.abs().amax() == 0)
    points += [case.project(best + far * pace * grad) for far in (0.1, 1.0, 10.0, 1e3)]
    for u in points:
        case.require(
            (rise(u) <= rise(best) + 1e-6 * rise(best).abs()).all(),
            "a point of the set rises faster than steepest",
        )
    for factor in (1e-30, 1e30):
        case.require(
            case.close(case.steepest(factor * grad), best),
            "steepest depends on the length of the gradient",
        )
    flat = case.steepest(torch.zeros_like(grad))
    case.require(flat.isfinite().all(), "steepest of a zero gradient is not finite")
    case.require((case.size(flat) <= 1).all(), "steepest of a zero gradient leaves the set")


def _check_rows(case: _Case) -> None:
    inside = case.sample()
    outside = case.noise(inside) + 3 * inside
    fractions = torch.linspace(0.1, 1.5, len(inside), device=inside.device)
    for i in range(len(case.x)):
        row, one = case.row(i), slice(i, i + 1)
        pairs = {
            "apply": (row.apply(inside[one])[0], case.apply(inside)[0]),
            "place": (row.place(inside[one])[0], case.place(inside)[0]),
            "project": (row.project(outside[one]), case.project(outside)),
            "steepest": (row.steepest(outside[one]), case.steepest(outside)),
            "size": (row.size(inside[one]), case.size(inside)),
            "step": (
                row.step(inside[one], outside[one], fractions[one]),
                case.step(inside, outside, fractions),
            ),
        }
        for k, changed in enumerate(row.apply(inside[one])[1]):
            pairs[f"the context of apply, {k},"] = (changed, case.apply(inside)[1][k])
        for name, (alone, whole) in pairs.items():
            case.require(
                case.close(alone, whole[one]),
                f"{name} of a sample depends on the rest of its batch",
            )


def _check_scaled(case: _Case) -> None:
    larger = case.set.scaled(2.0)
    case.require(type(larger) is type(case.set), "scaled returns another kind of set")
    wide = _Case(larger, case.x, case.context)
    p = case.sample()
    same = [case.apply(p)[0], *case.apply(p)[1]]
    half = case.size(p) / 2
    # Parameters are in the units of the image or in units of the budget: p or p / 2 is the same
    # change in the larger set.
    for q in (p, p / 2):
        found = [wide.apply(q)[0], *wide.apply(q)[1]]
        alike = all(case.close(a, b) for a, b in zip(same, found, strict=True))
        if alike and case.close(wide.size(q), half):
            break
    else:
        raise AssertionError(
            f"{case.name}: scaled(2) does not double the room: the same change is not half as large"
        )
