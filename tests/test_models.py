"""The two networks against the paper's tables, and what they refuse."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advphotoz import models

# Campagne 2020, Table A1: parameters per row, in the table's order.
TABLE_A1 = [
    ("conv0", 8128),
    ("pool0", 0),
    ("i0.s1_0", 3168),
    ("i0.s2_0", 27776),
    ("i0.s1_2", 3168),
    ("i0.pool0", 0),
    ("i0.s1_1", 3168),
    ("i0.s2_1", 76928),
    ("i0.s2_2", 4224),
    ("i0", 118_432),
    ("i1.s1_0", 15488),
    ("i1.s2_0", 53176),
    ("i1.s1_2", 15488),
    ("i1.pool0", 0),
    ("i1.s1_1", 15488),
    ("i1.s2_1", 147_384),
    ("i1.s2_2", 22264),
    ("i1", 269_288),
    ("pool0", 0),
    ("i2.s1_0", 31464),
    ("i2.s2_0", 106_240),
    ("i2.s1_2", 31464),
    ("i2.pool0", 0),
    ("i2.s1_1", 31464),
    ("i2.s2_1", 294_656),
    ("i2.s2_2", 43776),
    ("i2", 539_064),
    ("i3.s1_0", 43976),
    ("i3.s2_0", 106_240),
    ("i3.s1_2", 43976),
    ("i3.pool0", 0),
    ("i3.s1_1", 43976),
    ("i3.s2_1", 294_656),
    ("i3.s2_2", 61184),
    ("i3", 594_008),
    ("pool0", 0),
    ("i4.s1_0", 43976),
    ("i4.s2_0", 106_240),
    ("i4.s1_2", 43976),
    ("i4.pool0", 0),
    ("i4.s2_2", 61184),
    ("i4", 255_376),
    ("fc0", 24_412_304),
    ("fc1", 1_202_312),
    ("fc2", 197_460),
]
SHAPES_A1 = {
    "conv0": ((5, 64, 64), (64, 64, 64)),
    "i0.s1_0": ((64, 32, 32), (48, 32, 32)),
    "i0.pool0": ((48, 33, 33), (48, 32, 32)),
    "i0": ((64, 32, 32), (240, 32, 32)),
    "i1": ((240, 32, 32), (340, 32, 32)),
    "i2": ((340, 16, 16), (476, 16, 16)),
    "i2.s2_1": ((92, 16, 16), (128, 16, 16)),
    "i3": ((476, 16, 16), (476, 16, 16)),
    "i4.pool0": ((92, 9, 9), (92, 8, 8)),
    "i4": ((476, 8, 8), (348, 8, 8)),
    "fc0": ((22273,), (1096,)),
    "fc1": ((1096,), (1096,)),
    "fc2": ((1096,), (180,)),
}
TABLE_A2 = [
    ("conv0", (5, 64, 64), (64, 64, 64), 8064),
    ("pool0", (64, 64, 64), (64, 32, 32), 0),
    ("conv1", (64, 32, 32), (92, 34, 34), 53084),
    ("pool1", (92, 34, 34), (92, 17, 17), 0),
    ("conv2", (92, 17, 17), (128, 19, 19), 106112),
    ("pool2", (128, 19, 19), (128, 10, 10), 0),
    ("fc0", (12801,), (1024,), 13109248),
    ("fc1", (1024,), (180,), 184500),
]
SMALL = {"image_size": 16, "n_bins": 7, "width": 0.1}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # put back by the fixture that keeps torch's state


def _meta(build: Any, **settings: Any) -> nn.Module:
    """Build on the meta device: shapes and counts without memory or initial weights."""
    with torch.device("meta"):
        return build(**settings)  # type: ignore[no-any-return]


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("build", "settings", "total"),
    [
        (models.inception, {}, 27_596_372),
        (models.inception, {"fc0_features": 2000}, 48_722_852),
        (models.inception, {"i4_features": 256}, 45_720_660),
        (models.inception, {"i3_cells": 2}, 27_596_372 + 594_008),
        (models.cnn, {}, 13_461_008),
    ],
)
def test_total_parameters(build: Any, settings: dict[str, int], total: int) -> None:
    assert _count(_meta(build, **settings)) == total


def test_inception_is_table_a1() -> None:
    rows = models.layers(_meta(models.inception))
    assert [(row.name, row.parameters) for row in rows] == TABLE_A1
    shapes = {row.name: (row.input_shape, row.output_shape) for row in rows}
    assert {name: shapes[name] for name in SHAPES_A1} == SHAPES_A1
    pools = [row.input_shape + row.output_shape for row in rows if row.name == "pool0"]
    assert pools == [
        (64, 64, 64, 64, 32, 32),
        (340, 32, 32, 340, 16, 16),
        (476, 16, 16, 476, 8, 8),
    ]


def test_cnn_is_table_a2() -> None:
    assert models.layers(_meta(models.cnn)) == TABLE_A2


def test_table_prints_every_row_and_the_total() -> None:
    model = models.inception(**SMALL)
    lines = models.table(model).splitlines()
    assert len(lines) == len(TABLE_A1) + 2
    assert lines[0].split() == ["name", "input_shape", "output_shape", "nb_params"]
    assert lines[1].startswith("conv0 ")
    assert "(5, 16, 16)" in lines[1]
    assert lines[-1].split() == ["total", str(_count(model))]
    assert not any(module._forward_hooks for module in model.modules())


def test_second_i3_is_named_i3b() -> None:
    names = [row.name for row in models.layers(models.inception(**SMALL, i3_cells=2))]
    assert [name for name in names if name in ("i3", "i3b", "i4")] == ["i3", "i3b", "i4"]
    assert "i3b.s2_2" in names


def _inception_by_hand(model: models.Inception, image: Tensor, ebv: Tensor) -> Tensor:
    """Follow Table A1 with plain functions and the model's weights."""

    def conv(name: str, x: Tensor) -> Tensor:
        layer = model.get_submodule(name)
        x = nn.functional.conv2d(x, layer.conv.weight, layer.conv.bias, padding="same")
        slope = layer.prelu.weight[:, None, None]
        return torch.where(x > 0, x, slope * x)

    def cell(i: str, x: Tensor) -> Tensor:
        pooled = torch.zeros(*conv(f"{i}.s1_2", x).shape)
        padded = nn.functional.pad(conv(f"{i}.s1_2", x), (0, 1, 0, 1))
        for row in (0, 1):
            for column in (0, 1):
                pooled += padded[:, :, row : row + x.shape[2], column : column + x.shape[3]] / 4
        parts = [conv(f"{i}.s2_2", x)]
        if i != "i4":
            parts.append(conv(f"{i}.s2_1", conv(f"{i}.s1_1", x)))
        return torch.cat([*parts, conv(f"{i}.s2_0", conv(f"{i}.s1_0", x)), pooled], 1)

    def average_2x2(x: Tensor) -> Tensor:
        return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))

    x = average_2x2(conv("conv0", image))
    x = average_2x2(cell("i1", cell("i0", x)))
    x = average_2x2(cell("i3", cell("i2", x)))
    x = torch.cat([cell("i4", x).flatten(1), ebv[:, None]], 1)
    for layer in (model.fc0, model.fc1):
        x = (x @ layer.weight.T + layer.bias).clamp(min=0)
    return x @ model.fc2.weight.T + model.fc2.bias


