"""Results as JSON files: written whole or not at all, read with a clear word on what is wrong."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from advphotoz._files import replacing

__all__ = ["floats", "load_json", "plain", "save_json"]

VERSIONS = {"evaluation": 2}  # any other kind: 1


def plain(value: Any) -> Any:
    """Return the value as JSON knows it: NaN and infinities become strings, which float() reads."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def floats(values: Any) -> list[Any]:
    """Return a float32 array as the shortest decimals that read back to the same float32."""
    return [plain(float(str(value))) for value in values]


def save_json(path: str | os.PathLike[str], kind: str, body: dict[str, Any]) -> None:
    """Write a result under a temporary name, then rename it: a crash leaves no half file."""
    head = {"format": f"advphotoz {kind}", "version": VERSIONS.get(kind, 1)}
    text = json.dumps({**head, **plain(body)}, allow_nan=False, indent=1)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def load_json(path: str | os.PathLike[str], kind: str) -> dict[str, Any]:
    """Read what `save_json` wrote for the same kind of result."""
    try:
        body = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not whole JSON ({error}): it may be cut off, or another kind of file; "
            "make it again with .save()"
        ) from error
    expected = f"advphotoz {kind}"
    found = body.get("format") if isinstance(body, dict) else None
    if not isinstance(body, dict) or found != expected:
        raise ValueError(
            f"{path} does not hold what was asked for: expected the format {expected!r}, "
            f"got {found!r}"
        )
    version = VERSIONS.get(kind, 1)
    if body.get("version") != version:
        raise ValueError(
            f"{path} has version {body.get('version')!r} of its format and this advphotoz reads "
            f"version {version}; read it with the advphotoz that wrote it, or make it again"
        )
    return body
