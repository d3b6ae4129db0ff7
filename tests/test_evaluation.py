from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from advphotoz import (
    FGSM,
    PGD,
    L2Ball,
    LinfBall,
    RedshiftBins,
    RedshiftError,
    UniformNoise,
    ZeroGradientWarning,
    metrics,
)
from advphotoz.evaluation import (
    Evaluation,
    RobustnessCurve,
    Row,
    TransferMatrix,
    evaluate,
    robustness_curve,
    transfer_matrix,
)
from advphotoz.evaluation._column import Column

TWO = RedshiftBins(n=2)
FIVE = RedshiftBins(n=5)
WEIGHT = torch.tensor([1.0, -2.0, 0.5])
# In many dimensions an attack adds up and noise averages out.
WIDE = torch.tensor([1.0, -1.0]).repeat(50)
Batch = tuple[Tensor, ...]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class TwoBins(nn.Module):
    """Logits (w x, -w x): every norm-bounded maximum of the cross-entropy is known."""

    def __init__(self, weight: Tensor = WEIGHT) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, x: Tensor) -> Tensor:
        s = x @ self.weight
        return torch.stack([s, -s], dim=1)


class Net(nn.Module):
    """A small network on images and one context input, with BatchNorm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(6 * 9 + 1, 5)

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        h = self.drop(self.norm(self.conv(x)).relu()).flatten(1)
        logits: Tensor = self.out(torch.cat([h, ebv[:, None]], dim=1))
        return logits


def sides(n: int, margin: float = 0.0, weight: Tensor = WEIGHT) -> Batch:
    """Samples on both sides of w x = 0, |w x| at least the margin, with the truth to match."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, len(weight), generator=generator) / len(weight) ** 0.5
    s = x @ weight
    x = x + (margin * s.sign() / weight.square().sum())[:, None] * weight
    return x, torch.where(s > 0, 0.25, 0.75)


def images(n: int = 60) -> Batch:
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn(n, 2, 5, 5, generator=generator),
        torch.rand(n, generator=generator),
        torch.rand(n, generator=generator),
    )


def split(batch: Batch, size: int) -> list[Batch]:
    return list(zip(*(tensor.split(size) for tensor in batch), strict=True))


def run(model: nn.Module, loader: Any, attacks: Any = (), **settings: Any) -> Evaluation:
    return evaluate(model, loader, attacks, **{"progress": False, "bootstrap": 20, **settings})


def numbers(row: Row) -> list[float]:
    return [v for v in dataclasses.astuple(row) if isinstance(v, float)]


def test_linear_model_gives_the_closed_form() -> None:
    x, z = sides(40)
    attacks = {"FGSM": FGSM(0.1), "L2": PGD(L2Ball(0.3))}
    result = run(TwoBins(), split((x, z), 16), attacks, bins=TWO)
    side = torch.where(z < 0.5, 1.0, -1.0)
    for name, drop in (("clean", 0.0), ("FGSM", 0.1 * 3.5), ("L2", 0.3 * math.sqrt(5.25))):
        margin = side * (x @ WEIGHT) - drop
        loss = torch.nn.functional.softplus(-2 * margin).mean().item()
        z_phot = 0.25 + 0.5 * torch.sigmoid(-2 * side * margin)
        assert result[name].objective_after == pytest.approx(loss, rel=1e-5)
        assert result.z_phot[name] == pytest.approx(z_phot.numpy(), abs=1e-5)
        # z_spec lies in the middle of its bin, and half of that bin's probability below it.
        high = 2 * (z_phot - 0.25)
        pit = torch.where(z < 0.5, (1 - high) / 2, 1 - high / 2)
        assert result.pit[name] == pytest.approx(pit.numpy(), abs=1e-5)
        # The density is p / width: twice the probability, and so log 2 below the loss.
        assert result[name].nll == pytest.approx(loss - math.log(2), rel=1e-4, abs=1e-5)
        assert result[name].eta == metrics.outlier_fraction(z_phot, z)
    assert result["FGSM"].linf == pytest.approx(0.1, rel=1e-6)
    assert result["FGSM"].linf <= 0.1
    assert result["FGSM"].l2 == pytest.approx(0.1 * math.sqrt(3), rel=1e-6)
    assert result["L2"].l2 == pytest.approx(0.3, rel=1e-5)
    assert result["clean"].linf == result["clean"].l2 == 0
    assert result["FGSM"].objective_before == result["clean"].objective_after


