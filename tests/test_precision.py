"""The recipe for precise networks: stretch, soft labels, and the reference on apertures."""

from __future__ import annotations

import math

import pytest
import scipy.stats
import torch
from torch import nn

from advphotoz import FGSM, CrossEntropy, LinfBall, RedshiftBins, models
from advphotoz.models import AperturePerceptron, AsinhStretch
from advphotoz.models.apertures import SDSS_EXTINCTION

SKY = (0.043, 0.016, 0.023, 0.039, 0.18)
BINS = RedshiftBins(0.0, 1.0, 180)


def test_the_stretch_is_asinh_in_units_of_the_noise_per_band() -> None:
    x = 10 * torch.randn(3, 5, 4, 4, dtype=torch.float64)
    expected = torch.stack([torch.asinh(x[:, b] / (7 * SKY[b])) for b in range(5)], 1)
    torch.testing.assert_close(AsinhStretch(SKY, 7)(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pixel", [0.0, -0.01, -3.0, 1e-6, 5e3, -5e3])
def test_the_gradient_of_the_stretch_at_any_pixel(pixel: float) -> None:
    x = torch.full((1, 5, 1, 1), pixel, requires_grad=True)
    AsinhStretch(SKY, 10)(x).sum().backward()
    expected = [1 / math.hypot(pixel, 10 * noise) for noise in SKY]
    torch.testing.assert_close(x.grad.flatten(), torch.tensor(expected), rtol=1e-5, atol=0)


@pytest.mark.parametrize("builder", [models.cnn, models.inception])
def test_a_network_with_a_stretch_is_the_network_of_stretched_images(builder) -> None:
    x, ebv = torch.randn(2, 5, 16, 16), torch.rand(2)
    torch.manual_seed(1)
    plain = builder(image_size=16, width=0.1)
    torch.manual_seed(1)
    stretched = builder(image_size=16, width=0.1, stretch=AsinhStretch(SKY))
    torch.testing.assert_close(stretched(x, ebv), plain(AsinhStretch(SKY)(x), ebv))
    assert not torch.allclose(stretched(x, ebv), plain(x, ebv))
    counts = [sum(p.numel() for p in network.parameters()) for network in (plain, stretched)]
    assert counts[0] == counts[1]
    assert set(plain.state_dict()) | {"stretch.scale"} == set(stretched.state_dict())


def test_attacks_go_through_the_stretch_and_keep_the_units_of_the_image() -> None:
    model = models.cnn(image_size=8, n_bins=BINS.n, width=0.1, stretch=AsinhStretch(SKY))
    x, z = torch.randn(4, 5, 8, 8), torch.rand(4)
    x_adv = FGSM(0.01, objective=CrossEntropy(BINS))(model, x, z, (torch.rand(4),))
    norm = LinfBall(0.01).norm(x_adv.double() - x.double())
    assert bool((norm <= 0.01).all())
    assert bool((norm > 0.0099).all())


@pytest.mark.parametrize(
    ("noise", "softening"), [(0.0, 10), ([0.1, 0.0], 10), (0.1, 0), (0.1, math.inf), (-0.1, 1)]
)
def test_a_stretch_of_nothing_is_refused(noise, softening) -> None:
    with pytest.raises(ValueError, match="positive|negative"):
        AsinhStretch(noise, softening)


def test_a_stretch_refuses_other_bands() -> None:
    with pytest.raises(ValueError, match="each of 5 bands, but the images have 4"):
        AsinhStretch(SKY)(torch.zeros(1, 4, 2, 2))


@pytest.mark.parametrize("z", [0.0, 0.001, 0.1, 0.5, 0.9999, 1.0])
@pytest.mark.parametrize("width", [1e-4, 0.008, 0.3])
def test_soft_labels_are_the_gaussian_on_the_grid(z: float, width: float) -> None:
    logits = torch.randn(1, BINS.n, dtype=torch.float64)
    share = scipy.stats.norm.cdf(BINS.edges.numpy(), loc=z, scale=width)
    label = share[1:] - share[:-1]
    label /= label.sum()
    expected = -(label * logits.log_softmax(1)[0].numpy()).sum()
    target = torch.tensor([z], dtype=torch.float64)
    found = CrossEntropy(BINS, width=width)(logits, target)
    torch.testing.assert_close(found, torch.tensor([expected]), rtol=1e-9, atol=1e-9)


def test_soft_labels_tend_to_the_hard_ones() -> None:
    logits, z = torch.randn(20, BINS.n), BINS.centers[::9].float()
    hard = CrossEntropy(BINS)(logits, z)
    torch.testing.assert_close(CrossEntropy(BINS, width=1e-5)(logits, z), hard)
    assert not torch.allclose(CrossEntropy(BINS, width=0.01)(logits, z), hard)


@pytest.mark.parametrize("width", [-0.1, math.nan, math.inf])
def test_a_width_that_is_none_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        CrossEntropy(BINS, width=width)


def test_aperture_magnitudes_of_a_gaussian_galaxy() -> None:
    # A Gaussian of width s has the mean flux F s^2 / (s^2 + w^2) ... in an aperture of width w,
    # divided by the area of the aperture.
    size, s, w = 33, 2.0, 3.0
    axis = torch.arange(size, dtype=torch.float64) - 16
    square = axis.square()[:, None] + axis.square()
    galaxy = 50 * torch.exp(-square / (2 * s**2)) / (2 * math.pi * s**2)
    model = AperturePerceptron(SKY, image_size=size, widths=[w])
    x = galaxy.float().expand(1, 5, size, size)
    flux = 50 / (2 * math.pi * (s**2 + w**2))
    noise = torch.tensor(SKY) / (math.sqrt(4 * math.pi) * w)
    ebv = torch.tensor([0.3])
    reddening = 0.4 * math.log(10) * torch.tensor(SDSS_EXTINCTION) * 0.3
    expected = torch.asinh(flux / (2 * noise)) + reddening
    torch.testing.assert_close(model.magnitudes(x, ebv)[0, :, 0], expected, rtol=1e-3, atol=1e-3)


def test_an_error_in_every_pixel_changes_an_aperture_flux_by_no_more() -> None:
    model = AperturePerceptron(SKY, image_size=32)
    delta = 0.01 * torch.randn(50, 5, 32, 32).sign()
    flux = delta.flatten(2) @ model.weights.T
    assert float(flux.abs().max()) <= 0.01 * (1 + 1e-6)
    torch.testing.assert_close(model.weights.sum(1), torch.ones(3))


def test_dereddening_makes_the_magnitudes_of_a_reddened_galaxy_those_of_the_plain_one() -> None:
    model = AperturePerceptron(SKY, image_size=32)
    bright = 100 * torch.rand(2, 5, 32, 32) + 50
    ebv = torch.tensor([0.1, 0.4])
    dimming = 10 ** (-0.4 * torch.tensor(SDSS_EXTINCTION) * ebv[:, None])
    reddened = bright * dimming[..., None, None]
    torch.testing.assert_close(
        model.magnitudes(reddened, ebv), model.magnitudes(bright, torch.zeros(2)), rtol=0, atol=1e-3
    )


def test_mixed_precision_leaves_the_photometry_alone() -> None:
    model = AperturePerceptron(SKY, image_size=16).eval()
    x, ebv = 3 + torch.rand(4, 5, 16, 16), torch.rand(4)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.magnitudes(x, ebv)
    torch.testing.assert_close(found, model.magnitudes(x, ebv), rtol=0, atol=0)


def test_apertures_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="one number per band"):
        AperturePerceptron(SKY[:4])
    with pytest.raises(ValueError, match="positive"):
        AperturePerceptron([0.0] * 5)
    model: nn.Module = AperturePerceptron(SKY, image_size=16)
    with pytest.raises(ValueError, match="images must be"):
        model(torch.zeros(1, 5, 8, 8), torch.zeros(1))
