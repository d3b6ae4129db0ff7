"""Pictures of galaxies, and of samples of them: cutouts, pixel values, PIT, binned outliers."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from advphotoz import metrics
from advphotoz.plotting import (
    plot_binned_outliers,
    plot_cutouts,
    plot_delta_z,
    plot_loss_line,
    plot_loss_plane,
    plot_pit,
    plot_pixels,
)

ORANGE = "#e69f00"


@pytest.fixture
def ax() -> Any:
    return Figure(figsize=(3.4, 2.6), layout="constrained").subplots()


def drawn(picture: Any) -> Any:
    """Draw the figure: what cannot be drawn fails here; return what came, figure or axes."""
    picture.figure.draw_without_rendering()
    return picture


def galaxies(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))


# ---- galaxies --------------------------------------------------------------------------------


def test_cutouts_draw_a_row_per_galaxy_in_units_of_the_noise_of_each_band() -> None:
    x = galaxies()
    x[:, 1] *= 1000  # a band whose numbers are larger hides nothing
    x[1, 1, 4, 4] = 40_000.0
    z_spec = torch.tensor([0.12, 0.3])
    noise = [1.0, 1000.0, 2.0]
    magnitudes = [[19.0, 18.5, 18.0], [20.0, 19.5, 19.0]]
    fig = drawn(plot_cutouts(x, z_spec, [0.05, 0.0], Figure((7, 3)), "gri", noise, magnitudes))
    frames = [ax for ax in fig.axes if ax.images]
    assert len(frames) == 6
    for k, ax in enumerate(frames):
        expected = x[k // 3, k % 3].numpy() / noise[k % 3]
        assert ax.images[0].get_array().data == pytest.approx(expected)
        assert ax.images[0].origin == "lower"
        words = f"{'gri'[k % 3]} = {magnitudes[k // 3][k % 3]:.2f}"
        assert [text.get_text() for text in ax.texts] == [words]
    assert {ax.images[0].get_clim() for ax in frames} == {(-3, 40)}  # nothing bright is cut off
    titles = [ax.get_title() for ax in frames if ax.get_title()]
    assert titles == [
        r"$z_\mathrm{spec} = 0.120$,  $E(B-V) = 0.050$ mag",
        r"$z_\mathrm{spec} = 0.300$,  $E(B-V) = 0.000$ mag",
    ]
    [bar] = [ax for ax in fig.axes if not ax.images and ax.get_ylabel()]
    assert bar.get_ylabel() == "flux per pixel / noise of the band"


def test_cutouts_of_nothing_but_zeros_can_be_drawn() -> None:
    drawn(plot_cutouts(torch.zeros(1, 1, 4, 4), [0.1], [0.0], Figure(), bands="g"))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"z_spec": [0.1]}, "got 2 images, 1 z_spec and 2 ebv"),
        ({"ebv": [0.1] * 3}, "got 2 images, 2 z_spec and 3 ebv"),
        ({"bands": "ugriz"}, "bands must name the 3 bands of x, got 5"),
        ({"noise": [1.0, 2.0]}, "noise must hold one positive number for each of the 3 bands"),
        ({"magnitudes": [[1.0] * 3]}, r"magnitudes must have the shape .* \(2, 3\), got \(1, 3\)"),
        ({"x": galaxies()[0]}, r"x must be images of shape .* got \(3, 8, 8\)"),
        ({"x": galaxies(0)}, r"x must be images of shape .* got \(0, 3, 8, 8\)"),
        ({"x": galaxies() / 0}, "x must be finite"),
    ],
)
def test_cutouts_refuse(changes: dict[str, Any], match: str) -> None:
    given = {"x": galaxies(), "z_spec": [0.1, 0.2], "ebv": [0.0, 0.0], "bands": "gri"}
    with pytest.raises(ValueError, match=match):
        plot_cutouts(**{**given, "fig": Figure(), **changes})


def heights(ax: Any, colour: str) -> float:
    bars = [p for c in ax.containers for p in c.patches if to_hex(p.get_facecolor()) == colour]
    return float(sum(bar.get_height() for bar in bars))


def test_pixels_are_all_counted_and_the_central_ones_in_orange() -> None:
    x = galaxies(1)
    # Pixels of an even side: the middle lies between four of them, and radius 1 holds these four.
    x[0, :, 3:5, 3:5] = 50.0
    for image in (x, x[0]):
        fig = drawn(plot_pixels(image, Figure((3.4, 4.2)), bands="gri", radius=1))
        assert len(fig.axes) == 3
        for ax, band in zip(fig.axes, "gri", strict=True):
            assert [text.get_text() for text in ax.texts] == [band]
            assert ax.get_yscale() == "log"
            assert heights(ax, "#0072b2") == 64
            assert heights(ax, ORANGE) == 4
            low, high = ax.get_xlim()
            assert low <= float(x.min()) < float(x.max()) <= high
            top = max(bar.get_height() for c in ax.containers for bar in c.patches)
            assert ax.get_ylim()[0] == 0.5  # a single pixel has a height on the logarithmic axis
            assert top < ax.get_ylim()[1]
        bright = fig.axes[0].containers[1].patches[-1]
        assert bright.get_height() == 4
        assert "units of the image" in fig.axes[-1].get_xlabel()


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (galaxies(), r"x must be one image, got 2; choose one with x\[i\]"),
        (galaxies(1)[0, 0], r"x must be images of shape"),
        (galaxies(1)[:, :2], "bands must name the 2 bands of x, got 3"),
    ],
)
def test_pixels_refuse(x: torch.Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        plot_pixels(x, Figure(), bands="gri")


# ---- samples ---------------------------------------------------------------------------------


def test_pit_draws_the_density_and_its_expected_scatter(ax: Any) -> None:
    values = np.random.default_rng(0).uniform(size=500).astype(np.float32)
    values[:2] = 0, 1
    assert drawn(plot_pit(ax, values, "clean", bins=10)) is ax
    plot_pit(ax, torch.zeros(30), "attacked", bins=10)
    drawn(ax)
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (band.y0, band.y1) == pytest.approx((1 - 2 * (9 / 500) ** 0.5, 1 + 2 * (9 / 500) ** 0.5))
    assert len(ax.patches) == 1
    line, clean, attacked = ax.lines
    assert list(line.get_ydata()) == [1, 1]
    assert clean.get_ydata()[:-1] == pytest.approx(np.histogram(values, 10, (0, 1))[0] / 50)
    assert clean.get_ydata()[:-1].mean() == pytest.approx(1)
    assert list(attacked.get_ydata()[:-1]) == [10] + 9 * [0]
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > 10  # the second histogram is not cut
    assert clean.get_color() != attacked.get_color()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["clean", "attacked"]


def test_expected_scatter_of_the_pit_is_that_of_many_samples(ax: Any) -> None:
    samples = np.random.default_rng(1).uniform(size=(2000, 60))
    densities = np.array([np.histogram(sample, 6, (0, 1))[0] / 10 for sample in samples])
    plot_pit(ax, samples[0], bins=6)
    drawn(ax)
    band = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert band.y1 - 1 == pytest.approx(2 * densities.std(), rel=0.03)


@pytest.mark.parametrize(
    "pit", [[], [0.5, 1.01], [-0.01], [np.nan], [[0.5]]], ids=["none", "high", "low", "nan", "2d"]
)
def test_pit_refuses(ax: Any, pit: Any) -> None:
    with pytest.raises(ValueError, match=r"at least one value, all in \[0, 1\]"):
        plot_pit(ax, pit)
    with pytest.raises(ValueError, match="bins must be at least 1"):
        plot_pit(ax, [0.5], bins=0)


def sample(n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    z_spec, r = rng.uniform(0.05, 0.3, n), rng.uniform(15, 17.8, n)
    return r, z_spec + 0.1 * (rng.uniform(size=n) < 0.3) * (1 + z_spec), z_spec


def test_binned_outliers_are_those_of_each_bin() -> None:
    r, z_phot, z_spec = sample()
    edges = [15.0, 16.0, 17.0, 17.8]
    found = metrics.binned_outliers(r, z_phot, torch.tensor(z_spec), edges)
    assert list(found.edges) == edges
    for k in range(3):
        rows = (r >= edges[k]) & (r < edges[k + 1])
        assert found.n[k] == rows.sum()
        assert found.mean[k] == pytest.approx(r[rows].mean())
        assert found.eta[k] == metrics.outlier_fraction(z_phot[rows], z_spec[rows])
    assert (found.eta * found.n).sum() / 400 == pytest.approx(
        metrics.outlier_fraction(z_phot, z_spec)
    )
    assert metrics.binned_outliers(r, z_phot, z_spec, edges, threshold=0.2).eta.max() == 0


def test_a_number_of_bins_shares_the_samples_out_and_the_last_edge_belongs() -> None:
    r, z_phot, z_spec = sample()
    found = metrics.binned_outliers(r, z_phot, z_spec, edges=8)
    assert list(found.n) == [50] * 8
    assert (found.edges[0], found.edges[-1]) == (r.min(), r.max())
    assert list(metrics.binned_outliers([1, 2, 2], [0] * 3, [0] * 3, [1, 1.5, 2]).n) == [1, 2]


def test_the_interval_is_wilsons_and_that_of_an_empty_bin_is_nan() -> None:
    z_phot = np.array([0.9] * 3 + [0.1] * 7 + [0.1] * 4 + [0.9] * 5)
    values = np.repeat([0.5, 1.5, 3.5], [10, 4, 5])
    found = metrics.binned_outliers(values, z_phot, np.full(19, 0.1), [0, 1, 2, 3, 4])
    assert list(found.n) == [10, 4, 0, 5]
    # Solutions p of (p - eta)^2 = p (1 - p) / n, where the score test is at one sigma.
    for k, eta, n in ((0, 0.3, 10), (1, 0.0, 4), (3, 1.0, 5)):
        low, high = sorted(np.roots([1 + 1 / n, -2 * eta - 1 / n, eta**2]).real)
        assert (found.low[k], found.high[k]) == pytest.approx((low, high), abs=1e-12)
        assert found.low[k] <= found.eta[k] == eta <= found.high[k]
    assert found.low[1] == 0
    assert found.high[1] == pytest.approx(0.2)
    for values in (found.mean, found.eta, found.low, found.high):
        assert np.isnan(values[2])
        assert not np.isnan(np.delete(values, 2)).any()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"edges": [15, 17]}, r"1 of 3 values lie outside the edges, 15 to 17.* 15 to 17.5"),
        ({"edges": [17, 15]}, "edges must be at least two and increase"),
        ({"edges": [17]}, "edges must be at least two and increase"),
        ({"edges": [15, np.nan]}, "edges must be finite"),
        ({"edges": 0}, "edges must be at least 1"),
        ({"values": [16.0] * 3}, "too many values are equal"),
        ({"values": [16.0, 17.0]}, "one number per redshift; got 2 and 3"),
        ({"values": [16.0, 17.0, np.nan]}, "values must be finite"),
        ({"z_phot": [0.1]}, "same length"),
        ({"threshold": 0.0}, "threshold must be positive"),
    ],
)
def test_binned_outliers_refuse(changes: dict[str, Any], match: str) -> None:
    given = {"values": [15.0, 16.0, 17.5], "z_phot": [0.1] * 3, "z_spec": [0.1] * 3}
    with pytest.raises(ValueError, match=match):
        metrics.binned_outliers(**{**given, **changes})


def test_binned_outliers_are_drawn_in_percent_with_their_interval(ax: Any) -> None:
    r, z_phot, z_spec = sample()
    assert drawn(plot_binned_outliers(ax, r, z_spec, z_spec, edges=4, label="clean")) is ax
    plot_binned_outliers(ax, r, z_phot, z_spec, edges=4, label="attacked")
    drawn(ax)
    found = metrics.binned_outliers(r, z_phot, z_spec, 4)
    clean, attacked = ax.containers
    line, _, [bars] = attacked
    assert line.get_xdata() == pytest.approx(found.mean)
    assert line.get_ydata() == pytest.approx(100 * found.eta)
    for segment, low, high in zip(bars.get_segments(), found.low, found.high, strict=True):
        assert list(segment[:, 1]) == pytest.approx([100 * low, 100 * high])
    assert line.get_color() != clean[0].get_color()
    assert line.get_marker() != clean[0].get_marker()
    assert ax.get_ylabel() == r"outliers $\eta$ [%]"
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > 100 * found.high.max()  # the second line is not cut
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["clean", "attacked"]


def test_a_higher_second_histogram_of_dz_is_not_cut(ax: Any) -> None:
    z = np.linspace(0.1, 0.2, 50)
    plot_delta_z(ax, z + np.linspace(-0.1, 0.1, 50), z)
    plot_delta_z(ax, z, z)
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > 100


# ---- landscapes ------------------------------------------------------------------------------


def test_loss_line_draws_the_median_and_the_middle_of_the_samples(ax: Any) -> None:
    radii = [-1.0, 0.0, 2.0]
    losses = torch.linspace(0, 1, 101)[:, None] + torch.tensor([0.0, 1.0, 5.0])
    assert drawn(plot_loss_line(ax, radii, losses, "PGD", "cross-entropy")) is ax
    plot_loss_line(ax, radii, [3.0, 2.0, 1.0], "one")
    drawn(ax)
    many, one = ax.lines
    assert many.get_xdata() == pytest.approx(radii)
    assert many.get_ydata() == pytest.approx([0.5, 1.5, 5.5])
    assert list(one.get_ydata()) == [3, 2, 1]
    [band] = ax.collections
    at_two = band.get_paths()[0].vertices
    at_two = at_two[at_two[:, 0] == 2][:, 1]
    assert (at_two.min(), at_two.max()) == pytest.approx((5.16, 5.84))
    assert many.get_color() != one.get_color()


def test_loss_plane_has_the_first_direction_to_the_right(ax: Any) -> None:
    radii = np.linspace(-1, 2, 7)
    losses = torch.tensor(np.add.outer(4 * radii, 0 * radii))
    assert drawn(plot_loss_plane(ax, radii, losses, ("the attack", "signs"), "cross-entropy")) is ax
    drawn(ax)
    # The loss rises along x alone: every filled contour runs from bottom to top.
    [filled] = ax.collections
    spans = [path.get_extents() for path in filled.get_paths() if len(path.vertices)]
    assert all((span.y0, span.y1) == (-1, 2) for span in spans)
    assert [span.x0 for span in spans] == sorted({span.x0 for span in spans})
    assert filled.get_array().min() < -3
    assert filled.get_array().max() > 7
    image, end = ax.lines
    assert (image.get_xdata()[0], image.get_ydata()[0]) == (0, 0)
    assert (end.get_xdata()[0], end.get_ydata()[0]) == (1, 0)
    assert ax.get_xlabel() == "step along the attack"
    assert ax.get_ylabel() == "step along signs"
    [bar] = [other for other in ax.figure.axes if other is not ax]
    assert bar.get_ylabel() == "cross-entropy"


def test_loss_planes_share_a_scale_and_one_bar() -> None:
    fig = Figure(figsize=(7, 2.6), layout="constrained")
    left, right = fig.subplots(1, 2)
    radii = [0.0, 0.5, 1.0]
    for ax, top in ((left, 1.0), (right, 10.0)):
        losses = np.add.outer(np.array(radii), np.array(radii)) * top / 2
        plot_loss_plane(ax, radii, losses, limits=(0.0, 10.0), colour_bar=ax is right)
    drawn(left)
    [first], [second] = left.collections, right.collections
    assert list(first.levels) == list(second.levels)
    assert first.get_clim() == second.get_clim()
    assert len(fig.axes) == 3
    with pytest.raises(ValueError, match="limits must be"):
        plot_loss_plane(left, radii, np.eye(3), limits=(1.0, 1.0))


def test_loss_plane_marks_no_place_outside(ax: Any) -> None:
    plot_loss_plane(ax, [-0.5, 0, 0.5], np.eye(3))
    assert [line.get_xdata()[0] for line in ax.lines] == [0]


def test_landscapes_refuse(ax: Any) -> None:
    for losses in (np.zeros((3, 3, 3)), np.zeros((2, 3)), np.zeros(3), 1.0):
        with pytest.raises(ValueError, match=r"shape \(R, R\) for R radii; got"):
            plot_loss_plane(ax, [0, 1, 2], losses)
    for losses in (np.zeros((3, 3, 3)), np.zeros((3, 2)), np.zeros(2), np.zeros((0, 3))):
        with pytest.raises(ValueError, match=r"shape \(N, R\) or \(R,\) for R radii; got"):
            plot_loss_line(ax, [0, 1, 2], losses)
    with pytest.raises(ValueError, match="radii must increase, got"):
        plot_loss_plane(ax, [0, 1, 1], np.zeros((3, 3)))


def test_absent_matplotlib_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    nowhere: Any = None
    for call in (
        lambda: plot_cutouts(galaxies(), [0.1, 0.2], [0.0, 0.0], bands="gri"),
        lambda: plot_pixels(galaxies(1), bands="gri"),
        lambda: plot_pit(nowhere, [0.5]),
        lambda: plot_binned_outliers(nowhere, [1.0], [0.1], [0.1]),
        lambda: plot_loss_line(nowhere, [0], [[1]]),
        lambda: plot_loss_plane(nowhere, [0], [[1]]),
    ):
        with pytest.raises(ImportError, match=r'pip install "advphotoz\[plot\]"'):
            call()
