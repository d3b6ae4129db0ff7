"""Named steps that are done once: each leaves a file, and is skipped where the file exists."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Step", "claimed", "run", "same_settings", "write_json", "write_text"]


@dataclass(frozen=True)
class Step:
    """A piece of work.

    Attributes
    ----------
    name : str
        What is shown.
    path : Path
        The file that it ends with.
    cost : float
        In passes of an image through the Inception, for the estimate of the time left.
    do : callable
        Given the path.
    needs : sequence of Path
        Files of other steps that have to be there.
    """

    name: str
    path: Path
    cost: float
    do: Callable[[Path], object]
    needs: Sequence[Path] = ()


def write_json(path: Path, body: Any) -> None:
    """Write a file whole or not at all."""
    write_text(path, json.dumps(body, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, whatever other processes write there at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    # A folder of its own, since a process number is unique on one machine and in one container
    # only. The file in it has the permissions of any new file; those of mkstemp are the owner's.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix, suffix=".tmp") as folder:
        now = Path(folder).stat().st_mtime  # by the clock of the file system
        for left in path.parent.iterdir():
            # Killed writers leave theirs; a day is far beyond the time that a living one takes.
            with contextlib.suppress(OSError):
                own = re.fullmatch(rf"{re.escape(prefix)}[a-z0-9_]{{8}}\.tmp", left.name)
                if own and now - left.stat().st_mtime > 24 * 60 * 60:
                    shutil.rmtree(left)
        part = Path(folder) / "part"
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # the text is on the disk before it gets its name
        part.replace(path)


def same_settings(out: Path, settings: dict[str, Any]) -> None:
    """Write the settings to a file, or refuse to mix the results of two settings in one folder."""
    path = out / "settings.json"
    if not path.exists():
        write_json(path, settings)
        return
    kept = json.loads(path.read_text(encoding="utf-8"))
    given = json.loads(json.dumps(settings))
    other = [key for key in given if given[key] != kept.get(key)]
    if not other:
        return
    if other == ["machine"]:
        print(
            f"Note: begun with {kept['machine']}, going on with {given['machine']}: the last "
            "digits may differ from those of a run without a break."
        )
        return
    raise SystemExit(
        f"{out} holds results of other settings ({', '.join(other)}: see {path}); choose another "
        "--out, or delete it"
    )


def run(steps: Sequence[Step], out: Path, after: Callable[[], object]) -> None:
    """Do every step that has no file yet, and call `after` after each.

    Several processes may do so at once in the same folder: each takes a step that no other is at.
    """
    while todo := [step for step in steps if not step.path.exists()]:
        for step in todo:
            if not all(path.exists() for path in step.needs):
                continue
            with claimed(out / ".locks" / step.name) as mine:
                if mine and not step.path.exists():
                    _do(step, steps, out)
                    after()
                    break
        else:
            time.sleep(1)  # what is left, others are at, or it waits for them


def _do(step: Step, steps: Sequence[Step], out: Path) -> None:
    book = out / "times.json"
    number = steps.index(step) + 1
    print(f"[{number}/{len(steps)}] {step.name}{_work_left(steps, _read(book))}", flush=True)
    start = time.perf_counter()
    step.do(step.path)
    seconds = round(time.perf_counter() - start, 1)
    with claimed(out / ".locks" / "times", wait=True):
        write_json(book, {**_read(book), step.name: {"seconds": seconds, "cost": step.cost}})


def _read(book: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(book.read_text("utf-8")) if book.exists() else {}
    return read


def _work_left(steps: Sequence[Step], times: dict[str, Any]) -> str:
    """Estimate the work of one process from the cost and the time of the steps done so far."""
    done = [t for t in times.values() if t["cost"]]  # steps that cost next to nothing say nothing
    if not done:
        return ""
    rate = sum(t["seconds"] for t in done) / sum(t["cost"] for t in done)
    seconds = rate * sum(step.cost for step in steps if not step.path.exists())
    if seconds < 5400:
        return f", about {max(seconds / 60, 1):.0f} min of work left"
    return f", about {seconds / 3600:.1f} h of work left"


@contextmanager
def claimed(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a lock that the system lets go of when this process ends; False if another has it."""
    try:
        import fcntl
    except ImportError:  # Windows: one process only
        yield True
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