def test_clean_row_holds_the_metrics_themselves() -> None:
    model, (x, ebv, z) = Net().eval(), images()
    result = run(model, split((x, ebv, z), 13), bins=FIVE, bootstrap=30, seed=4)
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
    error = metrics.bootstrap_error(metrics.sigma_mad, z_phot, z, n_resamples=30, seed=4)
    assert row.sigma_mad_error == pytest.approx(error, rel=1e-4)
    assert result.pit["clean"] == pytest.approx(metrics.pit(pdf, z, FIVE), abs=1e-6)
    dtypes = {v.dtype for v in (result.z_spec, result.z_phot["clean"], result.pit["clean"])}
    assert dtypes == {np.dtype(np.float32)}
    assert result.z_spec == pytest.approx(z.numpy(), abs=0)


def test_batch_size_changes_nothing() -> None:
    attacks = {"FGSM": FGSM(0.1), "PGD": PGD(LinfBall(0.1), steps=3)}
    model = Net()
    whole, parts = (
        run(model, split(images(), size), attacks, bins=FIVE, noise_eps=0.0, sanity=False)
        for size in (60, 7)
    )
    for one, other in zip(whole.rows, parts.rows, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), rel=1e-4, abs=1e-5)


def test_a_row_does_not_depend_on_the_other_attacks() -> None:
    model = Net()
    random = PGD(LinfBall(0.1), steps=2, random_start=True)
    alone = run(model, split(images(), 20), {"random": random}, bins=FIVE)
    beside = run(model, split(images(), 20), {"a": FGSM(0.1), "random": random}, bins=FIVE)
    assert alone["random"] == beside["random"]
    assert alone["noise"] == beside["noise"]
    assert run(model, split(images(), 20), {"random": random}, bins=FIVE) == alone
    other = run(model, split(images(), 20), {"random": random}, bins=FIVE, seed=1)
    assert other["random"] != alone["random"]
    assert other["noise"] != alone["noise"]


@dataclasses.dataclass(frozen=True)
class Spoiler:
    """An attack that changes its x in place, and draws from the global state."""

    def __call__(
        self, model: Any, x: Tensor, target: Tensor, context: Any = (), generator: Any = None
    ) -> Tensor:
        return x.add_(torch.rand_like(x))


def test_an_attack_that_works_in_place_spoils_no_other_row() -> None:
    model, batches = Net(), split(images(), 20)
    pixels = batches[0][0].clone()
    result = run(model, batches, {"spoiler": Spoiler(), "FGSM": FGSM(0.1)}, bins=FIVE)
    assert torch.equal(batches[0][0], pixels)
    assert 0.9 < result["spoiler"].linf <= 1
    without = run(model, batches, {"FGSM": FGSM(0.1)}, bins=FIVE)
    assert dataclasses.replace(result["FGSM"]) == without["FGSM"]


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
            run(model, loader, attacks, bins=FIVE)
    else:
        first, second = (run(model, loader, attacks, bins=FIVE) for _ in range(2))
        assert first == second
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_evaluation_is_in_eval_mode_though_the_attack_asks_for_train_mode() -> None:
    model = Net()
    attack = {"FGSM": FGSM(0.1), "other": FGSM(0.1, eval_mode=False)}
    result = run(model, split(images(), 20), attack, bins=FIVE)
    assert numbers(result["FGSM"]) == numbers(result["other"])


def test_autocast_reaches_the_model_and_only_bfloat16_will_do() -> None:
    model, dtypes = Net(), set()
    model.out.register_forward_hook(lambda m, args, out: dtypes.add(out.dtype))
    full = run(model, split(images(), 20), [FGSM(0.1)], bins=FIVE, sanity=False)
    assert dtypes == {torch.float32}
    dtypes.clear()
    mixed = run(
        model, split(images(), 20), [FGSM(0.1)], bins=FIVE, autocast=torch.bfloat16, sanity=False
    )
    assert dtypes == {torch.bfloat16}
    assert full != mixed
    assert numbers(full.rows[2])[:3] == pytest.approx(numbers(mixed.rows[2])[:3], abs=0.05)
    with pytest.raises(ValueError, match="float16 would need"):
        run(model, split(images(), 20), [], bins=FIVE, autocast=torch.float16)


