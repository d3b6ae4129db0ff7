"""Uniform noise, the control: as large as an attack, with no direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advphotoz._checks import check_bounds, check_radius
from advphotoz.attacks.attack import Bounds, check_batch
from advphotoz.attacks.problem import place
from advphotoz.balls import LinfBall

__all__ = ["UniformNoise"]


@dataclass(frozen=True)
class UniformNoise:
    r"""Uniform noise, :math:`\delta \sim U[-\varepsilon, \varepsilon]` in every pixel.

    It shows that a perturbation misleads by its direction and not by its size: in the paper
    eps = 0.01 has no effect.

    Parameters
    ----------
    eps : float or sequence of float
        Half-width, in the units of the image, or one per band.
    bounds : (float, float), optional
        Pixel values to stay within. None: pixels are unbounded.

    Raises
    ------
    ValueError, TypeError
        For an eps or a batch that makes no sense; the message says what to do.

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

    eps: float | Sequence[float]
    bounds: Bounds = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", check_radius(self.eps))
        object.__setattr__(self, "bounds", check_bounds(self.bounds))

    def __call__(
        self,
        model: Callable[..., Any] | None,
        x: Tensor,
        target: Tensor,
        context: Sequence[Tensor] = (),
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return x of shape (N, C, ...) with noise; the model is not called.

        `generator` None means torch's global generator.
        """
        with torch.inference_mode(False), torch.no_grad():
            check_batch(x, target, context, self.bounds)
            return place(x, LinfBall(self.eps).sample(x, generator), self.bounds)
