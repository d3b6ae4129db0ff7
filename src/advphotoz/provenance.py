"""How a result was made: the weights, the data, the machine, the versions and the command.

A saved result that holds these can be traced and repeated. None of them names a user, a host or a
folder.
"""

from __future__ import annotations

import builtins
import hashlib
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from typing_extensions import Self

from advphotoz._version import __version__

__all__ = [
    "DataDigest",
    "command",
    "machine",
    "sample_digests",
    "versions",
    "weights_digest",
]

_CPUINFO = Path("/proc/cpuinfo")
# Where an absolute path begins within an argument: at its start, after "=" or another separator,
# or right after a short option (-o/data).
_PATH_START = re.compile(r"(?:(?<![\w./\\~-])|(?<=^-\w))(?:/|\\\\|[A-Za-z]:[\\/]|~[^/\\]*[/\\])")


def weights_digest(model: nn.Module) -> str:
    """SHA-256 digest of a network's weights.

    It covers name, dtype, shape and bytes of every tensor of the state dict in its order,
    parameters and persistent buffers. The same weights have the same digest on another device or
    in another memory format. Extra state that is not a tensor is left out.

    Parameters
    ----------
    model : torch.nn.Module
        The network. A wrapper changes the names and with them the digest: of a
        ``DistributedDataParallel`` give ``model.module``.

    Returns
    -------
    str
        64 hexadecimal digits.

    Examples
    --------
    >>> from torch import nn
    >>> layer = nn.Conv2d(5, 4, 3)
    >>> digest = weights_digest(layer)
    >>> weights_digest(layer.to(memory_format=torch.channels_last)) == digest
    True
    """
    total = hashlib.sha256()
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor):
            # The repr quotes the name: it cannot run into the dtype or the shape.
            total.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
            total.update(_bytes(value).data)
    return total.hexdigest()


def machine(device: torch.device | str) -> dict[str, Any]:
    """Hardware that a result was computed on.

    Parameters
    ----------
    device : torch.device or str
        Where the network lies.

    Returns
    -------
    dict
        ``device``, its type, such as ``"cuda"``; ``device_name``, the name of the GPU, None on
        other devices; ``cpu``, the chip; ``threads``, the number that PyTorch uses on the CPU.

    Examples
    --------
    >>> sorted(machine("cpu"))
    ['cpu', 'device', 'device_name', 'threads']
    """
    device = torch.device(device)
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
    }


