"""Errors of the photometric calibration: zero points, sky, Galactic reddening."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from advphotoz._checks import check_radius
from advphotoz.perturbations.box import Box
from advphotoz.perturbations.pixels import per_band

__all__ = [
    "MagnitudeOffset",
    "ReddeningError",
    "ReddeningInputError",
    "SkyGradient",
    "SkyLevel",
    "ZeroPoint",
]

Context = tuple[Tensor, ...]


@dataclass(frozen=True)
class ZeroPoint(Box):
    r"""An error of each band's photometric zero point, of at most `budget` magnitudes.

    .. math:: x_b \leftarrow 10^{-0.4\, a_b}\, x_b, \qquad a_b = p_b\, m_b, \quad |p_b| \le 1

    A positive :math:`a_b` is fainter: magnitudes become :math:`m + a_b`. Pixels must be linear in
    flux, so that a stretch or a standardisation belongs inside the network.

    Parameters
    ----------
    budget : float or sequence of float
        :math:`m_b` in magnitudes, for all bands or one per band; 0.01 in griz and 0.02 in u for the
        SDSS.

    Raises
    ------
    ValueError
        For a budget that is negative or not finite; from an attack, for images of another number of
        bands.

    References
    ----------
    Padmanabhan et al. 2008 (arXiv:astro-ph/0703454), the calibration of the SDSS.

    Examples
    --------
    >>> import torch
    >>> x, p = torch.ones(1, 2, 1, 1), torch.tensor([[1.0, -1.0]])
    >>> brighter_and_fainter, _ = ZeroPoint(0.1).apply(x, (), p)
    >>> brighter_and_fainter.flatten()
    tensor([0.9120, 1.0965])
    """

    @property
    @override
    def unit(self) -> str:
        return "zero point mag"

    @override
    def apply(self, x: Tensor, context: Context, p: Tensor) -> tuple[Tensor, Context]:
        factor = (-0.4 * math.log(10) * self.physical(p)).exp()
        return (x * _over_pixels(factor, x)).to(x.dtype), context


@dataclass(frozen=True)
class MagnitudeOffset(Box):
    r"""The same error for a network on magnitudes: features (N, bands) that are no fluxes.

    .. math:: m_b \leftarrow m_b + a_b, \qquad a_b = p_b\, m_b^{max}, \quad |p_b| \le 1

    Colours must be computed inside the network, so that they follow.

    Parameters
    ----------
    budget : float or sequence of float
        In magnitudes, for all bands or one per band.

    Raises
    ------
    ValueError
        As `ZeroPoint`.

    Examples
    --------
    >>> import torch
    >>> magnitudes, _ = MagnitudeOffset(0.1).apply(torch.tensor([[18.0, 17.0]]), (),
    ...                                            torch.tensor([[1.0, -1.0]]))
    >>> magnitudes
    tensor([[18.1000, 16.9000]])
    """

    @property
    @override
    def unit(self) -> str:
        return "zero point mag"

    @override
    def apply(self, x: Tensor, context: Context, p: Tensor) -> tuple[Tensor, Context]:
        return (x + _over_pixels(self.physical(p), x)).to(x.dtype), context


@dataclass(frozen=True)
class SkyLevel(Box):
    r"""An error of each band's sky level: a constant is added to all pixels of the band.

    .. math:: x_b \leftarrow x_b + a_b, \qquad a_b = p_b\, s_b, \quad |p_b| \le 1

    A positive :math:`a_b` is sky that was left in the image, a negative one sky that was subtracted
    twice.

    Parameters
    ----------
    budget : float or sequence of float
        :math:`s_b` in the units of the image, for all bands or one per band. In units of the sky
        noise: ``SkyLevel([0.1 * sigma for sigma in sky_noise])``.

    Raises
    ------
    ValueError
        As `ZeroPoint`.

    Examples
    --------
    >>> import torch
    >>> sky_noise = [0.2, 0.4]
    >>> sky = SkyLevel([0.1 * sigma for sigma in sky_noise])
    >>> sky.apply(torch.zeros(1, 2, 1, 1), (), torch.tensor([[1.0, -1.0]]))[0].flatten()
    tensor([ 0.0200, -0.0400])
    """

    @property
    @override
    def unit(self) -> str:
        return "sky level flux/pixel"

    @override
    def apply(self, x: Tensor, context: Context, p: Tensor) -> tuple[Tensor, Context]:
        return (x + _over_pixels(self.physical(p), x)).to(x.dtype), context


@dataclass(frozen=True)
class SkyGradient(Box):
    r"""A sky that is tilted across the image: a plane through zero in the middle is added.

    .. math:: x_b(i, j) \leftarrow x_b(i, j) + a_b\, u_j + c_b\, v_i, \qquad
        u_j = \frac{2 j - (W - 1)}{W}, \quad v_i = \frac{2 i - (H - 1)}{H}

    :math:`u` runs from -1 at the left edge of the image to 1 at its right edge, :math:`v` from the
    first row to the last. Two parameters per band, the slopes along x of all bands and then those
    along y, each with the budget of its band.

    Parameters
    ----------
    budget : float or sequence of float
        Largest :math:`|a_b|` and :math:`|c_b|`: the change of the sky from the middle of the image
        to its edge, in the units of the image; for all bands or one per band.

    Raises
    ------
    ValueError
        As `ZeroPoint`, and for images that are not (N, bands, height, width).

    Examples
    --------
    >>> import torch
    >>> x, p = torch.zeros(1, 1, 2, 2), torch.tensor([[1.0, 0.0]])
    >>> SkyGradient(0.1).apply(x, (), p)[0].flatten()
    tensor([-0.0500,  0.0500, -0.0500,  0.0500])
    """

    axes: ClassVar[tuple[str, ...]] = ("x", "y")

    @property
    @override
    def unit(self) -> str:
        return "sky gradient flux/pixel"

    @override
    def check(self, x: Tensor, context: Sequence[Tensor]) -> None:
        check_two_axes(x, "SkyGradient")
        super().check(x, context)

    @override
    def apply(self, x: Tensor, context: Context, p: Tensor) -> tuple[Tensor, Context]:
        along_x, along_y = self.physical(p)[:, :, None, None].chunk(2, dim=1)
        height, width = x.shape[-2:]
        u, v = (
            (2 * torch.arange(n, dtype=p.dtype, device=x.device) - (n - 1)) / n
            for n in (width, height)
        )
        return (x + along_x * u + along_y * v[:, None]).to(x.dtype), context


@dataclass(frozen=True)
class ReddeningError(Box):
    r"""A wrong scale of the dust map, in images that were corrected for Galactic extinction.

    .. math:: x_b \leftarrow 10^{\,0.4\, k_b\, f\, E(B-V)}\, x_b, \qquad f = p\, f_{max}, \quad
        |p| \le 1

    The correction used :math:`(1 + f)\, E(B-V)` in place of :math:`E(B-V)`: a positive f brightens.
    One parameter for all bands. The batch must hold E(B-V), which is not changed; a network that
    does not take it is wrapped: ``Adapter(network, lambda net, x, ebv: net(x))``.

    Parameters
    ----------
    budget : float
        :math:`f_{max}`, the largest relative error of E(B-V); 0.1 for ten per cent.
    coefficients : sequence of float
        :math:`k_b = A_b / E(B-V)` of each band; for the SDSS 4.239, 3.303, 2.285, 1.698, 1.263 on
        the scale of the map of Schlegel et al. 1998.
    index : int
        Which of the other inputs E(B-V) is, counted from 0.

    Raises
    ------
    ValueError
        For a budget or coefficient that is negative or not finite; from an attack, for images of
        another number of bands or a batch without E(B-V).

    References
    ----------
    Schlafly & Finkbeiner 2011 (arXiv:1012.4804), Table 6, R_V = 3.1.

    Examples
    --------
    >>> import torch
    >>> dust = ReddeningError(0.1, [4.0, 2.0])
    >>> x, ebv = torch.ones(1, 2, 1, 1), torch.tensor([0.25])
    >>> dust.apply(x, (ebv,), torch.ones(1, 1))[0].flatten()
    tensor([1.0965, 1.0471])
    """

    coefficients: Sequence[float]
    index: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        values = check_radius(self.coefficients, "coefficients")
        object.__setattr__(self, "coefficients", values if isinstance(values, tuple) else (values,))
        _one_number(self)

    @property
    @override
    def unit(self) -> str:
        return "E(B-V) (relative)"

    @override
    def count(self, x: Tensor) -> int:
        return 1

    @override
    def check(self, x: Tensor, context: Sequence[Tensor]) -> None:
        per_band(self.coefficients, x[:1], x.dtype)
        _ebv(context, self.index, self)

    @override
    def apply(self, x: Tensor, context: Context, p: Tensor) -> tuple[Tensor, Context]:
        ebv = _ebv(context, self.index, self).to(p.dtype).reshape(-1, 1)
        k = per_band(self.coefficients, x.flatten(2)[:, :, 0] if x.ndim > 2 else x, p.dtype)
        factor = (0.4 * math.log(10) * self.physical(p) * ebv * k).exp()
        return (x * _over_pixels(factor, x)).to(x.dtype), context


@dataclass(frozen=True)
class ReddeningInputError(Box):
    r"""A wrong scale of the dust map, for a network that is told E(B-V).

    .. math:: E(B-V) \leftarrow (1 + f)\, E(B-V), \qquad f = p\, f_{max}, \quad |p| \le 1

    The image stays as it is. A plain call of an attack returns images alone, and so refuses this
    set; ``find``, evaluation, training and `advphotoz.survey` take it.

    Parameters
    ----------
    budget : float
        :math:`f_{max}`, the largest relative error; 0.1 for ten per cent.
    index : int
        Which of the other inputs E(B-V) is, counted from 0.

    Raises
    ------
    ValueError
        For a budget that is negative or not finite; from an attack, for a batch without E(B-V).

    Examples
    --------
    >>> import torch
    >>> x, ebv = torch.ones(1, 2, 1, 1), torch.tensor([0.25])
    >>> ReddeningInputError(0.1).apply(x, (ebv,), torch.ones(1, 1))[1]
    (tensor([0.2750]),)
    """

    changes_context: ClassVar[bool] = True

    index: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_number(self)

    @property
    @override
    def unit(self) -> str:
        return "E(B-V) (relative)"

    @override
    def count(self, x: Tensor) -> int:
        return 1

    @override
    def check(self, x: Tensor, context: Sequence[Tensor]) -> None:
        _ebv(context, self.index, self)

    @override
    def apply(self, x: Tensor, context: Context, p: Tensor) -> tuple[Tensor, Context]:
        ebv = _ebv(context, self.index, self)
        factor = 1 + self.physical(p)[:, 0]
        changed = (ebv * factor.view(-1, *[1] * (ebv.ndim - 1))).to(ebv.dtype)
        return x, (*context[: self.index], changed, *context[self.index + 1 :])


def check_two_axes(x: Tensor, name: str) -> None:
    """Refuse what are no images (N, bands, height, width)."""
    if x.ndim != 4:
        raise ValueError(
            f"{name} needs images (N, bands, height, width), got the shape {tuple(x.shape)}"
        )


def _over_pixels(values: Tensor, x: Tensor) -> Tensor:
    """Return one number per band, (N, bands), in a shape that meets every pixel."""
    return values.view(*values.shape, *[1] * (x.ndim - 2))


def _one_number(perturbations: Box) -> None:
    if isinstance(perturbations.budget, Sequence):
        raise TypeError(
            f"{type(perturbations).__name__} has one budget, the relative error of E(B-V), got "
            f"{perturbations.budget}"
        )


def _ebv(context: Sequence[Tensor], index: int, perturbations: Box) -> Tensor:
    name = type(perturbations).__name__
    if not 0 <= index < len(context):
        raise ValueError(
            f"{name} needs E(B-V) as input {index} beside the image, and the batch holds "
            f"{len(context)} of them; yield (x, ebv, target)"
        )
    ebv = context[index]
    if not ebv.is_floating_point() or ebv[0:1].numel() > 1:
        raise ValueError(
            f"{name} needs one floating-point E(B-V) per galaxy, shape (N,), got {ebv.dtype} of "
            f"shape {tuple(ebv.shape)}"
        )
    return ebv
