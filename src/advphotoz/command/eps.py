"""The size of a change as it is typed: in the units of the image, or of the noise of the sky."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from torch import Tensor

from advphotoz.datasets import sky_noise

__all__ = ["Size", "size"]

SIGMA = "sigma"


@dataclass(frozen=True)
class Size:
    """Numbers, one for all bands or one per band, and whether they are sky sigmas."""

    numbers: tuple[float, ...]
    in_sigma: bool

    def of(self, images: Tensor) -> float | list[float]:
        """Return a number, or one per band, in the units of the images, which tell the sky's noise.

        Raises
        ------
        ValueError
            If there are neither one nor as many numbers as bands, or the sky cannot be told.
        """
        bands = images.shape[1]
        if len(self.numbers) not in (1, bands):
            raise ValueError(
                f"a size must be one number or one for each of {bands} bands, separated by commas, "
                f"got {len(self.numbers)}"
            )
        if not self.in_sigma:
            return self.numbers[0] if len(self.numbers) == 1 else list(self.numbers)
        each = self.numbers * (bands if len(self.numbers) == 1 else 1)
        return [float(k * sigma) for k, sigma in zip(each, sky_noise(images), strict=True)]

    def __str__(self) -> str:
        return ", ".join(f"{number:g}" for number in self.numbers) + f" {SIGMA}" * self.in_sigma


def size(text: str) -> Size:
    """Read ``0.01``, ``0.01,0.02,0.02,0.03,0.1`` or ``0.4sigma``; an option's type."""
    in_sigma = text.endswith(SIGMA)
    try:
        numbers = tuple(float(part) for part in text.removesuffix(SIGMA).split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size: write 0.01 (units of the image), one per band as 0.01,0.02,... "
            f"or 0.4{SIGMA} (of the noise of the sky)"
        ) from None
    if not all(0 <= number < float("inf") for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} must be of finite numbers, not negative")
    return Size(numbers, in_sigma)
