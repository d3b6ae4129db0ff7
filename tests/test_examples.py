"""Every example runs as a user starts it: in a process of its own, with small settings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from advphotoz import CrossEntropy, RedshiftBins, models
from advphotoz.survey import CalibrationBudget
from advphotoz.training import AdversarialTrainer

pytest.importorskip("galsim", reason="the examples draw galaxies: needs the extra sim")
pytest.importorskip("matplotlib", reason="the demo draws pictures: needs the extra plot")

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TIMEOUT = 300  # a loaded machine is not a failure


def run(
    name: str, *options: object, env: dict[str, str], cwd: Path, status: int = 0
) -> tuple[str, str]:
    """Start an example, check its exit status, and return what it printed: stdout, stderr."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, options)],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == status, f"{name}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout, done.stderr


def test_there_is_a_test_for_every_example() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    names = [path.name for path in EXAMPLES.glob("*.py")]
    assert len(names) >= 5
    elsewhere = {"reproduce_paper.py", "lightning_training.py"}  # test_paper, test_lightning
    assert [n for n in names if n not in elsewhere and f'"{n}"' not in text] == []


def test_own_attack(environment: dict[str, str], tmp_path: Path) -> None:
    out, _ = run("own_attack.py", env=environment, cwd=tmp_path)
    kept = [line for line in out.splitlines() if line.endswith("keeps the contract")]
    assert len(kept) == 2  # in a ball, and in a set of another kind
    table = {line.split()[0]: line.split() for line in out.splitlines() if line}
    largest = {name: float(table[name][-2]) for name in ("FGSM", "PGD-10", "Momentum-10")}
    assert largest == {"FGSM": 0.01, "PGD-10": 0.01, "Momentum-10": 0.01}


def test_foreign_networks(environment: dict[str, str], tmp_path: Path) -> None:
    out, _ = run("foreign_networks.py", env=environment, cwd=tmp_path)
    kinds = ("one output", "tuple", "dictionary", "image not first")
    parts = re.split(r"^(\w[\w ]+)\n\n", out, flags=re.M)
    assert parts[1::2] == list(kinds)
    for kind, part in zip(kinds, parts[2::2], strict=True):
        assert part.startswith("**Checks: no sign of a broken attack")
        rows = [line.split(" | ") for line in part.splitlines() if line.startswith("| ")]
        cells = {row[0].strip("| "): row for row in rows}
        assert list(cells) == ["attack", ":--", "clean", "noise", "PGD-10"]
        assert cells["PGD-10"][-2] == "0.05"
        # A PDF has a likelihood, which the attack lowers; one redshift has none.
        likelihoods = [cells[name][7] for name in ("clean", "PGD-10")]
        if kind == "one output":
            assert likelihoods == ["n/a", "n/a"]
        else:
            assert float(likelihoods[1]) > float(likelihoods[0]) + 0.1


def test_plain_loop(environment: dict[str, str], tmp_path: Path) -> None:
    options = ("--galaxies", 70, "--epochs", 1)
    out, _ = run("plain_loop.py", *options, env=environment, cwd=tmp_path)
    found = re.fullmatch(r"epoch 1: mean loss ([\d.]+) \(simulated galaxies\)\n", out)
    assert found
    # Below the loss at the start; 180 bins guessed alike would give log(180) = 5.19.
    assert 3 < float(found[1]) < 7


def test_catalogue_of_simulated_magnitudes(environment: dict[str, str], tmp_path: Path) -> None:
    options = ("--galaxies", 120, "--epochs", 2)
    out, _ = run("catalogue_mlp.py", *options, env=environment, cwd=tmp_path)
    sizes = re.search(r"(\d+) training and (\d+) test galaxies \(simulated\)", out)
    left_out = re.search(r"(\d+) of 120 galaxies lie beyond the bins", out)
    assert sizes
    assert left_out
    assert int(sizes[1]) + int(sizes[2]) + int(left_out[1]) == 120
    eps = [float(e) for e in re.search(r"ugriz: (.*)", out)[1].split(",")]  # type: ignore[index]
    assert len(eps) == 5
    assert all(0.005 < e < 0.5 for e in eps)
    for name in ("classical", "Algorithm 1", "PGD-50x3"):
        assert f"\n{name}" in out


