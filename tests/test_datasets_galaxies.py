"""The physics of the simulated galaxies, against what is known in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from advphotoz.datasets.simulation.drawing import draw_row, draw_sources
from advphotoz.datasets.simulation.observing import Conditions, draw_conditions
from advphotoz.datasets.simulation.population import (
    FLOOR,
    Galaxy,
    Source,
    draw_galaxy,
    draw_neighbours,
    draw_photometry,
)
from advphotoz.datasets.simulation.sdss import (
    NMGY_PER_ELECTRON,
    PIXEL,
    PSF_FWHM,
    SKY_SIGMA,
    asinh_magnitude,
    asinh_magnitude_error,
    pixel_sigma,
)
from advphotoz.datasets.simulation.spectra import (
    DEVIATES_AT,
    DEVIATION,
    REST,
    band_flux,
    blackbody,
    deviation,
    tables,
    template,
    with_emission_lines,
)

pytest.importorskip("galsim", reason="simulated galaxies need the extra `sim`")

PAPER_SKY = [0.043, 0.016, 0.023, 0.039, 0.18]


@pytest.fixture(scope="module")
def galaxies() -> list[Galaxy]:
    return [draw_galaxy(np.random.default_rng(k), 17.8) for k in range(2000)]


def test_source_keeps_its_flux_on_a_large_stamp() -> None:
    flux = np.array([1.0, 20.0, 50.0, 70.0, 90.0])
    for sersic, radius, expected in ((0, 0.0, 1.0), (1, 1.5, 1.0), (4, 0.8, 1.0)):
        cube = draw_sources([Source(flux, sersic, radius, 0.6, 30.0)], Conditions(), 256)
        np.testing.assert_allclose(cube.sum((1, 2)) / flux, expected, rtol=5e-3)


def test_moffat_point_source_has_its_closed_form_growth_curve_and_width() -> None:
    cube = draw_sources([Source(np.ones(5), 0)], Conditions(), 129)
    y, x = (np.indices((129, 129)) - 64) * PIXEL
    for image, fwhm in zip(cube, PSF_FWHM, strict=True):
        beta = 3.5
        alpha = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
        exact = (beta - 1) / (np.pi * alpha**2) * (1 + (x**2 + y**2) / alpha**2) ** -beta
        np.testing.assert_allclose(image, exact * PIXEL**2, atol=4e-3 * image.max())


def test_sources_add_up_and_sit_where_they_are_told() -> None:
    a, b = Source(np.ones(5), 0, x=4.0), Source(np.ones(5), 1, 1.0, y=-6.0)
    both = draw_sources([a, b], Conditions(), 64)
    apart = draw_sources([a], Conditions(), 64) + draw_sources([b], Conditions(), 64)
    np.testing.assert_allclose(both, apart, atol=2e-4)
    y, x = (np.indices((64, 64)) - 31.5) * PIXEL
    only = draw_sources([b], Conditions(), 64)[2]
    assert (only * x).sum() / only.sum() == pytest.approx(0, abs=0.05)
    assert (only * y).sum() / only.sum() == pytest.approx(-6, abs=0.1)


def test_empty_sky_has_the_noise_of_the_paper() -> None:
    """The emptiest quarter of each stamp, by the noiseless image, has the stated noise."""
    noise = []
    for k in range(6):
        row = draw_row(5, k, 17.8, 64)
        corner = row["image"][:, :12, :12]  # far from the galaxy; a median ignores neighbours
        noise.append(corner - np.median(corner, axis=(1, 2), keepdims=True))
    sigma = 1.4826 * np.median(np.abs(np.stack(noise, 1)), axis=(1, 2, 3))
    # 864 pixels: the MAD of a Gaussian is known to 1.17 / sqrt(2 * 864) * sqrt(1.36) = 4 %.
    np.testing.assert_allclose(sigma, PAPER_SKY, rtol=0.13)


def test_noise_of_a_pixel_in_closed_form() -> None:
    empty = pixel_sigma(np.zeros((5, 2, 2)))
    np.testing.assert_allclose(empty[:, 0, 0], PAPER_SKY)
    bright = pixel_sigma(np.full((5, 1, 1), 1e6))[:, 0, 0]
    # Photons alone: f / sigma = sqrt(number of electrons).
    np.testing.assert_allclose(1e6 / bright, np.sqrt(1e6 / NMGY_PER_ELECTRON), rtol=1e-3)
    np.testing.assert_allclose(pixel_sigma(np.zeros(5), n_pixels=25.0), 5 * np.array(PAPER_SKY))


def test_noise_is_gaussian_with_that_sigma(monkeypatch: pytest.MonkeyPatch) -> None:
    """One galaxy drawn with and without noise: the difference over sigma is a unit normal."""
    from advphotoz.datasets.simulation import drawing

    sky = 1.3 * SKY_SIGMA
    monkeypatch.setattr(drawing, "draw_conditions", lambda rng: Conditions(sky=sky))
    noisy = draw_row(5, 1, 17.8, 64)["image"]
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "pixel_sigma", lambda image, sky: np.zeros_like(image))
        clean = draw_row(5, 1, 17.8, 64)["image"]
    pull = (noisy - clean) / pixel_sigma(clean, sky)
    n = pull[0].size
    assert np.abs(pull.mean((1, 2))).max() < 4.5 / np.sqrt(n)
    assert np.abs(pull.std((1, 2)) - 1).max() < 4.5 / np.sqrt(2 * n)


def test_catalogue_agrees_with_the_pixels() -> None:
    """Light in the stamp is at most the catalogue's, and nearly all of it for small galaxies."""
    checked = 0
    for k in range(40):
        galaxy = draw_galaxy(np.random.default_rng(k), 17.8)
        if galaxy.disk.radius > 3 or galaxy.disk.axis_ratio < 0.4:
            continue
        cube = draw_sources([galaxy.bulge, galaxy.disk], Conditions(), 64)
        share = cube.sum((1, 2)) / galaxy.flux
        assert (share < 1.005).all()
        assert (share > 0.90).all()
        checked += 1
    assert checked > 5


