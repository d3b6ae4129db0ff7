"""Defenses beyond Algorithm 1: TRADES, noise-FGSM, a schedule of eps, gradient alignment."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import nn

from advphotoz import (
    FGSM,
    PGD,
    CrossEntropy,
    GaussianMixture,
    L2Ball,
    LinfBall,
    NegativeLogLikelihood,
    PointEstimate,
    UniformNoise,
    WorstOf,
    ZeroPoint,
    mix_adversarial,
)
from advphotoz.attacks import NoiseFGSM
from advphotoz.batch import Batch
from advphotoz.evaluation import evaluate
from advphotoz.testing import check_attack
from advphotoz.training import (
    TRADES,
    AdversarialTrainer,
    CollapseWarning,
    EpsSchedule,
    GradientAlignment,
    Trainer,
    WarmStart,
    WeightAverage,
    gradient_alignment,
)
from advphotoz.training import alignment as alignment_module
from networks import TWO, TwoBins
from problems import BINS, Linear
from trainings import OBJECTIVE, Small, different, loader, make, same

EPS = 0.1


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# TRADES.


def logistic(n=12):
    """A logistic model: the divergence of two logits s, -s is that of a coin, convex in s."""
    x = torch.randn(n, 3, generator=generator(1))
    return TwoBins(), Batch(x, (), torch.rand(n, generator=generator(2)))


def coin(s, t):
    """Return KL between coins of log-odds 2 s and 2 t, by hand."""
    p, q = torch.sigmoid(2 * s), torch.sigmoid(2 * t)
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def worst(model, x, far):
    """Return the images after the worst change along the weights, whichever side it is."""
    s = (x @ model.weight).detach()
    norm = model.weight.detach().abs().sum()
    side = torch.where(coin(s, s + far * norm) > coin(s, s - far * norm), 1.0, -1.0)
    return x + far * side[:, None] * model.weight.detach().sign()


@pytest.mark.parametrize("beta", [0.0, 1.0, 6.0])
def test_trades_on_a_logistic_model(beta):
    """The maximiser is a corner of the ball; loss and gradient are those of the equation."""
    model, batch = logistic()
    # Each search climbs to one of two corners; of sixteen the better one is among the ends.
    attack = PGD(LinfBall(EPS), steps=6, step_size=1.0, random_start=True, restarts=16)
    objective = CrossEntropy(TWO)
    loss = TRADES(objective, TWO, attack, beta)(model, batch, generator())
    x_adv = worst(model, batch.x, EPS)
    s, t = batch.x @ model.weight, x_adv @ model.weight
    expected = (objective(model(batch.x), batch.target) + beta * coin(s, t)).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)
    gradients = [torch.autograd.grad(each, model.weight)[0] for each in (loss, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
    assert float(coin(s, t).detach().mean()) > 0.01  # the second term is not nothing


def test_trades_is_the_loss_of_its_authors_in_two_passes():
    """On a network without BatchNorm: kl_div of torch, with two forward passes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, BINS.n))
    x, z = torch.randn(8, 6), torch.rand(8)

    @dataclass(frozen=True)
    class Fixed:
        """Moves every image alike."""

        objective: object = None
        random_start: bool = True

        def __call__(self, model, x, target, context=(), generator=None):
            return x + 0.3

    loss = TRADES(OBJECTIVE, BINS, Fixed(), 2.0)(model, Batch(x, (), z), generator())
    kl = F.kl_div(model(x + 0.3).log_softmax(1), model(x).softmax(1), reduction="batchmean")
    natural = F.cross_entropy(model(x), BINS.index(z))
    torch.testing.assert_close(loss, natural + 2 * kl)


@dataclass(frozen=True)
class Probe:
    """An attack that asks for the objective at the image itself, and for its gradient there."""

    told: list = field(default_factory=list, hash=False, compare=False)
    objective: object = None
    random_start: bool = True
    eval_mode: bool = True

    def __call__(self, model, x, target, context=(), generator=None):
        was = model.training
        model.train(not self.eval_mode)
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            value = self.objective(model(x, *context), target)
        self.told.append((value.detach(), torch.autograd.grad(value.sum(), x)[0]))
        model.train(was)
        return x.detach()