def test_attacks_without_an_objective_get_ours() -> None:
    attacks = {"free": FGSM(0.1), "own": FGSM(0.1, objective=RedshiftError(TWO))}
    result = run(TwoBins(), [sides(20)], attacks, bins=TWO)
    assert "CrossEntropy(bins=RedshiftBins(z_min=0.0, z_max=1.0, n=2" in result["free"].attack
    assert "RedshiftError" in result["own"].attack
    ours = run(TwoBins(), [sides(20)], attacks, bins=TWO, objective=RedshiftError(TWO))
    assert "RedshiftError" in ours["free"].attack
    error = np.abs(metrics.delta_z(ours.z_phot["clean"], ours.z_spec)).mean()
    assert ours["clean"].objective_after == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    ("attacks", "names"),
    [
        ([FGSM(0.01), PGD(LinfBall(0.01))], ["FGSM 0.01", "PGD-10 0.01"]),
        ([PGD(L2Ball(0.3097), steps=40)], ["L2-PGD-40 0.3097"]),
        ([FGSM([0.01, 0.02, 0.01])], ["FGSM 0.01 to 0.02"]),
        ([UniformNoise(0.1), Spoiler()], ["uniform noise 0.1", "Spoiler"]),
        ({"mine": FGSM(0.01)}, ["mine"]),
        ([], []),
    ],
)
def test_names(attacks: Any, names: list[str]) -> None:
    result = run(TwoBins(), [sides(6)], attacks, bins=TWO, sanity=False)
    assert [row.name for row in result.rows] == ["clean", "noise", *names]
    assert list(result.z_phot) == list(result.pit) == [row.name for row in result.rows]


@pytest.mark.parametrize(
    ("attacks", "noise_eps", "expected"),
    [
        ([], None, UniformNoise(0.01)),
        ([PGD(L2Ball(0.3))], None, UniformNoise(0.01)),
        ([PGD(L2Ball(0.3)), PGD(LinfBall(0.2)), FGSM(0.1)], None, UniformNoise(0.2)),
        ([FGSM([0.1, 0.2, 0.3])], None, UniformNoise([0.1, 0.2, 0.3])),
        ([FGSM(0.1, bounds=(-9, 9))], 0.05, UniformNoise(0.05, bounds=(-9, 9))),
    ],
)
def test_size_of_the_noise(attacks: Any, noise_eps: Any, expected: UniformNoise) -> None:
    result = run(
        TwoBins(), [sides(6)], attacks, bins=TWO, noise_eps=noise_eps, sanity=False, bootstrap=0
    )
    assert result["noise"].attack == repr(expected)
    assert result["noise"].eta_error is None


# ---- sanity ----------------------------------------------------------------------------------


def failed(result: Evaluation) -> set[str]:
    assert result.sanity is not None
    return {check.name for check in result.sanity.checks if check.passed is False}


def test_a_healthy_model_passes_every_check() -> None:
    attacks = [FGSM(0.05), PGD(LinfBall(0.05))]
    result = run(TwoBins(WIDE), split(sides(100, 3.0, WIDE), 30), attacks, bins=TWO)
    assert result.sanity is not None
    assert [check.passed for check in result.sanity.checks] == [True] * 7
    assert result.sanity.samples == 100
    assert "no sign" in str(result)


def test_saturated_logits_are_seen() -> None:
    batches = split(sides(100, 3.0, WIDE), 50)
    attacks = [FGSM(0.05), PGD(LinfBall(0.05))]
    with pytest.warns(ZeroGradientWarning):
        result = run(TwoBins(1e4 * WIDE), batches, attacks, bins=TWO)
    assert {"gradients do not vanish", "objective rises", "attack beats noise"} <= failed(result)
    assert result.sanity is not None
    assert "100 of 100 samples" in result.sanity["gradients do not vanish"].sentence
    assert not result.sanity.passed
    assert "do not trust" in str(result)


def test_a_model_that_noise_misleads_is_seen() -> None:
    batches = split(sides(200, 2.0), 50)
    result = run(TwoBins(), batches, [FGSM(2.0), PGD(LinfBall(2.0))], bins=TWO)
    assert failed(result) == {"noise is harmless"}


@dataclasses.dataclass(frozen=True)
class Hill:
    """An objective with its top at x = 0.09: a step of 0.1 nearly hits it, a second goes back."""

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        return -((output[:, 0] - 0.09) ** 2)