def test_redshift_and_magnitude_ranges(galaxies: list[Galaxy]) -> None:
    z = np.array([g.z for g in galaxies])
    assert 0 < z.min() < 0.02
    assert 0.2 < z.max() < 0.5
    assert 0.08 < np.median(z) < 0.12
    # Light is dimmed by A_r = 2.2 E(B-V); before that, the sample ends at r = 17.8.
    r = np.array([22.5 - 2.5 * np.log10(g.flux[2]) - 2.22 * g.ebv for g in galaxies])
    assert r.max() < 17.83
    assert np.mean(r > 17.3) > 0.3
    assert all(0 < g.ebv <= 0.3 for g in galaxies)


def test_reddening_law() -> None:
    """F99 with R_V = 3.1 on the scale of Schlafly & Finkbeiner 2011: their Table 6 for SDSS."""
    spectrum = template(0)
    extinction = -2.5 * np.log10(band_flux(spectrum, 0.0, 0.1) / band_flux(spectrum, 0.0, 0.0))
    np.testing.assert_allclose(extinction / 0.1, [4.239, 3.303, 2.285, 1.698, 1.263], rtol=0.05)
    assert (np.diff(extinction) < 0).all()  # blue light suffers more


def test_flat_spectrum_has_no_colour() -> None:
    """AB magnitudes: constant f_nu, f_lambda ~ lambda^-2, is equally bright in every band."""
    flux = band_flux(-2 * np.log(REST), 0.0, 0.0)
    np.testing.assert_allclose(flux, flux[0], rtol=1e-4)


def test_redshift_moves_a_spectrum_and_keeps_powers() -> None:
    """A power law f_lambda ~ lambda^p is seen as (lambda / (1+z))^p: no change of colour."""
    near, far = (band_flux(-1.3 * np.log(REST), z, 0.0) for z in (0.0, 0.2))
    np.testing.assert_allclose(far / near, 1.2**1.3, rtol=1e-3)


def test_templates_and_stars_have_sensible_colours() -> None:
    g_minus_r = [
        -2.5 * np.log10(flux[1] / flux[2])
        for flux in (band_flux(template(t), 0.05, 0.0) for t in (0.0, 0.5, 1.0, 2.0, 3.0))
    ]
    assert (np.diff(g_minus_r) < 0).all()
    hot, cool = (band_flux(blackbody(t), 0.0, 0.0) for t in (7000.0, 3500.0))
    assert -2.5 * np.log10(hot[1] / hot[2]) < 0.5 < -2.5 * np.log10(cool[1] / cool[2])


def test_asinh_magnitudes() -> None:
    np.testing.assert_allclose(
        asinh_magnitude(np.full(5, 100.0)), 22.5 - 2.5 * np.log10(100.0), atol=1e-4
    )
    assert np.isfinite(asinh_magnitude(np.full(5, -3.0))).all()
    flux, sigma = np.full(5, 3.0), np.full(5, 0.1)
    slope = (asinh_magnitude(flux - 1e-6) - asinh_magnitude(flux + 1e-6)) / 2e-6
    np.testing.assert_allclose(asinh_magnitude_error(flux, sigma), slope * sigma, rtol=1e-5)


