"""Named steps that are done once: each leaves a file, and is skipped where the file exists."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Step", "run", "same_settings", "write_json"]


@dataclass(frozen=True)
class Step:
    """A piece of work: what it is called, the file it ends with, and its cost in image passes."""

    name: str
    path: Path
    cost: float
    do: Callable[[Path], object]


def write_json(path: Path, body: Any) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
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

    The time left is estimated from the cost and the time of the steps done so far, which
    `times.json` keeps.
    """
    book = out / "times.json"
    times = json.loads(book.read_text(encoding="utf-8")) if book.exists() else {}
    for number, step in enumerate(steps, start=1):
        if step.path.exists():
            continue
        left = sum(s.cost for s in steps if not s.path.exists())
        rate = sum(t["seconds"] for t in times.values()) / (
            sum(t["cost"] for t in times.values()) or 1
        )
        estimate = f", about {_duration(left * rate)} left" if times else ""
        print(f"[{number}/{len(steps)}] {step.name}{estimate}", flush=True)
        start = time.perf_counter()
        step.path.parent.mkdir(parents=True, exist_ok=True)
        step.do(step.path)
        seconds = time.perf_counter() - start
        times[step.name] = {"seconds": round(seconds, 1), "cost": step.cost}
        write_json(book, times)
        after()


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(seconds / 60, 1):.0f} min"
    return f"{seconds / 3600:.1f} h"
