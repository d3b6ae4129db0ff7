"""Networks as people write them, called as model(x, *context) through an adapter."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advphotoz.models import Adapter, AverageOverDraws

N, BANDS, SIZE = 6, 5, 8


class ResNetLike(nn.Module):
    """A residual block with batch normalisation, and one redshift, of shape (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(BANDS, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 1)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.norm(self.first(image)))
        x = F.relu(x + self.second(x)).mean((2, 3))
        return self.head(x)[:, 0]


class TupleOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(BANDS * SIZE**2 + 1, 7)

    def forward(self, image: Tensor, ebv: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        features = torch.cat([image.flatten(1), ebv[:, None]], 1)
        return self.body(features), {"features": features}


class DictInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = TupleOutput()

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.body(batch["image"], batch["ebv"])[0]


class ImageThird(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = TupleOutput()

    def forward(self, magnitudes: Tensor, ebv: Tensor, image: Tensor) -> Tensor:
        return self.body(image, ebv)[0] + magnitudes.sum(1, keepdim=True)


class RandomInEval(nn.Module):
    """Dropout made within forward, which eval mode does not switch off."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(BANDS * SIZE**2, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.body(F.dropout(image.flatten(1), 0.5, training=True))


def image_third(net: nn.Module, image: Tensor, ebv: Tensor, magnitudes: Tensor) -> Tensor:
    """A function of a module, which can be pickled."""
    return net(magnitudes, ebv, image)


IMAGE = torch.rand(N, BANDS, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
EBV = torch.linspace(0, 0.1, N)
MAGNITUDES = torch.linspace(15, 18, 2 * N).view(N, 2)
# The network, how it is called, the context, and the same output without the adapter.
CASES: dict[str, tuple[Any, Any, tuple[Tensor, ...], Any]] = {
    "standardised redshift": (
        ResNetLike,
        lambda net, x: 0.1 + 0.05 * net(x),
        (),
        lambda net, x: net(x) / 20 + 0.1,
    ),
    "tuple output": (
        TupleOutput,
        lambda net, *inputs: net(*inputs)[0],
        (EBV,),
        lambda net, x: net.body(torch.cat([x.flatten(1), EBV[:, None]], 1)),
    ),
    "dict input": (
        DictInput,
        lambda net, image, ebv: net({"image": image, "ebv": ebv}),
        (EBV,),
        lambda net, x: net.body(x, EBV)[0],
    ),
    "image third": (
        ImageThird,
        image_third,
        (EBV, MAGNITUDES),
        lambda net, x: net.body(x, EBV)[0] + MAGNITUDES.sum(1, keepdim=True),
    ),
}


@pytest.mark.parametrize(("build", "call", "context", "direct"), CASES.values(), ids=CASES.keys())
def test_output_and_gradients_are_the_networks(
    build: Any, call: Any, context: tuple[Tensor, ...], direct: Any
) -> None:
    network = build().eval()
    model = Adapter(network, call)
    results = []
    for function in (lambda x: model(x, *context), lambda x: direct(network, x)):
        x = IMAGE.clone().requires_grad_()
        output = function(x)
        grads = torch.autograd.grad(output.pow(2).sum(), [x, *network.parameters()])
        results.append((output, *grads))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    assert results[0][1].flatten(1).any(1).all()  # every image has a gradient


def test_the_network_is_a_submodule() -> None:
    network = ResNetLike()
    model = Adapter(network, lambda net, x: net(x))
    assert list(model.parameters()) == list(network.parameters())
    assert list(model.state_dict()) == [f"network.{name}" for name in network.state_dict()]
    model.eval()
    assert not network.norm.training
    before = network.norm.running_mean.clone()
    model(IMAGE)
    assert torch.equal(network.norm.running_mean, before)
    model.train()
    model(IMAGE)
    assert not torch.equal(network.norm.running_mean, before)
    assert model.double().network.head.weight.dtype == torch.float64
    other = Adapter(ResNetLike().double(), lambda net, x: net(x))
    other.load_state_dict(model.state_dict())
    model.eval(), other.eval()
    assert torch.equal(other(IMAGE.double()), model(IMAGE.double()))


def test_a_copy_has_its_own_network() -> None:
    model = Adapter(TupleOutput(), lambda net, *inputs: net(*inputs)[0])
    expected = model(IMAGE, EBV)
    twin = copy.deepcopy(model)
    nn.init.zeros_(model.network.body.weight)
    assert torch.equal(twin(IMAGE, EBV), expected)
    assert not torch.equal(model(IMAGE, EBV), expected)


def test_an_adapter_with_a_function_of_a_module_can_be_pickled() -> None:
    model = AverageOverDraws(Adapter(ImageThird(), image_third), 2)
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(again(IMAGE, EBV, MAGNITUDES), model(IMAGE, EBV, MAGNITUDES))


def test_repr_says_what_is_called() -> None:
    text = repr(AverageOverDraws(Adapter(ImageThird(), image_third), 3))
    assert "draws=3" in text
    assert "call=image_third" in text


def test_the_mean_of_draws_scatters_less_by_their_square_root() -> None:
    network = RandomInEval().eval()
    exact = network.body(IMAGE.flatten(1)).detach()  # dropout keeps the expectation
    exact_grad = network.body.weight.sum(0).detach()
    repeats = 200
    scatters, grad_scatters = [], []
    for draws in (1, 16):
        model = AverageOverDraws(network, draws)
        outputs, grads = [], []
        for _ in range(repeats):
            x = IMAGE.clone().requires_grad_()
            output = model(x)
            outputs.append(output.detach())
            grads.append(torch.autograd.grad(output.sum(), x)[0].flatten(1))
        errors, grad_errors = torch.stack(outputs) - exact, torch.stack(grads) - exact_grad
        scatters.append(errors.pow(2).mean().sqrt().item())
        grad_scatters.append(grad_errors.pow(2).mean().sqrt().item())
        standard_error = scatters[-1] / math.sqrt(repeats)
        assert errors.mean(0).abs().max() < 5 * standard_error
    assert scatters[0] / scatters[1] == pytest.approx(4, rel=0.1)
    assert grad_scatters[0] / grad_scatters[1] == pytest.approx(4, rel=0.1)


def test_the_mean_is_that_of_the_draws() -> None:
    network = RandomInEval().eval()
    torch.manual_seed(5)
    expected = (network(IMAGE) + network(IMAGE) + network(IMAGE)) / 3
    torch.manual_seed(5)
    torch.testing.assert_close(AverageOverDraws(network, 3)(IMAGE), expected)


def test_half_precision_is_summed_up_in_single_precision() -> None:
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.bfloat16()

    output = AverageOverDraws(Constant(), 1000)(torch.full((2, 1), 3.0))
    assert output.dtype == torch.bfloat16  # whose own sum would stop at 1024
    assert (output == 3).all()


def test_refusals() -> None:
    with pytest.raises(TypeError, match=r"network must be a torch.nn.Module; got function"):
        Adapter(image_third, image_third)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"network must be a torch.nn.Module; got int"):
        AverageOverDraws(3, 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"call must be a function, .* got str"):
        Adapter(ResNetLike(), "image")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="draws must be at least 1"):
        AverageOverDraws(ResNetLike(), 0)
    with pytest.raises(TypeError, match="draws must be an integer"):
        AverageOverDraws(ResNetLike(), 2.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="returns one tensor; got tuple"):
        AverageOverDraws(TupleOutput(), 2)(IMAGE, EBV)


class _WritesInPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.1).sum(1, keepdim=True)


def test_every_draw_sees_the_same_inputs() -> None:
    x = torch.zeros(2, 3)
    found = AverageOverDraws(_WritesInPlace(), draws=4)(x)
    torch.testing.assert_close(found, torch.full((2, 1), -0.3))
    assert torch.equal(x, torch.zeros(2, 3))