def test_magnitudes_scatter_by_their_errors(galaxies: list[Galaxy]) -> None:
    pulls = []
    for k, galaxy in enumerate(galaxies):
        mag, error = draw_photometry(np.random.default_rng(k), galaxy, Conditions())
        pulls.append((mag - asinh_magnitude(galaxy.flux)) / error)
    pulls_array = np.array(pulls)
    assert np.abs(pulls_array.mean(0)).max() < 0.15
    assert np.abs(pulls_array.std(0) - 1).max() < 0.15


def test_calibration_and_sky_move_magnitudes_and_errors_have_a_floor() -> None:
    source = Source(np.full(5, 1e6), 1.0, 2.0)
    galaxy = Galaxy(0.1, 0.0, source, source)
    _, error = draw_photometry(np.random.default_rng(0), galaxy, Conditions())
    np.testing.assert_allclose(error, 2.5 / np.log(10) * FLOOR, rtol=0.05)
    moved = Conditions(calibration=np.full(5, 1.1), residual=SKY_SIGMA)
    (plain, _), (other, _) = (
        draw_photometry(np.random.default_rng(0), galaxy, c) for c in (Conditions(), moved)
    )
    np.testing.assert_allclose(plain - other, 2.5 * np.log10(1.1), atol=1e-3)
    faint = Galaxy(0.1, 0.0, Source(np.zeros(5), 1.0, 2.0), Source(np.ones(5), 1.0, 2.0))
    (plain, _), (other, _) = (
        draw_photometry(np.random.default_rng(0), faint, Conditions(residual=k * SKY_SIGMA))
        for k in (0, 100)
    )
    # 6 pi s^2 pixels, s^2 of the profile and of the point-spread function.
    n_pixels = 6 * np.pi * ((PSF_FWHM / 2.355) ** 2 + (2.0 / 1.177) ** 2) / PIXEL**2
    more = (10 ** (-0.4 * other) - 10 ** (-0.4 * plain)) * 10**9
    np.testing.assert_allclose(more, 100 * SKY_SIGMA * n_pixels, rtol=0.02)


def test_conditions_reach_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    from advphotoz.datasets.simulation import drawing

    monkeypatch.setattr(drawing, "pixel_sigma", lambda image, sky: np.zeros_like(image))

    def stamp(conditions: Conditions) -> np.ndarray:
        monkeypatch.setattr(drawing, "draw_conditions", lambda rng: conditions)
        return draw_row(5, 1, 17.8, 24)["image"]

    plain = stamp(Conditions())
    factor, level = np.linspace(0.9, 1.1, 5), np.linspace(-0.1, 0.3, 5)
    moved = stamp(Conditions(calibration=factor, residual=level))
    np.testing.assert_allclose(
        moved, plain * factor[:, None, None] + level[:, None, None], rtol=1e-4, atol=1e-5
    )


def test_conditions_scatter_as_stated() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_conditions(rng) for _ in range(2000)]
    sky = np.log([c.sky / SKY_SIGMA for c in drawn])
    np.testing.assert_allclose(sky.std(0), 0.1, rtol=0.08)  # 0.08 together, 0.06 alone
    assert np.corrcoef(sky.T)[0, 1:] == pytest.approx(0.64, abs=0.06)
    residual = np.array([c.residual / c.sky for c in drawn])
    np.testing.assert_allclose(residual.std(0), 0.04, rtol=0.08)
    zero_point = -2.5 * np.log10([c.calibration for c in drawn])
    np.testing.assert_allclose(zero_point.std(0), [0.02, 0.01, 0.01, 0.01, 0.01], rtol=0.08)
    shear = np.array([c.shear for c in drawn])
    np.testing.assert_allclose(shear.std(0), np.hypot(0.02, 0.01), rtol=0.08)
    assert {c.beta for c in drawn} == {2.5, 3.5}


def test_wing_and_shear_of_a_point_in_closed_form() -> None:
    """Two Moffat profiles; a shear g turns the circle r into an ellipse of axes 1 +- g."""
    wing, g = 0.2, 0.1
    shear = np.tile([g, 0.0], (5, 1))
    cube = draw_sources([Source(np.ones(5), 0)], Conditions(wing=wing, shear=shear), 129)
    y, x = (np.indices((129, 129)) - 64) * PIXEL
    r2 = (x**2 * (1 - g) / (1 + g)) + y**2 * (1 + g) / (1 - g)
    for image, fwhm in zip(cube, PSF_FWHM, strict=True):
        exact = np.zeros_like(r2)
        for part, width in ((1 - wing, fwhm), (wing, 3 * fwhm)):
            alpha = width / (2 * np.sqrt(2 ** (1 / 3.5) - 1))
            exact += part * 2.5 / (np.pi * alpha**2) * (1 + r2 / alpha**2) ** -3.5
        np.testing.assert_allclose(image, exact * PIXEL**2, atol=4e-3 * image.max())


