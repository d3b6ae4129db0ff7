"""The command `advphotoz`: what each subcommand does, and what it says of bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import advphotoz
from advphotoz import PointEstimate, evaluate, models, standard
from advphotoz.command import main
from advphotoz.command.cli import COMMANDS
from advphotoz.command.eps import size
from advphotoz.datasets import CutoutDataset, StoredCutouts, sky_noise
from advphotoz.evaluation import Evaluation
from advphotoz.survey import CalibrationBudget
from advphotoz.training import AdversarialTrainer

N = 24
NET = """
import torch

class Colour(torch.nn.Module):
    def __init__(self, n_bands, slope=0.1, extra=None):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.full((n_bands,), slope))
    def forward(self, image):
        return torch.sigmoid((image.mean((2, 3)) * self.slope).sum(1))

def needs(width):
    return Colour(2, width)

def nothing():
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with cutouts, a table in another order, a network and its weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("net", None)
    rng = np.random.default_rng(0)
    image = rng.normal(1, 0.1, (N, 16, 16, 2)).astype(np.float32)
    identifier = np.arange(100, 100 + N)
    z = rng.uniform(0.1, 0.9, N)
    np.savez(tmp_path / "theirs.npz", imgs=image, objid=identifier)
    lines = [f"{i},{v!r}" for i, v in zip(identifier[::-1], z[::-1].tolist(), strict=True)]
    (tmp_path / "z.csv").write_text("\n".join(["objid,specz", *lines]))
    ours = torch.from_numpy(image).permute(0, 3, 1, 2).contiguous()
    CutoutDataset(ours, torch.full((N,), 0.03), torch.from_numpy(z).float()).to_npz(
        tmp_path / "ours.npz"
    )
    (tmp_path / "net.py").write_text(NET)
    torch.save({"slope": torch.tensor([0.3, -0.2])}, tmp_path / "w.pt")
    torch.save(models.cnn(2, 16, 20, width=0.05).state_dict(), tmp_path / "cnn.pt")
    return tmp_path


THEIRS = (
    "theirs.npz --image-key imgs --layout NHWC --table z.csv --on objid --z specz "
    "--model net:Colour --weights w.pt --output redshift"
)
OURS = "ours.npz --model cnn --model-arg width=0.05 --bins 20 --weights cnn.pt"


def cutouts() -> StoredCutouts:
    return StoredCutouts(
        "theirs.npz",
        image="imgs",
        labels=None,
        catalogue="z.csv",
        on="objid",
        z="specz",
        ebv=None,
    )


class Colour(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid((image.mean((2, 3)) * torch.tensor([0.3, -0.2])).sum(1))


def test_attack_is_what_the_library_does(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = f"attack {THEIRS} --eps 0.4sigma --attack standard --json r.json --html r.html"
    status = main(command.split())
    said = capsys.readouterr()
    result = Evaluation.load("r.json")
    data = cutouts()
    eps = [float(e) for e in 0.4 * sky_noise(data.load().image)]
    readout = PointEstimate()
    expected = evaluate(
        Colour(),
        torch.utils.data.DataLoader(data, 100),
        [standard(eps, readout)],
        readout,
        progress=False,
    )
    assert result["clean"] == expected["clean"]
    assert [row.eta for row in result.rows] == [row.eta for row in expected.rows]
    assert result.rows[-1].sigma_mad == pytest.approx(expected.rows[-1].sigma_mad, rel=1e-5)
    assert result.checks is not None
    assert status == (1 if result.checks.of("FAIL") else 0)
    assert result.checks.verdict in said.out
    assert said.err == ""  # no progress where no terminal is
    assert "0.4 sigma" in (folder / "r.html").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("default")
def test_a_failed_check_is_exit_code_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"slope": torch.zeros(2)}, "w.pt")  # no gradient
    assert main(f"attack {THEIRS} --eps 0.1 --attack fgsm".split()) == 1
    said = capsys.readouterr()
    assert "FAIL" in said.out
    assert said.err.startswith("warning: the gradient is zero everywhere")
    assert ".py" not in said.err


