"""Attacks against closed-form truth, the problem table, and bad input."""

from __future__ import annotations

import dataclasses
import math
import warnings

import pytest
import torch
from torch import nn

from advphotoz import (
    FGSM,
    PGD,
    CrossEntropy,
    GaussianMixture,
    L2Ball,
    LinfBall,
    NegativeLogLikelihood,
    PinballLoss,
    PointEstimate,
    Quantiles,
    RedshiftBins,
    RedshiftError,
    SignedRedshift,
    TowardRedshift,
    UniformNoise,
    WorstOf,
    ZeroGradientWarning,
    ZeroPoint,
    l2_pgd,
)
from advphotoz._checks import check_images
from advphotoz.testing import check_attack
from problems import BINS, PROBLEMS, TwoInputs, linear, two_inputs

CONTRACT = [
    FGSM(0.01),
    FGSM([0.01, 0.02, 0.03]),
    FGSM(LinfBall(0.3, bounds=(-2, 2))),
    FGSM(L2Ball(0.3)),
    FGSM(ZeroPoint(0.1)),
    FGSM(0.01, eval_mode=False),
    FGSM(0.01, autocast=torch.bfloat16),
    PGD(LinfBall(0.01)),
    PGD(LinfBall(0.1), step_size="paper", keep="last"),
    PGD(LinfBall(0.01), random_start=True),
    PGD(LinfBall([0.1, 0.2]), step_size=0.5, steps=3),
    PGD(L2Ball(0.5, per_band=True, bounds=(-1, 1)), steps=2),
    PGD(LinfBall(0.1), objective=RedshiftError(RedshiftBins(0, 0.4, 50)), steps=3),
    PGD(LinfBall(0.1), objective=SignedRedshift(PointEstimate(), -1), steps=3),
    PGD(0.1, objective=NegativeLogLikelihood(GaussianMixture(2)), steps=3),
    PGD(0.1, objective=PinballLoss(Quantiles([0.16, 0.5, 0.84])), steps=3, restarts=2),
    PGD(ZeroPoint([0.1, 0.2, 0]), steps=3, random_start=True, restarts=2),
    l2_pgd(0.31, steps=4),
    l2_pgd([0.1] * 4, steps=3, restarts=3),
    UniformNoise(0.01),
    UniformNoise(LinfBall([0.1, 0.2], bounds=(-1, 1))),
    UniformNoise(L2Ball(0.3)),
    UniformNoise(ZeroPoint(0.1)),
]


@pytest.mark.parametrize("attack", CONTRACT, ids=repr)
def test_contract(attack):
    check_attack(attack)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
@pytest.mark.parametrize("kind", ["fgsm", "pgd", "l2", "restarts", "worst"])
def test_objective_rises(problem, kind):
    model, x, z, context, objective = problem()
    model.eval()
    attack = {
        "fgsm": FGSM(1e-3, objective=objective),
        "pgd": PGD(LinfBall(1e-3), objective=objective),
        "l2": l2_pgd(1e-2, objective=objective),
        "restarts": PGD(LinfBall(1e-3), restarts=2, random_start=True, objective=objective),
        "worst": WorstOf([UniformNoise(1e-3), FGSM(1e-3), l2_pgd(1e-2)], objective=objective),
    }[kind]
    x_adv = attack(model, x, z, context=context, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (objective(model(images, *context), z) for images in (x, x_adv))
    assert (after >= before).all()
    assert (after > before).any()


@pytest.mark.parametrize("attack", [FGSM(0.1), PGD(LinfBall(0.1)), PGD(L2Ball(0.1))], ids=repr)
def test_linear_model_reaches_the_known_maximum(attack):
    """On w.x the best rise is eps norm_1(w) in L-infinity and eps norm_2(w) in L2."""
    model, x, z, context, objective = linear()
    model, x, z = model.double(), x.double(), z.double()
    x_adv = dataclasses.replace(attack, objective=objective)(model, x, z, context=context)
    rise = objective(model(x_adv), z) - objective(model(x), z)
    order = 2 if isinstance(attack.set, L2Ball) else 1
    best = 0.1 * torch.linalg.vector_norm(model.weight.flatten(), ord=order)
    torch.testing.assert_close(rise, best.expand(4), rtol=1e-9, atol=1e-9)


def test_per_band_maximum():
    model, x, z, context, objective = linear()
    eps = [0.1, 0.2, 0.0, 0.4, 0.5]
    model, x, z = model.double(), x.double(), z.double()
    rows = model.weight.flatten(1)
    for attack, order in (
        (FGSM(eps, objective=objective), 1),
        (PGD(L2Ball(eps), objective=objective, step_size=1), 2),
    ):
        rise = objective(model(attack(model, x, z, context=context)), z) - objective(model(x), z)
        dual = torch.linalg.vector_norm(rows, ord=order, dim=1)
        best = (torch.tensor(eps, dtype=torch.float64) * dual).sum()
        torch.testing.assert_close(rise, best.expand(4), rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-8, 1.0, 100.0, 1e4, 6e4])
