"""Transfer: images made for one network, shown to another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advphotoz import (
    FGSM,
    PGD,
    GaussianMixture,
    LinfBall,
    NegativeLogLikelihood,
    PointEstimate,
    Quantiles,
    WorstOf,
)
from advphotoz.evaluation import TransferMatrix, transfer_matrix
from networks import TWO, Estimate, Momentum, Net, TwoBins, features, images, run, sides, split


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def two_models() -> dict[str, TwoBins]:
    ours, other = TwoBins(), TwoBins()
    other.weight.data = torch.tensor([2.0, 1.0, 0.0])  # at right angles to ours
    return {"A": ours, "B": other}


def matrix_of(attack: Any = None, **settings: Any) -> TransferMatrix:
    quiet = {"progress": False, "bootstrap": 20, **settings}
    models = quiet.pop("models", None) or two_models()
    return transfer_matrix(models, split(sides(60), 25), attack or FGSM(0.3), TWO, **quiet)


def test_transfer_shows_one_models_images_to_another(tmp_path: Path) -> None:
    batches, models = split(sides(60), 25), two_models()
    matrix = matrix_of(models=models)
    for name, model in models.items():
        rows = run(model, batches, {name: FGSM(0.3)}, checks=False)
        assert matrix[name][name] == rows[name]
        assert matrix["clean"][name] == rows["clean"]
    assert matrix["B"]["A"].objective_after < matrix["A"]["A"].objective_after
    # Images for B: x + eps sign of B's gradient, which A's own pass would make of them too.
    x, z = sides(60)
    bound = FGSM(0.3, objective=NegativeLogLikelihood(TWO))
    made = bound(models["B"], x, z)
    seen = run(models["A"], [(made, z)], checks=False)["clean"]
    assert matrix["B"]["A"].objective_after == pytest.approx(seen.objective_after, rel=1e-5)
    assert matrix.values("eta").shape == (3, 2)
    for metric in ("name", "speed"):
        with pytest.raises(ValueError, match=f"no metric '{metric}'; the metrics are"):
            matrix.values(metric)
    assert "shown to B" in str(matrix)
    assert str(matrix).endswith(
        "not checked here: see evaluate; least room used: 1.00 (made for A)."
    )
    assert len(matrix.to_markdown().splitlines()) == 5
    matrix.save(tmp_path / "matrix.json")
    assert TransferMatrix.load(tmp_path / "matrix.json") == matrix
    old = (tmp_path / "matrix.json").read_text().replace('"version": 3', '"version": 2')
    (tmp_path / "old.json").write_text(old)
    with pytest.raises(ValueError, match="has version 2 .* reads version 3"):
        TransferMatrix.load(tmp_path / "old.json")


def test_sources_are_chosen_and_the_rest_only_looks_on() -> None:
    whole, one = matrix_of(), matrix_of(sources=["B"])
    assert list(one.rows) == ["clean", "B"]
    assert one["B"] == whole["B"]
    assert one["clean"] == whole["clean"]
    assert list(one.settings["networks"]) == ["A", "B"]
    assert one.settings["networks"]["A"]["sha256"] != one.settings["networks"]["B"]["sha256"]
    for wrong in ([], ["C"], "A"):
        with pytest.raises(
            ValueError, match=r"sources must be a list of names out of \['A', 'B'\]"
        ):
            matrix_of(sources=wrong)


def test_an_attack_of_a_user_transfers() -> None:
    matrix = matrix_of(Momentum(0.3))
    assert matrix["A"]["A"].objective_after > matrix["B"]["A"].objective_after
    assert matrix["A"]["A"].size == matrix["A"]["B"].size == pytest.approx(1, rel=1e-5)
    worst = matrix_of(WorstOf((Momentum(0.3), FGSM(0.3))))
    found = worst["A"]["A"].objective_after
    assert found >= matrix["A"]["A"].objective_after - 1e-6


def test_random_starts_do_not_depend_on_the_other_models() -> None:
    attack = PGD(LinfBall(0.1), steps=1, step_size=0.01, random_start=True, keep="last")
    models = two_models()
    both = matrix_of(attack, models=models)
    alone = matrix_of(attack, models={"B": models["B"]})
    assert both["B"]["B"] == alone["B"]["B"]


@pytest.mark.parametrize(
    ("kind", "readout", "data"),
    [
        (Estimate, PointEstimate(), features()),
        (lambda: Net(3), Quantiles([0.16, 0.5, 0.84]), images()),
        (lambda: Net(6), GaussianMixture(2), images()),
    ],
    ids=["one output", "quantiles", "mixture"],
)
def test_transfer_of_other_readouts(kind: Any, readout: Any, data: Any) -> None:
    models = {"A": kind(), "B": kind()}
    matrix = transfer_matrix(models, split(data, 20), FGSM(0.1), readout, progress=False)
    assert matrix["A"]["A"].objective_after > matrix["clean"]["A"].objective_after
    has_pdf = isinstance(readout, GaussianMixture)
    assert (matrix["A"]["B"].nll is not None) == has_pdf
    if has_pdf:
        assert np.isfinite(matrix.values("nll")).all()
    else:
        with pytest.raises(ValueError, match="nll was not computed: .* a readout with a PDF"):
            matrix.values("nll")
    assert np.isfinite(matrix.values("eta")).all()


def test_bad_models_are_refused() -> None:
    batches = [sides(4)]
    good = TwoBins()
    for models, error, match in (
        ({}, ValueError, "models must be"),
        ([good], ValueError, "models must be"),
        ({"clean": good}, ValueError, "other than 'clean'"),
        ({"": good}, ValueError, "printable text of one line"),
        ({"two\nlines": good}, ValueError, "printable text of one line"),
        ({"A": lambda x: x}, TypeError, r"torch\.nn\.Module"),
    ):
        with pytest.raises(error, match=match):
            transfer_matrix(models, batches, FGSM(0.3), TWO, progress=False)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a readout says how"):
        transfer_matrix({"A": good}, batches, FGSM(0.3), 180)  # type: ignore[arg-type]
