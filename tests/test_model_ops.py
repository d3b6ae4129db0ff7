"""The fused layers: PyTorch's values and gradients, first and second."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advphotoz import FGSM, CrossEntropy, RedshiftBins, models
from advphotoz.models.fused import AveragePool2x2, PaddedAveragePool2x2, PReLU

# The module: `models.inception` is the builder.
inception = importlib.import_module("advphotoz.models.inception")


def _uncounted(x: torch.Tensor) -> torch.Tensor:
    """Repeat the last row and column: an average over the pixels that exist."""
    return F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, stride=1)


def _slopes(layer: nn.PReLU, *values: float) -> nn.PReLU:
    layer.weight.data = torch.tensor(values)
    return layer


PAIRS = {
    "average": (AveragePool2x2(), nn.AvgPool2d(2)),
    "padded": (PaddedAveragePool2x2(), lambda x: F.avg_pool2d(F.pad(x, (0, 1, 0, 1)), 2, stride=1)),
    "padded-uncounted": (PaddedAveragePool2x2(count_include_pad=False), _uncounted),
    "prelu": tuple(_slopes(kind(3), 0.1, -0.4, 0.25) for kind in (PReLU, nn.PReLU)),
    "prelu-steep": tuple(_slopes(kind(3), 0.9, 0.6, 1.3) for kind in (PReLU, nn.PReLU)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS.values(), ids=PAIRS.keys())
def test_values_and_gradients_are_pytorchs(ours, theirs, dtype, last):
    x = torch.randn(4, 3, 8, 6, dtype=dtype)
    x = x.to(memory_format=torch.channels_last) if last else x
    x[0, 0, 0, :3] = 0.0  # the kink
    results = []
    for function in (ours, theirs):
        if isinstance(function, nn.Module):
            function = function.to(dtype)
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        torch.manual_seed(1)
        weights = list(getattr(function, "parameters", list)())
        grads = torch.autograd.grad((y * torch.randn_like(y)).sum(), [leaf, *weights])
        results.append((y, *grads))
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    for a, b in zip(*results, strict=True):
        scale = b.abs().max().clamp_min(1).item()
        torch.testing.assert_close(a, b, atol=tolerance * scale, rtol=tolerance)
        assert a.ndim < 4 or (a.stride(1) == 1) == (b.stride(1) == 1)  # channels last, or not
        if not isinstance(ours, PaddedAveragePool2x2):  # whose results are slices
            assert a.stride() == b.stride() or a.ndim < 4 or a.is_contiguous() == b.is_contiguous()


@pytest.mark.parametrize("ours", [pair[0] for pair in PAIRS.values()], ids=PAIRS.keys())
def test_gradients_are_those_of_finite_differences(ours):
    if isinstance(ours, nn.Module):
        ours = ours.double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ours, (x,))
    assert torch.autograd.gradgradcheck(ours, (x,))


def test_odd_sides_keep_their_last_row():
    x = torch.randn(1, 2, 5, 6, requires_grad=True)
    assert torch.equal(AveragePool2x2()(x), F.avg_pool2d(x, 2, ceil_mode=True))


def test_weight_gradient_is_not_computed_for_a_frozen_weight():
    layer = PReLU(3).requires_grad_(False)
    x = torch.randn(2, 3, 4, 4, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None


def test_per_sample_gradients_by_vmap():
    model = models.inception(image_size=8, width=0.05, n_bins=4).eval()
    x, ebv = torch.randn(3, 5, 8, 8), torch.zeros(3)

    def loss(image, reddening):
        return model(image[None], reddening[None]).logsumexp(1).sum()

    each = torch.func.vmap(torch.func.grad(loss))(x, ebv)
    leaf = x.clone().requires_grad_()
    (whole,) = torch.autograd.grad(model(leaf, ebv).logsumexp(1).sum(), leaf)
    torch.testing.assert_close(each, whole, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"count_include_pad": False}], ids=["", "uncounted"])
def test_inception_equals_its_plain_pytorch_twin(options):
    """Operations and merged convolutions replaced by PyTorch's own: the same to 1e-6."""
    model = models.inception(image_size=16, width=0.2, **options).eval()
    _check_twin(model, PaddedAveragePool2x2(**options).count_include_pad)


def test_cnn_equals_its_plain_pytorch_twin():
    _check_twin(models.cnn(image_size=16, width=0.2).eval())


