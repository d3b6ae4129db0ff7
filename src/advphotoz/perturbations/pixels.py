r"""Pixel balls: an image is added, no larger than eps in a norm.

Radii are in the units of the image (nanomaggies, say), one for the whole sample or one per band;
bands lie along dimension 1. The parameter of these sets is the perturbation itself,
:math:`\delta = x_{adv} - x`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from typing_extensions import Self, override

from advphotoz._checks import check_at_least_one, check_bounds, check_radius
from advphotoz._random import Generator, draw
from advphotoz._rounding import add_inward, cast_inward, compute_dtype, round_down
from advphotoz.perturbations.contract import PerturbationSet, span

__all__ = ["L2Ball", "LinfBall", "PixelBall", "l2_eps_from_linf"]

Bounds = tuple[float, float] | None
Context = tuple[Tensor, ...]


@dataclass(frozen=True)
class PixelBall(PerturbationSet):
    r"""What pixel balls have in common: :math:`x + \delta`, and pixel values to stay within."""

    eps: float | Sequence[float]
    bounds: Bounds = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "eps", check_radius(self.eps))
        object.__setattr__(self, "bounds", check_bounds(self.bounds))

    @property
    @override
    def label(self) -> str:
        return span(self.eps)

    @override
    def check(self, x: Tensor, context: Sequence[Tensor]) -> None:
        """Refuse images of another number of bands, or outside the bounds."""
        per_band(self.eps, x, x.dtype)
        bounds = self.bounds
        if bounds is None:
            return
        outside = (x < bounds[0]) | (x > bounds[1])
        if bool(outside.any()):
            raise ValueError(
                f"x must lie inside the stated bounds {bounds}, but {int(outside.sum())} of its "
                f"{x.numel()} pixels do not (range {x.min().item():.6g} to {x.max().item():.6g}); "
                "widen the bounds, or leave them out: pixels are unbounded by default"
            )

    @override
    def identity(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @override
    def apply(self, x: Tensor, context: Context, p: Tensor) -> tuple[Tensor, Context]:
        """Return x + p."""
        return x + p, context

    @override
    def place(self, x: Tensor, context: Context, p: Tensor) -> tuple[Tensor, Context]:
        r"""Return x + p, rounded so that no pixel moves further than p says.

        :math:`|\mathrm{result} - x| \le |p|` exactly; plain addition rounds to nearest, and moves a
        pixel of 10,000 by up to 0.0005 more.
        """
        moved = add_inward(x, p)
        if self.bounds is not None:
            moved = moved.clamp(*self.bounds)
        if moved.stride() != x.stride():
            moved = torch.empty_like(x).copy_(moved)
        return moved, context

    @override
    def size(self, p: Tensor) -> Tensor:
        """Return the norm in units of eps, (N,): the largest over bands where each has its own."""
        norm = self.norm(p)
        eps = torch.as_tensor(self.eps, dtype=norm.dtype, device=norm.device)
        share = torch.where(norm > 0, norm / eps, 0.0)  # a radius of zero that is not used: 0
        return share.amax(1) if share.ndim == 2 else share

    @override
    def scaled(self, factor: float) -> Self:
        eps = self.eps
        radii = tuple(factor * e for e in eps) if isinstance(eps, Sequence) else factor * eps
        return replace(self, eps=radii)

    @abstractmethod
    def norm(self, delta: Tensor) -> Tensor:
        """Measure perturbations, (N,), or (N, C) where every band has its own ball."""

    def _bounded(self, x: Tensor, delta: Tensor) -> Tensor:
        if self.bounds is None:
            return delta
        low, high = self.bounds
        return delta.clamp(low - x, high - x)


@dataclass(frozen=True)
class LinfBall(PixelBall):
    r"""The ball :math:`\|\delta\|_\infty \le \varepsilon`: no pixel moves by more than `eps`.

    Parameters
    ----------
    eps : float or sequence of float
        Radius in the units of the image, for all bands or one per band.
    bounds : (float, float), optional
        Pixel values to stay within. None: pixels are unbounded, as sky-subtracted fluxes are.

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
    >>> ball, x = LinfBall(0.5), torch.zeros(1, 2)
    >>> ball.project(x, torch.tensor([[2.0, -0.25]]))
    tensor([[ 0.5000, -0.2500]])
    >>> LinfBall([0.1, 0.2]).norm(torch.tensor([[2.0, -0.25]]))
    tensor([[2.0000, 0.2500]])
    """

    @override
    def project(self, x: Tensor, p: Tensor) -> Tensor:
        r"""Clamp every pixel to :math:`[-\varepsilon, \varepsilon]`."""
        if isinstance(self.eps, tuple):
            radii = per_band(self.eps, p, p.dtype)
            return self._bounded(x, p.clamp(-radii, radii))
        eps = round_down(self.eps, p.dtype)  # a number: clamps twice as fast as a tensor
        return self._bounded(x, p.clamp(-eps, eps))

    @override
    def steepest(self, grad: Tensor) -> Tensor:
        r"""Return :math:`\varepsilon\, \mathrm{sign}(g)`."""
        return grad.sign() * per_band(self.eps, grad, grad.dtype)

    @override
    def step(self, x: Tensor, p: Tensor, direction: Tensor, fraction: float | Tensor) -> Tensor:
        if isinstance(self.eps, Sequence) or isinstance(fraction, Tensor):
            return super().step(x, p, direction, fraction)
        # One pass over the pixels less than with `steepest`.
        return self.project(x, torch.add(p, direction.sign(), alpha=fraction * self.eps))

    @override
    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        r"""Draw every pixel from :math:`U[-\varepsilon, \varepsilon]`."""
        unit = draw(torch.rand, x.shape, generator, x.device, compute_dtype(x)) * 2 - 1
        p = cast_inward(unit * per_band(self.eps, x, x.dtype), x.dtype)
        return self._bounded(x, _like(p, x))

    @override
    def propose(
        self, x: Tensor, p: Tensor | None, share: float, generator: Generator = None
    ) -> Tensor:
        r"""Set one square of p to :math:`\pm\varepsilon` in each band; first draw stripes.

        The square covers a `share` of the image. Where there are no pixels but one number per band,
        that share of the bands changes. (Andriushchenko et al. 2020, arXiv:1912.00049, Alg. 2.)
        """
        eps = per_band(self.eps, x, x.dtype)
        if p is None:  # one sign per band and column
            columns = (x.shape[-1],) if x.ndim > 2 else ()
            shape = (*x.shape[:2], *[1] * max(x.ndim - 3, 0), *columns)
            return self._bounded(x, _like(eps * _signs(_uniform(x, shape, generator)), x))
        bands, axes = x.shape[1], x.ndim - 2
        unit = _uniform(x, (len(x), bands + (axes or bands)), generator)
        if axes:
            where = _window(x, share, unit[:, bands:])
        else:  # the share of them with the smallest numbers, at least one
            count = max(round(share * bands), 1)
            where = unit[:, bands:] <= unit[:, bands:].kthvalue(count, dim=1, keepdim=True)[0]
        signs = _signs(unit[:, :bands]).view(len(x), bands, *[1] * axes)
        return self._bounded(x, torch.where(where, (eps * signs).to(p.dtype), p))

    @override
    def norm(self, delta: Tensor) -> Tensor:
        """Return the largest absolute pixel: (N,), or (N, C) where there is an eps per band."""
        per_band(self.eps, delta, delta.dtype)
        per_sample = _largest(delta, isinstance(self.eps, tuple))
        return per_sample.flatten(1) if isinstance(self.eps, tuple) else per_sample.flatten()


@dataclass(frozen=True)
class L2Ball(PixelBall):
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
    bounds : (float, float), optional
        As in `LinfBall`.

    Raises
    ------
    ValueError
        As `LinfBall`.

    References
    ----------
    Campagne 2020 (arXiv:2002.10154), Eqs. 8 and 9, where the denominator of Eq. 8 is read as the
    norm of the gradient (the norm of the loss is printed); written out in :ref:`theory-l2`.

    Examples
    --------
    >>> import torch
    >>> delta = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    >>> L2Ball(1.0).norm(delta)
    tensor([5.], dtype=torch.float64)
    >>> L2Ball(1.0).project(torch.zeros_like(delta), delta)
    tensor([[0.6000, 0.8000]], dtype=torch.float64)
    >>> L2Ball([1, 2])
    L2Ball(eps=(1.0, 2.0), bounds=None, per_band=True)
    """

    per_band: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "per_band", bool(self.per_band) or isinstance(self.eps, tuple))

    @property
    @override
    def label(self) -> str:
        return f"L2 {super().label}{' per band' if self.per_band else ''}"

    @override
    def project(self, x: Tensor, p: Tensor) -> Tensor:
        r"""Return :math:`\varepsilon\,\delta / \max(\varepsilon, \|\delta\|_2)` (Eq. 9).

        The division aims just below eps (2e-6 of it; 1e-12 in float64), which covers the rounding
        of the norm, so that the result's exact norm is at most eps.
        """
        wide = p.to(compute_dtype(p))
        eps = per_band(self.eps, p, p.dtype).to(wide.dtype)
        slack = 1e-12 if wide.dtype == torch.float64 else 2e-6
        norm = _l2(wide, self.per_band)
        # Half the slack decides what is inside, so that a second projection changes nothing.
        scale = torch.where(norm <= eps * (1 - slack / 2), 1.0, eps * (1 - slack) / norm)
        return self._bounded(x, cast_inward(wide * scale, p.dtype))

    @override
    def steepest(self, grad: Tensor) -> Tensor:
        r"""Return :math:`\varepsilon\, g / \|g\|_2`, however small g; zero only where g is."""
        return self._unit(grad) * per_band(self.eps, grad, grad.dtype)

    def _unit(self, grad: Tensor) -> Tensor:
        wide = grad.to(compute_dtype(grad))
        # The largest entry first: the squares of a tiny gradient would underflow.
        wide = wide / _or_one(_largest(wide, self.per_band))
        return (wide / _or_one(_l2(wide, self.per_band))).to(grad.dtype)

    @override
    def sample(self, x: Tensor, generator: Generator = None) -> Tensor:
        r"""Draw uniformly in the ball, by volume: a Gaussian direction times :math:`U^{1/d}`.

        In the d = 20,480 dimensions of a 5x64x64 sample nearly all of the volume lies at the
        surface.
        """
        dtype = compute_dtype(x)
        direction = self._unit(draw(torch.randn, x.shape, generator, x.device, dtype))
        uniform = draw(
            torch.rand, _largest(direction, self.per_band).shape, generator, x.device, dtype
        )
        radius = uniform ** (uniform.numel() / max(x.numel(), 1))
        p = cast_inward(direction * radius * per_band(self.eps, x, x.dtype), x.dtype)
        return self.project(x, _like(p, x))

    @override
    def propose(
        self, x: Tensor, p: Tensor | None, share: float, generator: Generator = None
    ) -> Tensor:
        r"""Move the norm of p in one square into another, with a new pattern; first draw tiles.

        The second square takes the norm of both, and what is left to :math:`\varepsilon`: half its
        old pattern, half one with a positive and a negative half, of random sign in each band. For
        images; where there are none p moves by a draw. (After Andriushchenko et al. 2020,
        arXiv:1912.00049, Alg. 3, whose patterns are others.)
        """
        bands, axes = x.shape[1], x.ndim - 2
        if not axes:
            return super().propose(x, p, share, generator)
        if p is None:  # tiles of a fifth of the image's side, each of one sign
            coarse = (*x.shape[:2], *[min(5, size) for size in x.shape[2:]])
            signs = _signs(_uniform(x, coarse, generator))
            for axis, size in enumerate(x.shape[2:], start=2):
                tile = torch.arange(size, device=x.device) * signs.shape[axis] // size
                signs = signs.index_select(axis, tile)
            return self._full(x, signs)
        unit = _uniform(x, (len(x), bands + 2 * axes + 1), generator)
        emptied = _window(x, share, unit[:, bands : bands + axes])
        corner, turn = unit[:, bands + axes : -1], (unit[:, -1] * axes).long()
        filled, wide = _window(x, share, corner), p.to(compute_dtype(p))
        fresh = _unit_bands(_halves(x, share, corner, turn))
        fresh = fresh * _signs(unit[:, :bands]).view(len(x), bands, *[1] * axes)
        pattern = _unit_bands(_unit_bands(wide * filled) + fresh)
        limit = per_band(self.eps, x, x.dtype).to(wide.dtype).square()
        left = (limit - _l2(wide, self.per_band).square()).clamp(min=0)
        held = _l2(wide * (emptied | filled), True).square()
        norm = (held + (left if self.per_band else left / bands)).sqrt()
        return self._full(x, torch.where(filled, pattern * norm, wide * ~emptied))

    def _full(self, x: Tensor, pattern: Tensor) -> Tensor:
        """Return a pattern stretched to the boundary."""
        p = self._unit(pattern) * per_band(self.eps, x, x.dtype).to(pattern.dtype)
        return self.project(x, _like(cast_inward(p, x.dtype), x))

    @override
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
    Campagne 2020 (arXiv:2002.10154), caption of Table 1; derived in :ref:`theory-l2`.

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


