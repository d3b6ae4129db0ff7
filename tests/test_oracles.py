"""Independent libraries, on unbounded pixels and with a second input: the same perturbations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from advphotoz import FGSM, PGD, LinfBall, l2_pgd
from problems import BINS, two_inputs

EPS, EPS_L2 = 0.3, 5.0


class Closed(nn.Module):
    """The network with its context closed over: other libraries pass one input, whole batches."""

    def __init__(self, model, ebv):
        super().__init__()
        self.model, self.ebv = model, ebv

    def forward(self, x):
        return self.model(x, self.ebv)


def case(dtype=torch.float32):
    """Return the problem with BatchNorm and dropout frozen (eval), and our three results.

    Pixels of -13 to 13 in float32: the others accumulate x + delta, whose rounding grows with x,
    and we accumulate delta. In float64, pixels of -130 to 130.
    """
    model, x, z, context, objective = two_inputs()
    model = model.eval().to(dtype)
    x = (x if dtype == torch.float64 else x / 10).to(dtype)
    context = (context[0].to(dtype),)
    paper = {"step_size": "paper", "keep": "last", "objective": objective}
    attacks = {
        "fgsm": FGSM(EPS, objective=objective),
        "pgd": PGD(LinfBall(EPS), **paper, steps=10),
        "l2-pgd": l2_pgd(EPS_L2, **paper, steps=40),
    }
    ours = {name: attack(model, x, z, context=context) for name, attack in attacks.items()}
    return Closed(model, context[0]), x, BINS.index(z), ours


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_foolbox(dtype, atol):
    foolbox = pytest.importorskip("foolbox")
    model, x, labels, ours = case(dtype)
    wrapped = foolbox.PyTorchModel(model.eval(), bounds=(-math.inf, math.inf))
    attacks = {
        "fgsm": (foolbox.attacks.LinfFastGradientAttack(random_start=False), EPS),
        "pgd": (
            foolbox.attacks.LinfPGD(steps=10, abs_stepsize=EPS / 10, random_start=False),
            EPS,
        ),
        "l2-pgd": (
            foolbox.attacks.L2PGD(steps=40, abs_stepsize=EPS_L2 / 10, random_start=False),
            EPS_L2,
        ),
    }
    for name, (attack, eps) in attacks.items():
        theirs, _, _ = attack(wrapped, x, labels, epsilons=eps)
        assert (theirs - x).abs().max() > 0.1, name
        torch.testing.assert_close(ours[name] - x, theirs - x, atol=atol, rtol=0, msg=name)


@pytest.mark.filterwarnings("ignore")
def test_art():
    pytest.importorskip("art")
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    model, x, labels, ours = case()
    estimator = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), input_shape=x.shape[1:], nb_classes=BINS.n, clip_values=None
    )
    common = {"batch_size": len(x), "num_random_init": 0}
    pgd = {"verbose": False, **common}
    attacks = {
        "fgsm": FastGradientMethod(estimator, norm=np.inf, eps=EPS, **common),
        "pgd": ProjectedGradientDescentPyTorch(
            estimator, norm=np.inf, eps=EPS, eps_step=EPS / 10, max_iter=10, **pgd
        ),
        "l2-pgd": ProjectedGradientDescentPyTorch(
            estimator, norm=2, eps=EPS_L2, eps_step=EPS_L2 / 10, max_iter=40, **pgd
        ),
    }
    for name, attack in attacks.items():
        theirs = torch.from_numpy(attack.generate(x.numpy(), labels.numpy()))
        assert (theirs - x).abs().max() > 0.1, name
        torch.testing.assert_close(ours[name] - x, theirs - x, atol=1e-5, rtol=0, msg=name)
