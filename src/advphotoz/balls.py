r"""Balls: the sets of perturbations that an attack may choose from.

A ball knows how to measure a perturbation (`norm`), how to bring one back inside (`project`), which
way to step (`steepest`) and how to draw one at random (`sample`). Radii are in the units of the
image (nanomaggies, say), one for the whole sample or one per band; bands lie along dimension 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from advphotoz._checks import check_at_least_one, check_radius
from advphotoz._rounding import cast_inward, compute_dtype, round_down

__all__ = ["Ball", "L2Ball", "LinfBall", "l2_eps_from_linf"]


@runtime_checkable
class Ball(Protocol):
    """What an attack asks of a ball; any object with these four methods and `eps` will do."""

    @property
    def eps(self) -> float | Sequence[float]:
        """Radius, in the units of the image: one number, or one per band."""
        ...

    def project(self, delta: Tensor) -> Tensor:
        """Return the nearest perturbation inside the ball."""
        ...

    def steepest(self, grad: Tensor) -> Tensor:
        """Return the step of norm one along which the objective rises fastest."""
        ...

    def sample(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw perturbations uniformly in the ball."""
        ...

    def norm(self, delta: Tensor) -> Tensor:
        """Measure perturbations, one number per sample, or one per sample and band."""
        ...


@dataclass(frozen=True)
class LinfBall:
    r"""The ball :math:`\|\delta\|_\infty \le \varepsilon`: no pixel moves by more than `eps`.

    Parameters
    ----------
    eps : float or sequence of float
        Radius in the units of the image, for all bands or one per band.

    Raises
    ------
    ValueError
        If a radius is negative, NaN or infinite; from the methods, if the number of radii is not
        the number of bands.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Eqs. 5 and 7.

    Examples
    --------
    >>> import torch
    >>> ball = LinfBall(0.5)
    >>> ball.project(torch.tensor([[2.0, -0.25]]))
    tensor([[ 0.5000, -0.2500]])
    >>> LinfBall([0.1, 0.2]).norm(torch.tensor([[2.0, -0.25]]))
    tensor([[2.0000, 0.2500]])
    """

    eps: float | Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", check_radius(self.eps))

    def project(self, delta: Tensor) -> Tensor:
        r"""Clamp every pixel to :math:`[-\varepsilon, \varepsilon]`; delta of shape (N, C, ...)."""
        if isinstance(self.eps, tuple):
            radii = per_band(self.eps, delta, delta.dtype)
            return delta.clamp(-radii, radii)
        eps = round_down(self.eps, delta.dtype)  # a number: clamps twice as fast as a tensor
        return delta.clamp(-eps, eps)

    def steepest(self, grad: Tensor) -> Tensor:
        r"""Return :math:`\mathrm{sign}(g)`, the maximiser of :math:`u^T g` for norms up to one."""
        return grad.sign()

    def sample(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        r"""Draw every pixel from :math:`U[-\varepsilon, \varepsilon]`, in the shape of `like`.

        `generator` None means torch's global generator.
        """
        unit = _draw(torch.rand, like, like.shape, generator) * 2 - 1
        return _like(cast_inward(unit * per_band(self.eps, like, like.dtype), like.dtype), like)

    def norm(self, delta: Tensor) -> Tensor:
        """Return the largest absolute pixel: (N,), or (N, C) where there is an eps per band."""
        per_band(self.eps, delta, delta.dtype)
        per_sample = _largest(delta, isinstance(self.eps, tuple))
        return per_sample.flatten(1) if isinstance(self.eps, tuple) else per_sample.flatten()


@dataclass(frozen=True)
class L2Ball:
    r"""The ball :math:`\|\delta\|_2 \le \varepsilon`.

    Parameters
    ----------
    eps : float or sequence of float
        Radius in the units of the image. One per band gives each band a ball of its own, and so
        sets `per_band`.
    per_band : bool
        False, the default: the norm runs over the whole sample (all bands and pixels), the usual
        reading. True: every band has its own norm, and each is held below `eps`; the other reading
        of the paper, whose scale factor counts the pixels of one band.

    Raises
    ------
    ValueError
        As `LinfBall`.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Eqs. 8 and 9, where the denominator of Eq. 8 is read as the
    norm of the gradient (the norm of the loss is printed).

    Examples
    --------
    >>> import torch
    >>> delta = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    >>> L2Ball(1.0).norm(delta)
    tensor([5.], dtype=torch.float64)
    >>> L2Ball(1.0).project(delta)
    tensor([[0.6000, 0.8000]], dtype=torch.float64)
    >>> L2Ball([1, 2])
    L2Ball(eps=(1.0, 2.0), per_band=True)
    """

    eps: float | Sequence[float]
    per_band: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", check_radius(self.eps))
        object.__setattr__(self, "per_band", bool(self.per_band) or isinstance(self.eps, tuple))

    def project(self, delta: Tensor) -> Tensor:
        r"""Return :math:`\varepsilon\,\delta / \max(\varepsilon, \|\delta\|_2)` (Eq. 9).

        The division aims just below eps (2e-6 of it; 1e-12 in float64), which covers the rounding
        of the norm, so that the result's exact norm is at most eps.
        """
        wide = delta.to(compute_dtype(delta))
        eps = per_band(self.eps, delta, delta.dtype).to(wide.dtype)
        slack = 1e-12 if wide.dtype == torch.float64 else 2e-6
        norm = _l2(wide, self.per_band)
        # Half the slack decides what is inside, so that a second projection changes nothing.
        scale = torch.where(norm <= eps * (1 - slack / 2), 1.0, eps * (1 - slack) / norm)
        return cast_inward(wide * scale, delta.dtype)

    def steepest(self, grad: Tensor) -> Tensor:
        r"""Return :math:`g / \|g\|_2`, however small the gradient; zero only where it is zero."""
        wide = grad.to(compute_dtype(grad))
        # The largest entry first: the squares of a tiny gradient would underflow.
        wide = wide / _or_one(_largest(wide, self.per_band))
        return (wide / _or_one(_l2(wide, self.per_band))).to(grad.dtype)

    def sample(self, like: Tensor, generator: torch.Generator | None = None) -> Tensor:
        r"""Draw uniformly in the ball, by volume: a Gaussian direction times :math:`U^{1/d}`.

        In the d = 20,480 dimensions of a 5x64x64 sample nearly all of the volume lies at the
        surface. `generator` None means torch's global generator.
        """
        direction = self.steepest(_draw(torch.randn, like, like.shape, generator))
        shape = _largest(direction, self.per_band).shape
        uniform = _draw(torch.rand, like, shape, generator)
        radius = uniform ** (uniform.numel() / max(like.numel(), 1))
        eps = per_band(self.eps, like, like.dtype)
        return _like(self.project(cast_inward(direction * radius * eps, like.dtype)), like)

    def norm(self, delta: Tensor) -> Tensor:
        """Return the Euclidean norm: (N,) over the whole sample, or (N, C) per band."""
        per_band(self.eps, delta, delta.dtype)
        norm = _l2(delta.to(compute_dtype(delta)), self.per_band)
        return norm.flatten(1) if self.per_band else norm.flatten()


def l2_eps_from_linf(eps: float, n: int = 64**2) -> float:
    r"""Scale an L-infinity radius to an L2 radius of like volume.

    .. math:: \varepsilon_2 = \varepsilon_\infty \left(\frac{2n}{e\pi}\right)^{1/2}

    Parameters
    ----------
    eps : float
        L-infinity radius, in the units of the image.
    n : int
        Number of pixels. The paper takes 64^2, those of one band, though its samples hold five.

    Returns
    -------
    float
        L2 radius, in the units of the image.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), caption of Table 1.

    Examples
    --------
    >>> round(l2_eps_from_linf(0.01), 4)
    0.3097
    """
    radius = check_radius(eps)
    if isinstance(radius, tuple):
        raise TypeError("l2_eps_from_linf takes one eps; call it once per band")
    check_at_least_one(n, "n")
    return radius * math.sqrt(2 * n / (math.e * math.pi))


def per_band(value: float | Sequence[float], like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a radius or step, rounded down to `dtype`, in a shape that multiplies `like`."""
    if not isinstance(value, Sequence):
        return torch.full((), round_down(value, dtype), dtype=dtype, device=like.device)
    bands = like.shape[1] if like.ndim > 1 else "no"
    if bands != len(value):
        raise ValueError(
            f"{len(value)} values were given, one per band, but the images have {bands} bands "
            f"(shape {tuple(like.shape)}, bands along dimension 1)"
        )
    # Filled on the device, not copied to it, which would wait for all that is queued there.
    rounded = torch.stack([per_band(v, like, dtype) for v in value])
    return rounded.view(1, -1, *[1] * (like.ndim - 2))


def _largest(delta: Tensor, by_band: bool) -> Tensor:
    """Return the largest absolute entry of each sample (or band), kept broadcastable."""
    dims = tuple(range(2 if by_band else 1, delta.ndim))
    return delta.abs().amax(dims, keepdim=True) if dims else delta.abs()


def _l2(delta: Tensor, by_band: bool) -> Tensor:
    """Return the Euclidean norm of each sample (or band), kept broadcastable; no underflow."""
    dims = tuple(range(2 if by_band else 1, delta.ndim))
    if not dims:
        return delta.abs()
    largest = _largest(delta, by_band)
    return (delta / _or_one(largest)).square().sum(dims, keepdim=True).sqrt() * largest


def _or_one(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1.0)


def _draw(
    distribution: Callable[..., Tensor],
    like: Tensor,
    shape: Sequence[int],
    generator: torch.Generator | None,
) -> Tensor:
    """Draw on the generator's own device, in float32 or wider, and hand over on like's."""
    device = like.device if generator is None else generator.device
    drawn = distribution(shape, generator=generator, device=device, dtype=compute_dtype(like))
    return drawn.to(like.device)


def _like(x: Tensor, like: Tensor) -> Tensor:
    return torch.empty_like(like).copy_(x)
