from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import LogNorm
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
from advphotoz.evaluation import RobustnessCurve, robustness_curve
from advphotoz.plotting import plot_attack_panel, plot_delta_z, plot_robustness, plot_z_z
from networks import Estimate, features

BINS = RedshiftBins(n=6)


@pytest.fixture
def ax() -> Any:
    torch.set_num_threads(1)
    return Figure(figsize=(3.4, 2.6), layout="constrained").subplots()


class Net(nn.Module):
    def __init__(self, outputs: int = 6) -> None:
        super().__init__()
        self.out = nn.Linear(3 * 25 + 1, outputs)

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        logits: Tensor = self.out(torch.cat([x.flatten(1), ebv[:, None]], dim=1))
        return logits


def redshifts(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    z_spec = generator.uniform(0.05, 0.4, n)
    return z_spec + 0.03 * (1 + z_spec) * generator.standard_normal(n), z_spec


def drawn(ax: Any) -> Any:
    ax.figure.canvas.draw()  # what cannot be drawn fails here
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


@pytest.mark.parametrize(("n", "log"), [(300, False), (30_000, True)])
def test_z_z_density_holds_every_sample(ax: Any, n: int, log: bool) -> None:
    z_phot, z_spec = redshifts(n)
    z_phot[0], z_phot[1] = -0.1, 0.8
    assert plot_z_z(ax, z_phot, z_spec) is ax
    drawn(ax)
    counts = ax.collections[0].get_array()
    assert counts.sum() == n
    assert isinstance(ax.collections[0].norm, LogNorm) == log
    # Rows of the mesh are z_phot: the lone sample at 0.8 lies in the top rows.
    rows = counts.filled(0).sum(axis=1)
    assert rows[-3:].sum() == 1
    one, low, high = ax.lines
    assert one.get_xdata() == pytest.approx(one.get_ydata())
    for line, sign in ((low, -1), (high, 1)):
        assert metrics.delta_z(line.get_ydata(), line.get_xdata()) == pytest.approx(0.05 * sign)
    assert ax.get_xlim() == ax.get_ylim()
    assert (ax.get_xlabel(), ax.get_ylabel()) == (r"$z_\mathrm{spec}$", r"$z_\mathrm{phot}$")


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
    x_adv = x + 0.01
    fig = panel(x=x[None], x_adv=x_adv[None], z=0.3, magnify=100)
    fig.canvas.draw()
    frames = [ax for ax in fig.axes if ax.images]
    assert len(frames) == 9
    for k in range(3):
        assert frames[k].get_title() == "gri"[k]
        assert frames[k].images[0].get_array().data == pytest.approx(x[k].numpy())
        assert frames[3 + k].images[0].get_array().data == pytest.approx(np.ones((5, 5)), abs=1e-4)
        assert frames[6 + k].images[0].get_array().data == pytest.approx(x_adv[k].numpy())
    assert len({ax.images[0].get_clim() for ax in frames}) == 1
    assert "100" in frames[3].get_ylabel()
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
    fig.canvas.draw()
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
    fig.canvas.draw()
    assert len(fig.axes) == 9 + 3 + 1 + 1
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
    fig = panel(model, x=x, x_adv=x, context=(ebv,))
    assert torch.equal(x, kept)
    assert torch.equal(ebv, torch.zeros(1))
    assert model.calls == 0
    frames = [ax for ax in fig.axes if ax.images]
    assert frames[6].images[0].get_array().data == pytest.approx(kept[0, 0].numpy())


def test_attack_panel_magnifies_by_a_round_number() -> None:
    x = torch.zeros(3, 5, 5)
    x[:, 2, 2] = 0.7  # the brightest pixels
    fig = panel(x=x, x_adv=x + 0.01)
    label = fig.axes[3].get_ylabel()
    assert label == r"50 $\times\ \delta$"
    same = panel(x=x, x_adv=x)
    assert same.axes[3].get_ylabel() == r"1 $\times\ \delta$"
    same.canvas.draw()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"x": torch.zeros(2, 3, 5, 5)}, "x must be one image"),
        ({"x_adv": torch.zeros(3, 5, 4)}, "x_adv must have the shape of x"),
        ({"x_adv": torch.full((3, 5, 5), torch.nan)}, "x_adv must be finite"),
        ({"bands": "ugriz"}, "bands must name the 3 bands"),
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
