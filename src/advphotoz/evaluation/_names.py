"""Which attacks are run, under which names, and the noise that is their control."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from advphotoz.attacks import FGSM, PGD, Attack, UniformNoise, WorstOf
from advphotoz.balls import L2Ball, LinfBall
from advphotoz.evaluation._searches import linf_eps, parts

__all__ = ["CLEAN", "NOISE", "attack_name", "named_attacks", "noise_control"]

CLEAN, NOISE = "clean", "noise"
DEFAULT_NOISE = 0.01


def attack_name(attack: Any) -> str:
    """Return a short name for an attack, such as ``PGD-10 0.01``: steps, then eps."""
    if isinstance(attack, PGD):
        kind = {LinfBall: "", L2Ball: "L2-"}.get(
            type(attack.ball), type(attack.ball).__name__ + "-"
        )
        return f"{kind}PGD-{attack.steps} {_short(attack.ball.eps)}"
    if isinstance(attack, FGSM):
        return f"FGSM {_short(attack.eps)}"
    if isinstance(attack, UniformNoise):
        return f"uniform noise {_short(attack.eps)}"
    if isinstance(attack, WorstOf):
        counts = Counter(attack_name(part) for part in parts(attack))
        return "worst of " + ", ".join(
            f"{n} {name}" if n > 1 else name for name, n in counts.items()
        )
    return str(getattr(attack, "__name__", type(attack).__name__))


def _short(eps: float | Sequence[float]) -> str:
    if isinstance(eps, Sequence):
        return f"{min(eps):.4g} to {max(eps):.4g}"
    return f"{eps:.4g}"


def named_attacks(attacks: Any) -> dict[str, Attack]:
    """Return the attacks under their names; names of a sequence are made, and must differ."""
    if isinstance(attacks, Mapping):
        pairs = list(attacks.items())
    elif isinstance(attacks, Iterable):
        pairs = [(attack_name(attack), attack) for attack in attacks]
    else:
        raise TypeError(
            "attacks must be a mapping of names to attacks, or a list of attacks, got "
            f"{type(attacks).__name__}; write [attack] for a single one"
        )
    named: dict[str, Attack] = {}
    for name, attack in pairs:
        if not isinstance(name, str):
            raise TypeError(f"the name of an attack must be a string, got {name!r}")
        if not callable(attack) or isinstance(attack, type):
            raise TypeError(
                f"the attack {name!r} must be callable as attack(model, x, target, context, "
                f"generator), got {attack!r}"
            )
        if name in (CLEAN, NOISE):
            raise ValueError(
                f"the name {name!r} is taken by a control that is always run; choose another "
                "(noise_eps sets the size of the noise)"
            )
        if name in named:
            raise ValueError(
                f"two attacks would both be called {name!r}; give a mapping, "
                "{'my name': attack, ...}, to tell them apart"
            )
        named[name] = attack
    return named


def noise_control(
    attacks: Iterable[Attack], noise_eps: float | Sequence[float] | None
) -> UniformNoise:
    """Return noise as large, and within the same bounds, as the first L-infinity attack."""
    every: Iterable[Any] = (part for attack in attacks for part in parts(attack))
    first = next((part for part in every if linf_eps(part) is not None), None)
    bounds = None if first is None else first.bounds
    if noise_eps is None:
        noise_eps = linf_eps(first)
    return UniformNoise(DEFAULT_NOISE if noise_eps is None else noise_eps, bounds=bounds)
