"""Certified redshifts: an interval that no small change of the image can leave."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm
from typing_extensions import override

from advphotoz._checks import check_at_least_one, check_images, check_radius, check_rows
from advphotoz._model import check_model, untouched
from advphotoz._random import SampleGenerators, draw
from advphotoz._rounding import compute_dtype
from advphotoz.provenance import sample_digests
from advphotoz.redshift import Readout

__all__ = ["CertifiedRedshift", "MedianSmoothing", "certificate", "largest_provable_ratio"]

BLOCK = 32  # noisy images that are drawn at a time; part of what a seed means


@dataclass(frozen=True, eq=False)
class CertifiedRedshift:
    """Smoothed redshifts, and the intervals that a change of the images cannot leave.

    Attributes
    ----------
    redshift : Tensor, (N,)
        The median of the draws.
    low, high : Tensor, (N,)
        Ends of the interval; minus and plus infinity where nothing is proven.
    eps : float
        L2 norm of the change, in the units of the image.
    sigma : float
        Standard deviation of the noise.
    draws : int
        Number of noisy images per sample.
    confidence : float
        Probability per sample that its interval is right.
    """

    redshift: Tensor
    low: Tensor
    high: Tensor
    eps: float
    sigma: float
    draws: int
    confidence: float

    @property
    def proven(self) -> bool:
        """Whether there are intervals; it depends on eps / sigma, draws and confidence alone."""
        return _orders(self.draws, self.eps / self.sigma, self.confidence) is not None

    @override
    def __str__(self) -> str:
        from scipy import stats  # here: to import it takes half as long as torch

        given = (
            f"eps = {self.eps:g}, sigma = {self.sigma:g}, {self.draws} draws, confidence "
            f"{self.confidence:g}"
        )
        if self.proven:
            return (
                f"No change of the image with an L2 norm of at most {self.eps:g} moves the "
                f"smoothed median out of [low, high] ({given}, two-sided, per sample)."
            )
        limit = largest_provable_ratio(self.draws, self.confidence)
        below = stats.norm.cdf(-self.eps / self.sigma)
        wanted = math.log((1 - self.confidence) / 2) / math.log1p(-below) if below > 0 else math.inf
        more = f"at least {math.ceil(wanted)} draws" if wanted < 1e9 else "more draws than can be"
        return (
            f"Nothing is proven ({given}): eps / sigma is {self.eps / self.sigma:.3g}, and the "
            f"largest provable ratio is {limit:.3g}. Take a smaller eps, a larger sigma (and a "
            f"network that was trained under it), or {more}."
        )


class MedianSmoothing(nn.Module):
    r"""A network whose redshift is the median over Gaussian noise on the image, with a proof.

    .. math:: m(x) = \mathrm{median}\ g(x + \sigma\, n), \qquad n \sim \mathcal{N}(0, I)

    with g the redshift that the network predicts. For any g and any
    :math:`\|\delta\|_2 \le \varepsilon`

    .. math:: q_{\Phi(-\varepsilon / \sigma)} \le m(x + \delta) \le q_{\Phi(\varepsilon / \sigma)}

    where q are the quantiles of g at the unchanged x, under the noise. `certify` bounds them from
    draws. The noise is on the image alone; other inputs, such as E(B-V), stay, and the proof holds
    for them as they are.

    Called as ``model(x, *context)`` it returns the median of the draws, (N,): a model for
    ``evaluate(..., readout=PointEstimate())`` like any other. An attack on it is one on the
    smoothed network: the gradient is the mean of those of the middle half of the draws, an
    expectation over the noise that brings the median along.

    Parameters
    ----------
    network : torch.nn.Module
        Called as ``network(x, *context)``. One that has not been trained under noise of this size
        will answer badly.
    readout : Readout
        How its output becomes a redshift.
    sigma : float
        Standard deviation of the noise in every pixel, in the units of the image.
    draws : int
        Number of noisy images per sample, each a forward pass. A certificate wants 1,000, an attack
        or an evaluation makes do with 100.
    seed : int
        The noise of a sample depends on this seed and the sample (its SHA-256) alone, not on its
        batch. A sample that is changed gets another noise, as the proof assumes.
    batch_size : int
        Number of noisy images that are in memory at a time, at least 32; the result does not depend
        on it.

    Raises
    ------
    TypeError, ValueError
        For a network that is none, a sigma that is not positive, or a readout that is none.

    References
    ----------
    Chiang et al. 2020 (arXiv:2007.03730); Cohen et al. 2019 (arXiv:1902.02918) for classes; Salman
    et al. 2019 (arXiv:1906.04584) for attacks on smoothed networks.

    Examples
    --------
    >>> import torch
    >>> from advphotoz import PointEstimate
    >>> model = torch.nn.Linear(4, 1, bias=False)
    >>> model.weight.data = torch.full((1, 4), 0.05)  # no change of norm eps moves it further
    >>> smoothed = MedianSmoothing(model, PointEstimate(), sigma=0.2, draws=1000)
    >>> found = smoothed.certify(torch.ones(1, 4), eps=0.2, progress=False)
    >>> print(found)
    No change of the image with an L2 norm of at most 0.2 moves the smoothed median out of [low,
    high] (eps = 0.2, sigma = 0.2, 1000 draws, confidence 0.999, two-sided, per sample).
    >>> bool(found.low < 0.2 - 0.1 * 0.2) and bool(0.2 + 0.1 * 0.2 < found.high)
    True
    """

    def __init__(
        self,
        network: nn.Module,
        readout: Readout,
        sigma: float,
        draws: int = 1000,
        *,
        seed: int = 0,
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        self.network = check_model(network)
        if isinstance(readout, type) or not isinstance(readout, Readout):
            raise TypeError(
                "a readout says how the network's output becomes a redshift, such as "
                f"RedshiftBins(0, 1, 180) or PointEstimate(); got {readout!r}"
            )
        check_at_least_one(draws, "draws")
        if batch_size < BLOCK:
            raise ValueError(f"batch_size must be at least {BLOCK}, got {batch_size}")
        self.readout = readout
        self.sigma = _positive(sigma, "sigma")
        self.draws, self.seed, self.batch_size = draws, seed, batch_size

    @override
    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """Return the median redshift of each sample, (N,)."""
        z = self.samples(x, context)
        median = _middle(z)
        if not z.requires_grad:
            return median
        quarter = self.draws // 4
        half = z.sort(dim=1).values[:, quarter : self.draws - quarter].mean(1)
        return median.detach() + (half - half.detach())  # the value of one, the gradient of other

    def samples(
        self, x: Tensor, context: Sequence[Tensor] = (), shown: Callable[[int], Any] | None = None
    ) -> Tensor:
        """Return the redshift under every draw of the noise, (N, draws).

        Parameters
        ----------
        x : Tensor, (N, C, ...)
            The images.
        context : sequence of Tensor
            The other inputs.
        shown : callable, optional
            Told how many noisy images are done each time.
        """
        check_images(x)
        check_rows(x, {f"context[{i}]": value for i, value in enumerate(context)})
        digests = sample_digests([value.detach() for value in (x, *context)])
        rows = max(1, self.batch_size // BLOCK)
        found = []
        for first in range(0, len(x), rows):
            part = slice(first, first + rows)
            given = x[part], tuple(value[part] for value in context), digests[part]
            blocks = []
            for number in range(-(-self.draws // BLOCK)):
                blocks.append(self._block(*given, number))
                if shown is not None:
                    count = min(self.draws, (number + 1) * BLOCK) - number * BLOCK
                    shown(count * len(digests[part]))
            found.append(torch.cat(blocks, 1)[:, : self.draws])
        return torch.cat(found) if found else x.new_zeros(0, self.draws)

    def certify(
        self,
        x: Tensor,
        context: Sequence[Tensor] = (),
        *,
        eps: float,
        confidence: float = 0.999,
        progress: bool = True,
    ) -> CertifiedRedshift:
        """Return redshifts and the intervals that no change of L2 norm at most eps leaves.

        The network is in eval mode, and left as it was. For several eps draw once, with `samples`,
        and call `certificate` for each.

        Parameters
        ----------
        x : Tensor, (N, C, ...)
            The images, any number of them.
        context : sequence of Tensor
            The other inputs of the network.
        eps : float
            Largest L2 norm of a change, over all bands and pixels, in the units of the image. A
            change of e in each of d pixels has the norm e sqrt(d).
        confidence : float
            Probability, per sample, that the interval is right.
        progress : bool
            Show a progress bar, in noisy images.

        Raises
        ------
        ValueError, TypeError
            For an eps or a confidence that makes no sense, or images that are none.
        """
        _check_eps(eps)
        _check_confidence(confidence)
        total = len(x) * self.draws
        with (
            torch.no_grad(),
            untouched(self, x.device),
            tqdm(total=total, disable=not progress, desc="certify", unit="image") as bar,
        ):
            samples = self.samples(x, context, bar.update)
        return certificate(samples, self.sigma, eps, confidence)

    @override
    def extra_repr(self) -> str:
        return f"readout={self.readout!r}, sigma={self.sigma:g}, draws={self.draws}"

    def _block(
        self, x: Tensor, context: tuple[Tensor, ...], digests: Sequence[bytes], number: int
    ) -> Tensor:
        """Return redshifts (N, BLOCK) under one block of noise."""

        def redshifts(x: Tensor, *context: Tensor) -> Tensor:
            # Drawn anew in the backward pass too: a function of the seed, the sample and the block.
            generators = SampleGenerators(_seed(self.seed, number, each) for each in digests)
            shape, dtype = (len(x), BLOCK, *x.shape[1:]), compute_dtype(x)
            noise = draw(torch.randn, shape, generators, x.device, dtype)
            noisy = (x.to(dtype)[:, None] + self.sigma * noise).to(x.dtype).flatten(0, 1)
            others = (value.repeat_interleave(BLOCK, 0) for value in context)
            return self.readout.redshift(self.network(noisy, *others)).view(len(x), BLOCK)

        if not torch.is_grad_enabled():
            return redshifts(x, *context)
        # One block of activations is kept at a time, whatever the number of draws.
        found: Tensor = checkpoint(redshifts, x, *context, use_reentrant=False)
        return found


def certificate(
    samples: Tensor, sigma: float, eps: float, confidence: float = 0.999
) -> CertifiedRedshift:
    r"""Return medians of draws, and intervals that no change of L2 norm at most eps leaves.

    Of n draws in order the k-th is a lower bound of the quantile at
    :math:`p = \Phi(-\varepsilon / \sigma)` with the probability that at least k of n draws lie
    below it, :math:`P[B(n, p) \ge k]`; the largest k is taken for which this is at least
    :math:`1 - (1 - \mathrm{confidence}) / 2`, and the upper end likewise.

    Parameters
    ----------
    samples : Tensor, (N, draws)
        Redshifts under independent Gaussian noise on the image.
    sigma : float
        Standard deviation of that noise in every pixel.
    eps : float
        Largest L2 norm of a change.
    confidence : float
        Probability, per sample, that the interval is right.

    Notes
    -----
    The interval is for the exact median, that of infinitely many draws. The median of a few draws
    scatters around it.

    Examples
    --------
    >>> draws = 0.3 + 0.01 * torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    >>> found = certificate(draws, sigma=0.1, eps=0.1)
    >>> found.low, found.redshift, found.high
    (tensor([0.2885]), tensor([0.2999]), tensor([0.3123]))
    """
    _check_eps(eps)
    _check_confidence(confidence)
    ordered = samples.sort(dim=1).values
    draws = ordered.shape[1]
    orders = _orders(draws, eps / sigma, confidence)
    low = ordered.new_full((len(ordered),), -math.inf)
    high = ordered.new_full((len(ordered),), math.inf)
    if orders is not None:
        low, high = ordered[:, orders[0] - 1].clone(), ordered[:, orders[1] - 1].clone()
    given = float(eps), float(sigma), draws, float(confidence)
    return CertifiedRedshift(_middle(samples), low, high, *given)


def largest_provable_ratio(draws: int, confidence: float = 0.999) -> float:
    r"""Return the largest eps / sigma for which that many draws can prove anything.

    .. math:: \Phi(r)^n = (1 - \mathrm{confidence}) / 2

    Beyond it not even the smallest draw is a lower bound of the quantile. 0 where the draws are too
    few for eps = 0.

    Examples
    --------
    >>> round(largest_provable_ratio(1000), 2)
    2.43
    """
    from scipy import stats

    check_at_least_one(draws, "draws")
    _check_confidence(confidence)
    # From the other tail, which keeps its digits.
    ratio = stats.norm.isf(-math.expm1(math.log((1 - confidence) / 2) / draws))
    return max(float(ratio), 0.0)


def _orders(draws: int, ratio: float, confidence: float) -> tuple[int, int] | None:
    """Return which of the ordered draws, counted from 1, are the ends; None where none are."""
    from scipy import stats

    below = stats.norm.cdf(-ratio)
    # The smallest k with P[B <= k] of at least the error; of k - 1 it is less.
    k = int(stats.binom.ppf((1 - confidence) / 2, draws, below))
    return (k, draws + 1 - k) if k >= 1 else None


def _middle(z: Tensor) -> Tensor:
    """Return the median of each row: the mean of the two in the middle of an even number."""
    ordered, n = z.sort(dim=1).values, z.shape[1]
    return (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2


def _seed(seed: int, number: int, digest: bytes) -> int:
    """Return what a block of noise is drawn from; hashed, so that no two seeds share a block."""
    mixed = hashlib.sha256(f"{seed} {number} ".encode() + digest).digest()
    return int.from_bytes(mixed[:7], "big")


def _positive(value: Any, name: str) -> float:
    radius = check_radius(value, name)
    if isinstance(radius, tuple) or radius <= 0:
        raise ValueError(f"{name} must be one positive number, got {value!r}")
    return radius


def _check_eps(eps: float) -> None:
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be finite and not negative, got {eps}")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}")
