"""evaluate: metrics of known truth, no trace, draws by sample, readouts, foreign networks."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advphotoz
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
    ZeroPoint,
    metrics,
)
from advphotoz.datasets import MappedLoader
from advphotoz.evaluation import run as passes
from advphotoz.models import Adapter, AverageOverDraws
from networks import (
    FIVE,
    TWO,
    WEIGHT,
    Estimate,
    Net,
    Spoiler,
    TwoBins,
    features,
    images,
    numbers,
    run,
    sides,
    split,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_linear_model_gives_the_closed_form() -> None:
    x, z = sides(40)
    attacks = {"FGSM": FGSM(0.1), "L2": PGD(L2Ball(0.3))}
    result = run(TwoBins(), split((x, z), 16), attacks)
    side = torch.where(z < 0.5, 1.0, -1.0)
    for name, drop in (("clean", 0.0), ("FGSM", 0.1 * 3.5), ("L2", 0.3 * math.sqrt(5.25))):
        margin = side * (x @ WEIGHT) - drop
        cross_entropy = torch.nn.functional.softplus(-2 * margin).mean().item()
        z_phot = 0.25 + 0.5 * torch.sigmoid(-2 * side * margin)
        # The density is p / width: twice the probability, and so log 2 below the cross-entropy.
        nll = pytest.approx(cross_entropy - math.log(2), rel=1e-4, abs=1e-5)
        assert result[name].objective_after == nll
        assert result[name].nll == nll
        assert result.z_phot[name] == pytest.approx(z_phot.numpy(), abs=1e-5)
        # z_spec lies in the middle of its bin, and half of that bin's probability below it.
        high = 2 * (z_phot - 0.25)
        pit = torch.where(z < 0.5, (1 - high) / 2, 1 - high / 2)
        assert result.pit[name] == pytest.approx(pit.numpy(), abs=1e-5)
        assert result[name].eta == metrics.outlier_fraction(z_phot, z)
    assert result["FGSM"].linf == pytest.approx(0.1, rel=1e-6)
    assert result["FGSM"].linf <= 0.1
    assert result["FGSM"].l2 == pytest.approx(0.1 * math.sqrt(3), rel=1e-6)
    assert result["L2"].l2 == pytest.approx(0.3, rel=1e-5)
    assert result["clean"].linf == result["clean"].l2 == 0
    assert result["FGSM"].objective_before == result["clean"].objective_after
    for name in ("FGSM", "L2"):
        assert result[name].size == pytest.approx(1, rel=1e-5)
        assert result[name].size <= 1
    assert result["FGSM"].rising is None  # a single step
    assert 0 <= (result["L2"].rising or 0) <= 1
    assert result["clean"].size is result["clean"].rising is None


def test_clean_row_holds_the_metrics_themselves() -> None:
    model, (x, ebv, z) = Net().eval(), images()
    result = run(model, split((x, ebv, z), 13), readout=FIVE, bootstrap=30, seed=4)
    with torch.no_grad():
        pdf = FIVE.pdf(model(x, ebv))
    z_phot = FIVE.mean(pdf)
    row = result["clean"]
    # The outlier fractions are exact; z_phot is float32, and batches round in their own way.
    assert row.eta == metrics.outlier_fraction(z_phot, z)
    assert row.outlier_fraction_desc == metrics.outlier_fraction_desc(z_phot, z)
    close = {"rel": 1e-5, "abs": 1e-6}
    for name in ("bias", "sigma_mad", "median_bias", "sigma_iqr"):
        assert getattr(row, name) == pytest.approx(getattr(metrics, name)(z_phot, z), **close)
    for name in ("crps", "cde_loss", "nll"):
        assert getattr(row, name) == pytest.approx(getattr(metrics, name)(pdf, z, FIVE), **close)
    for name in ("bias", "sigma_mad"):
        metric = getattr(metrics, name)
        error = metrics.bootstrap_error(metric, z_phot, z, n_resamples=30, seed=4)
        assert getattr(row, f"{name}_error") == pytest.approx(error, rel=1e-4)
    assert (row.eta_low, row.eta_high) == metrics.wilson_interval(round(60 * row.eta), 60)
    assert row.eta_low < row.eta < row.eta_high
    assert row.bias_change == row.sigma_mad_change == row.eta_change == 0
    assert result.pit["clean"] == pytest.approx(metrics.pit(pdf, z, FIVE), abs=1e-6)
    dtypes = {v.dtype for v in (result.z_spec, result.z_phot["clean"], result.pit["clean"])}
    assert dtypes == {np.dtype(np.float32)}
    assert result.z_spec == pytest.approx(z.numpy(), abs=0)


def test_changes_are_paired() -> None:
    result = run(Net(), split(images(), 20), [FGSM(0.5)], FIVE, bootstrap=30, seed=4)
    row, clean = result["FGSM 0.5"], result["clean"]
    given = (result.z_phot["FGSM 0.5"], result.z_phot["clean"], result.z_spec)
    for name, metric in (
        ("bias", metrics.bias),
        ("sigma_mad", metrics.sigma_mad),
        ("eta", metrics.outlier_fraction),
    ):
        change = getattr(row, f"{name}_change")
        assert change == pytest.approx(getattr(row, name) - getattr(clean, name), abs=1e-12)
        expected = metrics.paired_change(metric, *given, n_resamples=30, seed=4)
        assert (change, getattr(row, f"{name}_change_error")) == expected
    without = run(Net(), split(images(), 20), [FGSM(0.5)], FIVE, bootstrap=0)["FGSM 0.5"]
    assert without.bias_change != 0
    assert without.bias_error is without.bias_change_error is without.eta_change_error is None


def shift_up(
    model: Any, x: Tensor, target: Tensor, context: Any = (), generator: Any = None
) -> Tensor:
    """Move every prediction of `Estimate` by 0.1."""
    return x + WEIGHT / WEIGHT.square().sum()


def test_a_shift_of_all_galaxies_is_certain_though_their_bias_is_not() -> None:
    x, _ = features(200)
    z = torch.full((200,), 0.3)
    result = run(Estimate(), [(x, z)], [shift_up], PointEstimate(), checks=False, bootstrap=100)
    row = result["shift_up"]
    assert row.bias_change == pytest.approx(0.1 / 1.3, rel=1e-5)
    assert row.bias_error > 0.01
    assert row.bias_change_error < 1e-6


def test_the_interval_of_eta_has_a_length_where_all_are_outliers() -> None:
    x, _ = features(50)
    far = {"none": torch.full((50,), 5.0), "all": 0.3 + (x @ WEIGHT) / 10}
    for name, z in far.items():
        row = run(Estimate(), [(x, z)], readout=PointEstimate())["clean"]
        assert row.eta == (1.0 if name == "none" else 0.0)
        assert 0.01 < row.eta_high - row.eta_low < 0.1
        assert 0 <= row.eta_low < row.eta_high <= 1


def test_batch_size_changes_nothing() -> None:
    attacks = {"FGSM": FGSM(0.1), "PGD": PGD(LinfBall(0.1), steps=3)}
    model = Net()
    whole, parts = (
        run(model, split(images(), size), attacks, FIVE, noise=0.0, checks=False)
        for size in (60, 7)
    )
    for one, other in zip(whole.rows, parts.rows, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-4, abs=1e-5)


def test_a_row_does_not_depend_on_the_other_attacks() -> None:
    model = Net()
    random = PGD(LinfBall(0.1), steps=2, random_start=True)
    alone = run(model, split(images(), 20), {"random": random}, FIVE, checks=False)
    both = {"a": FGSM(0.1), "random": random}
    with_other = run(model, split(images(), 20), both, FIVE, checks=False)
    assert alone["random"] == with_other["random"]
    assert alone["noise"] == with_other["noise"]
    assert run(model, split(images(), 20), {"random": random}, FIVE, checks=False) == alone
    other = run(model, split(images(), 20), {"random": random}, FIVE, checks=False, seed=1)
    assert other["random"] != alone["random"]
    assert other["noise"] != alone["noise"]


# ---- random draws -----------------------------------------------------------------------------


def by_redshift(result: Any, name: str) -> list[float]:
    order = np.argsort(result.z_spec)
    return [float(z) for z in result.z_phot[name][order]]


def test_draws_depend_on_the_seed_and_the_sample_alone() -> None:
    x, z = features()
    start = PGD(LinfBall(0.1), steps=1, step_size=0.01, random_start=True, keep="last")
    restarts = PGD(L2Ball(0.1), steps=2, restarts=2)
    # Whatever is drawn is seen: the output is computed row by row, and 1 % of a step moves little.
    attacks = {"start": start, "worst": WorstOf((start, FGSM(1e-3))), "restarts": restarts}

    def answer(loader: Any, seed: int = 0) -> dict[str, list[float]]:
        result = run(Estimate(), loader, attacks, PointEstimate(), checks=False, seed=seed)
        return {name: by_redshift(result, name) for name in ("noise", *attacks)}

    expected = answer([(x, z)])
    assert answer(split((x, z), 7)) == expected
    assert answer(split((x, z), 64)) == expected
    shuffled = DataLoader(TensorDataset(x, z), batch_size=9, shuffle=True)
    assert answer(shuffled) == expected
    some = torch.arange(0, 60, 2)
    half = run(Estimate(), [(x[some], z[some])], attacks, PointEstimate(), checks=False)
    kept = [float(value) for value in half.z_phot["noise"]]
    whole = run(Estimate(), [(x, z)], attacks, PointEstimate(), checks=False)
    assert kept == [float(value) for value in whole.z_phot["noise"][some.numpy()]]
    other = answer([(x, z)], seed=1)
    for name in ("noise", "start"):
        differ = [a != b for a, b in zip(expected[name], other[name], strict=True)]
        assert sum(differ) > 50
    # Samples draw apart: equal numbers for all would move all predictions by the same.
    clean = 0.3 + (x @ WEIGHT) / 10
    moved = torch.tensor(expected["noise"]) - clean[z.argsort()]
    assert moved.std() > 0.005


def test_a_bare_callable_draws_for_a_batch_from_one_generator() -> None:
    seen: list[Any] = []

    def bare(
        model: Any, x: Tensor, target: Tensor, context: Any = (), generator: Any = None
    ) -> Tensor:
        seen.append(generator)
        return x + 0.1 * torch.rand(x.shape, generator=generator)

    first, second = (
        run(Estimate(), split(features(), 20), [bare], PointEstimate(), checks=False)
        for _ in range(2)
    )
    assert all(isinstance(generator, torch.Generator) for generator in seen)
    assert first == second
    other = run(Estimate(), split(features(), 20), [bare], PointEstimate(), checks=False, seed=1)
    assert other["bare"] != first["bare"]


# ---- no trace ---------------------------------------------------------------------------------


def test_an_attack_that_works_in_place_spoils_no_other_row() -> None:
    model, batches = Net(), split(images(), 20)
    pixels = batches[0][0].clone()
    result = run(model, batches, {"spoiler": Spoiler(), "FGSM": FGSM(0.1)}, FIVE)
    assert torch.equal(batches[0][0], pixels)
    assert 0.9 < result["spoiler"].linf <= 1
    without = run(model, batches, {"FGSM": FGSM(0.1)}, FIVE)
    assert numbers(result["FGSM"]) == numbers(without["FGSM"])


def vandal(
    model: Any, x: Tensor, target: Tensor, context: Any = (), generator: Any = None
) -> Tensor:
    """Write into everything."""
    target.zero_()
    for value in context:
        value.zero_()
    return x.add_(0.1)


@pytest.mark.parametrize("attack", [vandal, WorstOf([vandal])], ids=["bare", "in WorstOf"])
def test_an_attack_that_writes_into_target_and_context_spoils_nothing(attack: Any) -> None:
    batches = split(images(), 20)
    before = [[value.clone() for value in batch] for batch in batches]
    model = Net()
    result = run(model, batches, {"vandal": attack, "FGSM": FGSM(0.1)}, FIVE, checks=False)
    for batch, copies in zip(batches, before, strict=True):
        assert all(torch.equal(*pair) for pair in zip(batch, copies, strict=True))
    alone = run(model, batches, {"FGSM": FGSM(0.1)}, FIVE, checks=False)
    assert numbers(result["FGSM"]) == numbers(alone["FGSM"])
    unseen = run(model, batches, {"same": lambda m, x, *rest: x.add_(0.1)}, FIVE, checks=False)
    assert numbers(result["vandal"])[:5] == numbers(unseen["same"])[:5]


class Fails(Net):
    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        if len(x) == 9:
            raise RuntimeError("out of luck")
        return super().forward(x, ebv)


@pytest.mark.parametrize("size", [20, 17])  # 60 = 3 x 17 + 9
def test_model_and_global_state_are_left_as_they_were(size: int) -> None:
    model = Fails().train()
    model.norm.eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    loader = DataLoader(TensorDataset(*images()), batch_size=size, shuffle=True)
    attacks = [FGSM(0.1), Spoiler()]
    if size == 17:
        with pytest.raises(RuntimeError, match="out of luck"):
            run(model, loader, attacks, FIVE)
    else:
        first, second = (run(model, loader, attacks, FIVE) for _ in range(2))
        assert first == second
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_it_works_in_inference_mode() -> None:
    model = Net()
    expected = run(model, split(images(), 20), [FGSM(0.1)], FIVE)
    with torch.inference_mode():
        assert run(model, split(images(), 20), [FGSM(0.1)], FIVE) == expected


def test_evaluation_is_in_eval_mode_though_the_attack_asks_for_train_mode() -> None:
    attack = {"FGSM": FGSM(0.1), "other": FGSM(0.1, eval_mode=False)}
    result = run(Net(), split(images(), 20), attack, FIVE)
    # The model is in eval mode already, which is the mode that the attack finds.
    assert numbers(result["FGSM"]) == numbers(result["other"])


class Slow(TwoBins):
    """It waits, within its forward pass, for another thread to try."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.go_on = threading.Event(), threading.Event()

    def forward(self, x: Tensor) -> Tensor:
        self.inside.set()
        assert self.go_on.wait(60)
        return super().forward(x)