def _randomised(model: Any) -> Any:
    """Give every parameter, PReLU slopes too, a value of its own."""
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


def test_inception_computes_table_a1() -> None:
    model = _randomised(models.inception(**SMALL))
    image, ebv = torch.randn(3, 5, 16, 16), torch.rand(3)
    with torch.no_grad():
        expected = _inception_by_hand(model, image, ebv)
        torch.testing.assert_close(model(image, ebv), expected, rtol=1e-4, atol=1e-4)


def test_cnn_computes_table_a2() -> None:
    model = _randomised(models.cnn(**SMALL))
    image, ebv = torch.randn(3, 5, 16, 16), torch.rand(3)
    x = image
    for layer in (model.conv0, model.conv1, model.conv2):  # sides 16, 10 and 7
        x = nn.functional.conv2d(x, layer.weight, layer.bias, padding=2).clamp(min=0)
        size = x.shape[2] // 2
        windows = x[:, :, : 2 * size, : 2 * size].unflatten(3, (size, 2)).unflatten(2, (size, 2))
        whole = windows.mean((3, 5))
        if x.shape[2] % 2:  # the last row and column have windows of their own
            whole = nn.functional.pad(whole, (0, 1, 0, 1))
            whole[:, :, :-1, -1] = x[:, :, :-1, -1].unflatten(2, (size, 2)).mean(3)
            whole[:, :, -1, :-1] = x[:, :, -1, :-1].unflatten(2, (size, 2)).mean(3)
            whole[:, :, -1, -1] = x[:, :, -1, -1]
        x = whole
    x = torch.cat([x.flatten(1), ebv[:, None]], 1)
    x = (x @ model.fc0.weight.T + model.fc0.bias).clamp(min=0)
    expected = x @ model.fc1.weight.T + model.fc1.bias
    with torch.no_grad():
        torch.testing.assert_close(model(image, ebv), expected, rtol=1e-4, atol=1e-4)


