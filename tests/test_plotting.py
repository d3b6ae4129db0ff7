from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import AsinhNorm, LogNorm
from matplotlib.figure import Figure
from torch import Tensor, nn

from advphotoz import (
    FGSM,
    PGD,
    GaussianMixture,
    LinfBall,
    PointEstimate,
    Quantiles,
    RedshiftBins,
    metrics,
)
from advphotoz.evaluation import RobustnessCurve, evaluate, robustness_curve
from advphotoz.plotting import (
    plot_attack_panel,
    plot_attacks,
    plot_delta_z,
    plot_robustness,
    plot_z_z,
    plot_z_z_grid,
    save_figure,
)
from networks import Estimate, features

BINS = RedshiftBins(n=6)


@pytest.fixture
def ax() -> Any:
    torch.set_num_threads(1)
    return Figure(figsize=(3.4, 2.6), layout="constrained").subplots()


class Net(nn.Module):
    def __init__(self, outputs: int = 6, size: int = 5) -> None:
        super().__init__()
        self.out = nn.Linear(3 * size**2 + 1, outputs)

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.cat([x.flatten(1), ebv[:, None]], dim=1))
        return logits


def redshifts(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    z_spec = generator.uniform(0.05, 0.4, n)
    return z_spec + 0.03 * (1 + z_spec) * generator.standard_normal(n), z_spec


def drawn(ax: Any) -> Any:
    ax.figure.draw_without_rendering()  # what cannot be drawn fails here
    return ax


def test_delta_z_histogram_holds_the_shares(ax: Any) -> None:
    z_phot, z_spec = redshifts()
    z_phot[0] = 0.9
    assert plot_delta_z(ax, z_phot, z_spec, label="one") is ax
    plot_delta_z(ax, torch.tensor(z_spec), torch.tensor(z_spec), label="two")
    drawn(ax)
    limits, curves = ax.lines[:2], ax.lines[2:]
    assert [line.get_xdata()[0] for line in limits] == [-0.05, 0.05]
    edges, shares = curves[0].get_data()
    counts = np.histogram(metrics.delta_z(z_phot, z_spec), edges)[0]
    assert counts.sum() == 299
    assert shares[:-1] == pytest.approx(100 * counts / 300)
    assert np.max(curves[1].get_ydata()) == 100
    assert curves[0].get_color() != curves[1].get_color()
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["one (0.33 % beyond)", "two"]
    assert ax.get_xlim() == (-0.2, 0.2)
    assert "z_\\mathrm{phot}" in ax.get_xlabel()


def test_z_z_draws_every_galaxy_as_a_point_and_outliers_apart(ax: Any) -> None:
    z_phot, z_spec = redshifts(300)
    z_phot[0], z_phot[1] = -0.1, 0.8
    assert plot_z_z(ax, z_phot, z_spec) is ax
    drawn(ax)
    inside, outside = (collection.get_offsets().data for collection in ax.collections)
    far = np.abs(metrics.delta_z(z_phot, z_spec)) > 0.05
    assert 0 < far.sum() < 100
    assert inside == pytest.approx(np.column_stack([z_spec, z_phot])[~far])
    assert outside == pytest.approx(np.column_stack([z_spec, z_phot])[far])
    colours = {tuple(c.get_facecolor()[0][:3]) for c in ax.collections}
    assert len(colours) == 2
    assert len(ax.figure.axes) == 1  # no colour bar


def test_z_z_counts_many_galaxies_in_hexagons(ax: Any) -> None:
    z_phot, z_spec = redshifts(30_000)
    z_phot[0], z_phot[1] = -0.1, 0.8
    assert plot_z_z(ax, z_phot, z_spec) is ax
    drawn(ax)
    [hexagons] = ax.collections
    assert hexagons.get_array().sum() == 30_000
    assert isinstance(hexagons.norm, LogNorm)
    assert (hexagons.get_offsets()[:, 1] > 0.75).sum() == 1  # the lone galaxy at 0.8
    [side] = ax.child_axes
    assert side.get_ylabel() == "galaxies per hexagon"


@pytest.mark.parametrize("n", [300, 30_000])
def test_z_z_is_square_and_shows_the_limits_of_an_outlier(ax: Any, n: int) -> None:
    z_phot, z_spec = redshifts(n)
    plot_z_z(ax, z_phot, z_spec)
    drawn(ax)
    one, low, high = ax.lines
    assert one.get_xdata() == pytest.approx(one.get_ydata())
    for line, sign in ((low, -1), (high, 1)):
        assert metrics.delta_z(line.get_ydata(), line.get_xdata()) == pytest.approx(0.05 * sign)
    assert ax.get_xlim() == ax.get_ylim()
    assert ax.get_xlim()[0] <= min(z_phot.min(), z_spec.min())
    assert ax.get_xlim()[1] >= max(z_phot.max(), z_spec.max())
    box = ax.bbox
    assert box.width == pytest.approx(box.height, rel=1e-3)
    assert (ax.get_xlabel(), ax.get_ylabel()) == (r"$z_\mathrm{spec}$", r"$z_\mathrm{phot}$")


@pytest.mark.parametrize("n", [300, 30_000])
def test_z_z_grid_has_one_scale_for_all_panels(n: int) -> None:
    z_phot, z_spec = redshifts(n)
    wider = z_spec + 4 * (z_phot - z_spec)
    named = {"one": z_phot, "two": torch.tensor(wider), "three": z_spec}
    fig = plot_z_z_grid(named, z_spec, fig=Figure((7, 6.6), layout="constrained"))
    fig.draw_without_rendering()
    panels = [ax for ax in fig.axes if ax.get_title()]
    assert [ax.get_title().split(":")[0] for ax in panels] == ["one", "two", "three"]
    eta = 100 * metrics.outlier_fraction(wider, z_spec)
    assert f"= {eta:.1f} %" in panels[1].get_title()
    assert len({ax.get_xlim() for ax in panels} | {ax.get_ylim() for ax in panels}) == 1
    assert [bool(ax.get_xlabel()) for ax in panels] == [False, True, True]
    if n > 3000:
        norms = {id(ax.collections[0].norm) for ax in panels}
        assert len(norms) == 1
        assert panels[0].collections[0].norm.vmax == max(
            ax.collections[0].get_array().max() for ax in panels
        )
        assert sum(len(ax.child_axes) for ax in panels) == 1
    with pytest.raises(ValueError, match="at least one set of redshifts"):
        plot_z_z_grid({}, z_spec)


def test_attacks_are_drawn_with_their_interval_from_the_top(ax: Any) -> None:
    result = evaluate(
        network(),
        [(torch.randn(30, 3, 5, 5), torch.zeros(30), 0.3 * torch.rand(30))],
        {"PGD": PGD(LinfBall(0.5), steps=2)},
        BINS,
        progress=False,
        bootstrap=0,
    )
    assert plot_attacks(ax, result) is ax
    drawn(ax)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["clean images", "random noise", "PGD"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    for row, container, words in zip(result.rows, ax.containers, ax.texts, strict=True):
        assert container.lines[0].get_xdata() == pytest.approx([100 * row.eta])
        [ends] = container.lines[2][0].get_segments()
        assert ends[:, 0] == pytest.approx([100 * row.eta_low, 100 * row.eta_high], abs=1e-4)
        assert words.get_text() == f"{100 * row.eta:.1f} %"


def test_figures_are_saved_as_vectors_and_as_pixels(tmp_path: Path) -> None:
    fig = Figure((3.4, 2.0))
    fig.subplots().set_title("Title")
    pdf, png = save_figure(fig, tmp_path / "new" / "v1.5")
    assert (pdf.name, png.name) == ("v1.5.pdf", "v1.5.png")
    content = pdf.read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/Type3" not in content
    assert b"CreationDate" not in content
    head = png.read_bytes()[16:24]
    assert (int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")) == (1020, 600)
    assert sorted(path.name for path in pdf.parent.iterdir()) == ["v1.5.pdf", "v1.5.png"]


def curve(**settings: Any) -> RobustnessCurve:
    generator = torch.Generator().manual_seed(0)
    batch = (
        torch.randn(30, 3, 5, 5, generator=generator),
        torch.zeros(30),
        torch.rand(30, generator=generator),
    )
    attacks = {"FGSM": FGSM, "PGD": lambda eps: PGD(LinfBall(eps), steps=2)}
    quiet = {"progress": False, "bootstrap": 10, **settings}
    return robustness_curve(Net(), [batch], attacks, [0.01, 0.1, 1.0], BINS, **quiet)


@pytest.mark.parametrize(
    ("metric", "factor", "bars"),
    [
        ("eta", 100, True),
        ("bias", 1e4, True),
        ("sigma_mad", 1e3, True),
        ("bias_change", 1, True),
        ("nll", 1, False),
    ],
)
def test_robustness_draws_the_curve(ax: Any, metric: str, factor: float, bars: bool) -> None:
    result = curve()
    assert plot_robustness(ax, result, metric) is ax
    drawn(ax)
    assert len(ax.containers) == 2
    for name, container in zip(result.names, ax.containers, strict=True):
        eps, values = result.line(name, metric)
        assert container.get_label() == name
        assert container.lines[0].get_xdata() == pytest.approx(eps)
        assert container.lines[0].get_ydata() == pytest.approx(factor * values)
        assert container.has_yerr == bars
        if bars:
            ends = np.array([segment[:, 1] for segment in container.lines[2][0].get_segments()])
            if metric == "eta":  # Wilson's interval lies askew
                low, high = (result.line(name, f"eta_{end}")[1] for end in ("low", "high"))
            else:
                error = result.line(name, f"{metric}_error")[1]
                low, high = values - error, values + error
            assert ends == pytest.approx(factor * np.array([low, high]).T)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "0.01", "0.1", "1"]
    assert ax.get_xlim()[0] < 0
    assert ax.get_xlim()[1] > 1


def test_robustness_without_errors_or_metric(ax: Any) -> None:
    result = curve(bootstrap=0)
    plot_robustness(ax, result, "bias")
    assert not ax.containers[0].has_yerr
    plot_robustness(ax, result)
    assert ax.containers[-1].has_yerr  # an interval needs no bootstrap
    with pytest.raises(ValueError, match="no metric 'speed'"):
        plot_robustness(ax, result, "speed")


def test_robustness_of_a_network_without_a_pdf(ax: Any) -> None:
    result = robustness_curve(
        Estimate(), [features()], {"FGSM": FGSM}, [0.1], PointEstimate(), progress=False
    )
    drawn(plot_robustness(ax, result, "objective_after"))
    with pytest.raises(ValueError, match="crps was not computed"):
        plot_robustness(ax, result, "crps")


def network(outputs: int = 6) -> Net:
    torch.manual_seed(1)
    return Net(outputs).train()


def network_of(size: int) -> Net:
    return Net(size=size).train()


def panel(model: Any = None, **changes: Any) -> Figure:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 5)
    given: dict[str, Any] = {
        "x": x,
        "x_adv": x + 0.01 * torch.randn(3, 5, 5).sign(),
        "z": torch.tensor([0.3]),
        "context": (torch.zeros(1),),
        "readout": BINS,
        "fig": Figure(figsize=(7, 6.6), layout="constrained"),
        "bands": "gri",
        **changes,
    }
    model = network() if model is None else model
    fig = plot_attack_panel(model, **given)
    assert all(module.training for module in model.modules())
    return fig


def test_attack_panel_draws_images_slices_and_pdfs() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 5)
    x[1] *= 100  # a band that is far brighter
    x_adv = x + 0.01
    noise = [0.5, 50.0, 2.0]
    settings = {"unit": "nmgy", "noise": noise, "magnitudes": [19.0, 18.0, 17.0], "ebv": 0.03}
    fig = panel(x=x[None], x_adv=x_adv[None], z=0.3, **settings)
    fig.draw_without_rendering()
    frames = [ax for ax in fig.axes if ax.images]
    assert len(frames) == 9
    for k in range(3):
        assert frames[k].get_title() == f"{'gri'[k]} = {19 - k}.00 mag"
        shown = [frames[3 * i + k].images[0].get_array().data for i in range(3)]
        assert shown[0] == pytest.approx(x[k].numpy() / noise[k])
        assert shown[1] == pytest.approx(x_adv[k].numpy() / noise[k])
        assert shown[2] == pytest.approx(np.full((5, 5), 0.01), abs=1e-5)
    norms = [ax.images[0].norm for ax in frames]
    assert len({id(norm) for norm in norms[:6]}) == 1
    assert isinstance(norms[0], AsinhNorm)
    assert norms[6].vmin == -norms[6].vmax
    assert norms[6].vmax == pytest.approx(0.01, rel=1e-3)
    assert "0.030" in fig.get_suptitle()
    labels = {ax.get_ylabel() for ax in fig.axes}
    assert r"$\delta$ [nmgy]" in labels
    assert "flux per pixel / noise of the band" in labels
    slices = [ax for ax in fig.axes if len(ax.lines) == 2 and not ax.patches]
    for k, ax in enumerate(slices):
        assert ax.lines[0].get_ydata() == pytest.approx(x[k, 2].numpy())
        assert ax.lines[1].get_ydata() == pytest.approx(x_adv[k, 2].numpy())
    assert len(slices) == 3
    [pdfs] = [ax for ax in fig.axes if ax.get_ylabel() == "PDF"]
    for k, image in enumerate((x, x_adv)):
        stairs = pdfs.patches[k].get_data()
        assert (stairs.values * BINS.width).sum() == pytest.approx(1)
        mean = (stairs.values * BINS.width * BINS.centers.numpy()).sum()
        assert pdfs.lines[k].get_xdata()[0] == pytest.approx(mean, abs=1e-6)
        with torch.no_grad():
            pdf = BINS.pdf(network()(image[None], torch.zeros(1)))[0]
        assert stairs.values * BINS.width == pytest.approx(pdf.numpy(), abs=1e-6)
    assert pdfs.lines[2].get_xdata()[0] == pytest.approx(0.3)
    words = [text.get_text() for text in pdfs.get_legend().get_texts()]
    assert len(words) == 3
    assert words[2] == r"$z_\mathrm{spec} = 0.300$"


