"""The contracts as functions: whatever is broken on purpose is found."""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass

import pytest
import torch

from advphotoz import (
    FGSM,
    PGD,
    CrossEntropy,
    GradientAttack,
    L2Ball,
    LinfBall,
    RedshiftBins,
    UniformNoise,
    ZeroPoint,
)
from advphotoz._random import SampleGenerators
from advphotoz._rounding import add_inward
from advphotoz.perturbations import PerturbationSet
from advphotoz.testing import check_attack, check_set

# Perturbation sets.


class Modified(PerturbationSet):
    """A set that works, as a wrapper of a ball; each subclass breaks one thing."""

    def __init__(self, ball=None):
        self.ball = LinfBall(0.3) if ball is None else ball

    def __eq__(self, other):
        return type(other) is type(self) and other.ball == self.ball

    def __hash__(self):
        return hash(self.ball)

    def __repr__(self):
        return f"{type(self).__name__}({self.ball!r})"

    @property
    def label(self):
        return self.ball.label

    def identity(self, x):
        return self.ball.identity(x)

    def apply(self, x, context, p):
        return self.ball.apply(x, context, p)

    def project(self, x, p):
        return self.ball.project(x, p)

    def steepest(self, grad):
        return self.ball.steepest(grad)

    def sample(self, x, generator=None):
        return self.ball.sample(x, generator)

    def size(self, p):
        return self.ball.size(p)

    def scaled(self, factor):
        return type(self)(self.ball.scaled(factor))


def broken(**methods):
    return type("Broken", (Modified,), methods)()


def _in_place(self, x, context, p):
    return x.add_(p) - 0, context


def _writes_p(self, x, p):
    return p.clamp_(-0.25, 0.25)


def _global_sample(self, x, generator=None):
    return self.ball.project(x, torch.randn(x.shape, dtype=x.dtype))


def _batch_sample(self, x, generator=None):
    first = generator.generators[0] if isinstance(generator, SampleGenerators) else generator
    return self.ball.sample(x, first)


def _far(self, x, p, share, generator=None):
    return self.ball.sample(x, generator) * 1.5


def _batch_propose(self, x, p, share, generator=None):
    return _batch_sample(self, x, generator)


def _mean_steepest(self, grad):
    return self.ball.steepest(grad - grad.mean(0))


def _tiny_steepest(self, grad):
    return self.ball.steepest(torch.where(grad.abs() < 1e-12, 0.0, grad))


def _other_format(self, x, context, p):
    return self.ball.place(x, context, p)[0].contiguous(), context


def _context(self, x, context, p):
    return x + p, (context[0] * 2,)


def _rounded_derivative(self, x, context, p):
    return x + p + 0.1 * p.detach(), context


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"apply": _in_place}, "(apply|place) modifies its arguments"),
        ({"apply": lambda self, x, c, p: (x + p.detach(), c)}, "apply is not differentiable"),
        ({"apply": _rounded_derivative}, "derivative of apply is not that of finite differences"),
        ({"apply": lambda self, x, c, p: (x + p + 1, c)}, "apply changes x at the identity"),
        ({"apply": _context}, "apply changes the context at the identity"),
        ({"apply": lambda self, x, c, p: (x + p + p.mean(0), c)}, "rest of its batch"),
        ({"identity": lambda self, x: x * 0 + 0.1}, "size of the identity is not 0"),
        ({"project": lambda self, x, p: p.clamp(-0.5, 0.5)}, "project leaves the set"),
        ({"project": lambda self, x, p: p.clamp(-0.3, 0.3) / 2}, "project is not idempotent"),
        ({"project": lambda self, x, p: 0.25 * p.sign()}, "project moves a point inside"),
        ({"project": _writes_p}, "project modifies its arguments"),
        ({"project": lambda self, x, p: p.double().clamp(-0.3, 0.3)}, "changes the dtype of p"),
        ({"steepest": lambda self, grad: 0.9 * self.ball.steepest(grad)}, "rises faster"),
        ({"steepest": lambda self, grad: 1.1 * self.ball.steepest(grad)}, "has the size 1.1"),
        ({"steepest": lambda self, grad: L2Ball(0.3).steepest(grad)}, "rises faster"),
        ({"steepest": lambda self, grad: -self.ball.steepest(grad)}, "rises faster"),
        ({"steepest": _tiny_steepest}, "depends on the length of the gradient"),
        ({"steepest": _mean_steepest}, "rises faster|rest of its batch"),
        ({"steepest": lambda self, grad: 0.3 * grad / grad.abs()}, "zero gradient is not finite"),
        ({"sample": _global_sample}, "draws from the global generator"),
        ({"sample": _batch_sample}, "a draw depends on the rest of its batch"),
        ({"sample": lambda self, x, g=None: 2 * self.ball.sample(x, g)}, "outside the set|leaves"),
        ({"propose": _far}, "a candidate of propose lies outside the set"),
        ({"propose": _batch_propose}, "a candidate depends on the rest of its batch"),
        ({"place": lambda self, x, c, p: (x + 1.1 * p, c)}, "place and apply differ"),
        ({"place": _other_format}, "place changes the memory format"),
        ({"place": lambda self, x, c, p: ((x + p).float(), c)}, "place returns dtype"),
        ({"place": lambda self, x, c, p: (x + p, ())}, "argument 2 is shorter"),
        ({"scaled": lambda self, factor: self}, "does not double the room"),
        ({"scaled": lambda self, factor: self.ball.scaled(factor)}, "another kind of set"),
        ({"size": lambda self, p: 2 * self.ball.size(p)}, "the size is 1.99"),
        ({"size": lambda self, p: self.ball.size(p).amax()[None]}, "size has the shape"),
        ({"step": lambda self, x, p, d, f: p + 2 * self.ball.steepest(d)}, "step leaves the set"),
        (
            {"step": lambda self, x, p, d, f: self.project(x, p + 0.1 * self.ball.steepest(d))},
            "is not project",
        ),
        ({"label": ""}, "label"),
        ({"__repr__": lambda self: "Broken()"}, None),
        ({"__eq__": lambda self, other: self is other, "__hash__": object.__hash__}, "pickled"),
        ({"__hash__": object.__hash__}, "hash"),
        ({"__repr__": lambda self: "LinfBall(0.3)"}, "eval"),
    ],
)
def test_a_broken_set_is_found(methods, message, monkeypatch):
    perturbations = broken(**methods)
    # pickle looks the class up by its name.
    monkeypatch.setattr(sys.modules[__name__], "Broken", type(perturbations), raising=False)
    type(perturbations).__module__ = __name__
    if message is None:  # the control: a repr of its own is no fault
        check_set(perturbations)
        return
    with pytest.raises((AssertionError, ValueError), match=message):
        check_set(perturbations)


