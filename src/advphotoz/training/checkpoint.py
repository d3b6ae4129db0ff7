"""Checkpoints: files that hold a whole training, and the random states of its loader."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from advphotoz._files import replacing

__all__ = [
    "check_storable",
    "loader_generators",
    "read_checkpoint",
    "samplers",
    "write_checkpoint",
]

HINT = "delete it to start over"
# What torch.load(weights_only=True) reads back in every version since 2.6, by its exact type: a
# subclass it does not.
VALUES = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
LISTS = (list, tuple, torch.Size)
DICTS = (dict, OrderedDict, Counter)


def write_checkpoint(state: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a state with its digest, whole or not at all."""
    with replacing(path) as temporary:
        torch.save({**state, "sha256": _digest(state)}, temporary)


def check_storable(state: dict[str, Any]) -> None:
    """Refuse a state that could be written but not read back, before anything is trained.

    Raises
    ------
    TypeError
        For anything but tensors and plain Python values, such as a NumPy number.
    """
    _digest(state)


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
        with Path(path).open("rb") as file:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        # Of a file that was cut off, torch asks for positions before its start.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise type(error)(
                error.errno,
                f"cannot read the checkpoint ({error.strerror}); name a file that `save` or "
                "fit(..., checkpoint=...) wrote",
                str(path),
            ) from error
        raise ValueError(
            f"{path} is damaged, or no checkpoint of a trainer ({type(error).__name__}); {HINT}"
        ) from error
    if not isinstance(state, dict) or "sha256" not in state:
        raise ValueError(f"{path} is not a checkpoint of a trainer: it has no digest; {HINT}")
    written = state.pop("sha256")
    try:
        same = written == _digest(state)
    except TypeError:  # what `write_checkpoint` does not write
        same = False
    if not same:
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


def _parts(value: Any, name: str = "state") -> Iterator[bytes]:
    """Yield the bytes of nested dictionaries, lists and tensors, each with its kind and size."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        yield f"tensor {plain.dtype} {tuple(plain.shape)} ".encode()
        yield plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    elif type(value) in DICTS:
        yield f"dict {len(value)} ".encode()
        for key, item in value.items():
            yield from _parts(key, f"a key of {name}")
            yield from _parts(item, f"{name}[{key!r}]")
    elif type(value) in LISTS:
        yield f"list {len(value)} ".encode()
        for position, item in enumerate(value):
            yield from _parts(item, f"{name}[{position}]")
    elif type(value) in VALUES:
        yield f"{type(value).__name__} {value!r} ".encode()
    else:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise TypeError(
            "a checkpoint holds tensors, numbers, strings, None, and lists and dictionaries of "
            f"them, but {name} is a {kind}; convert it, with float(...) or torch.tensor(...)"
        )


def samplers(loader: object, called: str = "loader") -> Iterator[tuple[str, object]]:
    """Yield a loader, its samplers and data sets, however deep, by name."""
    seen: set[int] = set()
    waiting: deque[tuple[str, object]] = deque([(called, loader)])
    while waiting:
        name, found = waiting.popleft()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield name, found
        inner = ("loader", "batch_sampler", "sampler", "dataset")
        attributes = getattr(found, "__dict__", {})
        waiting += [(f"{name}.{key}", attributes[key]) for key in inner if key in attributes]
        # What a loader, sampler or data set of someone's own keeps under another name, or in a
        # list, as ConcatDataset does.
        for key, value in attributes.items():
            if key not in inner and isinstance(value, (Sampler, Dataset)):
                waiting.append((f"{name}.{key}", value))
            elif isinstance(value, (list, tuple)):
                waiting += [
                    (f"{name}.{key}[{k}]", item)
                    for k, item in enumerate(value)
                    if isinstance(item, (Sampler, Dataset))
                ]


def loader_generators(loaders: Mapping[str, object]) -> dict[str, torch.Generator]:
    """Return every random generator that loaders draw from, by name, each once.

    Their own, those of their samplers however deep, and those that their data sets hold.
    """
    found: dict[str, torch.Generator] = {}
    for called, loader in loaders.items():
        for name, holder in samplers(loader, called):
            for key, value in getattr(holder, "__dict__", {}).items():
                known = any(value is generator for generator in found.values())
                if isinstance(value, torch.Generator) and not known:
                    found[f"{name}.{key}"] = value
    return found
