"""The augmentation of the paper: random flips and quarter turns."""

from __future__ import annotations

import torch
from torch import Tensor

from advphotoz._arrays import check_unmasked

__all__ = ["random_dihedral"]


def random_dihedral(x: Tensor, generator: torch.Generator | None = None) -> Tensor:
    r"""Rotate and mirror each image of a batch by a random symmetry of the square.

    The symmetries are the dihedral group :math:`D_4`, rotations by 0, 90, 180 and 270 degrees
    with or without a mirror, drawn with equal probability: the horizontal and vertical flips and
    rotations of the paper (arXiv:2002.10154, Section 3). Pixels move and keep their values.

    Parameters
    ----------
    x
        Images of shape (N, C, H, H), any dtype.
    generator
        Where the draws come from; None means torch's global generator.

    Returns
    -------
    Tensor
        New images of x's shape, dtype, device and memory format.

    Raises
    ------
    TypeError
        If x is no tensor, or generator no generator.
    ValueError
        If x has another rank, or images that are not square: a quarter turn would change
        their shape.

    Examples
    --------
    >>> x = torch.arange(8.0).reshape(2, 1, 2, 2)
    >>> y = random_dihedral(x, torch.Generator().manual_seed(0))
    >>> y.sum(dim=(1, 2, 3))
    tensor([ 6., 22.])
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"x must be a torch.Tensor, got {type(x).__name__}; convert it with torch.tensor(x)"
        )
    check_unmasked(x, "x")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}")
    if x.ndim != 4:
        raise ValueError(f"x must have the shape (N, C, H, H), got {tuple(x.shape)}")
    if x.shape[2] != x.shape[3]:
        raise ValueError(
            f"x must hold square images, since a quarter turn swaps height and width, "
            f"got {x.shape[2]} x {x.shape[3]}; crop or pad them"
        )
    device = x.device if generator is None else generator.device
    element = torch.randint(8, (len(x),), generator=generator, device=device).to(x.device)
    y = torch.empty_like(x)
    for turns in range(4):
        for mirrored in (False, True):
            rows = (element == 2 * turns + mirrored).nonzero(as_tuple=True)[0]
            image = torch.rot90(x[rows], turns, dims=(2, 3))
            y[rows] = image.flip(3) if mirrored else image
    return y