def test_one_model_in_two_threads_is_refused_and_left_as_it_was() -> None:
    model = Slow().train()
    results: list[Any] = []
    worker = threading.Thread(
        target=lambda: results.append(run(model, [sides(8)], [FGSM(0.1)], checks=False))
    )
    worker.start()
    try:
        assert model.inside.wait(60)
        with pytest.raises(RuntimeError, match="in another thread.* give each thread a copy"):
            run(model, [sides(8)], [FGSM(0.1)], checks=False)
        assert not model.training  # the other thread's evaluation goes on undisturbed
    finally:
        model.go_on.set()
        worker.join(60)
    assert model.training
    assert model.weight.requires_grad
    assert results == [run(model, [sides(8)], [FGSM(0.1)], checks=False)]


def test_a_batch_is_moved_once_and_a_network_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    moves, asked = [], []
    move, ask = passes.Batch.to, passes.device_of

    def counted(batch: Any, device: torch.device) -> Any:
        moves.append(device)
        return move(batch, device)

    def noted(network: nn.Module) -> torch.device:
        asked.append(network)
        return ask(network)

    monkeypatch.setattr(passes.Batch, "to", counted)
    monkeypatch.setattr(passes, "device_of", noted)
    model = TwoBins()
    attacks = [FGSM(0.1), PGD(LinfBall(0.1)), FGSM(0.2)]
    run(model, split(sides(60), 20), attacks, checks=False)
    assert len(moves) == 3
    assert asked == [model]
    moves.clear()
    asked.clear()
    other = TwoBins()
    advphotoz.evaluation.transfer_matrix(
        {"A": model, "B": other, "again": model},
        split(sides(60), 20),
        FGSM(0.1),
        TWO,
        progress=False,
    )
    assert len(moves) == 3
    assert asked == [model, other]