@pytest.mark.slow
def test_quasars(environment: dict[str, str], tmp_path: Path) -> None:
    """On noise of the shape of the real images, which are not part of the repository."""
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "quasars.npz",
        image=rng.normal(size=(48, 5, 40, 40)).astype(np.float16),
        ebv=rng.uniform(0, 0.1, 48),
        z=rng.uniform(2.8, 5.0, 48),
    )
    options = ("--data", "quasars.npz", "--out", "run", "--epochs", 1, "--seeds", 1)
    out, _ = run("quasars.py", *options, env=environment, cwd=tmp_path)
    assert "26 to train on, 6 to validate, 16 to test" in out
    rows = [line.split(" | ")[0] for line in out.splitlines() if line.startswith("| ")]
    assert rows[2:] == ["| clean", "| noise", "| FGSM", "| PGD-20", "| two signed PGD-50"]
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    again, _ = run("quasars.py", *options, env=environment, cwd=tmp_path)
    assert again.splitlines()[-7:] == out.splitlines()[-7:]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # nothing was done again


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the checkpoint of a small network, as the demo writes it."""
    torch.manual_seed(0)
    model = models.cnn(image_size=16, width=0.05)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    trainer = AdversarialTrainer(model, optimizer, None, 0.0, CrossEntropy(RedshiftBins()))
    batch = (torch.rand(8, 5, 16, 16), torch.rand(8) / 10, 0.4 * torch.rand(8))
    path = tmp_path_factory.mktemp("survey") / "small.pt"
    trainer.fit([batch], epochs=1, checkpoint=path, progress=False)
    return path


def test_survey_budget_of_cutouts(
    checkpoint: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "mine.npz",
        image=rng.normal(0.2, 0.05, (60, 5, 16, 16)).astype(np.float32),
        ebv=rng.uniform(0, 0.1, 60),
        z=rng.uniform(0, 0.4, 60),
    )
    options = ("--data", "mine.npz", "--networks", checkpoint, "--size", 16, "--width", 0.05)
    options = ("galaxies", *options, "--bins", 2, "--draws", 5, "--limit", 1e-5, "--out", "run")
    out, _ = run("survey_budget.py", *options, env=environment, cwd=tmp_path)
    assert out.strip() == (tmp_path / "run" / "survey_budget.md").read_text().strip()
    rows = [line.split(" | ")[0] for line in out.splitlines() if line.startswith("| ")]
    effects = [row.removeprefix("| ").removesuffix(" (not converged)") for row in rows[2:9]]
    assert effects[0] == "PSF width 1 %"
    assert effects[-1] == "all together"
    assert "the worst case" in out
    for effect in ("zero-points", "all-together"):
        found = CalibrationBudget.load(tmp_path / "run" / f"small-{effect}.json")
        assert (found.factor < 1) == (abs(found.full.worst.shift) > 1e-5)
        assert abs(found.met.worst.shift) <= 1.02e-5
        assert found.words in out or effect == "zero-points"
    assert (tmp_path / "run" / "survey_budget.png").read_bytes().startswith(b"\x89PNG")


def test_survey_budget_of_magnitudes(environment: dict[str, str], tmp_path: Path) -> None:
    options = ("--galaxies", 120, "--epochs", 2, "--bins", 1, "--draws", 5)
    out, _ = run("survey_budget.py", "magnitudes", *options, env=environment, cwd=tmp_path)
    assert out.index("## classical") < out.index("## Algorithm 1")
    assert "zero point 10 mmag (u 20 mmag)" in out


def test_survey_budget_without_a_network(environment: dict[str, str], tmp_path: Path) -> None:
    _, err = run("survey_budget.py", "galaxies", env=environment, cwd=tmp_path, status=2)
    assert "`advphotoz demo` trains some" in err
    np.savez(tmp_path / "mine.npz", image=np.zeros((2, 5, 9, 9)), ebv=np.zeros(2), z=np.zeros(2))
    options = ("galaxies", "--networks", "none.pt", "--data", "mine.npz", "--size", 9)
    _, err = run("survey_budget.py", *options, env=environment, cwd=tmp_path, status=1)
    assert "none.pt does not exist" in err
