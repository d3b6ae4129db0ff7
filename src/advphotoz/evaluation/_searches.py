"""Attacks that climb the gradient: their size, and stronger ones for the checks to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from advphotoz.attacks import FGSM, PGD, WorstOf
from advphotoz.balls import L2Ball, LinfBall

__all__ = ["deeper", "is_search", "is_targeted", "larger", "linf_eps", "parts"]


def parts(attack: Any) -> Iterator[Any]:
    """Yield the attack, or those that a `WorstOf` combines."""
    if isinstance(attack, WorstOf):
        for part in attack.attacks:
            yield from parts(part)
    else:
        yield attack


def is_search(attack: Any) -> bool:
    """Return whether an attack, or a part of it, is an FGSM or PGD with a positive eps."""
    return any(isinstance(part, (FGSM, PGD)) and _largest(part) > 0 for part in parts(attack))


def is_targeted(search: Any) -> bool:
    """Return whether a search lowers its objective; a `WorstOf` never does."""
    return bool(getattr(search, "targeted", False))


def linf_eps(attack: Any) -> float | Sequence[float] | None:
    """Return the L-infinity radius of a search; None if it has none, or parts of several radii."""
    found = {_linf(part) for part in parts(attack)}
    return found.pop() if len(found) == 1 else None


def deeper(attack: Any) -> Any:
    """Return the attack with twice the steps of every PGD."""
    if isinstance(attack, PGD):
        return replace(attack, steps=2 * attack.steps)
    return _each(deeper, attack)


def larger(attack: Any) -> Any:
    """Return the attack with twice the eps; what has a ball of its own kind stays as it is."""
    if isinstance(attack, FGSM):
        return replace(attack, eps=_double(attack.eps))
    if isinstance(attack, PGD) and isinstance(attack.ball, (LinfBall, L2Ball)):
        return replace(attack, ball=replace(attack.ball, eps=_double(attack.ball.eps)))
    return _each(larger, attack)


def _each(change: Any, attack: Any) -> Any:
    if isinstance(attack, WorstOf):
        return replace(attack, attacks=tuple(change(part) for part in attack.attacks))
    return attack


def _linf(attack: Any) -> float | Sequence[float] | None:
    if isinstance(attack, FGSM):
        return attack.eps
    if isinstance(attack, PGD) and isinstance(attack.ball, LinfBall):
        return attack.ball.eps
    return None


def _largest(attack: FGSM | PGD) -> float:
    eps = attack.eps if isinstance(attack, FGSM) else attack.ball.eps
    return max(eps) if isinstance(eps, Sequence) else eps


def _double(eps: float | Sequence[float]) -> float | tuple[float, ...]:
    return tuple(2 * e for e in eps) if isinstance(eps, Sequence) else 2 * eps