def test_autocast_reaches_the_model_and_only_bfloat16_will_do() -> None:
    model, dtypes = Net(), set()
    model.out.register_forward_hook(lambda m, args, out: dtypes.add(out.dtype))
    full = run(model, split(images(), 20), [FGSM(0.1)], FIVE, checks=False)
    assert dtypes == {torch.float32}
    dtypes.clear()
    mixed = run(
        model, split(images(), 20), [FGSM(0.1)], FIVE, autocast=torch.bfloat16, checks=False
    )
    assert dtypes == {torch.bfloat16}
    assert full != mixed
    assert numbers(full.rows[2])[:3] == pytest.approx(numbers(mixed.rows[2])[:3], abs=0.05)
    with pytest.raises(ValueError, match="float16 would need"):
        run(model, split(images(), 20), [], FIVE, autocast=torch.float16)


# ---- attacks, objectives and names ------------------------------------------------------------


def test_attacks_without_an_objective_get_ours() -> None:
    attacks = {"free": FGSM(0.1), "own": FGSM(0.1, objective=RedshiftError(TWO))}
    result = run(TwoBins(), [sides(20)], attacks)
    assert "NegativeLogLikelihood(readout=RedshiftBins(z_min=0.0" in result["free"].attack
    assert "objective=RedshiftError" in result["own"].attack
    ours = run(TwoBins(), [sides(20)], attacks, objective=RedshiftError(TWO))
    assert "objective=RedshiftError" in ours["free"].attack
    error = np.abs(metrics.delta_z(ours.z_phot["clean"], ours.z_spec)).mean()
    assert ours["clean"].objective_after == pytest.approx(error, rel=1e-5)
    bins = run(TwoBins(), [sides(20)], [FGSM(0.1)], objective=CrossEntropy(TWO))
    nll = run(TwoBins(), [sides(20)], [FGSM(0.1)])
    assert bins["clean"].objective_after == pytest.approx(
        nll["clean"].objective_after + math.log(2), abs=1e-5
    )
    assert bins["FGSM 0.1"].eta == nll["FGSM 0.1"].eta