class Narrow(Net):
    """A mixture of two narrow components, far apart, whose mean lies between them."""

    def __init__(self) -> None:
        super().__init__()
        self.means = nn.Parameter(torch.tensor([0.1, 0.25]))

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        shift = x.mean((1, 2, 3))[:, None]
        zero = torch.zeros(len(x), 2)
        return torch.cat([zero, self.means + shift, zero - 5.0], 1)


def test_attack_panel_draws_the_pdf_of_a_mixture_as_a_curve() -> None:
    x = torch.zeros(3, 5, 5)
    fig = panel(Narrow(), x=x, x_adv=x + 0.05, z=0.7, readout=GaussianMixture(2))
    fig.draw_without_rendering()
    [pdfs] = [ax for ax in fig.axes if ax.get_ylabel() == "PDF"]
    assert not pdfs.patches
    low, high = pdfs.get_xlim()
    assert low < 0.1 - 0.02 < 0.7 < high  # all of the PDF, and z_spec
    sigma = np.exp(-5.0)
    for k, shift in enumerate((0.0, 0.05)):
        z, density = pdfs.lines[k].get_data()
        area = (np.diff(z) * (density[1:] + density[:-1]) / 2).sum()
        assert area == pytest.approx(1, abs=0.01)
        gaps = (z[:, None] - np.array([0.1, 0.25]) - shift) / sigma
        expected = (np.exp(-(gaps**2) / 2) / (2 * sigma * np.sqrt(2 * np.pi))).sum(1)
        assert density == pytest.approx(expected, rel=1e-3, abs=1e-4)
        assert pdfs.lines[2 + k].get_xdata()[0] == pytest.approx(0.175 + shift)
    assert pdfs.lines[4].get_xdata()[0] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("outputs", "readout"), [(1, PointEstimate()), (3, Quantiles([0.16, 0.5, 0.84]))]
)
def test_attack_panel_without_a_pdf_draws_lines_alone(outputs: int, readout: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, 5)
    fig = panel(network(outputs), x=x, x_adv=x + 0.1, readout=readout)
    fig.draw_without_rendering()
    assert len(fig.axes) == 9 + 3 + 1 + 2
    [below] = [ax for ax in fig.axes if ax.get_xlabel() == "redshift"]
    assert not below.patches
    assert below.get_ylabel() == ""
    assert list(below.get_yticks()) == []
    with torch.no_grad():
        estimates = [
            float(readout.redshift(network(outputs)(image[None], torch.zeros(1))))
            for image in (x, x + 0.1)
        ]
    found = [line.get_xdata()[0] for line in below.lines]
    assert found == pytest.approx([*estimates, 0.3], abs=1e-6)
    low, high = below.get_xlim()
    assert low < min(found) < max(found) < high