@pytest.mark.parametrize(
    "attack", [FGSM(0.01), PGD(LinfBall(0.01)), l2_pgd(0.31, steps=5), UniformNoise(0.01)], ids=repr
)
def test_norm_is_never_above_eps(attack, dtype, size):
    model, x, z, context, objective = two_inputs()
    if hasattr(attack, "objective"):
        attack = dataclasses.replace(attack, objective=objective)
    x = (x.clamp(-1, 1) * size).to(dtype)
    model = nn.Sequential(_Upcast(), _Unbatch(model, context[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZeroGradientWarning)
        x_adv = attack(model, x, z)
    delta = (x_adv.double() - x.double()).flatten(1)
    if isinstance(attack.set, L2Ball):
        assert torch.linalg.vector_norm(delta, dim=1).max() <= 0.31
    else:
        assert delta.abs().max() <= 0.01


class _Upcast(nn.Module):
    def forward(self, x):
        return x.float()


class _Unbatch(nn.Module):
    def __init__(self, model, ebv):
        super().__init__()
        self.model, self.ebv = model, ebv

    def forward(self, x):
        return self.model(x, self.ebv)


def test_more_steps_and_larger_eps_are_not_weaker():
    model, x, z, context, objective = two_inputs()
    model.eval()

    def mean(eps, steps, step_size=None):
        attack = PGD(LinfBall(eps), steps=steps, step_size=step_size, objective=objective)
        with torch.no_grad():
            return objective(model(attack(model, x, z, context=context), *context), z).mean()

    assert mean(0.1, 5, "paper") < mean(0.1, 10, "paper") <= mean(0.1, 40, "paper") + 1e-3
    assert mean(0.1, 1, 0.5) < mean(0.1, 5) <= mean(0.1, 40) + 1e-3
    assert mean(0.01, 10) < mean(0.1, 10) < mean(0.3, 10)


def test_restarts_keep_the_worst_of_each_sample():
    model, x, z, context, objective = two_inputs()
    model.eval()

    def values(restarts):
        attack = PGD(
            L2Ball(50.0), steps=2, step_size="paper", restarts=restarts, objective=objective
        )
        x_adv = attack(model, x, z, context=context, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            return objective(model(x_adv, *context), z)

    one, three, nine = values(1), values(3), values(9)
    assert (three >= one - 1e-5).all()
    assert (nine >= three - 1e-5).all()
    assert (nine > one).any()


def test_random_start_starts_elsewhere():
    model, x, z, context, objective = two_inputs()
    attack = PGD(LinfBall(0.1), steps=1, step_size="paper", random_start=True, objective=objective)
    a, b = (
        attack(model, x, z, context=context, generator=torch.Generator().manual_seed(s))
        for s in (0, 1)
    )
    assert not torch.equal(a, b)
    plain = dataclasses.replace(attack, random_start=False)(model, x, z, context=context)
    torch.testing.assert_close((plain - x).abs().max(), torch.tensor(0.01), rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("attack", "fraction"),
    [
        (PGD(0.1, steps=4), 2.5 / 4),
        (PGD(0.1, steps=50), 2.5 / 50),
        (PGD(0.1, step_size="paper"), 0.1),
        (PGD(0.1, steps=4, step_size=0.25), 0.25),
        (FGSM(0.1), 1.0),
    ],
    ids=repr,
)
def test_steps_are_fractions_of_the_budget(attack, fraction):
    """From the corner of the ball and back: one step along a constant gradient is seen alone."""
    model, x, z, _, _ = linear()
    model, x = model.double(), x.double()
    seen = []

    def objective(output, target):
        seen.append(output.detach())
        return output - target

    start = -0.1 * model.weight.detach().sign().expand(4, 5, 8, 8)
    attack = dataclasses.replace(attack, objective=objective)
    attack(model, x, z, start=start)
    whole = 2 * 0.1 * model.weight.abs().sum()
    expected = (fraction / 2 * whole).expand(4)
    if len(seen) > 1:
        torch.testing.assert_close(seen[1] - seen[0], expected.detach(), rtol=1e-9, atol=1e-9)
    moved = dataclasses.replace(attack, keep="last")(model, x, z, start=start)
    end = min(fraction * getattr(attack, "steps", 1) / 2, 1) * whole
    rise = (model(moved) - model(x + start)).detach()
    torch.testing.assert_close(rise, end.detach().expand(4), rtol=1e-9, atol=1e-9)


def test_a_chosen_redshift_is_approached_and_the_sign_of_an_error_is_chosen():
    model, x, z, context, _ = two_inputs()
    model.eval()

    def redshift(objective):
        x_adv = PGD(LinfBall(0.5), objective=objective)(model, x, z, context=context)
        with torch.no_grad():
            return BINS.redshift(model(x_adv, *context))

    with torch.no_grad():
        before = BINS.redshift(model(x, *context))
    after = redshift(TowardRedshift(0.9, BINS))
    assert ((after - 0.9).abs() < (before - 0.9).abs()).all()
    assert (redshift(SignedRedshift(BINS)) > before).all()
    assert (redshift(SignedRedshift(BINS, -1)) < before).all()
    goal, error = torch.full_like(z, 0.9), RedshiftError(BINS)
    assert torch.equal(redshift(lambda output, _: -error(output, goal)), after)


@pytest.mark.parametrize(
    "attack", [FGSM(0.1), PGD(0.1), l2_pgd(0.1), WorstOf([FGSM(0.1)])], ids=lambda a: a.name
)
def test_nobodys_bins_are_guessed(attack):
    model, x, z, context, objective = two_inputs()
    for call in (attack, attack.find):
        with pytest.raises(ValueError, match=r"no objective.*objective=CrossEntropy\(RedshiftBins"):
            call(model, x, z, context=context)
    bound = attack.bind(objective)
    assert bound.objective == objective
    assert bound.bind(RedshiftError(BINS)) == bound  # its own wins
    assert bound(model, x, z, context=context).shape == x.shape


def test_global_generator_is_the_default():
    x, z = torch.randn(3, 3, 2, 2), torch.rand(3)
    torch.manual_seed(7)
    first = UniformNoise(0.1)(None, x, z)
    torch.manual_seed(7)
    assert torch.equal(first, UniformNoise(0.1)(None, x, z))


def test_autocast_runs_the_model_in_bfloat16_and_nothing_else():
    model, x, z, context, _ = two_inputs()
    seen = []
    model.fc.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))

    def objective(output, target):
        seen.append(output.dtype)
        return CrossEntropy(BINS)(output, target)

    x_adv = PGD(LinfBall(0.1), steps=1, objective=objective, autocast=torch.bfloat16)(
        model, x, z, context=context
    )
    assert seen == [torch.bfloat16, torch.float32]
    assert x_adv.dtype == torch.float32
    PGD(LinfBall(0.1), steps=1, objective=objective)(model, x, z, context=context)
    assert seen[2:] == [torch.float32, torch.float32]


def test_weights_are_cast_once_for_all_steps():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Casts(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aten._to_copy.default and args[0].shape == (20, 6 * 256 + 1):
                self.count += kwargs["dtype"] == torch.bfloat16
            return function(*args, **(kwargs or {}))

    model, x, z, context, objective = two_inputs()
    attack = PGD(LinfBall(0.1), steps=5, objective=objective, autocast=torch.bfloat16)
    with Casts() as casts:
        attack(model, x, z, context=context)
    assert casts.count == 1


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_training_step_after_crafting_in_one_autocast_region_has_all_its_gradients(restarts):
    """The cast weights that crafting leaves in autocast's cache must lead back to the weights."""
    model, x, z, context, objective = two_inputs()
    model.eval()
    grads = []
    for craft in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            if craft:
                attack = PGD(LinfBall(0.1), steps=2, restarts=restarts, objective=objective)
                attack(model, x, z, context=context)
            output = model(x, *context)
        objective(output, z).sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)


def test_bounds_are_kept():
    model, x, z, context, objective = two_inputs()
    low, high = -20.0, 20.0
    x = x.clamp(low, high)
    for ball in (LinfBall(3.0), L2Ball(40.0)):
        inside = dataclasses.replace(ball, bounds=(low, high))
        attack = PGD(inside, objective=objective, random_start=True)
        x_adv = attack(model, x, z, context=context)
        assert x_adv.min() >= low
        assert x_adv.max() <= high
        free = PGD(ball, objective=objective, random_start=True)(model, x, z, context=context)
        assert free.max() > high  # no silent range: unbounded unless stated


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_no_parameter_gradient_is_computed(autocast):
    model, x, z, context, objective = two_inputs()
    touched = []
    for parameter in model.parameters():
        parameter.register_hook(lambda grad: touched.append(grad))
    attack = PGD(LinfBall(0.1), steps=2, objective=objective, autocast=autocast)
    attack(model, x, z, context=context)
    assert not touched
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_half_frozen_model_is_as_before_after_an_objective_that_fails():
    model, x, z, context, _ = two_inputs()
    model.train()
    model.norm.eval()
    model.fc.bias.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}

    def fails(output, target):
        raise RuntimeError("on purpose")

    for eval_mode in (True, False):
        with pytest.raises(RuntimeError, match="on purpose"):
            FGSM(0.1, objective=fails, eval_mode=eval_mode)(model, x, z, context=context)
        assert model.training
        assert model.dropout.training
        assert not model.norm.training
        assert [p.requires_grad for p in model.fc.parameters()] == [True, False]
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_crafting_in_train_mode_restores_batch_statistics():
    model, x, z, context, objective = two_inputs()
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x_adv = FGSM(0.1, objective=objective, eval_mode=False)(model, x, z, context=context)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not torch.equal(x_adv, FGSM(0.1, objective=objective)(model, x, z, context=context))


