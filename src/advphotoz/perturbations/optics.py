r"""Errors of the optics and the astrometry: the width of the PSF, and bands out of register.

Both act on the Fourier transform of the image, after it has been continued beyond its edges: what
leaves on one side does not come back on the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from advphotoz._checks import check_radius
from advphotoz._rounding import compute_dtype
from advphotoz.perturbations.box import Box
from advphotoz.perturbations.photometry import check_two_axes
from advphotoz.perturbations.pixels import per_band

__all__ = ["PSFWidth", "Shift"]

Context = tuple[Tensor, ...]

# log MTF of a Moffat profile of half-integer beta: exp(-x) times a polynomial of x = k alpha.
POLYNOMIALS = {2.5: (1.0, 1.0), 3.5: (1.0, 1.0, 1 / 3), 4.5: (1.0, 1.0, 2 / 5, 1 / 15)}
MARGIN = 6.0  # FWHM between opposite edges of a continued image
SHIFT_MARGIN = 16  # pixels between them for a shift


@dataclass(frozen=True)
class PSFWidth(Box):
    r"""A point-spread function that is wider or narrower than assumed, by a relative `budget`.

    .. math:: \hat x_b(k) \leftarrow \hat x_b(k)\, \frac{M(k\, \alpha_b (1 + f_b))}
        {M(k\, \alpha_b)}, \qquad f_b = p_b\, f_{max}, \quad |p_b| \le 1

    M is the transform of a Moffat profile :math:`(1 + r^2/\alpha^2)^{-\beta}` of
    :math:`\mathrm{FWHM} = 2 \alpha \sqrt{2^{1/\beta} - 1}`,

    .. math:: M(x) = \frac{2}{\Gamma(\beta - 1)} \left(\frac{x}{2}\right)^{\beta - 1}
        K_{\beta - 1}(x), \qquad M(x) = e^{-x} (1 + x + x^2/3)\ \text{for}\ \beta = 3.5

    The total flux stays. The ratio is evaluated at the frequencies of the image: a kernel drawn on
    the pixels would be far narrower than one of them, and do nothing.

    **The noise changes too**: what is in the image is convolved, noise included. A wider PSF
    smooths it, a narrower one amplifies it, by `noise_factor`. A network may answer to that. To
    keep the noise as it was, pass noise-free images as x and their noise as another input,
    ``Adapter(network, lambda net, x, ebv, noise: net(x + noise, ebv))``.

    Parameters
    ----------
    budget : float or sequence of float
        :math:`f_{max}`, for all bands or one per band; 0.01 for one per cent.
    fwhm : float or sequence of float
        Of the PSF that the images were taken with, in arcsec, for all bands or one per band; of the
        one that includes the pixel where that is what was measured.
    pixel_scale : float
        Arcsec per pixel.
    beta : {2.5, 3.5, 4.5}
        Exponent of the profile; for half-integers the transform is elementary.
    max_noise_factor : float
        Largest factor by which narrowing may amplify white noise; a larger budget is refused.

    Raises
    ------
    ValueError
        For numbers that make no sense or a budget that amplifies noise too much; from an attack,
        for images that are not (N, bands, height, width).

    References
    ----------
    Moffat 1969 (A&A 3, 455); Trujillo et al. 2001 (MNRAS 328, 977).

    Examples
    --------
    >>> import torch
    >>> wider = PSFWidth(0.05, fwhm=1.3, pixel_scale=0.396)
    >>> star = torch.zeros(1, 1, 15, 15)
    >>> star[..., 7, 7] = 1.0
    >>> moved, _ = wider.apply(star, (), torch.ones(1, 1))
    >>> float(moved.max()) < 0.9
    True
    >>> [round(float(wider.noise_factor(f)), 2) for f in (-0.05, 0.05)]
    [1.44, 0.72]
    """

    fwhm: float | Sequence[float]
    pixel_scale: float
    beta: float = 3.5
    max_noise_factor: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "fwhm", _positive(self.fwhm, "fwhm"))
        object.__setattr__(self, "pixel_scale", _one_positive(self.pixel_scale, "pixel_scale"))
        if self.beta not in POLYNOMIALS:
            raise ValueError(
                f"beta must be one of {', '.join(map(str, POLYNOMIALS))}, got {self.beta!r}"
            )
        limit = _one_positive(self.max_noise_factor, "max_noise_factor")
        object.__setattr__(self, "max_noise_factor", limit)
        narrowest = max(self.budget) if isinstance(self.budget, tuple) else self.budget
        assert isinstance(narrowest, float)
        if narrowest >= 1:
            raise ValueError(f"a PSF cannot be narrower by {100 * narrowest:g} %")
        worst = float(torch.as_tensor(self.noise_factor(-narrowest)).max())
        if worst > limit:
            raise ValueError(
                f"a PSF narrower by {100 * narrowest:g} % amplifies white noise {worst:.2f} times, "
                f"beyond max_noise_factor={limit:g}: the result would be about noise; take a "
                "smaller budget"
            )

    @property
    @override
    def unit(self) -> str:
        return "PSF width (relative)"

    def noise_factor(self, fraction: float) -> Tensor:
        r"""Return the factor on the standard deviation of white noise, one number or one per band.

        The root mean square of the ratio over all frequencies of the pixel grid.
        """
        k = torch.linspace(-math.pi, math.pi, 101, dtype=torch.float64)
        radius = torch.hypot(k[:, None], k)
        alpha = torch.as_tensor(self.fwhm, dtype=torch.float64)[..., None, None] * self._alpha()
        log_ratio = self._log_mtf(radius * alpha * (1 + fraction)) - self._log_mtf(radius * alpha)
        factor: Tensor = (2 * log_ratio).exp().mean((-2, -1)).sqrt()
        return factor

    @override
    def check(self, x: Tensor, context: Sequence[Tensor]) -> None:
        check_two_axes(x, "PSFWidth")
        super().check(x, context)
        per_band(self.fwhm, x[:1], x.dtype)

    @override
    def apply(self, x: Tensor, context: Context, p: Tensor) -> tuple[Tensor, Context]:
        width = 1 + self.physical(p)
        alpha = per_band(self.fwhm, p, p.dtype) * self._alpha()
        widest = max(self.fwhm) if isinstance(self.fwhm, tuple) else self.fwhm
        spectrum = Spectrum(x, math.ceil(MARGIN * widest / self.pixel_scale))  # type: ignore[operator]
        k = torch.hypot(spectrum.ky, spectrum.kx)
        before = k * torch.ones_like(width)[:, :, None, None] * _wide(alpha)
        ratio = self._log_mtf(before * _wide(width)) - self._log_mtf(before)
        return spectrum.times(ratio.exp()), context

    def _alpha(self) -> float:
        """Return alpha in pixels for a FWHM of one arcsec."""
        return 1 / (2 * math.sqrt(2 ** (1 / self.beta) - 1) * self.pixel_scale)

    def _log_mtf(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for factor in reversed(POLYNOMIALS[self.beta]):
            total = total * x + factor
        return total.log() - x


@dataclass(frozen=True)
class Shift(Box):
    r"""Bands out of register: each is moved by at most `budget` arcsec along x and along y.

    .. math:: \hat x_b(k) \leftarrow \hat x_b(k)\, e^{-i (k_x a_b + k_y c_b)}

    A positive shift moves the object to larger columns, or rows. Two parameters per band, the
    shifts along x of all bands and then those along y. The interpolation is that of Fourier, exact
    for an image that is sampled finely enough (a PSF of at least two pixels FWHM); a star of a
    single pixel rings. Shifts count from one band that is given a budget of zero, or else contain
    one that is common to all bands.

    Parameters
    ----------
    budget : float or sequence of float
        In arcsec, for all bands or one per band: ``[0.04, 0.04, 0, 0.04, 0.04]`` keeps r in place.
    pixel_scale : float
        Arcsec per pixel.

    Raises
    ------
    ValueError
        For numbers that make no sense; from an attack, for images that are not (N, bands, height,
        width).

    Examples
    --------
    >>> import torch
    >>> x = torch.zeros(1, 1, 9, 9)
    >>> x[..., 4, 4] = 1.0
    >>> moved, _ = Shift(0.4, pixel_scale=0.4).apply(x, (), torch.tensor([[1.0, 0.0]]))
    >>> int(moved[0, 0, 4].argmax())
    5
    """

    axes: ClassVar[tuple[str, ...]] = ("x", "y")

    pixel_scale: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "pixel_scale", _one_positive(self.pixel_scale, "pixel_scale"))

    @property
    @override
    def unit(self) -> str:
        return "shift arcsec"

    @override
    def check(self, x: Tensor, context: Sequence[Tensor]) -> None:
        check_two_axes(x, "Shift")
        super().check(x, context)

    @override
    def apply(self, x: Tensor, context: Context, p: Tensor) -> tuple[Tensor, Context]:
        pixels = _wide(self.physical(p) / self.pixel_scale)
        along_x, along_y = pixels.chunk(2, dim=1)
        farthest = max(self.budget) if isinstance(self.budget, tuple) else self.budget
        assert isinstance(farthest, float)
        spectrum = Spectrum(x, SHIFT_MARGIN + math.ceil(farthest / self.pixel_scale))
        phase = spectrum.kx * along_x + spectrum.ky * along_y
        return spectrum.times(torch.polar(torch.ones_like(phase), -phase)), context


class Spectrum:
    """The Fourier transform of images that are continued until they are periodic.

    Beyond an edge follows its mirror image, which passes smoothly into that of the opposite edge:
    what leaves on one side does not come back on the other, and no jump makes the result ring.
    The continued sides are odd, so that no frequency is its own negative and any shift is real.

    Parameters
    ----------
    x : Tensor, (N, C, H, W)
        The images.
    margin : int
        Pixels between opposite edges; fewer for images that are smaller than that.

    Attributes
    ----------
    kx, ky : Tensor
        Frequencies in radians per pixel, in shapes that multiply `values`.
    """

    def __init__(self, x: Tensor, margin: int) -> None:
        self._x = x
        dtype = compute_dtype(x)
        wide = _continued(_continued(x.to(dtype), margin).transpose(-2, -1), margin)
        self._sides = wide.shape[-1], wide.shape[-2]
        self.values = torch.fft.rfft2(wide.transpose(-2, -1))
        height, width = self._sides
        turn = 2 * math.pi
        self.ky = turn * torch.fft.fftfreq(height, dtype=dtype, device=x.device)[:, None]
        self.kx = turn * torch.fft.rfftfreq(width, dtype=dtype, device=x.device)

    def times(self, transfer: Tensor) -> Tensor:
        """Return the images whose spectrum is this one times a transfer function."""
        height, width = self._x.shape[-2:]
        whole: Tensor = torch.fft.irfft2(self.values * transfer, s=self._sides)
        return whole[..., :height, :width].to(self._x.dtype)


def _continued(x: Tensor, margin: int) -> Tensor:
    """Continue the last axis by its mirror images, the right one passing into the left one."""
    n = x.shape[-1]
    more = _more(n, margin)
    if not more:
        return x
    after = x[..., n - 1 - more : n - 1].flip(-1)
    before = x[..., 1 : more + 1].flip(-1)
    step = torch.arange(1, more + 1, dtype=x.dtype, device=x.device) / (more + 1)
    share = (step * (math.pi / 2)).sin().square()
    return torch.cat([x, after + (before - after) * share], -1)


@cache
def _more(n: int, margin: int) -> int:
    """Return by how many pixels to continue n of them: to an odd length whose transform is fast."""
    lengths = [k for k in range(n, 2 * n) if k % 2 and _smooth(k)]
    wanted = [k for k in lengths if k >= n + margin]
    return (wanted[0] if wanted else lengths[-1] if lengths else n) - n


def _smooth(n: int) -> bool:
    for prime in (3, 5, 7):
        while n % prime == 0:
            n //= prime
    return n == 1


def _wide(values: Tensor) -> Tensor:
    return values[:, :, None, None] if values.ndim else values


def _positive(value: float | Sequence[float], name: str) -> float | tuple[float, ...]:
    found = check_radius(value, name)
    if min(found if isinstance(found, tuple) else (found,)) <= 0:
        raise ValueError(f"{name} must be positive, in arcsec, got {value}")
    return found


def _one_positive(value: float, name: str) -> float:
    found = _positive(value, name)
    if isinstance(found, tuple):
        raise TypeError(f"{name} must be one number, got {value}")
    return found