class InPlace(Net):
    """It writes into its inputs, and counts its calls in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        self.calls += 1
        x.sub_(5.0)
        ebv.add_(5.0)
        return super().forward(x, ebv)


def test_attack_panel_leaves_model_and_inputs_as_they_were() -> None:
    torch.manual_seed(0)
    x, ebv, model = torch.randn(1, 3, 5, 5), torch.zeros(1), InPlace().train()
    kept = x.clone()
    fig = panel(model, x=x, x_adv=x, context=(ebv,), noise=[1.0] * 3)
    assert torch.equal(x, kept)
    assert torch.equal(ebv, torch.zeros(1))
    assert model.calls == 0
    frames = [ax for ax in fig.axes if ax.images]
    assert frames[3].images[0].get_array().data == pytest.approx(kept[0, 0].numpy(), rel=1e-5)


def test_attack_panel_measures_the_noise_of_a_band_where_none_is_given() -> None:
    x = torch.randn(3, 40, 40) * torch.tensor([1.0, 10.0, 0.0])[:, None, None]
    x[:, 18:22, 18:22] += 1000.0  # a galaxy does not move it
    fig = panel(network_of(40), x=x, x_adv=x)
    fig.draw_without_rendering()
    shown = [ax.images[0].get_array().data for ax in fig.axes if ax.images][:3]
    for k, sigma in enumerate((1.0, 10.0)):
        assert x[k].numpy() / shown[k] == pytest.approx(sigma, rel=0.1)
    assert shown[2] == pytest.approx(x[2].numpy())  # a frame without noise is shown as it is


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x": torch.zeros(2, 3, 5, 5)}, "x must be one image"),
        ({"x_adv": torch.zeros(3, 5, 4)}, "x_adv must have the shape of x"),
        ({"x_adv": torch.full((3, 5, 5), torch.nan)}, "x_adv must be finite"),
        ({"bands": "ugriz"}, "bands must name the 3 bands"),
        ({"magnitudes": [1.0]}, "magnitudes must hold one number for each of the 3 bands, got 1"),
        ({"noise": [1.0, 1.0, 0.0]}, "noise must hold one positive number for each of the 3"),
        ({"readout": RedshiftBins(n=5)}, r"logits of shape \(N, 5\)"),
        ({"context": (torch.zeros(2),)}, r"context\[0\] must have one row"),
    ],
)
def test_attack_panel_refuses(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        panel(**changes)


def test_attack_panel_has_no_readout_of_its_own() -> None:
    x = torch.zeros(3, 5, 5)
    with pytest.raises(TypeError, match="readout"):
        plot_attack_panel(Net(), x, x, 0.3, (torch.zeros(1),), bands="gri")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"write context=\(ebv,\)"):
        panel(context=torch.zeros(1))


def test_absent_matplotlib_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    for call in (
        lambda: plot_delta_z(None, [0.1], [0.1]),  # type: ignore[arg-type]
        lambda: plot_z_z(None, [0.1], [0.1]),  # type: ignore[arg-type]
        lambda: plot_robustness(None, None),  # type: ignore[arg-type]
        lambda: plot_attack_panel(Net(), *2 * [torch.zeros(5, 5, 5)], 0.3, readout=BINS),
    ):
        with pytest.raises(ImportError, match=r'pip install "advphotoz\[plot\]"'):
            call()