def _uniform(x: Tensor, shape: Sequence[int], generator: Generator) -> Tensor:
    return draw(torch.rand, shape, generator, x.device, compute_dtype(x))


def _signs(unit: Tensor) -> Tensor:
    """Turn numbers in [0, 1) into signs."""
    return torch.where(unit < 0.5, -1.0, 1.0).to(unit.dtype)


def _places(x: Tensor, share: float, unit: Tensor) -> list[Tensor]:
    """Return each pixel's place along each axis of a window, 0 to 1 inside; (N, 1, ..., size, ...).

    The window covers a share of the image, and its place is drawn by numbers in [0, 1), (N, axes).
    """
    axes, found = x.ndim - 2, []
    for axis, size in enumerate(x.shape[2:]):
        side = min(max(round(share ** (1 / axes) * size), 1), size)
        corner = (unit[:, axis : axis + 1] * (size - side + 1)).floor().clamp(max=size - side)
        place = (torch.arange(size, device=x.device) - corner + 0.5) / side
        found.append(place.view(len(x), *[1] * (axis + 1), size, *[1] * (axes - axis - 1)))
    return found


def _window(x: Tensor, share: float, unit: Tensor) -> Tensor:
    """Return which pixels lie in a window, (N, 1, ...); see `_places`."""
    inside = torch.ones((), dtype=torch.bool, device=x.device)
    for place in _places(x, share, unit):
        inside = inside & (place > 0) & (place < 1)
    return inside


def _halves(x: Tensor, share: float, unit: Tensor, turn: Tensor) -> Tensor:
    """Return waves in a window, (N, 1, ...): one period along axis `turn`, half along others."""
    waves = torch.ones((), device=x.device)
    for axis, place in enumerate(_places(x, share, unit)):
        periods = torch.where(turn == axis, 2.0, 1.0).view(-1, *[1] * (x.ndim - 1))
        waves = waves * (math.pi * periods * place).sin()
    return waves * _window(x, share, unit)


def _unit_bands(pattern: Tensor) -> Tensor:
    """Return patterns with norm one in each band, zero where they are."""
    return pattern / _or_one(_l2(pattern, True))


def _or_one(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1.0)


def _like(x: Tensor, like: Tensor) -> Tensor:
    return torch.empty_like(like).copy_(x)
