from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advphotoz import FGSM, PointEstimate, RedshiftBins, SignedRedshift
from advphotoz.evaluation import loss_landscape
from advphotoz.objectives import CrossEntropy

BINS = RedshiftBins(n=5)
OBJECTIVE = CrossEntropy(BINS)
RADII = [-1.0, 0.0, 0.5, 1.0]


class Net(nn.Module):
    """Dropout and BatchNorm would show a wrong mode, the context a wrong row."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.drop = nn.Dropout(0.5)
        self.out = nn.Linear(2 * 9 + 1, 5)
        self.shown: list[int] = []

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        self.shown.append(len(x))
        h = self.drop(self.norm(x)).flatten(1)
        logits: Tensor = self.out(torch.cat([h, 3 * ebv[:, None]], dim=1))
        return logits


@pytest.fixture
def given() -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return {
        "model": Net().train(),
        "x": torch.randn(3, 2, 3, 3),
        "target": torch.rand(3),
        "directions": [torch.randn(3, 2, 3, 3), torch.randn(3, 2, 3, 3)],
        "radii": RADII,
        "context": (torch.rand(3),),
        "objective": OBJECTIVE,
    }


def alone(given: dict[str, Any], n: int, *steps: float) -> float:
    """Return the loss of one point, computed for itself."""
    model, [ebv] = given["model"].eval(), given["context"]
    moved = given["x"][n : n + 1].clone()
    for step, way in zip(steps, given["directions"], strict=False):
        moved += step * way[n : n + 1]
    with torch.no_grad():
        loss = OBJECTIVE(model(moved, ebv[n : n + 1]), given["target"][n : n + 1])
    return float(loss)


def test_every_point_of_a_plane_and_of_a_line_is_where_it_says(given: dict[str, Any]) -> None:
    plane = loss_landscape(**given)
    line = loss_landscape(**{**given, "directions": given["directions"][:1]})
    assert plane.shape == (3, 4, 4)
    assert line.shape == (3, 4)
    assert plane.dtype == torch.float32
    assert not plane.requires_grad
    for n in range(3):
        for i, one in enumerate(RADII):
            assert float(line[n, i]) == pytest.approx(alone(given, n, one), rel=1e-5)
            for j, two in enumerate(RADII):
                assert float(plane[n, i, j]) == pytest.approx(alone(given, n, one, two), rel=1e-5)
    assert torch.allclose(plane[:, :, 1], line, atol=1e-6)


def test_linear_loss_is_a_tilted_plane() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.5]])
    model = nn.Linear(3, 1, bias=False)
    model.weight.data = weight
    x, target = torch.zeros(1, 3), torch.zeros(1)
    objective = lambda output, z: output[:, 0]  # noqa: E731
    steepest = FGSM(0.1, objective=objective)(model, x, target)
    flat = torch.tensor([[2.0, 1.0, 0.0]])
    losses = loss_landscape(model, x, target, [steepest, flat], RADII, objective=objective)
    expected = 0.35 * torch.tensor(RADII)[:, None].expand(4, 4)
    assert torch.allclose(losses[0], expected, atol=1e-6)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_batches_mix_samples_and_change_nothing(given: dict[str, Any], size: int) -> None:
    whole = loss_landscape(**given)
    given["model"].shown.clear()
    assert torch.allclose(loss_landscape(**given, batch_size=size), whole, atol=1e-6)
    shown = given["model"].shown
    assert sum(shown) == 48
    assert max(shown) == min(size, 48)


def test_no_trace_is_left(given: dict[str, Any]) -> None:
    model: Any = given["model"]
    model.norm.eval()
    model.out.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = [given["x"], given["target"], *given["directions"], *given["context"]]
    copies = [value.clone() for value in held]
    state = torch.random.get_rng_state()
    loss_landscape(**given)
    with torch.inference_mode():
        loss_landscape(**given)
    with pytest.raises(RuntimeError):
        loss_landscape(**{**given, "x": given["x"][:, :1], "directions": [given["x"][:, :1]]})
    assert model.training
    assert model.drop.training
    assert not model.norm.training
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, True]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(one, two) for one, two in zip(held, copies, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_half_precision_and_the_papers_bins() -> None:
    model = nn.Linear(4, 180).bfloat16()
    x, target = torch.randn(2, 4).bfloat16(), torch.rand(2)
    objective = CrossEntropy(RedshiftBins())
    losses = loss_landscape(model, x, target, [torch.ones(2, 4)], [0, 1], objective)
    assert losses.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(losses[:, 0], objective(model(x), target))


class InPlace(nn.Module):
    """It writes into its inputs, and counts its calls in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, ebv: Tensor) -> Tensor:
        self.calls += 1
        x.sub_(0.1)
        ebv.add_(1.0)
        return 0.3 + x.mean((1, 2, 3)) + ebv


def test_a_network_that_writes_into_its_inputs_and_has_one_output() -> None:
    x, z, ebv = torch.randn(3, 2, 3, 3), torch.full((3,), 0.1), torch.ones(3)
    kept = x.clone()
    model = InPlace()
    objective = SignedRedshift(PointEstimate())
    losses = loss_landscape(
        model, x, z, [torch.ones_like(x)], RADII, objective, context=(ebv,), batch_size=2
    )
    expected = (0.3 - 0.1 + 2.0 - 0.1 + x.mean((1, 2, 3))[:, None] + torch.tensor(RADII)) / 1.1
    assert torch.allclose(losses, expected, atol=1e-5)
    assert torch.equal(x, kept)
    assert torch.equal(ebv, torch.ones(3))
    assert model.calls == 0


X = torch.zeros(3, 2, 3, 3)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        (
            {"x": X[:0], "directions": [X[:0]], "target": X[:0, 0, 0, 0], "context": ()},
            ValueError,
            "x holds no images",
        ),
        ({"directions": X}, ValueError, "one tensor .a line. or two .a plane., got a tensor"),
        ({"directions": []}, ValueError, "got 0 of them"),
        ({"directions": [X, X, X]}, ValueError, "got 3 of them"),
        ({"directions": [X, X[:1]]}, ValueError, r"directions\[1\] must be .*\(1, 2, 3, 3\)"),
        ({"directions": [1.0]}, ValueError, r"directions\[0\] must be .* got 1.0"),
        ({"directions": [X / 0]}, ValueError, r"directions\[0\] must be finite"),
        ({"radii": []}, ValueError, "radii must be a list of finite numbers"),
        ({"radii": 1.0}, ValueError, "radii must be a list of finite numbers"),
        ({"radii": [float("inf")]}, ValueError, "radii must be a list of finite numbers"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"target": torch.rand(2)}, ValueError, "target must have one row per sample"),
        ({"context": torch.rand(3)}, TypeError, "write context="),
        ({"model": lambda x, ebv: x}, TypeError, r"model must be a torch.nn.Module"),
        ({"objective": None}, TypeError, "objective must be callable .* got None"),
        ({"objective": CrossEntropy(RedshiftBins())}, ValueError, r"logits of shape \(N, 180\)"),
        ({"objective": lambda output, z: output}, ValueError, "one value per sample"),
    ],
)
def test_what_makes_no_sense_is_refused(
    given: dict[str, Any], changes: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        loss_landscape(**{**given, **changes})