def test_empty_batch_and_zero_eps():
    model, x, z, context, objective = two_inputs()
    attack = FGSM(0.1, objective=objective)
    assert attack(model, x[:0], z[:0], context=(context[0][:0],)).shape == (0, 5, 16, 16)
    still = PGD(LinfBall([0.0] * 5), objective=objective)
    for attack in (FGSM(0.0, objective=objective), l2_pgd(0.0, objective=objective), still):
        x_adv = attack(model, x, z, context=context)
        assert torch.equal(x_adv, x)
        assert x_adv.data_ptr() != x.data_ptr()


def test_ddp_wrapper_is_attacked_inside(tmp_path):
    if not torch.distributed.is_available():
        pytest.skip("torch was built without distributed training")
    model, x, z, context, objective = two_inputs()
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        wrapped.register_forward_pre_hook(lambda *_: pytest.fail("went through the wrapper"))
        attack = PGD(LinfBall(0.1), steps=2, objective=objective)
        assert torch.equal(
            attack(wrapped, x, z, context=context), attack(model, x, z, context=context)
        )
    finally:
        torch.distributed.destroy_process_group()


def test_inference_tensors_that_the_model_multiplies():
    """Autograd cannot save a tensor made in inference mode: target and context are copied."""
    with torch.inference_mode():
        x, z, weight = torch.randn(3, 4), torch.rand(3), torch.rand(3, 4)
        attack = FGSM(0.1, objective=lambda output, target: output * target)
        x_adv = attack(lambda x, w: (x * w).sum(1), x, z, context=(weight,))
    torch.testing.assert_close(x_adv - x, torch.full((3, 4), 0.1))


