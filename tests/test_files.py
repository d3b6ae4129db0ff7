"""Saves: whole or absent, whoever else saves to the same path, and no leftovers."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from advphotoz import _files
from advphotoz._files import replacing

DAY = 24 * 60 * 60
LETTERS = "abcde"
SAVES = 60

# Saves in a process that takes itself for number 1, as every container's first process does. The
# file is read under its path, which spares each process the import of torch.
WRITER = """
import os, sys
from importlib.util import module_from_spec, spec_from_file_location

def load(path):
    spec = spec_from_file_location("loaded", path)
    module = module_from_spec(spec)
    sys.modules["loaded"] = module
    spec.loader.exec_module(module)
    return module

def saves(module, path, letter, count):
    for number in range(count):
        text = f"{letter}{number} " * 5000
        if hasattr(module, "write_text"):
            module.write_text(path, text)
        else:
            with module.replacing(path) as part, part.open("w") as file:
                for start in range(0, len(text), 4000):
                    file.write(text[start : start + 4000])
                    file.flush()
        words = path.read_text().split()
        assert len(words) == 5000 and len(set(words)) == 1, "not whole"
"""


def save_from_everywhere(module: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Save 300 times to one path, from two processes and three threads with one number."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    command = WRITER + (
        "from pathlib import Path\n"
        "os.getpid = lambda: 1\n"
        f"saves(load(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], {SAVES})\n"
    )
    here: dict[str, Any] = {}
    exec(WRITER, here)
    loaded, errors = here["load"](str(module)), []

    def thread(letter: str) -> None:
        try:
            here["saves"](loaded, target, letter, SAVES)
        except BaseException as error:
            errors.append(error)

    processes = [
        subprocess.Popen(
            [sys.executable, "-c", command, str(module), str(target), letter],
            stderr=subprocess.PIPE,
            text=True,
        )
        for letter in LETTERS[:2]
    ]
    threads = [threading.Thread(target=thread, args=(letter,)) for letter in LETTERS[2:]]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert errors == []
    words = target.read_text().split()
    assert len(words) == 5000
    assert set(words) <= {f"{letter}{SAVES - 1}" for letter in LETTERS}  # a writer's last save
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_saves_of_processes_with_one_number_and_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_from_everywhere(Path(_files.__file__), tmp_path / "results.json", monkeypatch)


@pytest.fixture
def steps(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(repo_root / "examples"))
    return importlib.import_module("paper.steps")


def test_saves_of_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: Any) -> None:
    save_from_everywhere(Path(steps.__file__), tmp_path / "times.json", monkeypatch)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:  # noqa: PT012
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flush, events = tmp_path / "a.txt", os.fsync, []

    def watched(descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        events.append("folder" if path.exists() else f"file of {size} bytes")
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    with replacing(path) as part:
        part.write_text("whole")
    assert events == ["file of 5 bytes", "folder"]


def test_file_systems_that_flush_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        if (tmp_path / "a.txt").exists():
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    with replacing(tmp_path / "a.txt") as part:
        part.write_text("whole")
    assert (tmp_path / "a.txt").read_text() == "whole"


def test_the_permissions_are_those_of_any_new_file(tmp_path: Path, steps: Any) -> None:
    (tmp_path / "other.txt").touch()
    with replacing(tmp_path / "a.txt") as part:
        part.write_text("whole")
    steps.write_text(tmp_path / "b.txt", "whole")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def age(path: Path, seconds: float) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


@pytest.mark.parametrize("which", ["library", "example"])
def test_leftovers_of_killed_writers_are_removed_after_a_day(
    which: str, tmp_path: Path, steps: Any
) -> None:
    module = _files if which == "library" else steps
    killed = WRITER + (
        "from pathlib import Path\n"
        "Path.replace = lambda *_: os._exit(9)\n"
        "saves(load(sys.argv[1]), Path(sys.argv[2]), 'a', 1)\n"
    )
    target = tmp_path / "a[1].json"
    left = {}
    for name in (target.name, target.name + ".b", "a1.json"):
        command = [sys.executable, "-c", killed, module.__file__, str(tmp_path / name)]
        before = set(tmp_path.iterdir())
        assert subprocess.run(command, check=False).returncode == 9
        (left[name],) = set(tmp_path.iterdir()) - before
    (tmp_path / ".a[1].json.mine.tmp").touch()
    for path in tmp_path.iterdir():
        age(path, DAY - 60)

    here: dict[str, Any] = {}
    exec(WRITER, here)
    here["saves"](module, target, "b", 1)
    assert left[target.name].exists()  # its writer may live
    for path in tmp_path.iterdir():
        age(path, 120)
    here["saves"](module, target, "b", 1)
    kept = {path.name for path in tmp_path.iterdir()}
    others = {path.name for name, path in left.items() if name != target.name}
    assert kept == {target.name, ".a[1].json.mine.tmp", *others}


def test_a_folder_is_no_file_to_replace(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder; name a file in it"):  # noqa: SIM117
        with replacing(tmp_path):
            pytest.fail("said too late")
    assert list(tmp_path.iterdir()) == []
