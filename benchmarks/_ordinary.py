"""The paper's networks from PyTorch's own layers, as anyone would write them; same parameter names.

advphotoz.models computes the same with faster layers. Attacked by all, this one shows how much of
the speed lies in the network.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _conv(state: Mapping[str, Tensor], name: str, padding: int | None = None) -> nn.Conv2d:
    """Return a convolution of the size that the weights have."""
    outputs, inputs, kernel, _ = state[f"{name}.weight"].shape
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2 if padding is None else padding)


def _linear(state: Mapping[str, Tensor], name: str) -> nn.Linear:
    outputs, inputs = state[f"{name}.weight"].shape
    return nn.Linear(inputs, outputs)


def _conv_prelu(state: Mapping[str, Tensor], name: str) -> nn.Sequential:
    conv = _conv(state, f"{name}.conv")
    return nn.Sequential(OrderedDict(conv=conv, prelu=nn.PReLU(conv.out_channels)))


class Cell(nn.Module):
    def __init__(self, state: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        for branch in ("s1_0", "s1_1", "s1_2", "s2_0", "s2_1", "s2_2"):
            if f"{name}.{branch}.conv.weight" in state:
                self.add_module(branch, _conv_prelu(state, f"{name}.{branch}"))
        self.pool0 = nn.AvgPool2d(2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool0(F.pad(self.s1_2(x), (0, 1, 0, 1)))
        s2_1 = [self.s2_1(self.s1_1(x))] if hasattr(self, "s2_1") else []
        return torch.cat([self.s2_2(x), *s2_1, self.s2_0(self.s1_0(x)), pooled], dim=1)


class Inception(nn.Module):
    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.conv0 = _conv_prelu(state, "conv0")
        self.pool0 = nn.AvgPool2d(2)
        self.i0, self.i1, self.i2, self.i3, self.i4 = (Cell(state, f"i{k}") for k in range(5))
        self.fc0, self.fc1, self.fc2 = (_linear(state, f"fc{k}") for k in range(3))
        self.load_state_dict(state)

    def forward(self, image: Tensor, ebv: Tensor) -> Tensor:
        x = self.pool0(self.conv0(image))
        x = self.pool0(self.i1(self.i0(x)))
        x = self.i4(self.pool0(self.i3(self.i2(x))))
        x = torch.cat([x.flatten(1), ebv[:, None]], dim=1)
        return self.fc2(self.fc1(self.fc0(x).relu()).relu())


class CNN(nn.Module):
    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.conv0, self.conv1, self.conv2 = (_conv(state, f"conv{k}", 2) for k in range(3))
        self.pool0 = nn.AvgPool2d(2, ceil_mode=True)
        self.fc0, self.fc1 = (_linear(state, f"fc{k}") for k in range(2))
        self.load_state_dict(state)

    def forward(self, image: Tensor, ebv: Tensor) -> Tensor:
        x = self.pool0(self.conv0(image).relu())
        x = self.pool0(self.conv1(x).relu())
        x = self.pool0(self.conv2(x).relu())
        x = torch.cat([x.flatten(1), ebv[:, None]], dim=1)
        return self.fc1(self.fc0(x).relu())


def ordinary(name: str, model: nn.Module) -> nn.Module:
    """Return the network with the same weights, contiguous as PyTorch makes them, in eval mode."""
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    device = next(model.parameters()).device
    return {"inception": Inception, "cnn": CNN}[name](state).to(device).eval()