def _check_twin(model, count_include_pad=True):
    x, ebv, z = torch.randn(4, 5, 16, 16, requires_grad=True), torch.rand(4), torch.rand(4)
    wanted = [x, *model.parameters()]
    attack = FGSM(0.1, objective=CrossEntropy(RedshiftBins()))
    for module in model.modules():
        if isinstance(module, PReLU):
            nn.init.uniform_(module.weight, -0.5, 1.5)

    def results():
        logits = model(x, ebv)
        found = attack(model, x.detach(), z, context=(ebv,))
        return found, logits, *torch.autograd.grad(logits.logsumexp(1).sum(), wanted)

    ours = results()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AveragePool2x2, "forward", lambda self, x: F.avg_pool2d(x, 2, ceil_mode=True))
        patch.setattr(PReLU, "forward", lambda self, x: F.prelu(x, self.weight))
        padded = PAIRS["padded" if count_include_pad else "padded-uncounted"][1]
        patch.setattr(PaddedAveragePool2x2, "forward", lambda self, x: padded(x))
        patch.setattr(inception, "_can_merge", lambda branch: False)
        theirs = results()
    assert torch.equal(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], atol=1e-6, rtol=1e-6)
    for a, b in zip(ours[2:], theirs[2:], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6 * b.abs().max().clamp_min(1).item(), rtol=1e-5)


def test_an_inner_layer_that_is_watched_or_changed_is_called():
    model = models.inception(image_size=8, width=0.1).eval()
    x, ebv = torch.randn(2, 5, 8, 8), torch.zeros(2)
    before = model(x, ebv)
    seen = []
    watch = model.i0.s1_0.register_forward_hook(lambda module, inputs, y: seen.append(y.shape))
    torch.testing.assert_close(model(x, ebv), before, atol=1e-6, rtol=1e-6)
    assert len(seen) == 1
    watch.remove()
    model(x, ebv)
    assert len(seen) == 1
    conv = model.i0.s2_2.conv
    handle = conv.register_forward_hook(lambda module, inputs, y: 0 * y)
    assert not torch.allclose(model(x, ebv), before, atol=1e-3)
    handle.remove()
    model.i0.s1_2.prelu = nn.ReLU()
    assert not torch.allclose(model(x, ebv), before, atol=1e-3)


@pytest.mark.parametrize(("kernel", "bias"), [(3, True), (1, False)])
def test_a_branch_of_another_shape_is_called(kernel, bias):
    model = models.inception(image_size=8, width=0.1).eval()
    old = model.i0.s1_0.conv
    new = nn.Conv2d(old.in_channels, old.out_channels, kernel, padding=kernel // 2, bias=bias)
    model.i0.s1_0.conv = new
    x = torch.randn(2, old.in_channels, 4, 4)
    expected = model.i0.s2_0(model.i0.s1_0.prelu(new(x)))
    start = model.i0.s2_2.conv.out_channels + model.i0.s2_1.conv.out_channels
    torch.testing.assert_close(model.i0(x)[:, start:][:, : expected.shape[1]], expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_without_gradients_there_are_only_pytorchs_own_operations():
    """So that a network can be traced and exported."""
    model = models.inception(image_size=8, width=0.1).eval()
    with torch.no_grad():
        logits = torch.jit.trace(model, (torch.randn(2, 5, 8, 8), torch.zeros(2)))
    assert "PythonOp" not in str(logits.inlined_graph)


@pytest.mark.parametrize("build", [models.inception, models.cnn])
def test_weights_are_channels_last(build):
    model = build(image_size=16, width=0.2)
    weights = [p for p in model.parameters() if p.ndim == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
# Dynamo looks at .grad of the attacked image, which is no leaf, and hides the warning itself; here
# warnings are errors before it can.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_torch_compile_of_model_and_crafting():
    """Inductor fails on PyTorch's stride-1 average pooling backward; ours compiles."""
    model = models.inception(image_size=16, width=0.1).eval()
    x, ebv, z = torch.randn(4, 5, 16, 16), torch.rand(4), torch.rand(4)
    attack = FGSM(0.01, objective=CrossEntropy(RedshiftBins()))
    plain = attack(model, x, z, context=(ebv,))
    compiled = attack(torch.compile(model), x, z, context=(ebv,))
    assert (plain == compiled).float().mean() > 0.999
