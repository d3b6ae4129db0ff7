"""simulate: the same galaxy whatever the machine does around it, and a cache that never lies."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advphotoz import datasets
from advphotoz.datasets import CutoutDataset, simulate
from advphotoz.datasets.simulation import sample, workers

pytest.importorskip("galsim", reason="simulated galaxies need the extra `sim`")

SMALL: dict[str, Any] = {"size": 16, "progress": False}


def equal(a: CutoutDataset, b: CutoutDataset) -> bool:
    return all(torch.equal(x, y) for x, y in zip(parts(a), parts(b), strict=True))


def parts(data: CutoutDataset) -> list[torch.Tensor]:
    return [data.image, data.ebv, data.z, *data.catalogue.values()]


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> CutoutDataset:
    return simulate(12, 3, cache_dir=tmp_path_factory.mktemp("cache"), workers=1, **SMALL)


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a galaxy was drawn")

    monkeypatch.setattr(workers, "draw_row", refuse)


def test_what_comes_out(twelve: CutoutDataset) -> None:
    assert twelve.image.shape == (12, 5, 16, 16)
    assert twelve.image.dtype == torch.float32
    assert {name: tuple(value.shape) for name, value in twelve.catalogue.items()} == {
        "mag": (12, 5),
        "mag_err": (12, 5),
        "flux": (12, 5),
    }
    assert len(twelve.z.unique()) == 12
    assert simulate.__kwdefaults__["size"] == 64  # what the paper's networks take


def test_prefix_andworkers_do_not_matter(
    twelve: CutoutDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    five = simulate(5, 3, cache_dir=tmp_path / "a", workers=1, **SMALL)
    assert equal(five, twelve.subset(range(5)))
    monkeypatch.setattr(sample, "CHUNK", 5)  # three chunks: two processes and a rest
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert equal(simulate(12, 3, cache_dir=tmp_path / "b", workers=2, **SMALL), twelve)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    assert not list(tmp_path.rglob("*.tmp"))


def test_global_random_state_is_neither_read_nor_changed(
    twelve: CutoutDataset, tmp_path: Path
) -> None:
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert equal(simulate(1, 3, cache_dir=tmp_path, workers=1, **SMALL), twelve.subset([0]))
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_second_call_reads_the_cache(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    first = simulate(2, 1, cache_dir=tmp_path, workers=1, **SMALL)
    request.getfixturevalue("no_drawing")
    assert equal(simulate(2, 1, cache_dir=tmp_path, workers=1, **SMALL), first)
    for other in ({"seed": 2}, {"r_max": 17.0}, {"size": 18}, {"n": 3}):
        with pytest.raises(AssertionError, match="a galaxy was drawn"):
            simulate(**{"n": 2, "seed": 1, "workers": 1, "cache_dir": tmp_path, **SMALL, **other})


def test_version_is_part_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_drawing: None
) -> None:
    old = sample._folder({"seed": 1}, tmp_path)
    monkeypatch.setattr(sample, "VERSION", sample.VERSION + 1)
    assert sample._folder({"seed": 1}, tmp_path) != old


def test_default_folder_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ADVPHOTOZ_CACHE", str(tmp_path / "mine"))
    assert sample._folder({}, None).parent == tmp_path / "mine"
    assert sample._folder({}, tmp_path).parent == tmp_path
    monkeypatch.delenv("ADVPHOTOZ_CACHE")
    assert sample._folder({}, None).parent == Path.home() / ".cache" / "advphotoz"


def test_interruption_loses_no_finished_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twelve: CutoutDataset
) -> None:
    monkeypatch.setattr(sample, "CHUNK", 4)
    draw, calls = workers.draw_row, []

    def interrupted(**kwargs: Any) -> Any:
        calls.append(kwargs["index"])
        if len(calls) == 6:
            raise KeyboardInterrupt
        return draw(**kwargs)

    monkeypatch.setattr(workers, "draw_row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate(12, 3, cache_dir=tmp_path, workers=1, **SMALL)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["galaxies-0000000-0000004.npz"]
    assert equal(simulate(12, 3, cache_dir=tmp_path, workers=1, **SMALL), twelve)
    assert calls[6:] == list(range(4, 12))


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to another process")
def test_interrupt_in_a_script_without_main_guard(tmp_path: Path) -> None:
    """Two processes, a script as people write them, Ctrl-C: it ends, tidily."""
    script = tmp_path / "script.py"
    script.write_text(
        "from advphotoz.datasets.simulation import sample, simulate\n"
        "sample.CHUNK = 4\n"
        f"simulate(100000, 3, size=16, workers=2, progress=False, cache_dir={str(tmp_path)!r})\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stderr=subprocess.PIPE,
        text=True,
        # Python leaves an ignored SIGINT ignored, and that is how background jobs start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    end = time.monotonic() + 60
    while len(list(tmp_path.rglob("*.npz"))) < 3 and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in said
    assert process.returncode != 0
    assert not list(tmp_path.rglob("*.tmp"))
    kept = sorted(tmp_path.rglob("*.npz"))
    assert len(kept) >= 3
    time.sleep(0.3)
    assert sorted(tmp_path.rglob("*.npz")) == kept  # nobody works on


def test_process_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "CHUNK", 1)
    monkeypatch.setattr(workers, "START", "raise SystemExit('the disk is on fire')")
    with pytest.raises(RuntimeError, match=r"exit status 1: the disk is on fire.*call again"):
        simulate(4, workers=2, cache_dir=tmp_path, **SMALL)


@pytest.mark.parametrize("damage", ["truncated", "other arrays", "other shape"])
def test_broken_cache_is_named_and_not_replaced(tmp_path: Path, damage: str) -> None:
    simulate(2, cache_dir=tmp_path, workers=1, **SMALL)
    (file,) = tmp_path.rglob("*.npz")
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "other arrays":
        np.savez(file, x=np.zeros(3))
    else:
        with np.load(file) as whole:
            np.savez(file, **{**whole, "z": np.zeros(1)})
    size = file.stat().st_size
    with pytest.raises(ValueError, match=rf"{file.name} .*delete the file and call again"):
        simulate(2, cache_dir=tmp_path, workers=1, **SMALL)
    assert file.stat().st_size == size


def test_folder_that_cannot_be_written_is_refused_before_drawing(
    tmp_path: Path, no_drawing: None
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write to the folder.*cache_dir"):
        simulate(2, cache_dir=tmp_path / "file", workers=1, **SMALL)


def test_locked_folder_is_refused_before_drawing(
    tmp_path: Path, no_drawing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(**_: object) -> None:  # root may write everywhere, so a real one proves nothing
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", locked)
    with pytest.raises(PermissionError, match=r"cannot write.*Permission denied.*cache_dir"):
        simulate(2, cache_dir=tmp_path, workers=1, **SMALL)


@pytest.mark.parametrize("module", ["galsim", "speclite", "astropy", "dust_extinction"])
def test_missing_package_names_the_extra(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"'{module}'.*advphotoz\[sim\]"):
        simulate(2, cache_dir=tmp_path, **SMALL)
    assert not list(tmp_path.iterdir())


def test_cached_galaxies_need_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = simulate(1, cache_dir=tmp_path, workers=1, **SMALL)
    monkeypatch.setitem(sys.modules, "galsim", None)
    assert equal(simulate(1, cache_dir=tmp_path, **SMALL), first)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, "n must be at least 1, got 0"),
        ({"n": 2.5}, TypeError, "n must be an integer"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": None}, TypeError, "seed must be an integer, got None"),
        ({"size": 0}, ValueError, "size must be at least 1"),
        ({"workers": 0}, ValueError, "workers must be at least 1"),
        ({"r_max": 25.0}, ValueError, "r_max must lie between 15 and 20"),
        ({"r_max": "17.8"}, TypeError, "r_max must be a number of magnitudes, got '17.8'"),
        ({"r_max": float("nan")}, ValueError, "r_max must lie between 15 and 20"),
    ],
)
def test_bad_arguments(
    arguments: dict[str, Any], error: type, message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        simulate(**{"n": 1, "cache_dir": tmp_path, **arguments})


def test_progress_bar(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    simulate(2, cache_dir=tmp_path, workers=1, size=16)
    assert "2/2" in capfd.readouterr().err
    simulate(2, cache_dir=tmp_path, workers=1, size=16)  # from the cache: nothing to wait for
    simulate(3, cache_dir=tmp_path, workers=1, size=16, progress=False)
    assert capfd.readouterr().err == ""


def test_integers_of_numpy_are_told_to_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, twelve: CutoutDataset
) -> None:
    monkeypatch.setattr(sample, "CHUNK", 2)
    three = simulate(np.int64(3), np.int64(3), workers=2, cache_dir=tmp_path, **SMALL)
    assert equal(three, twelve.subset(range(3)))


def test_public_names() -> None:
    assert {"CutoutDataset", "StoredCutouts", "random_dihedral", "simulate"} <= set(
        datasets.__all__
    )
