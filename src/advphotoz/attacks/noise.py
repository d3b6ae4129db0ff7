"""Uniform noise, the control: as large as an attack, with no direction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from advphotoz._random import Generator
from advphotoz.attacks.contract import Found, check_batch, check_generator, check_returns_all
from advphotoz.attacks.gradient import as_set
from advphotoz.perturbations import PerturbationSet

__all__ = ["UniformNoise"]


@dataclass(frozen=True)
class UniformNoise:
    r"""A uniform draw from a set: :math:`\delta \sim U[-\varepsilon, \varepsilon]` for `LinfBall`.

    It shows that a perturbation misleads by its direction and not by its size: in the paper
    eps = 0.01 has no effect.

    Parameters
    ----------
    perturbations : float, sequence of float, or PerturbationSet
        Half-width in every pixel, in the units of the image, or one per band; or the set to draw
        from.

    Raises
    ------
    ValueError, TypeError
        For a radius or a batch that makes no sense; the message says what to do.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Section 3.3.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import UniformNoise
    >>> seed = torch.Generator().manual_seed(0)
    >>> noisy = UniformNoise(0.5)(None, torch.zeros(1, 9), torch.zeros(1), generator=seed)
    >>> 0.3 < noisy.abs().max().item() <= 0.5
    True
    """

    perturbations: PerturbationSet | float | Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "perturbations", as_set(self.perturbations, "UniformNoise"))

    def __call__(
        self,
        model: Callable[..., Any] | None,
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: Generator = None,
    ) -> Tensor:
        """Return x of shape (N, C, ...) with noise; the model is not called.

        `generator` None means torch's global generator.
        """
        check_returns_all(self.set)
        return self.find(model, x, target, context, generator).x

    def find(
        self,
        model: Callable[..., Any] | None,
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: Generator = None,
    ) -> Found:
        """Return what a call returns, with the parameters that were drawn."""
        with torch.inference_mode(False), torch.no_grad():
            check_batch(x, target, context)
            check_generator(generator)
            self.set.check(x, context)
            p = self.set.sample(x, generator)
            noisy, changed = self.set.place(x, tuple(context), p)
            return Found(noisy, changed, p, self.set.size(p))

    @property
    def set(self) -> PerturbationSet:
        """What is drawn from."""
        assert isinstance(self.perturbations, PerturbationSet)
        return self.perturbations

    @property
    def name(self) -> str:
        """Such as ``uniform noise 0.01``."""
        return f"uniform noise {self.set.label}"

    def scaled(self, factor: float) -> Self:
        """Return the noise with its set scaled."""
        return dataclasses.replace(self, perturbations=self.set.scaled(factor))