class Nearest(LinfBall):
    """Adds as anyone would, which rounds to nearest and so outward for half of the pixels."""

    def place(self, x, context, p):
        return x + p, context


class Unbounded(LinfBall):
    """Forgets the bounds where it rounds."""

    def project(self, x, p):
        return p.clamp(-0.3, 0.3)

    def place(self, x, context, p):
        return add_inward(x, p), context


@pytest.mark.parametrize(
    ("ball", "message"),
    [
        (Nearest(0.3), "the norm reaches 0.3.*, more than eps = 0.3"),
        (Unbounded(0.3, bounds=(-1, 1)), r"leaves the bounds \(-1.0, 1.0\)"),
    ],
)
def test_a_ball_whose_radius_is_not_exact_is_found(ball, message):
    with pytest.raises(AssertionError, match=message):
        check_set(ball)


def test_what_is_no_set_is_refused():
    with pytest.raises(AssertionError, match="derived from PerturbationSet, got float"):
        check_set(0.3)


# Attacks.

INNER = PGD(LinfBall(0.1), steps=2, objective=CrossEntropy(RedshiftBins()))


def plain(model, x, target, context=(), generator=None):
    """An attack that is a function, and keeps the contract."""
    return INNER(model, x, target, context, generator)


def test_a_function_keeps_the_contract():
    check_attack(plain)
    check_attack(plain, LinfBall(0.1))
    with pytest.raises(TypeError, match="only for an attack that tells the parameters"):
        check_attack(plain, ZeroPoint(0.1))


def too_far(model, x, *rest, **named):
    return 1.02 * (plain(model, x, *rest, **named) - x) + x


def rounds_outward(model, x, target, context=(), generator=None):
    with torch.no_grad():
        return x + 0.1 * (INNER(model, x, target, context, generator) - x).sign()


def attached(model, x, *rest, **named):
    return plain(model, x, *rest, **named).requires_grad_()


def half(model, x, *rest, **named):
    return plain(model, x, *rest, **named).half()


def other_format(model, x, *rest, **named):
    return plain(model, x, *rest, **named).contiguous()


def in_place(model, x, *rest, **named):
    return x.copy_(plain(model, x, *rest, **named)).clone()


def same_memory(model, x, *rest, **named):
    plain(model, x, *rest, **named)
    return x


def leaves_eval(model, x, *rest, **named):
    found = plain(model, x, *rest, **named)
    model.eval()
    return found


def wakes_all(model, x, *rest, **named):
    found = plain(model, x, *rest, **named)
    model.train()
    return found


def unfreezes(model, x, *rest, **named):
    found = plain(model, x, *rest, **named)
    model.requires_grad_(True)
    return found


def fills_grad(model, x, target, context=(), generator=None):
    found = plain(model, x, target, context, generator)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return found


