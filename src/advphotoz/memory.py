"""The C library's memory, which it gives back after every layer and fetches again."""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees: faster on a CPU under Linux.

    glibc gives every freed block of some size back to the system at once, and the next layer of a
    network fetches and clears it anew. Afterwards the process keeps it, so that its resident size
    stays at its peak until it ends. On a GPU, PyTorch itself does so. Call it once, at the start
    of a script: the library never changes the allocator by itself.

    Returns
    -------
    bool
        Whether it was done: False where the C library is another than glibc (macOS, Windows, Alpine
        Linux) or refuses, and then nothing has changed.

    Notes
    -----
    ``mallopt(M_TRIM_THRESHOLD, -1)`` and ``mallopt(M_MMAP_MAX, 0)``, see the Linux manual page
    mallopt(3). Environment variables do the same before a process starts:
    ``MALLOC_TRIM_THRESHOLD_=-1 MALLOC_MMAP_MAX_=0``.

    Examples
    --------
    >>> import advphotoz
    >>> done = advphotoz.keep_freed_memory()  # doctest: +SKIP
    """
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (others have a mallopt that does something else)
        mallopt = libc.mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, -1)) and bool(mallopt(_MMAP_MAX, 0))