def versions() -> dict[str, str]:
    """Versions of advphotoz and of what its numbers depend on.

    Returns
    -------
    dict
        Of ``advphotoz``, ``python``, ``torch`` and ``numpy``.

    Examples
    --------
    >>> list(versions())
    ['advphotoz', 'python', 'torch', 'numpy']
    """
    return {
        "advphotoz": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def command() -> str | None:
    """Command line of this process, without folders.

    Returns
    -------
    str or None
        Name of the script without its folder, or ``python -m`` with the name of the module, and
        the arguments, quoted for a shell. An absolute path in an argument becomes its last part;
        a relative path stays. None where there is no command line: in a notebook, an interactive
        session, ``python -c``, or a test of pytest.

    Examples
    --------
    >>> command() is None  # as this example runs under pytest, or is typed in
    True
    """
    main = sys.modules.get("__main__")
    arguments = getattr(sys, "argv", None) or [""]
    without_script = getattr(main, "__file__", None) is None or arguments[0] in ("", "-", "-c")
    interactive = hasattr(sys, "ps1") or hasattr(builtins, "__IPYTHON__")
    if without_script or interactive or _under_pytest():
        return None
    spec = getattr(main, "__spec__", None)
    if spec is None or spec.name == "__main__":
        start = [PurePath(arguments[0]).name]
    else:
        start = ["python", "-m", spec.name.removesuffix(".__main__")]
    return shlex.join([*start, *map(_without_folder, arguments[1:])])


def sample_digests(batch_tensors: Sequence[Tensor]) -> list[bytes]:
    """SHA-256 digest of each sample of a batch.

    That of sample i covers dtype, shape and bytes of row i of every tensor, in their order. It
    depends neither on the other samples nor on device or memory format.

    Parameters
    ----------
    batch_tensors : sequence of Tensor, each (N, ...)
        The batch, ``(x, *context, target)``.

    Returns
    -------
    list of bytes
        N digests of 32 bytes.

    Raises
    ------
    TypeError
        If one of them is not a tensor.
    ValueError
        If there is none, or they do not have the same number of rows.

    Examples
    --------
    >>> image, z = torch.rand(3, 5, 8, 8), torch.rand(3)
    >>> digests = sample_digests((image, z))
    >>> len(digests), digests[1:] == sample_digests((image[1:], z[1:]))
    (3, True)
    """
    for i, tensor in enumerate(batch_tensors):
        if not isinstance(tensor, Tensor):
            raise TypeError(
                "A batch must be a sequence of tensors (x, *context, target); number "
                f"{i} is {type(tensor).__name__}."
            )
    shapes = [tuple(tensor.shape) for tensor in batch_tensors]
    if not shapes or not all(shapes) or len({shape[0] for shape in shapes}) > 1:
        raise ValueError(
            "A batch must hold at least one tensor, and all of them one row per sample; got "
            f"shapes {shapes}."
        )
    n = shapes[0][0]
    # The shapes fix the number of bytes of each tensor, so that rows cannot run into each other.
    layout = [(str(tensor.dtype), tuple(tensor.shape[1:])) for tensor in batch_tensors]
    start = hashlib.sha256(repr(layout).encode())
    columns = [_bytes(tensor).reshape(n, -1) if n else None for tensor in batch_tensors]
    digests = []
    for i in range(n):
        sample = start.copy()
        for column in columns:
            if column is not None:
                sample.update(column[i])
        digests.append(sample.digest())
    return digests


@dataclass
class DataDigest:
    r"""Digest of a data set, whatever the order of its samples.

    .. math:: D = \sum_i \mathrm{SHA256}(\mathrm{sample}_i) \mod 2^{256}

    A sum does not depend on the order: shuffling, the batch size and the number of processes
    that share the samples do not matter, while a sample that is changed, left out or taken twice
    does (the incremental hash of Bellare & Micciancio 1997, AdHash). It tells data sets apart; it
    is no protection against somebody who constructs another set with the same sum.

    Attributes
    ----------
    total : int
        The sum, from 0 to 2**256 - 1.
    count : int
        Number of samples.

    Examples
    --------
    >>> image, z = torch.rand(6, 5, 8, 8), torch.rand(6)
    >>> whole, parts = DataDigest(), DataDigest()
    >>> whole.update(sample_digests((image, z)))
    >>> for rows in ([5, 0], [3, 1, 2, 4]):
    ...     parts.update(sample_digests((image[rows], z[rows])))
    >>> parts == whole, parts.count, len(parts.hexdigest())
    (True, 6, 64)
    """

    total: int = 0
    count: int = 0

    def update(self, digests: Iterable[bytes]) -> None:
        """Add samples, by what :func:`sample_digests` returns for them.

        Raises ValueError where a digest has not 32 bytes; then nothing is added.
        """
        digests = list(digests)
        if any(len(digest) != 32 for digest in digests):
            raise ValueError(
                "digests must be SHA-256 digests of 32 bytes, from sample_digests; got lengths "
                f"{sorted({len(digest) for digest in digests})}."
            )
        added = sum(int.from_bytes(digest, "big") for digest in digests)
        self.total = (self.total + added) % 2**256
        self.count += len(digests)

    def merge(self, other: Self) -> None:
        """Add the samples of another digest, such as that of another process."""
        self.total = (self.total + other.total) % 2**256
        self.count += other.count

    def hexdigest(self) -> str:
        """Return the sum as 64 hexadecimal digits."""
        return f"{self.total:064x}"


def _bytes(tensor: Tensor) -> npt.NDArray[np.uint8]:
    """Return the values as bytes, in the order of the indices whatever the memory format."""
    values = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return values.reshape(-1).view(torch.uint8).numpy()


def _cpu() -> str:
    try:
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        text = ""
    found = re.search(r"^model name\s*:\s*(\S.*?)\s*$", text, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _under_pytest() -> bool:
    # A script that a test has started inherits the variable, but not the module.
    return "_pytest" in sys.modules and "PYTEST_CURRENT_TEST" in os.environ


def _without_folder(argument: str) -> str:
    """Replace an absolute path, from where it begins to the end, by its last part."""
    start = _PATH_START.search(argument)
    if start is None:
        return argument
    name = re.split(r"[/\\]", argument[start.start() :].rstrip("/\\"))[-1]
    return argument[: start.start()] + name