def test_the_divergence_is_flat_at_the_image_itself():
    """Its minimum, 0, with no gradient, in the mode of the attack: hence the random start."""
    torch.manual_seed(0)
    model, probe = Small().train(), Probe()
    x, ebv, z = next(iter(loader()))
    TRADES(OBJECTIVE, BINS, probe)(model, Batch(x, (ebv,), z), generator())
    [(value, gradient)] = probe.told
    assert torch.equal(value, torch.zeros(8))
    assert float(gradient.abs().max()) < 1e-7
    # With the clean PDF of another mode it would not be: dropout alone moves the PDF.
    other = Probe(eval_mode=False)
    TRADES(OBJECTIVE, BINS, other)(model, Batch(x, (ebv,), z), generator())
    assert float(other.told[0][0].min()) >= 0


def test_trades_moves_the_statistics_once_and_keeps_the_mode():
    torch.manual_seed(0)
    model = Small().train()
    x, ebv, z = next(iter(loader()))
    before = x.clone()
    loss = TRADES(OBJECTIVE, BINS, PGD(EPS, steps=2, random_start=True))
    loss(model, Batch(x, (ebv,), z), generator()).backward()
    assert int(model.norm.num_batches_tracked) == 1
    assert model.training
    assert torch.equal(x, before)
    assert all(p.grad is not None for p in model.parameters())