# What bad input says.


def refusal(attack, *, x=None, z=None, context=None, model=None):
    problem = two_inputs()
    with pytest.raises((ValueError, TypeError)) as caught:
        attack(
            problem.model if model is None else model,
            problem.x if x is None else x,
            problem.z if z is None else z,
            context=problem.context if context is None else context,
        )
    return str(caught.value)


ATTACK = PGD(LinfBall(0.1), steps=2, objective=CrossEntropy(BINS))


def test_bad_pixels():
    x = two_inputs().x
    x[2, 1, 0, 3], x[4, 0, 0, 0] = math.nan, math.inf
    message = refusal(ATTACK, x=x)
    assert "2 of its 7680 values are NaN or infinite" in message
    assert "(2, 1, 0, 3)" in message
    assert "floating-point" in refusal(ATTACK, x=two_inputs().x.long())
    assert "(N, bands, ...)" in refusal(ATTACK, x=torch.zeros(6))
    assert "torch.Tensor" in refusal(ATTACK, x=two_inputs().x.numpy())


def test_bad_companions():
    problem = two_inputs()
    assert "x has 6 rows, context[0] of shape (5,) has 5" in refusal(
        ATTACK, context=(problem.context[0][:5],)
    )
    assert "x has 6 rows, target" in refusal(ATTACK, z=problem.z[:1])
    assert "context=(ebv,)" in refusal(ATTACK, context=problem.context[0])
    assert "torch.Tensor" in refusal(ATTACK, z=problem.z.tolist())
    z = problem.z.clone()
    z[3] = 1.5
    assert "1.5" in refusal(ATTACK, z=z)
    z[3] = math.nan
    assert "NaN" in refusal(ATTACK, z=z)