def test_attack_a_network_of_bins_and_report(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    every = "--attack fgsm --attack pgd --attack l2 --keep-pdf --rows 0:12"
    main(f"attack {OURS} --eps 0.02,0.03 --attack fgsm --json a.json --rows 0:12".split())
    main(f"attack {OURS} --eps 0.02 {every} --json b.json".split())
    first, second = Evaluation.load("a.json"), Evaluation.load("b.json")
    assert first.rows[2].linf == pytest.approx(0.03)
    assert [row.n for row in second.rows] == 5 * [12]
    assert second.rows[-1].l2 <= advphotoz.l2_eps_from_linf(0.02, 256)
    assert second.pdf is not None
    card = folder / "card.json"
    card.write_text(json.dumps({"name": "the <CNN>", "limits": "faint"}))
    other = folder / "other.json"
    other.write_text("{}")
    made = main("report a.json b.json --html r.html --title T --card card.json other.json".split())
    page = (folder / "r.html").read_text(encoding="utf-8")
    assert made == 0
    assert "the &lt;CNN&gt;" in page
    assert "faint" in page
    for result in (first, second):
        assert f"{100 * result['clean'].eta:.1f} % are outliers on clean images" in page
    capsys.readouterr()


def test_survey_is_what_the_library_does(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    errors = "--zero-point-error 0.01 --sky 0.1sigma --tomographic-bins 2 --band-names gr"
    asked = f"--requirement 0.003 --json s.json --figure s.png {errors}"
    assert main(f"survey {THEIRS} {asked}".split()) == 0
    found = CalibrationBudget.load("s.json")
    said = capsys.readouterr().out
    assert found.words in said
    assert said.count("zero points") >= 1
    assert found.requirement.limit == 0.003
    noise = sky_noise(cutouts().load().image)
    sizes = np.concatenate([[0.01, 0.01], 0.1 * noise])
    assert np.allclose(found.full.budgets, sizes)
    names = [p.name for p in found.full.parameters]
    assert len(names) == 4
    assert (folder / "s.png").read_bytes().startswith(b"\x89PNG")


def test_train_resumes_and_attack_takes_the_folder(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = "--model cnn --model-arg width=0.05 --bins 20"
    settings = f"{network} --epochs 2 --fraction 0.5 --eps 0.1sigma --batch 8"
    assert main(f"train ours.npz --run whole {settings}".split()) == 0
    assert "epoch 2/2: train loss" in capsys.readouterr().out

    class Stopped(AdversarialTrainer):
        def validate(self, loader: object) -> float:
            if self.epoch == 1:
                raise KeyboardInterrupt
            return super().validate(loader)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("advphotoz.command.training.AdversarialTrainer", Stopped)
        assert main(f"train ours.npz --run parts {settings}".split()) == 130
    assert main(f"train ours.npz --run parts {settings}".split()) == 0
    first, second = (
        torch.load(f"{run}/checkpoint.pt", weights_only=True)["model"] for run in ("whole", "parts")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert main(f"train ours.npz --run parts {settings} --seed 1".split()) == 2
    assert "other settings of seed" in capsys.readouterr().err
    done = main("attack ours.npz --model parts --eps 0.01 --attack fgsm --rows 0:4".split())
    assert done in (0, 1)
    assert "FGSM 0.01" in capsys.readouterr().out
    assert main("attack ours.npz --model parts --bins 30 --eps 0.01".split()) == 2
    assert "--bins is known from parts" in capsys.readouterr().err


def test_a_network_of_one_redshift_is_trained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = THEIRS.replace("--weights w.pt", "")
    assert main(f"train {described} --run run --epochs 1".split()) == 0
    again = THEIRS.split(" --model")[0]
    assert main(f"attack {again} --model run --eps 0.1 --attack fgsm".split()) in (0, 1)
    capsys.readouterr()


def test_convert_joins_and_is_read_without_options(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    described = THEIRS.split(" --model")[0]
    assert main(f"convert {described} --zero-point 25 fast.npz".split()) == 0
    before, after = cutouts().load(), StoredCutouts.from_npz("fast.npz").load()
    assert torch.equal(before.z, after.z)
    assert torch.allclose(before.image * 10 ** (0.4 * (22.5 - 25)), after.image)
    network = "--model net:Colour --weights w.pt --output redshift"
    assert main(f"attack fast.npz {network} --eps 1 --attack fgsm".split()) in (0, 1)
    assert main(f"convert {described} fast.npz".split()) == 2
    assert "fast.npz exists; --force replaces it" in capsys.readouterr().err
    assert main(f"convert {described} --force fast.npz".split()) == 0
    assert torch.equal(before.image, StoredCutouts.from_npz("fast.npz").load().image)


def test_simulate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("galsim", reason="galaxies are drawn by GalSim: extra sim")
    assert main("simulate sim.npz --galaxies 4 --size 16 --seed 3".split()) == 0
    expected = advphotoz.datasets.simulate(4, seed=3, size=16, progress=False)
    assert torch.equal(StoredCutouts.from_npz("sim.npz").load().image, expected.image)


def test_a_folder_of_fits_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fits = pytest.importorskip("astropy.io.fits", reason="astropy writes them: extra io")
    (folder / "stamps").mkdir()
    for row, image in enumerate(np.load("theirs.npz")["imgs"]):
        hdu = fits.PrimaryHDU(np.moveaxis(image, 2, 0))
        hdu.header["REDSHIFT"] = 0.01 * row
        hdu.writeto(folder / "stamps" / f"g{row:02}.fits")
    rows = [f"g{row:02},{0.01 * row}" for row in range(N)]
    (folder / "t.csv").write_text("\n".join(["name,zz", *rows]))
    described = "convert stamps --image-key image --layout NCHW"
    assert main(f"{described} --z REDSHIFT a.npz".split()) == 0
    assert main(f"{described} --table t.csv --on name --z zz b.npz".split()) == 0
    first, second = (StoredCutouts.from_npz(f"{name}.npz").load() for name in "ab")
    assert torch.equal(first.image, second.image)
    assert torch.allclose(first.z, 0.01 * torch.arange(N))
    assert torch.equal(first.z, second.z)


BAD = {
    "attack nowhere.npz --model cnn --weights w.pt --eps 0.1": "there is no nowhere.npz",
    "attack theirs.npz --model cnn --weights w.pt --eps 0.1": "holds ['imgs', 'objid']",
    "attack theirs.npz --layout NHWC --model cnn --weights w.pt --eps 0.1": "by --image-key",
    "attack theirs.npz --image-key imgs --model cnn --weights w.pt --eps 1": "say --layout NCHW",
    f"attack {THEIRS} --eps 0.1,0.2,0.3": "one for each of 2 bands",
    f"attack {THEIRS} --eps 0.1 --rows 5:900": "FIRST < LAST <= 24, got '5:900'",
    f"attack {THEIRS} --eps 0.1 --bins 9": "belong to --output bins",
    f"attack {THEIRS} --eps 0.1 --device nonsense": "--device nonsense is not here",
    f"attack {THEIRS} --eps 0.1 --keep-pdf": "--keep-pdf writes beside --json",
    f"attack {THEIRS} --eps 0.1 --json .": ". is a folder",
    f"attack {THEIRS.replace('w.pt', 'cnn.pt')} --eps 0.1": "does not fit net:Colour",
    f"attack {THEIRS.replace('w.pt', 'z.csv')} --eps 0.1": "cannot be read as weights alone",
    f"attack {THEIRS.replace('w.pt', 'gone.pt')} --eps 0.1": "there is no gone.pt",
    f"attack {THEIRS.replace('net:Colour', 'net:Missing')} --eps 0.1": "no class or function",
    f"attack {THEIRS.replace('net:Colour', 'gone:Net')} --eps 0.1": "No module named 'gone'",
    f"attack {THEIRS.replace('net:Colour', 'net:needs')} --eps 0.1": "give it by --model-arg",
    f"attack {THEIRS.replace('net:Colour', 'net:nothing')} --eps 0.1": "returned int",
    f"attack {THEIRS.replace('net:Colour', 'resnet')} --eps 0.1": "must be one of cnn, inception",
    f"attack {THEIRS.replace('--on objid', '')} --z specz --on imag --eps 0.1": "'imag' to join on",
    f"attack {THEIRS} --eps 0.1 --model-arg 3": "must be NAME=VALUE",
    f"attack {THEIRS.replace('--weights w.pt', '')} --eps 0.1": "--weights is missing",
    f"attack {THEIRS.replace('net:Colour', '.')} --eps 0.1": "no training of this command",
    f"survey {THEIRS}": "say which errors are possible",
    f"survey {THEIRS} --psf 0.01": "need --pixel-scale",
    f"survey {THEIRS} --psf 0.01 --pixel-scale 0.4": "--psf and --fwhm belong together",
    f"survey {THEIRS} --ebv-error 0.1": "--ebv names no column",
    f"survey {THEIRS} --sky 0.1 --band-names ugriz": "for each of 2 bands",
    "train ours.npz --run r --fraction 0.5": "--fraction needs --eps",
    "report z.csv --html r.html": "z.csv",
    "report a/x.json b/x.json --html r.html": "two have one name",
    "convert ours.npz ours.npz --force": "the one that is read",
}


@pytest.mark.parametrize("command", BAD)
def test_bad_input_is_a_sentence_and_writes_nothing(
    folder: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(command.split()) == 2
    said = capsys.readouterr()
    assert BAD[command] in said.err
    assert said.err.startswith(f"advphotoz {command.split()[0]}: error: ")
    assert "Traceback" not in said.err
    after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert after == before


class Evil:
    """An object whose unpickling runs code."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_weights_that_could_run_code_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(Evil(folder / "it_ran"), "evil.pt")
    assert main(f"attack {OURS.replace('cnn.pt', 'evil.pt')} --eps 0.1".split()) == 2
    assert "evil.pt cannot be read as weights alone" in capsys.readouterr().err
    assert not (folder / "it_ran").exists()
    torch.load("evil.pt", weights_only=False)  # and it would have run
    assert (folder / "it_ran").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("attack ours.npz --eps 0.1", "required: --model"),
        ("attack ours.npz --model cnn --eps 0.1sigmas", "is no size: write 0.01"),
        ("attack ours.npz --model cnn --eps=-1", "not negative"),
        ("survey ours.npz --model cnn --requirement LSST", "neither a limit such as 0.002"),
        ("survey ours.npz --model cnn --fwhm 1sigma", "is no unit here"),
        ("atack", "invalid choice"),
    ],
)
def test_bad_options_are_refused(
    command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_an_error_of_the_code_can_be_seen(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        main("convert nowhere.npz out.npz --traceback".split())


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "exit codes" in text
    assert max(map(len, text.splitlines())) <= 100


def test_without_a_command_it_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "advphotoz demo" in capsys.readouterr().out


def test_it_is_a_module_too() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "advphotoz", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout == f"advphotoz {advphotoz.__version__}\n"


def test_a_reader_that_has_read_enough_is_no_error(folder: Path) -> None:
    code = (
        "import sys; from advphotoz.command import main; from advphotoz.command import report\n"
        "report.run = lambda args: [print(k * 'x') for k in range(10**4)] and 0\n"
        "sys.exit(main('report r.json --html r.html'.split()))"
    )
    command = f"'{sys.executable}' -c \"$CODE\" | head -1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "CODE": code}, capture_output=True, text=True
    )
    assert ran.stdout.split() == ["0"]
    assert ran.stderr == ""


def test_size() -> None:
    images: Callable[[int], torch.Tensor] = lambda bands: torch.randn(50, bands, 32, 32)  # noqa: E731
    assert size("0.01").of(images(5)) == 0.01
    assert size("0.1,0.2").of(images(2)) == [0.1, 0.2]
    noise = torch.tensor([0.5, 2.0]).view(1, 2, 1, 1)
    assert size("0.4sigma").of(noise * images(2)) == pytest.approx([0.2, 0.8], rel=0.05)
    assert str(size("0.4sigma")) == "0.4 sigma"
