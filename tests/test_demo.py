"""`advphotoz demo`: in a process of its own, with small settings; stopped, and continued."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from advphotoz.evaluation import Evaluation

pytest.importorskip("galsim", reason="the demo draws galaxies: needs the extra sim")
pytest.importorskip("matplotlib", reason="the demo draws pictures: needs the extra report")
pytest.importorskip("jinja2", reason="the demo writes HTML: needs the extra report")

COMMAND = (sys.executable, "-m", "advphotoz", "demo")
TIMEOUT = 300  # a loaded machine is not a failure


def run(*options: object, env: dict[str, str], cwd: Path, status: int = 0) -> tuple[str, str]:
    """Start the demo, check its exit status, and return what it printed: stdout, stderr."""
    done = subprocess.run(
        [*COMMAND, *map(str, options)],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == status, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout, done.stderr


DEMO = ("--galaxies", 120, "--epochs", 3, "--width", 0.1)
PICTURES = ["attack_adversarial", "attack_classical", "delta_z", "redshifts"]


@pytest.fixture(scope="module")
def demo(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a demo that ran through."""
    folder = tmp_path_factory.mktemp("demo")
    out, _ = run(*DEMO, "--out", folder / "run", env=environment, cwd=folder)
    assert f"The report: {folder / 'run' / 'report.html'}" in out
    verdicts_come_first(out, folder / "run")
    return folder / "run"


def verdicts_come_first(text: str, folder: Path) -> None:
    """Assert that what the checks say of both networks stands before the first table."""
    first_table = text.index("| attack |")
    for name in ("classical", "adversarial"):
        result = Evaluation.load(folder / f"{name}.json")
        assert result.checks is not None
        attacks = [row for row in result.rows if row.name not in ("clean", "noise")]
        most = max(row.eta for row in attacks)  # outliers; of equals, the one with more scatter
        strongest = max(
            (row for row in attacks if row.eta == most), key=lambda row: row.sigma_mad
        ).name
        said = f"{result.checks.verdict} The strongest attack shown is {strongest}: "
        assert text.index(said) < first_table


def rows(folder: Path) -> dict[str, Any]:
    """Return every number of the report."""
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())["rows"]
    return found


def epochs(printed: str) -> list[int]:
    """Return which epochs were trained, as the demo reports them."""
    return [int(number) for number in re.findall(r"^epoch (\d)/3: train loss", printed, re.M)]


def test_the_demo_writes_what_it_promises(demo: Path) -> None:
    report = (demo / "report.md").read_text(encoding="utf-8")
    verdicts_come_first(report, demo)
    for name in ("classical", "adversarial"):
        result = Evaluation.load(demo / f"{name}.json")
        attacks = ["clean", "noise", "FGSM", "PGD-20", "advphotoz-standard-1"]
        assert [row["name"] for row in rows(demo)[name]] == attacks
        assert json.loads(json.dumps([vars(row) for row in result.rows])) == rows(demo)[name]
        assert result["clean"].n == 10
        assert result.checks is not None
        table = dataclasses.replace(result, checks=None).to_markdown()
        assert result.to_markdown().endswith(table)
        assert table in report
        assert result.checks.to_markdown() in report
    assert sorted(path.stem for path in demo.glob("*.png")) == PICTURES
    assert sorted(re.findall(r"!\[[^]]+\]\((\w+)\.png\)", report)) == PICTURES
    for name in PICTURES:
        assert (demo / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "simulated galaxies" in report.lower()


def test_a_second_start_of_the_demo_only_reports(demo: Path, environment: dict[str, str]) -> None:
    def kept() -> dict[str, int]:
        names = [
            f"{name}.{kind}" for name in ("classical", "adversarial") for kind in ("pt", "json")
        ]
        return {name: (demo / name).stat().st_mtime_ns for name in names}

    def tables() -> list[str]:
        text = (demo / "report.md").read_text(encoding="utf-8")
        return [line for line in text.splitlines() if "minutes (this start)" not in line]

    before = kept(), tables(), rows(demo)
    out, err = run(*DEMO, "--out", demo, env=environment, cwd=demo)
    assert (kept(), tables(), rows(demo)) == before
    assert epochs(out) == []
    assert "simulating" not in err
    assert "evaluate" not in err


def test_the_demo_refuses_other_settings_in_the_same_folder(
    demo: Path, environment: dict[str, str]
) -> None:
    before = {path.name: path.read_bytes() for path in demo.iterdir()}
    options = (*DEMO, "--seed", 1, "--out", demo)
    _, err = run(*options, env=environment, cwd=demo, status=2)
    assert err == (
        f"advphotoz demo: error: {demo} holds results of other settings; name another --out, or "
        "delete it\n"
    )
    assert {path.name: path.read_bytes() for path in demo.iterdir()} == before


@contextmanager
def heeding_ctrl_c() -> Iterator[None]:
    """Make processes started here heed SIGINT, which shells switch off for background jobs."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def start_and_stop(command: list[str], env: dict[str, str], when: Path) -> tuple[int, str, str]:
    """Start, send Ctrl-C when a file appears, and return status, stdout, stderr."""
    with heeding_ctrl_c():
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    try:
        end = time.monotonic() + TIMEOUT
        while not when.exists() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out, err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for a single process")
def test_an_interrupted_demo_goes_on_to_the_same_digits(
    demo: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    options = [*map(str, DEMO), "--out", str(out)]
    command = [*COMMAND, *options]
    for name in ("classical", "adversarial"):
        status, printed, err = start_and_stop(command, environment, when=out / f"{name}.pt")
        assert status == 130
        assert "Stopped. The same command goes on or starts again." in err
        assert "Traceback" not in err.partition("Exception ignored")[0]  # tqdm's __del__ may be hit
        assert not (out / "report.md").exists()
    # What was done before a stop is not done again after it.
    assert 1 not in epochs(printed.partition("Algorithm 1")[0])
    state = torch.load(out / "adversarial.pt", weights_only=True)
    resumed, _ = run(*options, env=environment, cwd=tmp_path)
    assert epochs(resumed) == [1, 2, 3][len(state["history"]) :]
    assert rows(out) == rows(demo)
    assert sorted(path.stem for path in out.glob("*.png")) == PICTURES