def test_cnn_averages_only_the_pixels_that_exist() -> None:
    model = models.cnn(n_bands=1, image_size=3, n_bins=2, width=0.01)
    ones = torch.ones(1, 1, 3, 3)
    assert torch.equal(model.pool0(ones), torch.ones(1, 1, 2, 2))


@pytest.mark.parametrize("build", [models.inception, models.cnn])
def test_ebv_enters_and_may_be_a_column(build: Any) -> None:
    model = _randomised(build(**SMALL))
    image, ebv = torch.randn(3, 5, 16, 16), torch.rand(3)
    with torch.no_grad():
        logits = model(image, ebv)
        assert logits.shape == (3, 7)
        assert torch.equal(logits, model(image, ebv[:, None]))
        assert (logits != model(image, ebv + 1)).any(1).all()


@pytest.mark.parametrize("build", [models.inception, models.cnn])
def test_initial_weights(build: Any) -> None:
    for module in build(n_bands=4, image_size=16, width=0.5).modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(module.weight)
            limit = (6 / (fan_in + fan_out)) ** 0.5
            assert 0.95 * limit < module.weight.abs().max() <= limit * (1 + 1e-6)
            assert (module.bias == 0.1).all()
        if isinstance(module, nn.PReLU):
            assert (module.weight == 0.25).all()


def test_prelu_init_option() -> None:
    slopes = [
        module.weight
        for module in models.inception(**SMALL, prelu_init=0.0).modules()
        if isinstance(module, nn.PReLU)
    ]
    assert len(slopes) == 1 + 4 * 6 + 4
    assert not torch.cat(slopes).any()


def test_padding_is_left_out_of_the_average_on_request() -> None:
    counted = models.inception(**SMALL, prelu_init=1.0)
    left_out = models.inception(**SMALL, prelu_init=1.0, count_include_pad=False)
    pooled = []
    for model in (counted, left_out):
        for conv in model.i0.s1_2.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.zeros_(conv.weight)
                nn.init.ones_(conv.bias)
        x = torch.randn(1, model.conv0.conv.out_channels, 8, 8)
        pooled.append(model.i0(x)[:, -model.i0.s1_2.conv.out_channels :])
    expected = torch.ones(8, 8)
    expected[-1], expected[:, -1], expected[-1, -1] = 0.5, 0.5, 0.25
    torch.testing.assert_close(pooled[0], expected.expand_as(pooled[0]))
    torch.testing.assert_close(pooled[1], torch.ones_like(pooled[1]))
    x = torch.randn(1, 2, 4, 4)
    weights = nn.functional.avg_pool2d(nn.functional.pad(torch.ones_like(x), (0, 1, 0, 1)), 2, 1)
    expected = nn.functional.avg_pool2d(nn.functional.pad(x, (0, 1, 0, 1)), 2, 1) / weights
    torch.testing.assert_close(left_out.i0.pool0(x), expected)


def test_logits_relu_option() -> None:
    plain, relu = models.inception(**SMALL), models.inception(**SMALL, logits_relu=True)
    relu.load_state_dict(_randomised(plain).state_dict())
    image, ebv = torch.randn(4, 5, 16, 16), torch.rand(4)
    with torch.no_grad():
        logits = plain(image, ebv)
        assert (logits < 0).any()
        assert torch.equal(relu(image, ebv), logits.clamp(min=0))