@pytest.mark.parametrize(
    ("attacks", "names"),
    [
        ([FGSM(0.01), PGD(LinfBall(0.01))], ["FGSM 0.01", "PGD-10 0.01"]),
        ([PGD(L2Ball(0.3097), steps=40)], ["PGD-40 L2 0.3097"]),
        ([FGSM([0.01, 0.02, 0.01])], ["FGSM 0.01 to 0.02"]),
        ([PGD(LinfBall(0.1), restarts=3)], ["PGD-10 x 3 0.1"]),
        ([FGSM(ZeroPoint(0.01))], ["FGSM zero point 0.01 mag"]),
        ([UniformNoise(0.1), Spoiler()], ["uniform noise 0.1", "Spoiler"]),
        ([WorstOf([FGSM(0.1), Spoiler()])], ["worst of FGSM 0.1, Spoiler"]),
        ({"mine": FGSM(0.01)}, ["mine"]),
        ([], []),
    ],
)
def test_names(attacks: Any, names: list[str]) -> None:
    result = run(TwoBins(), [sides(6)], attacks, noise=0.1, checks=False)
    assert [row.name for row in result.rows] == ["clean", "noise", *names]
    assert list(result.z_phot) == list(result.pit) == [row.name for row in result.rows]


BOUNDED = LinfBall(0.1, bounds=(-9, 9))