def test_a_search_that_loses_by_more_steps_or_room_is_seen() -> None:
    model = nn.Linear(2, 2, bias=False)
    model.weight.data = torch.eye(2)
    x = 1e-3 * torch.rand(50, 2)
    one, two = PGD(LinfBall(0.1), steps=1, step_size=0.1), FGSM(0.1)
    z = torch.rand(50)
    result = run(model, [(x, z)], {"PGD": one, "FGSM": two}, bins=TWO, objective=Hill())
    assert {"more steps"} <= failed(result)
    result = run(model, [(x, z)], {"FGSM": two}, bins=TWO, objective=Hill())
    assert {"larger eps"} <= failed(result)
    many = dataclasses.replace(one, steps=2)
    result = run(model, [(x, z)], {"FGSM": two, "PGD": many}, bins=TWO, objective=Hill())
    assert {"many steps beat one"} <= failed(result)


def test_a_targeted_attack_is_judged_by_its_own_aim() -> None:
    attack = PGD(LinfBall(0.05), targeted=True)
    result = run(TwoBins(WIDE), [sides(100, 3.0, WIDE)], {"PGD": attack}, bins=TWO)
    assert failed(result) == set()
    assert result["PGD"].objective_after < result["clean"].objective_after


def test_without_a_gradient_attack_little_can_be_said() -> None:
    result = run(TwoBins(), [sides(20)], {"spoiler": Spoiler()}, bins=TWO)
    assert result.sanity is not None
    assert result.sanity["more steps"].passed is None
    assert result.sanity["larger eps"].passed is None
    assert run(TwoBins(), [sides(20)], [], bins=TWO, sanity=False).sanity is None
    few = run(TwoBins(), split(sides(20), 8), [FGSM(0.1)], bins=TWO, sanity_samples=10)
    assert few.sanity is not None
    assert few.sanity.samples == 10
    single = run(TwoBins(), [sides(1)], [FGSM(0.1), PGD(LinfBall(0.1))], bins=TWO)
    assert single.sanity is not None
    assert single.sanity["more steps"].passed is None
    assert single["clean"].bias_error is None


# ---- printing and files ----------------------------------------------------------------------


def example() -> Evaluation:
    return run(TwoBins(), [sides(40)], [FGSM(0.1), FGSM([0.1, 0.2, 0.1])], bins=TWO, noise_eps=0.1)


def test_tables_are_in_the_units_of_the_paper() -> None:
    result = example()
    row = dataclasses.replace(
        result.rows[0], bias=-0.0105, bias_error=0.0003, sigma_mad=0.066, eta=0.42, eta_error=None
    )
    result = dataclasses.replace(result, rows=(row, *result.rows[1:]))
    lines = str(result).splitlines()
    assert all(word in lines[0] for word in ("bias [1e-4]", "sigma_MAD [1e-3]", "eta [%]"))
    assert lines[2].split()[:4] == ["clean", "-105.0", "±", "3.0"]
    assert {"66.0", "42.0"} <= set(lines[2].split())
    assert max(map(len, lines[:5])) <= 110
    markdown = result.to_markdown().splitlines()
    assert len(markdown) == 2 + 4
    assert len({line.count("|") for line in markdown}) == 1
    assert "| clean | -105.0 ± 3.0 |" in markdown[2]
    assert result.sanity is not None
    assert result.sanity.to_markdown().count("\n- ") == 7


def test_json_round_trip(tmp_path: Path) -> None:
    result = example()
    strange = dataclasses.replace(result.rows[2], nll=math.inf, crps=math.nan, bias=-math.inf)
    result = dataclasses.replace(result, rows=(*result.rows[:2], strange))
    path = tmp_path / "new folder" / "result.json"
    result.save(path)
    again = Evaluation.load(path)
    assert again == result
    assert math.isnan(again.rows[2].crps)
    assert (again.rows[2].nll, again.rows[2].bias) == (math.inf, -math.inf)
    for name in ("noise", "FGSM 0.1"):
        assert again.z_phot[name].tobytes() == result.z_phot[name].tobytes()
        assert again.pit[name].tobytes() == result.pit[name].tobytes()
    assert again != dataclasses.replace(result, pit={**result.pit, "noise": result.pit["clean"]})
    assert str(again) == str(result)
    assert again != dataclasses.replace(result, sanity=None)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not legal JSON")

    body = json.loads(path.read_text(), parse_constant=refuse)
    assert body["settings"]["samples"] == 40
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    result = example()
    result.save(path)
    text = path.read_text()
    for wrong, match in (
        (text[: len(text) // 2], "cut off"),
        ("", "cut off"),
        ("[1, 2]", "does not hold what was asked for"),
        (text.replace('"version": 2', '"version": 1'), "has version 1 .* reads version 2"),
        (text.replace('"z_spec"', '"zspec"'), "lacks a part"),
        (text.replace('"pit"', '"pitt"'), "lacks a part"),
        (text.replace('"eta"', '"etta"'), "lacks a part"),
    ):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=match):
            Evaluation.load(path)
    path.write_text(text)
    with pytest.raises(ValueError, match="robustness curve"):
        RobustnessCurve.load(path)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write"):
        result.save(tmp_path / "file" / "result.json")
    with pytest.raises(KeyError, match="no row 'PGD'; the rows are"):
        result["PGD"]


# ---- bad input -------------------------------------------------------------------------------


class Odd(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer = kind, TwoBins()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x)
        return {
            "bins": logits[:, :1],
            "nan": logits * torch.where(logits > 2, torch.nan, 1.0),
            "probabilities": logits.softmax(1),
        }[self.kind]


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("bins", "on the clean images: .*logits of shape .N, 2."),
        ("nan", "on the clean images: .*NaN"),
        ("probabilities", "drop the softmax"),
    ],
)
@pytest.mark.parametrize("objective", [None, lambda output, target: output[:, 0]])
def test_strange_models(kind: str, match: str, objective: Any) -> None:
    with pytest.raises(ValueError, match=match):
        run(Odd(kind), [sides(40)], [FGSM(0.1)], bins=TWO, objective=objective)