@pytest.mark.parametrize(
    ("size", "last"), [(64, 10), (34, 6), (32, 6), (23, 5), (19, 4), (17, 4), (10, 3), (1, 2)]
)
def test_cnn_takes_any_size(size: int, last: int) -> None:
    model = models.cnn(n_bands=4, image_size=size, n_bins=3, width=0.05)
    assert model(torch.randn(2, 4, size, size), torch.zeros(2)).shape == (2, 3)
    rows = {row.name: row for row in models.layers(model)}
    assert rows["pool2"].output_shape[1:] == (last, last)


@pytest.mark.parametrize("size", [1, 4, 23, 60])
def test_inception_refuses_sizes_that_are_no_multiple_of_8(size: int) -> None:
    with pytest.raises(ValueError, match=f"multiple of 8.* got {size}"):
        models.inception(image_size=size)


@pytest.mark.parametrize("build", [models.inception, models.cnn])
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"n_bands": 0}, ValueError, "n_bands must be at least 1, got 0"),
        ({"image_size": 32.0}, TypeError, "image_size must be an integer"),
        ({"n_bins": -1}, ValueError, "n_bins must be at least 1"),
        ({"width": 0.0}, ValueError, "width must be a positive factor"),
        ({"width": float("nan")}, ValueError, "width must be a positive factor"),
    ],
)
def test_refused_settings(build: Any, settings: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        build(**settings)


def test_inception_refuses_three_i3_cells() -> None:
    with pytest.raises(ValueError, match="i3_cells must be 1, or 2"):
        models.inception(i3_cells=3)


IMAGE, EBV = torch.zeros(2, 5, 16, 16), torch.zeros(2)


@pytest.mark.parametrize("build", [models.inception, models.cnn])
@pytest.mark.parametrize(
    ("image", "ebv", "error", "message"),
    [
        (IMAGE[0], EBV, ValueError, r"shape \(N, 5, 16, 16\); got \(5, 16, 16\).*image\[None\]"),
        (IMAGE[:, :4], EBV, ValueError, r"must have 5 bands.* got \(2, 4, 16, 16\)"),
        (IMAGE[..., :8], EBV, ValueError, r"16 x 16 pixels.* got \(2, 5, 16, 8\)"),
        (IMAGE.int(), EBV, TypeError, "image must have a floating-point dtype; got torch.int32"),
        (IMAGE, EBV.long(), TypeError, "ebv must have a floating-point dtype; got torch.int64"),
        (IMAGE, EBV[:1], ValueError, r"shape \(2,\) or \(2, 1\); got \(1,\)"),
        (IMAGE, EBV[None], ValueError, r"shape \(2,\) or \(2, 1\); got \(1, 2\)"),
        (IMAGE, 0.1, TypeError, "ebv must be a torch.Tensor; got float"),
        (IMAGE.numpy(), EBV, TypeError, "image must be a torch.Tensor; got ndarray"),
    ],
)
def test_refused_inputs(build: Any, image: Any, ebv: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        build(**SMALL)(image, ebv)


@pytest.mark.parametrize("count_include_pad", [True, False])
def test_channels_last_and_bfloat16(count_include_pad: bool) -> None:
    for model in (
        models.inception(**SMALL, count_include_pad=count_include_pad),
        models.cnn(**SMALL),
    ):
        image, ebv = torch.randn(3, 5, 16, 16), torch.rand(3)
        plain = model(image, ebv)
        last = torch.channels_last
        model = model.to(memory_format=last)
        torch.testing.assert_close(model(image.to(memory_format=last), ebv), plain)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = image.to(memory_format=last).requires_grad_()
            half = model(x, ebv)
        assert half.dtype == torch.bfloat16
        assert (half.float() - plain).abs().max() < 0.05 * plain.abs().max() + 0.05
        (grad,) = torch.autograd.grad(half.float().sum(), x)
        assert grad.isfinite().all()
        assert grad.any()


def test_double_precision_and_pickle() -> None:
    model = models.cnn(**SMALL).double()
    image, ebv = torch.randn(2, 5, 16, 16, dtype=torch.float64), torch.rand(2)
    logits = model(image, ebv)
    assert logits.dtype == torch.float64
    assert torch.equal(pickle.loads(pickle.dumps(model))(image, ebv), logits)