@pytest.mark.parametrize(
    ("attacks", "noise", "expected"),
    [
        ([], 0.05, UniformNoise(0.05)),
        ([PGD(L2Ball(0.3))], None, UniformNoise(L2Ball(0.3))),
        ([Spoiler(), PGD(L2Ball(0.3)), FGSM(0.2)], None, UniformNoise(L2Ball(0.3))),
        ([FGSM([0.1, 0.2, 0.3])], None, UniformNoise([0.1, 0.2, 0.3])),
        ([FGSM(BOUNDED)], None, UniformNoise(BOUNDED)),
        ([FGSM(BOUNDED)], 0.05, UniformNoise(0.05)),
        ([FGSM(0.1)], [0.1, 0.2, 0.3], UniformNoise([0.1, 0.2, 0.3])),
        ([FGSM(0.1)], L2Ball(0.2), UniformNoise(L2Ball(0.2))),
        ([FGSM(ZeroPoint(0.02))], None, UniformNoise(ZeroPoint(0.02))),
        ([WorstOf([FGSM(0.2), PGD(LinfBall(0.2))])], None, UniformNoise(0.2)),
    ],
)
def test_what_the_noise_is_drawn_from(attacks: Any, noise: Any, expected: UniformNoise) -> None:
    result = run(TwoBins(), [sides(6)], attacks, noise=noise, checks=False, bootstrap=0)
    assert result["noise"].attack == repr(expected)
    assert result["noise"].bias_error is None


@pytest.mark.parametrize("attacks", [[], [Spoiler()]])
def test_without_a_set_there_is_no_noise(attacks: Any) -> None:
    result = run(TwoBins(), [sides(6)], attacks, checks=False)
    assert "noise" not in [row.name for row in result.rows]


# ---- readouts ---------------------------------------------------------------------------------

MIXTURE, QUANTILES = GaussianMixture(2), Quantiles([0.16, 0.5, 0.84])


@pytest.mark.parametrize("column", [False, True], ids=["(N,)", "(N, 1)"])
def test_a_network_of_one_output(column: bool) -> None:
    x, z = features()
    result = run(
        Estimate(column), split((x, z), 16), [FGSM(0.1), PGD(L2Ball(0.1))], PointEstimate()
    )
    z_phot = 0.3 + (x @ WEIGHT) / 10
    assert result.z_phot["clean"] == pytest.approx(z_phot.numpy(), abs=1e-6)
    # The error grows by 0.1 times the L1 norm of the weights, over 10.
    error = ((z_phot - z).abs() + 0.035) / (1 + z)
    assert result["FGSM 0.1"].objective_after == pytest.approx(error.mean().item(), rel=1e-5)
    assert result.pit == {}
    assert result.settings["readout"] == "PointEstimate()"
    assert result.settings["objective"] == "RedshiftError(readout=PointEstimate())"
    for row in result.rows:
        assert row.crps is row.cde_loss is row.nll is None
    assert all(line.count("n/a") == 2 for line in result.to_markdown().splitlines()[4:])
    assert str(result).splitlines()[4].split().count("n/a") == 2
    assert result.checks is not None
    assert result.checks.passed, result


def test_a_network_of_a_mixture() -> None:
    model, (x, ebv, z) = Net(6).eval(), images()
    result = run(model, split((x, ebv, z), 16), [FGSM(0.05)], MIXTURE)
    with torch.no_grad():
        output = model(x, ebv)
    logits, mean, log_sigma = output.unflatten(1, (3, 2)).unbind(1)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits),
        torch.distributions.Normal(mean, log_sigma.exp()),
    )
    row = result["clean"]
    nll = -mixture.log_prob(z).mean().item()
    assert row.nll == row.objective_after == pytest.approx(nll, rel=1e-5)
    assert result.pit["clean"] == pytest.approx(mixture.cdf(z).numpy(), abs=1e-5)
    assert result.z_phot["clean"] == pytest.approx(mixture.mean.numpy(), abs=1e-5)
    assert row.crps > 0
    assert "n/a" not in str(result["FGSM 0.05"])
    assert result["FGSM 0.05"].objective_after > row.objective_after


def test_a_network_of_quantiles() -> None:
    model, (x, ebv, z) = Net(3).eval(), images()
    attacks = {"error": FGSM(0.05), "pinball": FGSM(0.05, objective=PinballLoss(QUANTILES))}
    result = run(model, split((x, ebv, z), 16), attacks, QUANTILES)
    with torch.no_grad():
        assert result.z_phot["clean"] == pytest.approx(model(x, ebv)[:, 1].numpy(), abs=1e-6)
    assert result.pit == {}
    assert result["error"].crps is None
    assert "PinballLoss(readout=Quantiles(levels=(0.16, 0.5, 0.84)))" in result["pinball"].attack
    assert result["error"].objective_after > result["pinball"].objective_after


