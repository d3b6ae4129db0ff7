"""Flips and quarter turns: all eight symmetries, one draw per sample, nothing else changed."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from advphotoz.datasets import random_dihedral


def symmetries(image: Tensor) -> list[Tensor]:
    """Return the eight images of (C, H, H), written without rot90: transpose and reverse."""
    out = []
    for base in (image, image.transpose(1, 2)):
        out += [base, base.flip(1), base.flip(2), base.flip(1).flip(2)]
    return out


def test_all_eight_symmetries_appear_equally_often() -> None:
    image = torch.arange(9.0).reshape(1, 3, 3)
    names = {tuple(s.flatten().tolist()): k for k, s in enumerate(symmetries(image))}
    n = 8000
    y = random_dihedral(image.expand(n, 1, 3, 3), torch.Generator().manual_seed(3))
    counts = Counter(names[tuple(sample.flatten().tolist())] for sample in y)
    assert set(counts) == set(range(8))
    # Multinomial: 1000 expected of each, standard deviation 30.
    assert all(abs(count - n / 8) < 4.5 * 30 for count in counts.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_output_is_one_symmetry_of_its_own_input(
    dtype: torch.dtype, layout: torch.memory_format
) -> None:
    x = torch.randn(40, 3, 5, 5).to(dtype).contiguous(memory_format=layout)
    before = x.clone()
    y = random_dihedral(x, torch.Generator().manual_seed(1))
    for image, turned in zip(x, y, strict=True):
        assert any(torch.equal(turned, s) for s in symmetries(image))
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=layout)
    assert torch.equal(x, before)


def test_pixels_are_moved_and_kept() -> None:
    x = torch.randn(16, 5, 8, 8)
    y = random_dihedral(x, torch.Generator().manual_seed(1))
    assert torch.equal(y.flatten(2).sort().values, x.flatten(2).sort().values)


def test_generator_decides_and_global_state_stays() -> None:
    x = torch.randn(32, 1, 4, 4)
    state = torch.get_rng_state()
    first = random_dihedral(x, torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, random_dihedral(x, torch.Generator().manual_seed(5)))
    assert not torch.equal(first, random_dihedral(x, torch.Generator().manual_seed(6)))
    torch.manual_seed(9)
    free = random_dihedral(x)
    torch.manual_seed(9)
    assert torch.equal(free, random_dihedral(x))


def test_images_that_are_not_square_are_refused() -> None:
    with pytest.raises(ValueError, match=r"square images.*got 4 x 5"):
        random_dihedral(torch.zeros(2, 1, 4, 5))
    with pytest.raises(ValueError, match=r"\(N, C, H, H\), got \(4, 4\)"):
        random_dihedral(torch.zeros(4, 4))
