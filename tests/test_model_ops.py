"""The networks' own operations: PyTorch's values and gradients, first and second."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advphotoz import FGSM, CrossEntropy, RedshiftBins, models
from advphotoz.models._ops import Halve, PReLU, Smooth

PAIRS = {
    "halve": (Halve(), nn.AvgPool2d(2)),
    "smooth": (Smooth(), nn.AvgPool2d(2, stride=1)),
    "prelu": (PReLU(3, 0.25), nn.PReLU(3, 0.25)),
    "prelu-steep": (PReLU(3, 0.9), nn.PReLU(3, 0.9)),
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
    assert torch.equal(Halve()(x), F.avg_pool2d(x, 2, ceil_mode=True))


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


@pytest.mark.parametrize("build", [models.inception, models.cnn])
def test_networks_equal_their_plain_pytorch_twins(build):
    """Every operation replaced by PyTorch's own: the same logits and gradients to 1e-6."""
    model = build(image_size=16, width=0.2).eval()
    x, ebv, z = torch.randn(4, 5, 16, 16), torch.rand(4), torch.rand(4)
    found = FGSM(0.1)(model, x, z, context=(ebv,))
    logits = model(x, ebv)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Halve, "forward", lambda self, x: F.avg_pool2d(x, 2, ceil_mode=True))
        patch.setattr(PReLU, "forward", lambda self, x: F.prelu(x, self.weight))
        patch.setattr(Smooth, "forward", lambda self, x: F.avg_pool2d(x, 2, stride=1))
        torch.testing.assert_close(model(x, ebv), logits, atol=1e-6, rtol=1e-6)
        assert torch.equal(FGSM(0.1)(model, x, z, context=(ebv,)), found)


@pytest.mark.parametrize("build", [models.inception, models.cnn])
def test_weights_are_channels_last(build):
    model = build(image_size=16, width=0.2)
    weights = [p for p in model.parameters() if p.ndim == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_torch_compile_of_model_and_crafting():
    """Inductor fails on PyTorch's stride-1 average pooling backward; ours compiles."""
    model = models.inception(image_size=16, width=0.1).eval()
    x, ebv, z = torch.randn(4, 5, 16, 16), torch.rand(4), torch.rand(4)
    attack = FGSM(0.01, objective=CrossEntropy(RedshiftBins()))
    plain = attack(model, x, z, context=(ebv,))
    compiled = attack(torch.compile(model), x, z, context=(ebv,))
    assert (plain == compiled).float().mean() > 0.999