def test_bands_bounds_and_settings():
    bands = FGSM([0.1, 0.2], objective=CrossEntropy(BINS))
    assert "2 values were given, one per band, but the images have 5 bands" in refusal(bands)
    bounded = FGSM(LinfBall(0.1, bounds=(0, 1)), objective=CrossEntropy(BINS))
    message = refusal(bounded)
    assert "stated bounds (0.0, 1.0)" in message
    assert "unbounded by default" in message
    for make, match in [
        (lambda: PGD(LinfBall(0.1), steps=0), "steps must be at least 1"),
        (lambda: PGD(LinfBall(0.1), steps=2.5), "steps must be an integer"),
        (lambda: PGD(LinfBall(0.1), restarts=0), "restarts must be at least 1"),
        (lambda: PGD(LinfBall(0.1), step_size=-1), "positive fraction of the budget, got -1"),
        (lambda: PGD(LinfBall(0.1), step_size=0), "leave it out for 2.5 / steps"),
        (lambda: PGD(LinfBall(0.1), step_size=math.inf), "positive fraction of the budget"),
        (lambda: PGD(LinfBall(0.1), step_size=[0.1, 0.2]), r"must be a fraction .* got \[0.1, 0.2"),
        (lambda: PGD(LinfBall(0.1), step_size="half"), "\"paper\" or None, got 'half'"),
        (lambda: PGD(LinfBall(0.1), step_size=True), "must be a fraction of the budget"),
        (lambda: PGD("0.1"), r"PGD needs a perturbation set, such as LinfBall\(0.01\)"),
        (lambda: FGSM(None), r"FGSM needs a perturbation set, .* got None"),
        (lambda: UniformNoise({}), r"UniformNoise needs a perturbation set"),
        (lambda: PGD(LinfBall(0.1, bounds=(1, 0))), "low < high"),
        (lambda: PGD(0.1, keep="first"), 'keep must be "best" or "last", got \'first\''),
        (lambda: FGSM(0.1, autocast=torch.float16), "None .* or torch.bfloat16"),
        (lambda: FGSM(-1), "eps must be finite and not negative"),
        (lambda: FGSM(math.nan), "eps must be finite"),
        (lambda: UniformNoise(-1), "eps must be finite and not negative"),
    ]:
        with pytest.raises((ValueError, TypeError), match=match):
            make()


class Bent(TwoInputs):
    """The same network with something wrong at the end."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x, ebv):
        return self.how(super().forward(x, ebv))


@pytest.mark.parametrize(
    ("how", "match"),
    [
        (lambda y: y.softmax(1), "softmax"),
        (lambda y: y[:, :7], "20"),
        (lambda y: y * math.nan, "NaN"),
        (lambda y: y.detach(), "differentiable"),
        (lambda y: (y - y).sqrt() + y, "gradient is not finite for 6 of 6"),
    ],
    ids=["probabilities", "bins", "nan", "detached", "infinite-gradient"],
)
def test_bad_models(how, match):
    assert match in refusal(ATTACK, model=Bent(how))


def test_one_bad_entry_of_a_gradient():
    class Poisoned(TwoInputs):
        def forward(self, x, ebv):
            x = x * 1
            bad = torch.zeros_like(x)
            bad[1, 0, 2, 3] = math.nan
            if x.requires_grad:
                x.register_hook(lambda grad: grad + bad)
            return super().forward(x, ebv)

    assert "gradient is not finite for 1 of 6" in refusal(ATTACK, model=Poisoned())


def test_pixels_whose_sum_overflows_are_no_error():
    check_images(torch.full((2, 1, 4, 4), 3e38))


def test_bad_objective():
    mean = FGSM(0.1, objective=lambda output, target: output.mean())
    assert "one value per sample" in refusal(mean)


def test_zero_gradient_warns():
    model = Bent(lambda y: y * 0)
    _, x, z, context, _ = two_inputs()
    with pytest.warns(ZeroGradientWarning, match="gradient is zero everywhere") as caught:
        x_adv = ATTACK(model, x, z, context=context)
    assert torch.equal(x_adv, x)
    assert caught[0].filename == __file__


def test_a_gradient_that_is_nowhere_positive_is_not_zero():
    x = torch.randn(3, 1, 4, 4)
    fall = FGSM(0.1, objective=lambda output, target: -output)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        moved = fall(lambda x: x[:, 0, 0, 0], x, torch.zeros(3)) - x
    assert (moved[:, 0, 0, 0] < -0.09).all()


def test_errors_leave_the_model_alone():
    model = Bent(lambda y: y * math.nan)
    model.train()
    model.norm.eval()
    refusal(ATTACK, model=model)
    assert model.training
    assert not model.norm.training
    assert all(p.requires_grad for p in model.parameters())
