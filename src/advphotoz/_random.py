"""Random draws for a batch: from one generator, or from one generator per sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["Generator", "SampleGenerators", "draw"]


class SampleGenerators:
    """One random generator per sample of a batch, so that its draws do not depend on the others.

    Handed to an attack in place of a `torch.Generator`: a sample then draws the same numbers in
    whatever batch, order or process it comes.

    Parameters
    ----------
    seeds : iterable of int
        One seed per sample; equal seeds draw equal numbers.

    Examples
    --------
    >>> both = draw(torch.rand, (2, 3), SampleGenerators([5, 6]))
    >>> alone = draw(torch.rand, (1, 3), SampleGenerators([6]))
    >>> torch.equal(both[1:], alone)
    True
    """

    def __init__(self, seeds: Iterable[int]) -> None:
        self.seeds = tuple(seeds)

    @cached_property
    def generators(self) -> list[torch.Generator]:
        """The generators, made when they are first drawn from."""
        return [torch.Generator().manual_seed(seed) for seed in self.seeds]

    def rows(self, rows: Iterable[int]) -> SampleGenerators:
        """Return the generators of some samples: the same ones, which go on where they are."""
        chosen = list(rows)
        some = SampleGenerators(self.seeds[row] for row in chosen)
        some.generators = [self.generators[row] for row in chosen]
        return some

    def __len__(self) -> int:
        return len(self.seeds)


Generator: TypeAlias = torch.Generator | SampleGenerators | None
"""What an attack draws from; None is torch's global generator."""


def draw(
    distribution: Callable[..., Tensor],
    shape: Sequence[int],
    generator: Generator,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draw numbers for a batch; the first dimension of the shape counts its samples.

    Drawn on the generator's own device, then moved: the same numbers on every device.

    Parameters
    ----------
    distribution : callable
        ``torch.rand`` or ``torch.randn``.
    shape : sequence of int
        (N, ...).
    generator : Generator
        One for the batch, one per sample, or None.
    device, dtype : optional
        Of the result.

    Raises
    ------
    ValueError
        If there are not as many generators as samples.
    """
    if isinstance(generator, SampleGenerators):
        if len(generator) != shape[0]:
            raise ValueError(
                f"{len(generator)} generators were given for {shape[0]} samples; give one each"
            )
        rows = [
            distribution(tuple(shape[1:]), generator=g, dtype=dtype) for g in generator.generators
        ]
        drawn = torch.stack(rows) if rows else torch.empty(tuple(shape), dtype=dtype)
    else:
        where = device if generator is None else generator.device
        drawn = distribution(tuple(shape), generator=generator, device=where, dtype=dtype)
    return drawn.to(device) if device is not None else drawn