# ---- networks of others -----------------------------------------------------------------------


class Shared(nn.Module):
    """Calls one network in another way."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net


class ReturnsTuple(Shared):
    def forward(self, x: Tensor, ebv: Tensor) -> Any:
        return self.net(x, ebv), {"features": x.mean()}


class TakesDict(Shared):
    def forward(self, batch: dict[str, Tensor]) -> Any:
        return {"logits": self.net(batch["image"], batch["ebv"])}


class ImageLast(Shared):
    def forward(self, ebv: Tensor, x: Tensor) -> Tensor:
        return self.net(x, ebv)


class InPlace(Shared):
    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        x.sub_(0.1)
        ebv.add_(1.0)
        return self.net(x + 0.1, ebv - 1.0)


class MovesBuffers(Shared):
    """A network that counts its calls, and keeps statistics of them, in eval mode too."""

    def __init__(self, net: Net) -> None:
        super().__init__(net)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        self.calls += 1
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))
        return self.net(x, ebv)


class ImageAlone(nn.Module):
    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, x.new_zeros(len(x)))


ATTACKS = {"FGSM": FGSM(0.1), "PGD": PGD(L2Ball(0.3), steps=3, random_start=True)}


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (ReturnsTuple, lambda net, *inputs: net(*inputs)[0]),
        (TakesDict, lambda net, image, ebv: net({"image": image, "ebv": ebv})["logits"]),
        (ImageLast, lambda net, image, ebv: net(ebv, image)),
        (InPlace, None),
        (MovesBuffers, None),
    ],
)
def test_a_foreign_network_gives_the_numbers_of_our_own(kind: Any, call: Any) -> None:
    net = Net()
    foreign = kind(net)
    model = foreign if call is None else Adapter(foreign, call)
    tensors = images()
    before = [value.clone() for value in tensors]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    rows = [
        dict(zip(("image", "ebv", "z"), row, strict=True)) for row in zip(*tensors, strict=True)
    ]
    loader = MappedLoader(
        DataLoader(rows, batch_size=16), lambda batch: (batch["image"], batch["ebv"], batch["z"])
    )
    expected = run(net, split(tensors, 16), ATTACKS, FIVE)
    for data in (loader, split(tensors, 16)):
        result = run(model, data, ATTACKS, FIVE)
        for ours, theirs in zip(expected.rows, result.rows, strict=True):
            assert numbers(theirs) == pytest.approx(numbers(ours), rel=1e-3, abs=1e-4)
        assert 0.0999 < result["FGSM"].linf <= 0.1
        assert 0.2999 < result["PGD"].l2 <= 0.3
    assert all(torch.equal(*pair) for pair in zip(tensors, before, strict=True))
    for name, value in model.named_buffers():
        assert torch.equal(value, buffers[name]), name


def test_a_network_without_ebv_gets_batches_without() -> None:
    net, (x, _, z) = Net(), images()
    expected = run(net, split((x, torch.zeros(60), z), 16), {"FGSM": FGSM(0.1)}, FIVE)
    result = run(ImageAlone(net), split((x, z), 16), {"FGSM": FGSM(0.1)}, FIVE)
    assert numbers(result["FGSM"]) == pytest.approx(numbers(expected["FGSM"]), rel=1e-4, abs=1e-5)


class Restless(TwoBins):
    """Random in eval mode."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + 0.5 * torch.randn_like(x))


