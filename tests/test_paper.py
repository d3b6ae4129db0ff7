"""The paper as one experiment: every step at a size that means nothing, and what ties them."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advphotoz import PGD, AdversarialTrainer, evaluate, metrics

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import reproduce_paper
from paper.data import Galaxies
from paper.findings import FINDINGS
from paper.plan import (
    ALONE,
    BINS,
    EPS,
    SIX,
    STANDARD,
    Training,
    curve_attacks,
    table1_attacks,
    trainings,
)
from paper.results import Number, Results, difference, in_units
from paper.scales import SCALES
from paper.steps import Step, claimed, run, same_settings
from paper.tables import TABLES
from paper.work import Work

SMOKE = SCALES["smoke"]


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("ADVPHOTOZ_CACHE", str(tmp_path_factory.getbasetemp() / "galaxies"))


@pytest.mark.slow  # four minutes
@pytest.mark.filterwarnings("ignore::advphotoz.ZeroGradientWarning")  # networks hardly trained
def test_the_whole_experiment_also_when_it_is_stopped_within_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--scale", "smoke", "--out", str(tmp_path)]
    reproduce_paper.main(arguments)
    report = (tmp_path / "report.md").read_text("utf-8")
    tables = json.loads((tmp_path / "tables.json").read_text("utf-8"))
    assert report.count("imulated") >= 1
    assert set(tables["tables"]) == set(TABLES)
    assert len(tables["findings"]) == len(FINDINGS)
    for title in TABLES:
        assert f"## {title}\n" in report
    assert len(list((tmp_path / "figures").glob("*.pdf"))) == 11
    assert len(tables["tables"]["Table 1, eta [%]"]["head"]) == 1 + len(SIX) + 1

    results = Results(tmp_path)
    parameters = {n: results.parameters(n) for n in ALONE}
    assert parameters["pgd-50"] == parameters["Iref"]
    assert parameters["pgd-50-i4"] > parameters["pgd-50"] < parameters["pgd-50-fc0"]
    assert results.seeds("Iref") == ["Iref", "I0"]
    assert results.seeds("fgsm-20") == ["fgsm-20", "fgsm-20-seed1"]

    # One training and what hangs on it once more, stopped after its first epoch.
    (tmp_path / "tables.json").unlink()
    for path in tmp_path.rglob("pgd-50-i4*"):
        path.unlink()
    weights = (tmp_path / "models" / "Iref.pt").stat().st_mtime_ns
    validate = AdversarialTrainer.validate

    def stop_in_the_second_epoch(self: AdversarialTrainer, loader: Any) -> float:
        if self.epoch == 1:
            raise KeyboardInterrupt
        return validate(self, loader)

    with monkeypatch.context() as context:
        context.setattr(AdversarialTrainer, "validate", stop_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            reproduce_paper.main(arguments)
    assert (tmp_path / "models" / "pgd-50-i4.checkpoint").exists()
    reproduce_paper.main(arguments)
    assert json.loads((tmp_path / "tables.json").read_text("utf-8")) == tables
    assert (tmp_path / "models" / "Iref.pt").stat().st_mtime_ns == weights
    assert not list(tmp_path.rglob("*.checkpoint"))

    # Of results without their networks only what is missing is done again, and what that needs.
    for path in tmp_path.rglob("*.pt"):
        path.unlink()
    (tmp_path / "evaluations" / "pgd-50-seed1.json").unlink()
    work = Work(SMOKE, Galaxies(SMOKE, None), tmp_path)
    to_do = [step.name for step in reproduce_paper.plan(work) if not step.path.exists()]
    assert to_do == ["train Iref", "train pgd-50-seed1", "evaluate pgd-50-seed1"]


def test_other_settings_are_refused_another_machine_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"scale": {"epochs": 2}, "machine": "2 threads"}
    same_settings(tmp_path, settings)
    same_settings(tmp_path, settings)
    assert not capsys.readouterr().out
    same_settings(tmp_path, {**settings, "machine": "1 thread"})
    assert "begun with 2 threads" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="other settings"):
        same_settings(tmp_path, {**settings, "scale": {"epochs": 3}})


def test_no_galaxy_is_in_two_sets_and_training_sets_differ() -> None:
    galaxies = Galaxies(SMOKE, None)
    test, valid = galaxies.test(SMOKE.n_test), galaxies.validation()
    sets = [galaxies.training(k) for k in range(3)]
    assert [len(s) for s in (test, valid, sets[0])] == [
        SMOKE.n_test,
        SMOKE.n_valid,
        SMOKE.n_train,
    ]

    def names(data: Any) -> set[float]:
        return set(data.z.tolist())  # continuous: a redshift names its galaxy

    assert len(names(test)) == SMOKE.n_test
    for sample in sets:
        assert not names(sample) & (names(test) | names(valid))
    assert not names(test) & names(valid)
    assert names(sets[0]) != names(sets[1]) != names(sets[2])
    assert names(galaxies.training(1)) == names(sets[1])
    assert set(galaxies.catalogue(5)) == {"z", "r", "g - r"}


def test_the_file_of_pasquet_et_al_trains(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = SMOKE.galaxies
    kind = [("z", "f4"), ("EBV", "f4"), ("dered_petro_g", "f4"), ("dered_petro_r", "f4")]
    labels = np.zeros(n, dtype=kind)
    labels["z"] = rng.uniform(0.02, 0.3, n)
    labels["dered_petro_r"] = 17
    labels["dered_petro_g"] = 17.5
    cube = rng.normal(0, 0.05, (n, 16, 16, 5)).astype("f4")
    np.savez(tmp_path / "sdss.npz", cube=cube, labels=labels)
    galaxies = Galaxies(SMOKE, tmp_path / "sdss.npz")
    assert galaxies.image_size == 16
    torch.testing.assert_close(galaxies.catalogue(3)["g - r"], torch.full((3,), 0.5))
    work = Work(SMOKE, galaxies, tmp_path)
    (tmp_path / "models").mkdir()
    work.train(Training("CNN", "cnn"), tmp_path / "models" / "CNN.pt")
    history = json.loads((tmp_path / "models" / "CNN.json").read_text("utf-8"))["history"]
    assert len(history) == SMOKE.epochs

    too_many = dataclasses.replace(SMOKE, n_pool=n)
    with pytest.raises(SystemExit, match=f"holds {n} galaxies"):
        Galaxies(too_many, tmp_path / "sdss.npz")


def test_every_training_has_a_name_of_its_own_and_the_full_scale_is_the_papers() -> None:
    for scale in SCALES.values():
        names = [t.name for t in trainings(scale)]
        assert len(set(names)) == len(names)
        assert {*SIX, *ALONE} <= set(names)
    full = SCALES["full"]
    assert (full.n_train, full.n_test, full.n_attack, full.epochs) == (
        100_000,
        100_000,
        10_000,
        150,
    )
    assert full.galaxies <= 659_857


def test_every_search_is_the_papers() -> None:
    size = 64
    attacks = {**STANDARD, **table1_attacks(size)}
    attacks |= {f"curve {name}": make(EPS) for name, make in curve_attacks().items()}
    attacks |= {t.name: t.attack for t in trainings(SCALES["full"]) if t.attack is not None}
    searches = {name: attack for name, attack in attacks.items() if isinstance(attack, PGD)}
    assert len(searches) > 10
    for name, attack in searches.items():
        assert attack.keep == "last"
        assert attack.step_size == (1.25 if name.startswith("step-50") else "paper")


def test_errors_of_eta_are_those_of_wilsons_interval() -> None:
    batch = (torch.zeros(20, 2), torch.full((20,), 0.1))
    model = torch.nn.Linear(2, 180)
    row = evaluate(model, [batch], {}, BINS, checks=False, progress=False)["clean"]
    low, high = metrics.wilson_interval(round(20 * row.eta), 20)
    found = in_units(row, "eta")
    assert found == Number(100 * row.eta, 50 * (high - low))
    assert found.error > 0
    assert in_units(row, "bias") == Number(1e4 * row.bias, 1e4 * row.bias_error)


def test_passes_count_as_in_the_benchmarks() -> None:
    by_name = {t.name: t.passes for t in trainings(SMOKE)}
    assert by_name["Iref"] == 3
    assert by_name["fgsm-20"] == pytest.approx(3 + 2 * 0.2)
    assert by_name["pgd-50"] == pytest.approx(3 + 2 * 0.5 * SMOKE.craft_steps)
    assert by_name["step-50"] == pytest.approx(3 + 2 * 0.5)


def test_steps_are_done_once_and_wait_for_what_they_need(tmp_path: Path) -> None:
    done = []

    def step(name: str, *needs: str) -> Step:
        def do(path: Path) -> None:
            done.append(name)
            path.write_text("")

        return Step(name, tmp_path / name, 1.0, do, [tmp_path / n for n in needs])

    steps = [step("b", "a"), step("a"), step("c", "b")]
    run(steps, tmp_path, after=lambda: None)
    assert done == ["a", "b", "c"]
    run(steps, tmp_path, after=lambda: None)
    assert done == ["a", "b", "c"]
    assert set(json.loads((tmp_path / "times.json").read_text("utf-8"))) == {"a", "b", "c"}


def test_another_process_does_not_get_a_claimed_step(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    code = (
        "import sys; from pathlib import Path; from paper.steps import claimed\n"
        "with claimed(Path(sys.argv[1])) as mine: print(mine)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "lock")]
    folder = Path(reproduce_paper.__file__).parent

    def ask() -> str:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    with claimed(tmp_path / "lock") as mine:
        assert mine
        assert ask() == "False"
    assert ask() == "True"


def test_differences_in_units_of_their_error() -> None:
    assert difference(Number(10, 3), Number(5, 4)) == pytest.approx(1)
    assert difference(Number(1, 0), Number(1, 0)) == 0
    assert difference(Number(2, 0), Number(1, 0)) == float("inf")
    assert str(Number(11.234, 0.56)).split() == ["11.2", "±", "0.6"]
