"""Whether attack results can be trusted: the checks of Carlini et al. 2019 that apply here.

A weak attack makes any model look robust. What gives it away is cheap to test: a search that finds
less with more steps or more room, noise that does as much as the attack, gradients that vanish.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Check", "Sanity"]

WORDS = {True: "pass", False: "FAIL", None: "n/a"}


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed (None: not applicable), and its numbers in words."""

    name: str
    passed: bool | None
    sentence: str


@dataclass(frozen=True)
class Sanity:
    """The checks of one evaluation, after Carlini et al. 2019 (arXiv:1902.06705).

    Attributes
    ----------
    checks : tuple of Check
        See the sentence of each for its numbers and its tolerance.
    samples : int
        Number of samples, the first of the loader, for the checks that need attacks of their own.
    """

    checks: tuple[Check, ...]
    samples: int

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.passed is not False for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        """Return the check of that name."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check {name!r}; the checks are {[c.name for c in self.checks]}")

    def __str__(self) -> str:
        return "\n".join([self._verdict(), *(f"  {_line(c)}" for c in self.checks)])

    def to_markdown(self) -> str:
        """Return the verdict and the checks as a Markdown list."""
        return "\n".join([self._verdict(), "", *(f"- {_line(c)}" for c in self.checks)])

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Sanity:
        """Build the section from what JSON gave back."""
        return cls(tuple(Check(**check) for check in values["checks"]), int(values["samples"]))

    def _verdict(self) -> str:
        failed = [check.name for check in self.checks if check.passed is False]
        if failed:
            return f"Sanity: do not trust these numbers yet, failed: {', '.join(failed)}."
        if not any(check.passed for check in self.checks):
            return "Sanity: nothing could be checked."
        return "Sanity: no sign of a broken attack or of masked gradients."


def _line(check: Check) -> str:
    return f"{WORDS[check.passed]:4}  {check.name}: {check.sentence}"