def test_a_random_network_gives_the_same_result_again_and_leaves_the_random_state() -> None:
    state = torch.get_rng_state()
    first, second = (run(Restless(), [sides(40)], [FGSM(0.1)]) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    average = AverageOverDraws(Restless(), 200)
    calm, other = (run(average, [sides(40)], [FGSM(0.1)], seed=seed) for seed in (0, 1))
    spread = np.abs(calm.z_phot["clean"] - other.z_phot["clean"]).mean()
    restless = run(Restless(), [sides(40)], [FGSM(0.1)], seed=1).z_phot["clean"]
    assert spread < 0.3 * np.abs(first.z_phot["clean"] - restless).mean()


def test_no_gpu_is_seeded_for_a_network_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    torch.manual_seed(3)
    assert seeded == [3]  # what torch itself would do
    run(TwoBins(), [sides(8)], [PGD(LinfBall(0.1), random_start=True)], checks=False)
    assert seeded == [3]


# ---- provenance -------------------------------------------------------------------------------


def test_the_settings_say_how_to_repeat_it() -> None:
    attacks = {
        "PGD": PGD(LinfBall([0.1, 0.2, 0.3], bounds=(-9, 9)), step_size="paper", keep="last"),
        "L2": PGD(L2Ball(0.3), steps=3, restarts=2, objective=TowardRedshift(0.3, TWO)),
        "FGSM": FGSM(0.1, objective=SignedRedshift(TWO, -1)),
        "zero": FGSM(ZeroPoint((0.01, 0.02, 0.0))),
        "worst": WorstOf((FGSM(0.1), UniformNoise(0.1))),
    }
    result = run(TwoBins(), split(sides(30), 20), attacks, seed=3, check_samples=10)
    settings = result.settings
    assert settings["versions"] == advphotoz.provenance.versions()
    assert settings["machine"]["device"] == "cpu"
    assert settings["networks"]["model"]["class"] == "TwoBins"
    assert settings["networks"]["model"]["parameters"] == 3
    assert (settings["seed"], settings["samples"], settings["batch_size"]) == (3, 30, 20)
    assert (settings["check_samples"], settings["bootstrap"]) == (10, 20)
    names = {**vars(advphotoz), "NegativeLogLikelihood": NegativeLogLikelihood}
    for name, attack in attacks.items():
        bound = attack.bind(NegativeLogLikelihood(TWO))
        assert eval(settings["attacks"][name], names) == bound
        assert result[name].attack == settings["attacks"][name]
    assert eval(settings["readout"], names) == TWO
    assert eval(settings["objective"], names) == NegativeLogLikelihood(TWO)
    assert eval(settings["attacks"]["noise"], names) == UniformNoise(attacks["PGD"].set)


def test_digests_change_with_weights_and_data_and_with_nothing_else() -> None:
    x, z = features()
    model = Estimate()

    def digests(loader: Any) -> tuple[str, str]:
        found = run(model, loader, readout=PointEstimate(), checks=False).settings
        return found["networks"]["model"]["sha256"], found["data_sha256_sum"]

    weights, data = digests([(x, z)])
    shuffled = DataLoader(TensorDataset(x, z), batch_size=7, shuffle=True)
    assert digests(split((x, z), 11)) == digests(shuffled) == (weights, data)
    assert digests([(x[:-1], z[:-1])])[1] != data
    changed = x.clone()
    changed[3, 1] += 1e-6
    assert digests([(changed, z)])[1] != data
    with torch.no_grad():
        model.weight[0] += 1e-6
    assert digests([(x, z)])[0] != weights
    assert digests([(x, z)])[1] == data


@dataclass(frozen=True)
class WithFunction:
    """Its repr holds that of a function, which holds an address."""

    how: Any

    def __call__(
        self, model: Any, x: Tensor, target: Tensor, context: Any = (), generator: Any = None
    ) -> Tensor:
        return self.how(x)


class WithoutRepr:
    def __call__(
        self, model: Any, x: Tensor, target: Tensor, context: Any = (), generator: Any = None
    ) -> Tensor:
        return x + 0.1


def test_no_address_in_memory_and_no_function_without_its_name() -> None:
    def shift(model: Any, x: Tensor, target: Tensor, context: Any, generator: Any) -> Tensor:
        return x + 0.1

    def results() -> Any:
        attacks = [
            shift,
            WithFunction(lambda x: x + 0.1),
            WithoutRepr(),
            FGSM(0.1, objective=lambda output, target: output[:, 0]),
        ]
        return run(TwoBins(), [sides(6)], attacks, checks=False, objective=lambda o, z: o[:, 1])

    first, second = results(), results()
    here = "test_no_address_in_memory_and_no_function_without_its_name.<locals>"
    assert first["shift"].attack.endswith(f"{here}.shift")
    assert first["shift"].linf == pytest.approx(0.1)
    assert f"{here}.results.<locals>.<lambda>" in first["WithFunction"].attack
    assert "0x" not in str(first.settings)
    assert first == second


# ---- bad input --------------------------------------------------------------------------------


class Odd(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer = kind, TwoBins()

    def forward(self, x: Tensor) -> Any:
        logits: Tensor = self.layer(x)
        return {
            "bins": logits[:, :1],
            "nan": logits * torch.where(logits > 2, torch.nan, 1.0),
            "probabilities": logits.softmax(1),
            "tuple": (logits, x),
        }[self.kind]


@pytest.mark.parametrize(
    ("kind", "error", "match"),
    [
        ("bins", ValueError, "on the clean images: .*logits of shape .N, 2."),
        ("nan", ValueError, "on the clean images: .*NaN"),
        ("probabilities", ValueError, "drop the softmax"),
        ("tuple", TypeError, "on the clean images: .*torch.Tensor; got tuple.*Adapter"),
    ],
)
@pytest.mark.parametrize("objective", [None, lambda output, target: output[:, 0]])
def test_strange_models(kind: str, error: Any, match: str, objective: Any) -> None:
    with pytest.raises(error, match=match):
        run(Odd(kind), [sides(40)], [FGSM(0.1)], objective=objective)


def bad_batches() -> list[tuple[Any, type[Exception], str]]:
    x, z = sides(4)
    good = (x, z)
    return [
        ([], ValueError, "no samples"),
        (iter([]), ValueError, "no samples"),
        ([(x[:0], z[:0])], ValueError, "no samples"),
        ([good, (x,)], TypeError, "batch 1 of the loader: .*at least two tensors"),
        ([good, x], TypeError, "batch 1 of the loader: a batch must be a tuple"),
        ([{"image": x, "z": z}], TypeError, "got a dict with the keys .*MappedLoader"),
        ([(x.numpy(), z)], TypeError, "must hold tensors"),
        ([(x.int(), z)], TypeError, "batch 0 of the loader: x must have a floating-point"),
        ([good, (x.log(), z)], ValueError, "batch 1 of the loader: x must be finite"),
        ([(x, z[:3])], ValueError, "target must have one row per sample"),
        ([(x, z[:3], z)], ValueError, "context.0. must have one row"),
        ([(x, z[:, None])], ValueError, "squeeze"),
        ([(x, z + 1)], ValueError, "batch 0 of the loader: .* outside the bins"),
        ([(x, z * torch.nan)], ValueError, "z must be finite"),
        ([(x, (z > 0.5).long())], TypeError, "bin numbers"),
    ]


@pytest.mark.parametrize(("loader", "error", "match"), bad_batches())
def test_bad_batches(loader: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        run(TwoBins(), loader, [FGSM(0.1)])


def nan_attack(model: Any, x: Tensor, target: Any, context: Any = (), generator: Any = None) -> Any:
    return x / 0 * 0


def cut_attack(model: Any, x: Tensor, target: Any, context: Any = (), generator: Any = None) -> Any:
    return x[:1]


class CannotBind:
    """It has no objective, and no way to be given one."""

    objective = None

    def __call__(self, model: Any, x: Tensor, *args: Any) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("attacks", "error", "match"),
    [
        ([FGSM(0.1), FGSM(0.1)], ValueError, "two attacks would both be called 'FGSM 0.1'"),
        ({"noise": FGSM(0.1)}, ValueError, "'noise' is taken"),
        ({"clean": FGSM(0.1)}, ValueError, "'clean' is taken"),
        ({1: FGSM(0.1)}, TypeError, "must be a string"),
        ({"": FGSM(0.1)}, ValueError, "must be printable text of one line, got ''"),
        ({"  ": FGSM(0.1)}, ValueError, "must be printable text of one line"),
        ({"two\nlines": FGSM(0.1)}, ValueError, "must be printable text of one line"),
        ({"a\ttab": FGSM(0.1)}, ValueError, "must be printable text of one line"),
        (FGSM(0.1), TypeError, "write .attack. for a single one"),
        ({"FGSM": FGSM}, TypeError, "must be callable as attack"),
        ({"FGSM": 0.1}, TypeError, "must be callable as attack"),
        ([CannotBind()], TypeError, "has no objective, and no bind"),
        ([nan_attack], ValueError, "what the attack 'nan_attack' returned must be finite"),
        ([cut_attack], ValueError, "the attack cut_attack must return images like x"),
    ],
)
def test_bad_attacks(attacks: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        run(TwoBins(), [sides(4)], attacks)


def test_bad_model_objective_and_readout() -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        run(lambda x: x, [sides(4)], [])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one value per sample"):
        run(TwoBins(), [sides(4)], [], objective=lambda output, target: output.mean())
    with pytest.raises(TypeError, match="objective must be callable .* got 'nll'"):
        run(TwoBins(), [sides(4)], [], objective="nll")
    for wrong in (None, RedshiftBins, 180, CrossEntropy(TWO)):
        with pytest.raises(TypeError, match="a readout says how"):
            run(TwoBins(), [sides(4)], [], wrong)


def test_bad_settings_are_refused_before_the_work() -> None:
    never: Any = iter(lambda: pytest.fail("the loader was read"), None)
    for settings, match in (
        ({"bootstrap": 1}, "0 .* or at least 2"),
        ({"bootstrap": -5}, "0 .* or at least 2"),
        ({"check_samples": 0}, "check_samples must be at least 1"),
        ({"noise": -1.0}, "not negative"),
    ):
        with pytest.raises(ValueError, match=match):
            run(TwoBins(), never, [], **settings)
    with pytest.raises(TypeError, match="needs a perturbation set"):
        run(TwoBins(), never, [], noise="much")


def test_progress_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    run(TwoBins(), [sides(10)], [FGSM(0.1)])
    assert capsys.readouterr() == ("", "")
    run(TwoBins(), [sides(10)], [FGSM(0.1)], progress=True, checks=False)
    assert "30/30" in capsys.readouterr().err  # 10 images: clean, noise, FGSM