def test_trades_starts_where_the_generator_says():
    torch.manual_seed(0)
    model = Small().eval()
    batch = Batch(*((b := next(iter(loader())))[0], (b[1],), b[2]))
    loss = TRADES(OBJECTIVE, BINS, PGD(EPS, steps=1, step_size=0.1, random_start=True))
    values = [float(loss(model, batch, generator(seed)).detach()) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_trades_with_objectives_and_outputs_of_half_precision():
    model, batch = logistic()
    for objective in (NegativeLogLikelihood(TWO), CrossEntropy(TWO, width=0.1)):
        loss = TRADES(objective, TWO, PGD(EPS, random_start=True))
        assert float(loss(model, batch, generator()).detach()) > 0
    half = TRADES(CrossEntropy(TWO), TWO, PGD(EPS, random_start=True, restarts=9))
    full = half(model, batch, generator())
    assert full.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert half(model, batch, generator()).dtype == torch.float32


def test_what_trades_refuses():
    given = (OBJECTIVE, BINS)
    for bins in (PointEstimate(), GaussianMixture(2)):
        with pytest.raises(TypeError, match="compares PDFs on bins.*trained by MixedLoss"):
            TRADES(OBJECTIVE, bins, PGD(EPS, random_start=True))
    for attack in (PGD(EPS), FGSM(EPS), EpsSchedule(PGD(EPS), 3)):
        with pytest.raises(ValueError, match="starts at the image itself.*write random_start=True"):
            TRADES(*given, attack)
    with pytest.raises(ValueError, match="has an objective already; leave it out"):
        TRADES(*given, PGD(EPS, random_start=True, objective=OBJECTIVE))
    for attack in (UniformNoise(EPS), lambda model, x, *rest: x, PGD):
        with pytest.raises(TypeError, match="needs one that takes an objective"):
            TRADES(*given, attack)
    with pytest.raises(ValueError, match="keeps nothing from epoch to epoch"):
        TRADES(*given, WarmStart(PGD(EPS, random_start=True), 5))
    for beta in (-1, math.inf, math.nan):
        with pytest.raises(ValueError, match="beta must be finite and not negative"):
            TRADES(*given, PGD(EPS, random_start=True), beta)
    with pytest.raises(TypeError, match="objective must be a callable"):
        TRADES(None, BINS, PGD(EPS, random_start=True))
    # What starts somewhere else, or cannot say, is taken.
    TRADES(*given, WorstOf([PGD(EPS, random_start=True)]))
    TRADES(*given, NoiseFGSM(EPS))


# Noise-FGSM.


@pytest.mark.parametrize(
    "attack",
    [
        NoiseFGSM(0.01),
        NoiseFGSM([0.01, 0.02]),
        NoiseFGSM(LinfBall(0.3, bounds=(-1, 1))),
        NoiseFGSM(L2Ball(0.3)),
        NoiseFGSM(ZeroPoint(0.1), restarts=2),
        NoiseFGSM(0.01, eval_mode=False),
    ],
    ids=repr,
)
def test_noise_fgsm_keeps_the_contract(attack):
    check_attack(attack)
    assert attack.set == attack.perturbations.scaled(3)


def test_noise_fgsm_on_a_linear_model():
    """Noise uniform within 2 eps, and eps along the sign of the weights."""
    model, x, z = Linear(5, 40, 40), torch.randn(2, 5, 40, 40), torch.zeros(2)
    attack = NoiseFGSM(EPS, objective=lambda output, target: output)
    delta = attack(model, x, z, generator=generator()).double() - x.double()
    assert float(delta.abs().max()) <= 3 * EPS
    assert float(delta.abs().max()) > 2.99 * EPS
    noise = (delta - EPS * model.weight.detach().sign()).flatten().numpy()
    assert stats.kstest(noise, stats.uniform(-2 * EPS, 4 * EPS).cdf).pvalue > 1e-3
    # In an L2 ball: noise within 2 eps, a step of eps along the gradient.
    attack = NoiseFGSM(L2Ball(EPS), objective=attack.objective)
    delta = (attack(model, x, z, generator=generator()) - x).flatten(1)
    step = EPS * (model.weight / model.weight.norm()).detach().flatten()
    size = (delta - step).norm(dim=1)
    assert bool((size <= 2 * EPS * (1 + 1e-5)).all())
    assert bool((size > 1.99 * EPS).all())  # in 8,000 dimensions all of a ball lies at its surface


def test_the_step_of_noise_fgsm_follows_the_gradient_at_the_noise():
    """Of x ** 2 / 2 the gradient at the noise is the noise; at the image, zero, it has none."""
    x, z = torch.zeros(3, 50), torch.zeros(3)
    attack = NoiseFGSM(EPS, objective=lambda output, target: output.square().sum(1) / 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        delta = attack(nn.Identity(), x, z, generator=generator())
    assert float(delta.abs().min()) >= EPS * (1 - 1e-6)
    noise = delta - EPS * delta.sign()
    assert float(noise.abs().max()) <= 2 * EPS * (1 + 1e-6)


def test_noise_fgsm_states_what_it_does():
    attack = NoiseFGSM(0.01)
    assert attack.set == LinfBall(0.03)
    assert attack.name == "NoiseFGSM 0.03"
    assert attack.scaled(2) == NoiseFGSM(0.02)
    assert attack.deepened() is None
    with pytest.raises(ValueError, match="noise-FGSM is its noise"):
        NoiseFGSM(0.01, random_start=False)


# A schedule of eps.


@dataclass(frozen=True)
class Sized(FGSM):
    """Notes the size of its set at every call."""

    told: list = field(default_factory=list, hash=False, compare=False, kw_only=True)

    def search(self, problem, start):
        self.told.append(self.set.eps)
        return super().search(problem, start)


@pytest.mark.parametrize(
    ("epochs", "start", "shares"),
    [(4, 0.0, [0.25, 0.5, 0.75, 1, 1, 1]), (2, 0.5, [0.75, 1, 1, 1, 1, 1]), (1, 0.0, [1] * 6)],
)
@pytest.mark.parametrize("front", ["trainer", "trades"])
def test_the_schedule_follows_its_equation(epochs, start, shares, front):
    told = []
    attack = EpsSchedule(Sized(EPS, told=told, random_start=True), epochs, start)
    run = make(attack=attack) if front == "trainer" else trades(attack)
    valid = [next(iter(loader(8, seed=2)))]
    run.fit(loader(16), valid, epochs=6, progress=False)
    # Two batches of training, then one of validation: always at full size.
    expected = [value for share in shares for value in (share * EPS, share * EPS, EPS)]
    assert told == pytest.approx(expected)
    run.loss.start_epoch(0)
    assert attack.current is attack.attack  # what the caller holds is left alone


def test_the_schedule_scales_what_is_found():
    model, x, z = Linear(3, 4, 4), torch.randn(2, 3, 4, 4), torch.zeros(2)
    attack = EpsSchedule(FGSM(EPS, objective=lambda output, target: output), epochs=4)
    for epoch, share in ((0, 0.25), (2, 0.75), (9, 1.0)):
        attack.start_epoch(epoch)
        expected = x + share * EPS * model.weight.detach().sign()
        torch.testing.assert_close(attack(model, x, z), expected)
        torch.testing.assert_close(attack.find(model, x, z).x, expected)
        moved, _ = mix_adversarial(model, (x, z), attack, 1.0)
        torch.testing.assert_close(moved, expected)
        bound = attack.bind(OBJECTIVE)  # keeps its own
        torch.testing.assert_close(bound(model, x, z), expected)
    attack.start_epoch(0)
    attack.finish_epoch()
    torch.testing.assert_close(attack(model, x, z), x + EPS * model.weight.detach().sign())
    assert attack.set == LinfBall(EPS)
    assert attack.name == "growing FGSM 0.1"


def test_what_the_schedule_refuses():
    for attack in (lambda *given: given[1], WarmStart(PGD(EPS), 5)):
        with pytest.raises(TypeError, match="only an attack that states its set and has scaled"):
            EpsSchedule(attack, 5)
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        EpsSchedule(FGSM(EPS), 0)
    with pytest.raises(ValueError, match="start must lie in"):
        EpsSchedule(FGSM(EPS), 5, start=1.5)
    # Nor can a warm start be had around one: the starts would be those of another size.
    with pytest.raises(TypeError, match="only an attack that takes a start"):
        WarmStart(EpsSchedule(PGD(EPS), 5), 10)


# Gradient alignment.


def total(output, target):
    return output.flatten(1).sum(1)


class Waves(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return (self.scale * x).cos()


class Tooth(nn.Module):
    """Rises at the image, and falls from a tenth of eps on: what a collapsed network does."""

    def forward(self, x):
        a = EPS / 10
        return x - 2 * (x - a).relu() + 2 * (-x - a).relu()


def test_alignment_of_known_functions():
    x, z = torch.randn(4, 400, generator=generator(3)), torch.zeros(4)

    def found(model, images=x, within=EPS, objective=total):
        return gradient_alignment(model, images, z, (), within, objective, generator(5))

    one = found(nn.Linear(400, 1))
    torch.testing.assert_close(one, torch.ones(4))
    # x ** 2 / 2: the angle between x and x + eta, which is what LinfBall draws.
    eta = LinfBall(EPS).sample(x, generator(5))
    half = found(nn.Identity(), objective=lambda output, target: output.square().sum(1) / 2)
    torch.testing.assert_close(half, F.cosine_similarity(x, x + eta))
    eta = L2Ball(9.0).sample(x, generator(5))
    half = found(nn.Identity(), x, L2Ball(9.0), lambda output, target: output.square().sum(1) / 2)
    torch.testing.assert_close(half, F.cosine_similarity(x, x + eta))
    # Many periods within eps: the phases know nothing of each other.
    assert float(found(Waves(1e4)).abs().max()) < 4 / 400**0.5
    # A tenth of the points lies where the slope is that at the image.
    tooth = found(Tooth(), torch.zeros(4, 400))
    torch.testing.assert_close(tooth.mean(), torch.tensor(0.1 - 0.9), rtol=0, atol=0.03)
    # A gradient of 1e-30 has a direction too; one of zero has none.
    tiny = found(nn.Identity(), objective=lambda output, target: 1e-30 * total(output, target))
    torch.testing.assert_close(tiny, torch.ones(4))
    with pytest.warns(UserWarning, match="gradient is zero"):
        flat = found(nn.Identity(), objective=lambda output, target: 0 * total(output, target))
    assert torch.equal(flat, torch.zeros(4))


def watched(models, warn_below=0.2):
    """Show networks to the callback, one an epoch; return the history, and when it warned."""
    batch = (torch.zeros(4, 400), torch.zeros(4))
    watch, warned = GradientAlignment(batch, total, EPS, warn_below), []
    trainer = SimpleNamespace(model=None, history=[], stop=False)
    for epoch, model in enumerate(models, 1):
        trainer.model = model
        trainer.history.append({"epoch": epoch})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            watch.after_epoch(trainer)
        if any(issubclass(w.category, CollapseWarning) for w in caught):
            warned.append(epoch)
            assert f"in epoch {epoch} (below {warn_below:g})" in str(caught[0].message)
    return trainer.history, warned


def test_a_collapse_is_told_once_each_time():
    straight, collapsed = nn.Linear(400, 1), Tooth()
    history, warned = watched(
        [straight, collapsed, collapsed, straight, straight, collapsed, collapsed]
    )
    assert warned == [2, 6]
    values = [row["gradient_alignment"] for row in history]
    assert [value > 0.99 for value in values] == [True, False, False, True, True, False, False]
    assert max(values[k] for k in (1, 2, 5, 6)) < -0.7
    assert watched([collapsed, collapsed])[1] == [1]  # from the beginning
    assert watched([collapsed, collapsed], warn_below=0.0)[1] == [1]
    assert watched([straight, straight])[1] == []


def test_processes_share_one_alignment(monkeypatch):
    """Each with a batch of its own; the mean is over all samples."""
    other = (3.0, 4)
    monkeypatch.setattr(alignment_module.distributed, "gather_all", lambda mine: [mine, other])
    [row], _ = watched([nn.Linear(400, 1)])
    assert row["gradient_alignment"] == pytest.approx((4 + 3) / 8)


def test_watching_changes_nothing_of_the_training():
    batch = next(iter(loader(8, seed=2)))
    plain = make(attack=FGSM(EPS))
    plain.fit(loader(), epochs=2, progress=False)
    watching, watch = make(attack=FGSM(EPS)), GradientAlignment(batch, OBJECTIVE, EPS)
    watching.fit(loader(), epochs=2, progress=False, callbacks=[watch])
    assert same(plain.model.state_dict(), watching.model.state_dict())
    assert torch.equal(plain.generator.get_state(), watching.generator.get_state())
    values = [row["gradient_alignment"] for row in watching.history]
    assert len(set(values)) == 2
    # In eval mode, and with the draws of the first epoch.
    x, ebv, z = batch
    again = gradient_alignment(watching.model, x, z, (ebv,), EPS, OBJECTIVE, generator())
    assert float(again.mean()) == pytest.approx(values[-1], abs=1e-6)


def test_what_alignment_refuses():
    x, z = torch.zeros(2, 3), torch.zeros(2)
    with pytest.raises(ValueError, match="one row per sample"):
        GradientAlignment((x, z[:1]), total, EPS)
    with pytest.raises(ValueError, match="warn_below must lie in"):
        GradientAlignment((x, z), total, EPS, warn_below=2)
    with pytest.raises(TypeError, match="needs a perturbation set"):
        GradientAlignment((x, z), total, "eps")


# All of them resume, alone and together.


def trades(attack=None, seed=0, **settings):
    torch.manual_seed(seed)
    model = Small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    attack = PGD(EPS, steps=2, random_start=True) if attack is None else attack
    loss = TRADES(OBJECTIVE, BINS, attack, 3.0)
    return Trainer(model, optimizer, loss, **settings)


def watch():
    return GradientAlignment(next(iter(loader(8, seed=2))), OBJECTIVE, EPS, warn_below=0.0)


DEFENSES = {
    "TRADES": (lambda seed: trades(seed=seed), list),
    "TRADES and noise-FGSM": (lambda seed: trades(NoiseFGSM(EPS), seed), list),
    "noise-FGSM": (lambda seed: make(seed, attack=NoiseFGSM(EPS), fraction=1.0), list),
    "schedule of eps": (lambda seed: make(seed, attack=EpsSchedule(FGSM(EPS), 5)), list),
    "alignment": (lambda seed: make(seed, attack=FGSM(EPS)), lambda: [watch()]),
    "all": (
        lambda seed: trades(EpsSchedule(NoiseFGSM(EPS), 5), seed, autocast=torch.bfloat16),
        lambda: [WeightAverage(0.9), watch()],
    ),
}


@pytest.mark.parametrize("name", DEFENSES)
def test_a_defense_resumes_bit_by_bit(name, tmp_path):
    build, callbacks = DEFENSES[name]
    valid = [next(iter(loader(8, seed=3)))]

    def fit(seed, epochs, **settings):
        run, called = build(seed), callbacks()
        run.fit(loader(), valid, epochs, callbacks=called, progress=False, **settings)
        return run, called

    whole, first = fit(0, 4)
    fit(0, 2, checkpoint=tmp_path / "run.pt")
    torch.manual_seed(777)
    again, second = fit(7, 4, checkpoint=tmp_path / "run.pt")
    assert different(whole.state_dict(), again.state_dict()) == []
    for one, two in zip(first, second, strict=True):
        assert same(one.state_dict(), two.state_dict())
    assert len({row["train_loss"] for row in whole.history}) == 4


def test_the_averaged_network_can_be_evaluated_and_saved(tmp_path):
    average = WeightAverage(0.8)
    run = trades(EpsSchedule(PGD(EPS, steps=2, random_start=True), 2))
    run.fit(loader(), epochs=2, callbacks=[average, watch()], progress=False)
    network = average.averaged.module
    batches = [next(iter(loader(24, 24)))]
    result = evaluate(network, batches, [FGSM(EPS)], BINS, progress=False, checks=False)
    torch.save(network.state_dict(), tmp_path / "averaged.pt")
    other = Small()
    other.load_state_dict(torch.load(tmp_path / "averaged.pt"))
    again = evaluate(other, batches, [FGSM(EPS)], BINS, progress=False, checks=False)
    assert (result.z_phot["clean"] == again.z_phot["clean"]).all()
    raw = evaluate(run.model, batches, [FGSM(EPS)], BINS, progress=False, checks=False)
    assert (result.z_phot["clean"] != raw.z_phot["clean"]).any()
    copied = Small()
    average.load_into(copied)
    assert same(copied.state_dict(), network.state_dict())


def test_trades_through_a_wrapper_for_many_processes(tmp_path):
    """Attacked inside the wrapper, trained through it by a single pass per step."""
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        plain, passes = trades(), []
        plain.fit(loader(), epochs=2, progress=False)
        torch.manual_seed(0)
        model = DistributedDataParallel(Small())
        model.register_forward_hook(lambda *given: passes.append(1))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        loss = TRADES(OBJECTIVE, BINS, PGD(EPS, steps=2, random_start=True), 3.0)
        run = Trainer(model, optimizer, loss)
        run.fit(loader(), epochs=2, progress=False)
        assert same(run.model.module.state_dict(), plain.model.state_dict())
        assert len(passes) == 6
    finally:
        dist.destroy_process_group()


def test_what_a_defense_is_for():
    """A logistic model, one strong pixel and many fragile ones: each defense drops the fragile."""
    d, eps = 40, 0.5
    x = torch.randn(256, 1 + d, generator=generator(1)) * 0.3
    label = torch.rand(256, generator=generator(2)) < 0.5
    side = torch.where(label, 1.0, -1.0)
    x[:, 0] += 1.5 * side
    x[:, 1:] += 0.15 * side[:, None]
    z = torch.where(label, 0.25, 0.75)
    batches = [(x, z)]

    def attacked(run):
        run.fit(batches, epochs=50, progress=False)
        attack = PGD(LinfBall(eps), objective=CrossEntropy(TWO))
        x_adv = attack(run.model, x, z)
        return float(((TWO.redshift(run.model(x_adv)) < 0.5) != label).float().mean())

    def run(build):
        torch.manual_seed(0)
        model = TwoBins(torch.full((1 + d,), 0.01))
        return build(model, torch.optim.SGD(model.parameters(), lr=0.3))

    def mixed(attack, fraction=1.0):
        return run(lambda m, o: AdversarialTrainer(m, o, attack, fraction, CrossEntropy(TWO)))

    fragile = attacked(mixed(None, 0.0))
    search = PGD(LinfBall(eps), steps=3, random_start=True)
    found = {
        "TRADES": attacked(
            run(lambda m, o: Trainer(m, o, TRADES(CrossEntropy(TWO), TWO, search, 6.0)))
        ),
        "noise-FGSM": attacked(mixed(NoiseFGSM(eps))),
        "schedule": attacked(mixed(EpsSchedule(FGSM(eps), 20))),
    }
    assert fragile > 0.5
    assert max(found.values()) < 0.1, found