def bad_batches() -> list[tuple[Any, type[Exception], str]]:
    x, z = sides(4)
    good = (x, z)
    return [
        ([], ValueError, "no samples"),
        (iter([]), ValueError, "no samples"),
        ([(x[:0], z[:0])], ValueError, "no samples"),
        ([good, (x,)], TypeError, "batch 1 of the loader: .*at least two tensors"),
        ([good, x], TypeError, "batch 1 of the loader: a batch must be a tuple"),
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
        run(TwoBins(), loader, [FGSM(0.1)], bins=TWO)


def nan_attack(model: Any, x: Tensor, target: Any, context: Any = (), generator: Any = None) -> Any:
    return x / 0 * 0


def cut_attack(model: Any, x: Tensor, target: Any, context: Any = (), generator: Any = None) -> Any:
    return x[:1]


@pytest.mark.parametrize(
    ("attacks", "error", "match"),
    [
        ([FGSM(0.1), FGSM(0.1)], ValueError, "two attacks would both be called 'FGSM 0.1'"),
        ({"noise": FGSM(0.1)}, ValueError, "'noise' is taken"),
        ({"clean": FGSM(0.1)}, ValueError, "'clean' is taken"),
        ({1: FGSM(0.1)}, TypeError, "must be a string"),
        (FGSM(0.1), TypeError, "write .attack. for a single one"),
        ({"FGSM": FGSM}, TypeError, "must be callable as attack"),
        ({"FGSM": 0.1}, TypeError, "must be callable as attack"),
        ([nan_attack], ValueError, "what the attack 'nan_attack' returned must be finite"),
        ([cut_attack], ValueError, "the attack 'cut_attack' must return images like x"),
    ],
)
def test_bad_attacks(attacks: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        run(TwoBins(), [sides(4)], attacks, bins=TWO)


def test_bad_model_and_objective() -> None:
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        run(lambda x: x, [sides(4)], [], bins=TWO)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one value per sample"):
        run(TwoBins(), [sides(4)], [], bins=TWO, objective=lambda output, target: output.mean())


def test_bad_settings_are_refused_before_the_work() -> None:
    never: Any = iter(lambda: pytest.fail("the loader was read"), None)
    for settings, match in (
        ({"bootstrap": 1}, "0 .* or at least 2"),
        ({"bootstrap": -5}, "0 .* or at least 2"),
        ({"sanity_samples": 0}, "sanity_samples must be at least 1"),
        ({"noise_eps": -1.0}, "not negative"),
    ):
        with pytest.raises(ValueError, match=match):
            run(TwoBins(), never, [], bins=TWO, **settings)


def test_functions_are_quoted_by_their_name() -> None:
    def shift(model: Any, x: Tensor, target: Tensor, context: Any, generator: Any) -> Tensor:
        return x + 0.1

    result = run(TwoBins(), [sides(6)], [shift], bins=TWO, sanity=False)
    assert result["shift"].attack.endswith("test_functions_are_quoted_by_their_name.<locals>.shift")
    assert result["shift"].linf == pytest.approx(0.1)


def test_progress_is_shown_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    run(TwoBins(), [sides(10)], [FGSM(0.1)], bins=TWO)
    assert capsys.readouterr() == ("", "")
    run(TwoBins(), [sides(10)], [FGSM(0.1)], bins=TWO, progress=True)
    assert "30/30" in capsys.readouterr().err  # 10 images: clean, noise, FGSM


# ---- curves and transfer ---------------------------------------------------------------------


def curve(eps: Sequence[float] = (0.2, 0.1), **settings: Any) -> RobustnessCurve:
    attacks = {"FGSM": FGSM, "PGD": lambda size: PGD(LinfBall(size), steps=5)}
    quiet = {"bins": TWO, "progress": False, "bootstrap": 20, **settings}
    return robustness_curve(TwoBins(), split(sides(50), 20), attacks, eps, **quiet)


def test_curve_agrees_with_evaluate() -> None:
    result = curve()
    rows = run(TwoBins(), split(sides(50), 20), [FGSM(0.1), FGSM(0.2)], bins=TWO)
    assert result.names == ("FGSM", "PGD")
    eps, eta = result.line("FGSM")
    assert eps.tolist() == [0, 0.1, 0.2]
    assert eta.tolist() == [rows[n].eta for n in ("clean", "FGSM 0.1", "FGSM 0.2")]
    assert eta[0] < eta[2]
    errors = result.line("FGSM", "eta_error")[1]
    assert errors.tolist() == [rows[n].eta_error for n in ("clean", "FGSM 0.1", "FGSM 0.2")]
    assert len(str(result).splitlines()) == 2 + 6 + 1
    assert len(result.to_markdown().splitlines()) == 2 + 6
    assert [point.eps for point in curve(eps=[0, 0.1]).points] == [0, 0.1, 0, 0.1]


def test_curve_round_trip_and_errors(tmp_path: Path) -> None:
    result = curve()
    result.save(tmp_path / "curve.json")
    assert RobustnessCurve.load(tmp_path / "curve.json") == result
    with pytest.raises(KeyError, match="no attack 'L2'"):
        result.line("L2")
    with pytest.raises(ValueError, match="no metric 'name'"):
        result.line("FGSM", "name")
    with pytest.raises(ValueError, match="was not computed"):
        curve(bootstrap=0).line("FGSM", "eta_error")
    with pytest.raises(ValueError, match="twice"):
        curve(eps=[0.1, 0.1])
    with pytest.raises(ValueError, match="not negative"):
        curve(eps=[-0.1])
    with pytest.raises(TypeError, match="sequence"):
        curve(eps=0.1)  # type: ignore[arg-type]
    one: Any = {"FGSM": FGSM(0.1)}
    with pytest.raises(TypeError, match="must make an attack from an eps"):
        robustness_curve(TwoBins(), [sides(4)], one, [0.1], bins=TWO, progress=False)
    with pytest.raises(TypeError, match="mapping of names"):
        robustness_curve(TwoBins(), [sides(4)], [FGSM], [0.1], bins=TWO)  # type: ignore[arg-type]


def test_transfer_shows_one_models_images_to_another(tmp_path: Path) -> None:
    ours, other = TwoBins(), TwoBins()
    other.weight.data = torch.tensor([2.0, 1.0, 0.0])  # at right angles to ours
    batches = split(sides(60), 25)
    matrix = transfer_matrix(
        {"A": ours, "B": other}, batches, FGSM(0.3), bins=TWO, progress=False, bootstrap=20
    )
    for name, model in (("A", ours), ("B", other)):
        rows = run(model, batches, {name: FGSM(0.3)}, bins=TWO, sanity=False)
        assert matrix[name][name] == rows[name]
        assert matrix["clean"][name] == rows["clean"]
    assert matrix["B"]["A"].objective_after < matrix["A"]["A"].objective_after
    assert matrix.values("eta").shape == (3, 2)
    assert "shown to B" in str(matrix)
    assert len(matrix.to_markdown().splitlines()) == 5
    matrix.save(tmp_path / "matrix.json")
    assert TransferMatrix.load(tmp_path / "matrix.json") == matrix
    with pytest.raises(ValueError, match="models must be"):
        transfer_matrix({}, batches, FGSM(0.3))


def test_columns_keep_every_number_in_order():
    column = Column()
    parts = [torch.randn(n) for n in (700, 0, 700, 5000, 1)]  # past two doublings of the block
    for part in parts:
        column.append(part)
    assert torch.equal(column.values(), torch.cat(parts))
    assert column.mean() == pytest.approx(torch.cat(parts).double().mean().item(), abs=1e-12)
