"""PGD by each library that is compared: L-infinity, from zero, called as its manual says."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from _common import BINS, EPS, STEP_SIZE, STEPS, bare
from advphotoz import PGD, CrossEntropy, LinfBall

Craft = Callable[[Tensor, Tensor], Tensor]


class Closed(nn.Module):
    """The network with E(B-V) of one batch closed over: other libraries pass one input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.ebv = model, torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x, self.ebv[: len(x)]).float()  # ART cannot read bf16 logits


def advphotoz(model: Closed, x: Tensor, autocast: torch.dtype | None = None) -> Craft:
    attack = PGD(
        LinfBall(EPS),
        steps=STEPS,
        step_size=STEP_SIZE / EPS,
        keep="last",
        objective=CrossEntropy(BINS),
        autocast=autocast,
    )
    return lambda x, z: attack(model.model, x, z, context=(model.ebv,))


def bare_loop(model: Closed, x: Tensor) -> Craft:
    return lambda x, z: bare(model, x, BINS.index(z))


def foolbox(model: Closed, x: Tensor, steps: int = STEPS, size: float = STEP_SIZE) -> Craft:
    from foolbox import PyTorchModel
    from foolbox.attacks import LinfPGD

    wrapped = PyTorchModel(model, bounds=(-math.inf, math.inf), device=x.device)
    attack = LinfPGD(steps=steps, abs_stepsize=size, random_start=False)
    return lambda x, z: attack(wrapped, x, BINS.index(z), epsilons=EPS)[0]


def art(model: Closed, x: Tensor, steps: int = STEPS, size: float = STEP_SIZE) -> Craft:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    estimator = PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=BINS.n,
        clip_values=None,
        device_type="cpu" if x.device.type == "cpu" else "gpu",
    )

    def craft(x: Tensor, z: Tensor) -> Tensor:
        attack = ProjectedGradientDescentPyTorch(
            estimator, eps=EPS, eps_step=size, max_iter=steps, batch_size=len(x), verbose=False
        )
        return torch.from_numpy(attack.generate(x.cpu().numpy(), BINS.index(z).cpu().numpy()))

    return craft


def torchattacks(model: Closed, x: Tensor, steps: int = STEPS, size: float = STEP_SIZE) -> Craft:
    from torchattacks import PGD as TheirPGD

    # It clamps to [0, 1]; its own normalisation maps the range of all images there and back.
    low, scale = x.min().item() - EPS, x.max().item() - x.min().item() + 2 * EPS
    attack = TheirPGD(model, EPS / scale, size / scale, steps, random_start=False)
    attack.set_normalization_used([-low / scale] * x.shape[1], [1 / scale] * x.shape[1])
    return lambda x, z: attack(x, BINS.index(z))


def captum(model: Closed, x: Tensor, steps: int = STEPS, size: float = STEP_SIZE) -> Craft:
    from captum.robust import PGD as TheirPGD

    attack = TheirPGD(model, nn.CrossEntropyLoss(reduction="none"))
    return lambda x, z: attack.perturb(x, EPS, size, steps, target=BINS.index(z))


LIBRARIES = {
    "advphotoz": advphotoz,
    "bare loop": bare_loop,
    "foolbox": foolbox,
    "ART": art,
    "torchattacks": torchattacks,
    "captum": captum,
}
PACKAGES = {"ART": "adversarial-robustness-toolbox"}
