"""Checkpoints: files that hold a whole training, and the random states of its loader."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from advphotoz._files import replacing

__all__ = ["loader_generators", "read_checkpoint", "samplers", "write_checkpoint"]

HINT = "delete it to start over"


def write_checkpoint(state: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a state with its digest, whole or not at all."""
    with replacing(path) as temporary:
        torch.save({**state, "sha256": _digest(state)}, temporary)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a state that `write_checkpoint` wrote, or say why the file holds none.

    Raises
    ------
    OSError
        If the file is not there or may not be read.
    ValueError
        If it is no checkpoint, or one that has changed since it was written.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} is damaged, or no checkpoint of a trainer ({type(error).__name__}); {HINT}"
        ) from error
    if not isinstance(state, dict) or "sha256" not in state:
        raise ValueError(f"{path} is not a checkpoint of a trainer: it has no digest; {HINT}")
    written = state.pop("sha256")
    if written != _digest(state):
        raise ValueError(
            f"{path} has changed since it was written: its SHA-256 is not the one that it holds; "
            f"{HINT}"
        )
    return state


def _digest(state: Any) -> str:
    total = hashlib.sha256()
    for part in _parts(state):
        total.update(part)
    return total.hexdigest()


def _parts(value: Any) -> Iterator[bytes]:
    """Yield the bytes of nested dictionaries, lists and tensors, each with its kind and size."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        yield f"tensor {plain.dtype} {tuple(plain.shape)} ".encode()
        yield plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, dict):
        yield f"dict {len(value)} ".encode()
        for key, item in value.items():
            yield f"{key!r} ".encode()
            yield from _parts(item)
    elif isinstance(value, (list, tuple)):
        yield f"list {len(value)} ".encode()
        for item in value:
            yield from _parts(item)
    else:
        yield f"{type(value).__name__} {value!r} ".encode()


def samplers(loader: object) -> Iterator[tuple[str, object]]:
    """Yield a loader and all that it draws its order from, by name: samplers within samplers."""
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("loader", loader)]
    while waiting:
        name, found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield name, found
        inner = ("loader", "batch_sampler", "sampler", "dataset")
        attributes = getattr(found, "__dict__", {})
        waiting += [(f"{name}.{key}", attributes[key]) for key in inner if key in attributes]
        # What a DataLoader or a sampler of someone's own keeps under another name.
        waiting += [
            (f"{name}.{key}", value)
            for key, value in attributes.items()
            if key not in inner and isinstance(value, torch.utils.data.Sampler)
        ]


def loader_generators(loader: object) -> dict[str, torch.Generator]:
    """Return every random generator that a loader draws from, by name.

    Its own, those of its samplers however deep, and one that its data set holds.
    """
    found: dict[str, torch.Generator] = {}
    for name, holder in samplers(loader):
        for key, value in getattr(holder, "__dict__", {}).items():
            if isinstance(value, torch.Generator) and not any(value is g for g in found.values()):
                found[f"{name}.{key}"] = value
    return found