def moves_random_state(model, x, *rest, **named):
    torch.rand(1)
    return plain(model, x, *rest, **named)


def stays_frozen_on_error(model, x, *rest, **named):
    flags = [p.requires_grad for p in model.parameters()]
    model.requires_grad_(False)
    found = plain(model, x, *rest, **named)
    for parameter, flag in zip(model.parameters(), flags, strict=True):
        parameter.requires_grad_(flag)
    return found


def uses_the_batch(model, x, target, context=(), generator=None):
    found = plain(model, x, target, context, generator)
    return found if len(x) > 1 else x.clone()


def unseeded(model, x, target, context=(), generator=None):
    found = plain(model, x, target, context, generator)
    seed = torch.Generator()
    seed.seed()
    return found + 1e-4 * torch.rand(x.shape, generator=seed).to(x)


def accepts_nan(model, x, *rest, **named):
    if not bool(x.isfinite().all()):
        return x.clone()
    return plain(model, x, *rest, **named)


def no_warning(model, x, *rest, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return plain(model, x, *rest, **named)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (too_far, "the norm reaches .*, more than eps = 0.1"),
        (rounds_outward, "the norm reaches .*, more than eps = 0.1"),
        (attached, "not detached"),
        (half, "dtype is torch.float16"),
        (other_format, "memory format is not that of x"),
        (in_place, "x itself was modified|x is not what it was"),
        (same_memory, "shares its memory"),
        (leaves_eval, "'training' of .* is not what it was"),
        (wakes_all, "'training' of 'norm' is not what it was"),
        (unfreezes, "requires_grad of 'conv.weight' is not what it was"),
        (fills_grad, "the gradient of .* is not what it was"),
        (moves_random_state, "global random state is not what it was"),
        (stays_frozen_on_error, "requires_grad of .* after an error inside the model"),
        (uses_the_batch, "is attacked differently alone and in a batch"),
        (unseeded, "differs under no_grad|the same seed gives another result"),
        (accepts_nan, "NaN pixels: accepted"),
        (no_warning, "raised no ZeroGradientWarning"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_attack_is_found(attack, message):
    with pytest.raises(AssertionError, match=message):
        check_attack(attack, LinfBall(0.1))


@dataclass(frozen=True)
class Leaves(GradientAttack):
    """A search that forgets the set."""

    def search(self, problem, start):
        _, gradient = problem.value_and_gradient(start)
        return start + 1.5 * self.set.steepest(gradient)


@dataclass(frozen=True)
class Lies(PGD):
    """Tells more than it found."""

    told: str = "value"

    def find(self, *args, **named):
        found = super().find(*args, **named)
        return found._replace(**{self.told: getattr(found, self.told) * 1.1})


@dataclass(frozen=True)
class OtherCall(PGD):
    """Returns from a call what it did not find."""

    def __call__(self, model, x, target, context=(), generator=None, start=None):
        return x + 0.5 * (self.find(model, x, target, context, generator).x - x)


@dataclass(frozen=True)
class NotLarger(FGSM):
    """Has no larger version, but says it has."""

    def scaled(self, factor):
        return self


@dataclass(frozen=True)
class OwnState(UniformNoise):
    """Draws by the order of the samples, whatever generators it was given."""

    def find(self, model, x, target, context=(), generator=None):
        if isinstance(generator, SampleGenerators):
            generator = generator.generators[0]
        return super().find(model, x, target, context, generator)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (Leaves(0.1), "the norm reaches"),
        (Leaves(L2Ball(0.1)), "the norm reaches"),
        (Leaves(ZeroPoint(0.1)), r"the size reaches 1.5, more than 1, in ZeroPoint\(budget=0.1\)"),
        (Lies(0.1, steps=2), "the value of find is not the objective"),
        (Lies(0.1, steps=2, told="size"), "the size of find is not that of its parameters"),
        (Lies(0.1, steps=2, told="x"), "find and a plain call differ|the norm"),
        (Lies(0.1, steps=2, told="parameters"), "the parameters of find do not give its images"),
        (OtherCall(0.1, steps=2), "find and a plain call differ"),
        (NotLarger(0.1), r"scaled\(2\) searches LinfBall\(eps=0.1"),
        (OwnState(0.1), "is attacked differently alone and in a batch"),
    ],
    ids=repr,
)
def test_a_broken_gradient_attack_is_found(attack, message):
    with pytest.raises(AssertionError, match=message):
        check_attack(attack)


def test_an_attack_that_is_no_value_is_found():
    @dataclass(eq=True)
    class Forgetful:
        eps: float = 0.1

        def __call__(self, model, x, target, context=(), generator=None):
            return plain(model, x, target, context, generator)

    with pytest.raises((AssertionError, AttributeError, TypeError), match="pickle|hash"):
        check_attack(Forgetful())
