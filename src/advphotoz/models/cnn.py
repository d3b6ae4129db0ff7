"""The small convolutional network of Campagne 2020 (Table A2)."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

from advphotoz._checks import check_at_least_one
from advphotoz.models.fused import AveragePool2x2
from advphotoz.models.layers import append_ebv, check_inputs, check_width, initialise, scaled

__all__ = ["CNN", "cnn"]


class CNN(nn.Module):
    """Convolutional network: image cube and E(B-V) in, logits on the redshift bins out.

    See :func:`cnn` for the arguments.
    """

    def __init__(
        self,
        n_bands: int = 5,
        image_size: int = 64,
        n_bins: int = 180,
        width: float = 1.0,
        stretch: nn.Module | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("n_bands", n_bands), ("image_size", image_size), ("n_bins", n_bins)):
            check_at_least_one(value, name)
        w = check_width(width)
        self.n_bands, self.image_size = n_bands, image_size
        # The last convolution and pooling make 10 of 64 pixels; ceil mode keeps an odd last one.
        size = -(-image_size // 2)
        size = -(-(size + 2) // 2)
        size = -(-(size + 2) // 2)
        self.stretch = stretch
        self.conv0 = nn.Conv2d(n_bands, scaled(64, w), 5, padding=2)
        self.pool0 = AveragePool2x2()
        self.conv1 = nn.Conv2d(scaled(64, w), scaled(92, w), 3, padding=2)
        self.pool1 = AveragePool2x2()
        self.conv2 = nn.Conv2d(scaled(92, w), scaled(128, w), 3, padding=2)
        self.pool2 = AveragePool2x2()
        self.fc0 = nn.Linear(scaled(128, w) * size**2 + 1, scaled(1024, w))  # and ebv
        self.fc1 = nn.Linear(scaled(1024, w), n_bins)
        initialise(self)

    @override
    def forward(self, image: Tensor, ebv: Tensor) -> Tensor:
        """Return logits (N, n_bins) of an image (N, n_bands, size, size) and ebv (N,) or (N, 1)."""
        check_inputs(image, ebv, self.n_bands, self.image_size)
        if self.stretch is not None:
            image = self.stretch(image)
        x = self.pool0(self.conv0(image).relu())
        x = self.pool1(self.conv1(x).relu())
        x = self.pool2(self.conv2(x).relu())
        x = self.fc0(append_ebv(x, ebv)).relu()
        logits: Tensor = self.fc1(x)
        return logits


def cnn(
    n_bands: int = 5,
    image_size: int = 64,
    n_bins: int = 180,
    width: float = 1.0,
    stretch: nn.Module | None = None,
) -> CNN:
    """Build the paper's simple CNN, Campagne 2020 (arXiv:2002.10154), Table A2.

    With the defaults 13,461,008 parameters; plain ReLU everywhere. Poolings use ceil mode (the
    paper's 19 -> 10 needs it): the last window of an odd side averages the pixels that exist.
    Weights start Xavier uniform, biases at 0.1 (Sec. 2).

    Parameters
    ----------
    n_bands, image_size : int
        Shape of the images, (n_bands, image_size, image_size); any size, odd ones too.
    n_bins : int
        Number of redshift bins, and of logits.
    width : float
        Factor on every number of channels and features but n_bands and n_bins.
    stretch : Module, optional
        Put before the first layer, such as :class:`AsinhStretch`. None: pixels as they are, as in
        the paper.

    Returns
    -------
    CNN
        ``model(image, ebv) -> logits``.

    Raises
    ------
    TypeError, ValueError
        If a count is not an integer of at least 1 or width is not positive; when called, if image
        or ebv do not fit.

    Examples
    --------
    >>> import torch
    >>> model = cnn(n_bands=4, image_size=23, width=0.1)
    >>> model(torch.zeros(2, 4, 23, 23), torch.zeros(2)).shape
    torch.Size([2, 180])
    """
    return CNN(n_bands, image_size, n_bins, width, stretch)
