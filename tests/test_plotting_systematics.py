"""Pictures of systematic errors: what is drawn is what was found, at column width."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from advphotoz import PointEstimate, ReddeningError, SkyLevel, ZeroPoint
from advphotoz.plotting import plot_effects, plot_random_shifts, plot_worst_shifts
from advphotoz.survey import (
    RandomSystematics,
    WorstSystematic,
    random_systematics,
    worst_systematic,
)

BATCH = (
    0.5 + torch.rand(90, 3, 4, 4, generator=torch.Generator().manual_seed(0)),
    torch.rand(90, generator=torch.Generator().manual_seed(1)),
)


def model() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 1))


def worst(perturbations: Any, bins: Any) -> WorstSystematic:
    return worst_systematic(
        model(), [BATCH], perturbations, PointEstimate(), bins, progress=False, bands="gri"
    )


@pytest.fixture(scope="module")
def found() -> dict[str, WorstSystematic]:
    first = worst(ZeroPoint(0.05), 3)
    return {"zero points": first, "sky": worst(SkyLevel(0.02), first.edges)}


@pytest.fixture(scope="module")
def drawn(found: dict[str, WorstSystematic]) -> RandomSystematics:
    return random_systematics(
        model(),
        [BATCH],
        ZeroPoint(0.05),
        PointEstimate(),
        found["zero points"].edges,
        draws=30,
        progress=False,
    )


def axes() -> Any:
    return Figure(figsize=(3.4, 3.0), layout="constrained").subplots()


def inside_the_figure(fig: Any) -> None:
    """Draw, and check that no label reaches beyond the figure."""
    fig.draw_without_rendering()
    width, height = fig.bbox.size
    for ax in fig.axes:
        box = ax.get_tightbbox()
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= width + 1
        assert box.y1 <= height + 1


def test_worst_shifts_are_drawn_where_they_are(found: dict[str, WorstSystematic]) -> None:
    ax = plot_worst_shifts(axes(), found, "Euclid")
    inside_the_figure(ax.figure)
    points = [line.get_xydata() for line in ax.lines if len(line.get_xydata()) == 3]
    points = [p for p in points if len(set(p[:, 0])) == 3]
    drawn = {round(float(y), 4) for p in points for _, y in p}
    for result in found.values():
        for s in result.bins:
            assert round(1e4 * s.shift, 4) in drawn
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["Euclid", "zero points", "sky"]
    assert len(ax.get_xticklabels()) == 3
    band = next(patch for patch in ax.patches)
    assert np.ptp(band.get_extents().transformed(ax.transData.inverted()).intervaly) == (
        pytest.approx(40)
    )
    assert "10^{-4}" in ax.get_ylabel()


def test_one_result_needs_no_name(found: dict[str, WorstSystematic]) -> None:
    ax = plot_worst_shifts(axes(), found["sky"], 0.001)
    inside_the_figure(ax.figure)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["requirement"]


def test_results_with_other_bins_are_refused(found: dict[str, WorstSystematic]) -> None:
    others = {**found, "whole": worst(ZeroPoint(0.05), None)}
    with pytest.raises(ValueError, match="the results have other bins"):
        plot_worst_shifts(axes(), others, "Euclid")


def test_random_draws_are_counted_beside_the_worst_case(
    found: dict[str, WorstSystematic], drawn: RandomSystematics
) -> None:
    result = found["zero points"]
    ax = plot_random_shifts(axes(), drawn, result, "Euclid")
    inside_the_figure(ax.figure)
    group = result.worst.group
    assert sum(bar.get_height() for bar in ax.containers[0]) == 30
    ends = sorted(line.get_xdata()[0] for line in ax.lines)
    assert ends == pytest.approx(sorted(1e4 * result.of(group, s).shift for s in (1, -1)))
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert f"Euclid, bin {group}" in texts
    missed = 100 * drawn.share("Euclid", group)[0]
    assert f"30 random draws, {missed:.0f} % beyond" in texts
    with pytest.raises(KeyError, match="no group"):
        plot_random_shifts(axes(), drawn, result, "Euclid", "1 to 2")


def test_every_effect_has_a_row_with_its_difference() -> None:
    x = BATCH[0][0]
    effects = {
        "fainter": (ZeroPoint(0.1), [1.0, 0.5, 0.0]),
        "dust": (ReddeningError(0.1, [4, 3, 2]), [-1.0]),
    }
    fig = plot_effects(x, effects, (torch.tensor([0.2]),), band=1)
    inside_the_figure(fig)
    assert fig.get_size_inches()[0] == pytest.approx(3.4)
    frames = [ax.images[0] for ax in fig.axes if ax.images]
    assert len(frames) == 6
    factors = [10 ** (-0.4 * 0.05), 10 ** (-0.4 * 3 * 0.1 * 0.2)]
    for row, factor in enumerate(factors):
        before, after, change = (np.asarray(f.get_array()) for f in frames[3 * row : 3 * row + 3])
        np.testing.assert_allclose(before, x[1].numpy(), rtol=1e-6)
        np.testing.assert_allclose(after, x[1].numpy() * factor, rtol=1e-5)
        np.testing.assert_allclose(change, after - before, atol=1e-6)
        low, high = frames[3 * row + 2].get_clim()
        assert low == -high == pytest.approx(-np.abs(change).max(), rel=1e-6)
    assert [ax.get_ylabel() for ax in fig.axes if ax.images and ax.get_ylabel()] == list(effects)
    with pytest.raises(ValueError, match="must be one image"):
        plot_effects(BATCH[0], effects)


def test_a_shift_that_is_not_a_number_of_bins_does_not_hide(
    found: dict[str, WorstSystematic],
) -> None:
    """A result whose bins were dropped is another result."""
    result = found["sky"]
    short = dataclasses.replace(result, shifts=result.shifts[:-2])
    with pytest.raises(ValueError, match="other bins"):
        plot_worst_shifts(axes(), {"a": result, "b": short}, "Euclid")
