"""Checks of values that lie on a device: to read one is to wait for all that is queued there.

`refuse` raises at once, as a plain check would. Inside `deferred`, as in the loop of an attack, it
only remembers; all are read together at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

__all__ = ["deferred", "refuse"]

Check = tuple[Tensor, Callable[[], Exception]]

_waiting: ContextVar[list[Check] | None] = ContextVar("_waiting", default=None)


def refuse(bad: Tensor, error: Callable[[], Exception]) -> None:
    """Raise the error that a function makes if `bad`, one boolean, is true."""
    waiting = _waiting.get()
    if waiting is not None:
        waiting.append((bad, error))
    elif bool(bad):
        raise error()


@contextmanager
def deferred() -> Iterator[Callable[[], None]]:
    """Put off every `refuse` to the end, or to a call of the function that this yields."""
    waiting: list[Check] = []

    def look() -> None:
        checks = waiting.copy()
        waiting.clear()
        if not checks:
            return
        device = checks[0][0].device
        bad = torch.stack([value.to(device) for value, _ in checks]).tolist()
        if any(bad):
            raise checks[bad.index(True)][1]()

    token = _waiting.set(waiting)
    try:
        yield look
        look()
    finally:
        _waiting.reset(token)