def test_emission_lines_have_their_equivalent_widths() -> None:
    """On a flat continuum the light added is the equivalent width times the flux ratios."""
    flat = np.full_like(REST, np.log(3.0))
    added = (np.exp(with_emission_lines(flat, 40.0, 0.6, 0.3)) - 3.0) * 5.0 / 3.0  # 5 A grid
    for low, high, ratio in (
        (3600, 3850, 0.5),
        (4800, 4910, 0.25),
        (4910, 5100, 0.6 * 4 / 3),
        (6450, 6650, 1.0 + 0.3 * 4 / 3),
        (6660, 6800, 0.35),
    ):
        assert added[(low < REST) & (high > REST)].sum() == pytest.approx(40 * ratio, rel=0.01)
    # Relative to the continuum at H alpha, wherever the line is.
    blue = -2.0 * np.log(REST / 6563)
    line = np.exp(with_emission_lines(blue, 40.0, 0.0, 0.0)) - np.exp(blue)
    assert line[(REST > 3600) & (REST < 3850)].sum() * 5 == pytest.approx(20, rel=0.01)


def test_templates_scatter_as_stated_and_smoothly() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([deviation(rng) for _ in range(4000)])
    at = np.array([np.abs(REST - knot).argmin() for knot in DEVIATES_AT])
    # Amplitudes are lognormal with sigma 0.4: the rms is exp(0.4^2) times the median.
    rms = np.sqrt((drawn[:, at] ** 2).mean(0))
    np.testing.assert_allclose(rms, DEVIATION * np.exp(0.16), rtol=0.12)
    correlation = np.corrcoef(drawn[:, at].T) - np.eye(len(at))
    assert np.abs(correlation).max() < 0.1  # the knots are independent
    middle = np.interp(np.log(5800.0), np.log(DEVIATES_AT), np.arange(len(at)))
    k, w = int(middle), middle % 1
    np.testing.assert_allclose(
        drawn[:, (REST == 5800).argmax()],
        (1 - w) * drawn[:, at[k]] + w * drawn[:, at[k + 1]],
        atol=1e-3,
    )


def test_neighbours_are_as_many_as_stated() -> None:
    rng = np.random.default_rng(0)
    fields = [draw_neighbours(rng, 0.03, 25.0) for _ in range(400)]
    expected = 9 * (25 / 60) ** 2
    assert np.mean([len(f) for f in fields]) == pytest.approx(
        expected, abs=4.5 * np.sqrt(expected / 400)
    )
    sources = [source for field in fields for source in field]
    r = np.array([22.5 - 2.5 * np.log10(s.flux[2]) for s in sources])
    assert 15 <= r.min() < r.max() <= 22
    # Counts rise as 10^(0.35 m): half of them lie within 0.86 mag of the limit.
    assert np.mean(r > 22 - 0.86) == pytest.approx(0.5, abs=0.09)
    assert max(abs(s.x) for s in sources) <= 12.5
    assert 0.2 < np.mean([s.sersic == 0 for s in sources]) < 0.4


def test_galaxy_depends_on_seed_and_index_alone() -> None:
    one = draw_row(1, 7, 17.8, 16)
    draw_row(1, 3, 17.8, 16)
    again = draw_row(1, 7, 17.8, 16)
    assert all(np.array_equal(one[name], again[name]) for name in one)
    for other in (draw_row(2, 7, 17.8, 16), draw_row(1, 8, 17.8, 16)):
        assert other["z"] != one["z"]


def test_tables_are_made_once() -> None:
    assert tables() is tables()


def test_colours_follow_the_real_catalogue(shared_data: Path, galaxies: list[Galaxy]) -> None:
    """Median colours in slices of redshift, corrected for Galactic extinction as the real ones."""
    real = np.concatenate(
        [np.loadtxt(shared_data / f"SDSS_MGS.{part}") for part in ("train", "test")]
    )
    z = np.array([g.z for g in galaxies])
    mag = np.array([22.5 - 2.5 * np.log10(g.flux) for g in galaxies])
    mag -= np.array([g.ebv for g in galaxies])[:, None] * [4.16, 3.26, 2.22, 1.65, 1.22]
    colours = mag[:, :-1] - mag[:, 1:]
    for low, high in ((0.04, 0.08), (0.08, 0.12), (0.12, 0.16)):
        there = (real[:, 0] > low) & (real[:, 0] < high)
        here = (z > low) & (z < high)
        difference = np.median(colours[here], 0) - np.median(real[there, 6:10], 0)
        assert (np.abs(difference) < [0.2, 0.1, 0.05, 0.05]).all(), difference
