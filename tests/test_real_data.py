"""Real observations: cutouts of four bands and 23 pixels, and a catalogue of magnitudes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from advphotoz import (
    FGSM,
    PGD,
    AdversarialTrainer,
    CrossEntropy,
    LinfBall,
    RedshiftBins,
    l2_pgd,
    models,
)
from advphotoz.datasets import CutoutDataset
from advphotoz.evaluation import Evaluation, evaluate

BINS = RedshiftBins(0.0, 0.6, 60)
EPS = (0.005, 0.013, 0.019, 0.023)  # griz, about 0.4 of the scatter along the stamps' first row


class Cutouts(NamedTuple):
    """A network trained for a moment, and cutouts whose redshifts it has not seen."""

    train: CutoutDataset
    test: CutoutDataset
    model: nn.Module


@pytest.fixture(scope="module", params=["cube", "raw"])
def cutouts(request: pytest.FixtureRequest, shared_data: Path) -> Cutouts:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with np.load(shared_data / "legacy_griz_23x23_50.npz") as file:
        data = CutoutDataset(file[request.param], file["ebv"], file["z"])
        redshifts = np.unique(file["z"])
        # Neighbouring detections share one redshift, so that a split by row would leak.
        held_out = np.random.default_rng(0).permutation(redshifts)[: len(redshifts) // 3]
        is_test = torch.tensor(np.isin(file["z"], held_out))
    train, test = data.subset(~is_test), data.subset(is_test)
    model = models.cnn(n_bands=4, image_size=23, n_bins=BINS.n, width=0.25)
    trainer = AdversarialTrainer(
        model,
        torch.optim.AdamW(model.parameters(), lr=1e-3),
        attack=None,
        fraction=0.0,
        objective=CrossEntropy(BINS),
    )
    shuffle = torch.Generator().manual_seed(0)
    loader = DataLoader(train, batch_size=16, shuffle=True, generator=shuffle)
    history = trainer.fit(loader, epochs=15, progress=False)
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    return Cutouts(train, test, model)


def state_of(model: nn.Module) -> dict[str, Any]:
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": {
            name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()
        },
        "trainable": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "random": torch.get_rng_state(),
    }


def test_the_cutouts_are_what_they_are_said_to_be(cutouts: Cutouts) -> None:
    assert cutouts.train.image.shape[1:] == cutouts.test.image.shape[1:] == (4, 23, 23)
    assert len(cutouts.train) + len(cutouts.test) == 50
    assert not set(cutouts.train.z.tolist()) & set(cutouts.test.z.tolist())


def test_raw_cutouts_keep_their_negative_pixels(shared_data: Path) -> None:
    with np.load(shared_data / "legacy_griz_23x23_50.npz") as file:
        data = CutoutDataset(file["raw"], file["ebv"], file["z"])
        assert 0.01 < float((data.image < 0).double().mean()) < 0.03
        assert float(CutoutDataset(file["cube"], file["ebv"], file["z"]).image.min()) >= 0


def test_evaluate_runs_on_real_cutouts_of_four_bands(cutouts: Cutouts) -> None:
    torch.set_num_threads(1)
    cutouts.model.train()
    before = state_of(cutouts.model)
    attacks = {
        "FGSM": FGSM(EPS),
        "PGD-10": PGD(LinfBall(EPS)),
        "L2-PGD-10": l2_pgd(0.3, steps=10),
    }
    loader = DataLoader(cutouts.test, batch_size=8)
    result = evaluate(cutouts.model, loader, attacks, BINS, progress=False)

    torch.testing.assert_close(state_of(cutouts.model), before, rtol=0, atol=0)
    assert [row.name for row in result.rows] == ["clean", "noise", *attacks]
    for name in ("noise", "FGSM", "PGD-10"):
        assert 0.9 * max(EPS) < result[name].linf <= max(EPS)
        assert 0.9 < result[name].size <= 1
    assert 0.29 < result["L2-PGD-10"].l2 <= 0.3
    for name in attacks:
        assert result[name].objective_after > result[name].objective_before
        assert result[name].objective_after > result["noise"].objective_after
    assert result.checks is not None
    assert result.checks.samples == len(cutouts.test)
    assert not result.checks.of("not checked")
    for name in ("same output twice", "objective rises", "larger set", "many steps beat one"):
        assert result.checks[name].status == "pass", result
    assert str(result).startswith("Checks: ")
    assert result.settings["samples"] == len(cutouts.test)


@pytest.mark.parametrize(
    "attack", [FGSM(EPS), PGD(LinfBall(EPS)), l2_pgd(0.3, steps=10)], ids=["FGSM", "PGD", "L2-PGD"]
)
def test_no_real_cutout_leaves_the_ball(cutouts: Cutouts, attack: FGSM | PGD) -> None:
    torch.set_num_threads(1)
    image, ebv, z = cutouts.test.image, cutouts.test.ebv, cutouts.test.z
    ball = attack.set
    x_adv = attack.bind(CrossEntropy(BINS))(cutouts.model, image, z, context=(ebv,))
    norm = ball.norm(x_adv.double() - image.double())
    eps = torch.tensor(ball.eps, dtype=torch.float64)
    assert (norm <= eps).all()
    assert (norm > 0.9 * eps).all()
    if (image < 0).any():
        assert (x_adv[image < -2 * max(EPS)] < 0).all()  # nothing was clamped


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "examples" / "catalogue_mlp.py"
    spec = importlib.util.spec_from_file_location("catalogue_mlp", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_catalogue_is_read_as_magnitudes_errors_and_redshifts(
    example: ModuleType, shared_data: Path
) -> None:
    magnitudes, errors, z = example.read_catalogue(shared_data / "SDSS_MGS.train", 0)
    assert magnitudes.shape == errors.shape == (5000, 5)
    assert z.shape == (5000,)
    assert 0.002 < z.min() < z.max() < 0.3
    assert magnitudes[:, 2].max() < 17.9
    # The header names one error column fewer than there are; u has the largest error, then z.
    assert errors.median(dim=0).values.argsort().tolist()[-2:] == [4, 0]
    assert 0.005 < errors[:, 2].median() < 0.007


def test_a_file_of_too_few_columns_is_refused(example: ModuleType, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    np.savetxt(short, np.ones((3, 6)))
    with pytest.raises(SystemExit, match="expected at least 15 columns"):
        example.read_catalogue(short, 0)


@pytest.fixture(scope="module")
def study(example: ModuleType, shared_data: Path) -> dict[str, Evaluation]:
    """Both perceptrons on 2,500 real galaxies, 3 sigma, 20 epochs: about 13 s on one core."""
    torch.set_num_threads(1)
    magnitudes, errors, z = example.read_catalogue(shared_data / "SDSS_MGS.train", 0)
    eps = (3 * errors.median(dim=0).values).tolist()
    train, test = (magnitudes[:2500], z[:2500]), (magnitudes[2500:], z[2500:])
    return example.study(train, test, eps, epochs=20)


# Measured with three seeds and splits, in 1e-3 and %: sigma_MAD 16.7 to 17.2 clean, 18.6 to 18.8
# under noise, 50 to 57 attacked; eta 22.9 to 25.6 attacked, 6.5 to 7.1 after Algorithm 1. The
# limits below leave room for other versions of torch, not for another result.


def test_the_attack_spoils_real_redshifts_and_noise_of_its_size_does_not(
    study: dict[str, Evaluation],
) -> None:
    result = study["classical"]
    clean, noise, attacked = (result[name] for name in ("clean", "noise", "PGD-50x3"))
    assert clean.sigma_mad < 0.022  # it has learned: a guess at the mean would give 0.043
    assert attacked.sigma_mad > 2 * clean.sigma_mad
    assert attacked.eta > 5 * clean.eta
    assert noise.sigma_mad - clean.sigma_mad < 0.2 * (attacked.sigma_mad - clean.sigma_mad)
    assert noise.eta - clean.eta < 0.2 * (attacked.eta - clean.eta)
    assert result["PGD-50x3"].objective_after >= result["PGD-10"].objective_after


def test_algorithm_1_more_than_halves_the_outliers_of_real_galaxies(
    study: dict[str, Evaluation],
) -> None:
    before, after = study["classical"], study["Algorithm 1"]
    assert after["PGD-50x3"].eta < 0.5 * before["PGD-50x3"].eta
    assert after["PGD-50x3"].sigma_mad < 0.8 * before["PGD-50x3"].sigma_mad
    assert after["clean"].sigma_mad < 1.6 * before["clean"].sigma_mad  # its price


def test_the_numbers_on_real_galaxies_can_be_trusted(study: dict[str, Evaluation]) -> None:
    for name, result in study.items():
        assert result.checks is not None
        assert result.checks.passed, f"{name}\n{result}"


def test_seven_bands_of_jwst_without_reddening(shared_data: Path) -> None:
    """Other units, another telescope, seven bands, photometric redshifts, and no E(B-V)."""
    torch.set_num_threads(1)
    bins = RedshiftBins(0.5, 5.5, 50)
    with np.load(shared_data / "ceers_7band_48.npz") as file:
        image, z = torch.tensor(file["image"]), torch.tensor(file["z"]).float()
    noise = image.flatten(2).abs().median(dim=2).values.median(dim=0).values.tolist()
    torch.manual_seed(0)
    model = nn.Sequential(
        models.AsinhStretch(noise), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(7 * 36, bins.n)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    trainer = AdversarialTrainer(model, optimizer, None, 0.0, CrossEntropy(bins, width=0.2))
    history = trainer.fit([(image[:100], z[:100])], epochs=60, progress=False)
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    eps = [0.3 * value for value in noise]
    result = evaluate(model, [(image, z)], [FGSM(eps), PGD(eps, steps=20)], bins, progress=False)
    assert result.settings["samples"] == 125
    for row in result.rows[2:]:
        assert row.objective_after > result["noise"].objective_after > row.objective_before - 0.1
        assert row.linf <= max(eps)
