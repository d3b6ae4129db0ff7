"""Robustness curves: one point per attack and eps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from advphotoz import (
    FGSM,
    PGD,
    GaussianMixture,
    L2Ball,
    LinfBall,
    PointEstimate,
    Quantiles,
    WorstOf,
    ZeroPoint,
)
from advphotoz.evaluation import RobustnessCurve, robustness_curve
from networks import (
    TWO,
    Estimate,
    Momentum,
    Net,
    TwoBins,
    do_nothing,
    features,
    images,
    run,
    sides,
    split,
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def curve(eps: Sequence[float] = (0.2, 0.1), **settings: Any) -> RobustnessCurve:
    attacks = {"FGSM": FGSM, "PGD": lambda size: PGD(LinfBall(size), steps=5)}
    quiet = {"progress": False, "bootstrap": 20, **settings}
    return robustness_curve(TwoBins(), split(sides(50), 20), attacks, eps, TWO, **quiet)


def test_curve_agrees_with_evaluate() -> None:
    result = curve()
    rows = run(TwoBins(), split(sides(50), 20), [FGSM(0.1), FGSM(0.2)])
    assert result.names == ("FGSM", "PGD")
    eps, eta = result.line("FGSM")
    assert eps.tolist() == [0, 0.1, 0.2]
    assert eta.tolist() == [rows[n].eta for n in ("clean", "FGSM 0.1", "FGSM 0.2")]
    assert eta[0] < eta[2]
    for metric in ("bias_error", "eta_low", "eta_high", "eta_change_error", "nll", "l2"):
        found = result.line("FGSM", metric)[1]
        expected = [getattr(rows[n], metric) for n in ("clean", "FGSM 0.1", "FGSM 0.2")]
        assert found.tolist() == expected
    assert len(str(result).splitlines()) == 2 + 6 + 2
    assert len(result.to_markdown().splitlines()) == 2 + 6
    assert [point.eps for point in curve(eps=[0, 0.1]).points] == [0, 0.1, 0, 0.1]


def test_a_curve_says_that_its_attacks_were_not_checked() -> None:
    attacks = {
        "FGSM": FGSM,
        "short": lambda eps: PGD(LinfBall(eps), steps=3, step_size="paper"),
        "bare": lambda eps: do_nothing,
    }
    result = robustness_curve(TwoBins(), [sides(50)], attacks, [0.1, 0.2], TWO, progress=False)
    last = str(result).splitlines()[-1]
    assert last.startswith("Whether the attacks are strong enough was not checked here")
    assert "least room used: 0.30 (short at 0." in last
    bare = robustness_curve(
        TwoBins(), [sides(50)], {"bare": attacks["bare"]}, [0.1], TWO, progress=False
    )
    assert str(bare).endswith("was not checked here: see evaluate.")


def test_curve_round_trip_and_errors(tmp_path: Path) -> None:
    result = curve()
    result.save(tmp_path / "curve.json")
    assert RobustnessCurve.load(tmp_path / "curve.json") == result
    old = (tmp_path / "curve.json").read_text().replace('"version": 3', '"version": 2')
    (tmp_path / "old.json").write_text(old)
    with pytest.raises(ValueError, match="has version 2 .* reads version 3"):
        RobustnessCurve.load(tmp_path / "old.json")
    with pytest.raises(KeyError, match="no attack 'L2'"):
        result.line("L2")
    for metric in ("name", "attack", "flags", "speed"):
        with pytest.raises(ValueError, match=f"no metric '{metric}'; the metrics are"):
            result.line("FGSM", metric)
    with pytest.raises(ValueError, match="was not computed"):
        curve(bootstrap=0).line("FGSM", "bias_error")
    with pytest.raises(ValueError, match="twice"):
        curve(eps=[0.1, 0.1])
    with pytest.raises(ValueError, match="not negative"):
        curve(eps=[-0.1])
    with pytest.raises(TypeError, match="sequence"):
        curve(eps=0.1)  # type: ignore[arg-type]
    data = [sides(4)]
    one: Any = {"FGSM": FGSM(0.1)}
    with pytest.raises(TypeError, match="must make an attack from an eps"):
        robustness_curve(TwoBins(), data, one, [0.1], TWO, progress=False)
    none: Any = {"FGSM": lambda eps: eps}
    with pytest.raises(TypeError, match="must be an attack, got 0.1"):
        robustness_curve(TwoBins(), data, none, [0.1], TWO, progress=False)
    with pytest.raises(TypeError, match="mapping of names"):
        robustness_curve(TwoBins(), data, [FGSM], [0.1], TWO)  # type: ignore[arg-type]
    for name in ("", "two\nlines"):
        with pytest.raises(ValueError, match="printable text of one line"):
            robustness_curve(TwoBins(), data, {name: FGSM}, [0.1], TWO, progress=False)
    with pytest.raises(TypeError, match="a readout says how"):
        robustness_curve(TwoBins(), data, {"FGSM": FGSM}, [0.1], None)  # type: ignore[arg-type]


def test_two_radii_that_look_alike_are_two_points() -> None:
    result = curve(eps=[0.1, 0.1000001])
    assert result.line("FGSM")[0].tolist() == [0, 0.1, 0.1000001]
    linf = result.line("FGSM", "linf")[1]
    assert linf[2] > linf[1] > 0
    for name in ("FGSM", "PGD"):
        assert "eps=0.1," in result.settings["attacks"][f"{name} at 0.1"]
        assert "eps=0.1000001," in result.settings["attacks"][f"{name} at 0.1000001"]
    assert len(result.settings["attacks"]) == 4
    shown = [line.split()[1] for line in str(result).splitlines()[2:8]]
    assert shown == 2 * ["0", "0.1", "0.1000001"]


def test_an_attack_of_a_user_and_attacks_scaled() -> None:
    attacks = {
        "mine": Momentum,
        "zero points": PGD(ZeroPoint(0.01)).scaled,
        "worst": lambda eps: WorstOf((FGSM(eps), Momentum(eps))),
        "L2": lambda eps: PGD(L2Ball(eps)),
    }
    result = robustness_curve(
        TwoBins(), split(sides(50), 20), attacks, [0.1, 0.3], TWO, progress=False
    )
    assert result.names == tuple(attacks)
    for name in attacks:
        nll = result.line(name, "nll")[1]
        assert nll[0] < nll[1] < nll[2]
    rows = run(TwoBins(), split(sides(50), 20), [Momentum(0.3)])
    assert result.line("mine", "nll")[1][2] == pytest.approx(rows["Momentum-10 0.3"].nll)
    assert "budget=0.003" in result.settings["attacks"]["zero points at 0.3"]


@pytest.mark.parametrize(
    ("model", "readout", "data"),
    [
        (Estimate(), PointEstimate(), features()),
        (Estimate(column=True), PointEstimate(), features()),
        (Net(3), Quantiles([0.16, 0.5, 0.84]), images()),
        (Net(6), GaussianMixture(2), images()),
    ],
    ids=["one output", "a column", "quantiles", "mixture"],
)
def test_curves_of_other_readouts(tmp_path: Path, model: Any, readout: Any, data: Any) -> None:
    result = robustness_curve(
        model, split(data, 20), {"FGSM": FGSM}, [0.05, 0.1], readout, progress=False
    )
    objective = result.line("FGSM", "objective_after")[1]
    assert objective[0] < objective[1] < objective[2]
    if isinstance(readout, GaussianMixture):
        assert result.line("FGSM", "nll")[1].tolist() == objective.tolist()
        assert "n/a" not in str(result)
    else:
        with pytest.raises(ValueError, match="crps was not computed: .* a readout with a PDF"):
            result.line("FGSM", "crps")
        assert str(result).count("n/a") == 6
    result.save(tmp_path / "curve.json")
    assert RobustnessCurve.load(tmp_path / "curve.json") == result
