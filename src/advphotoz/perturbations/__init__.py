"""Perturbation sets: what may change in one galaxy, and by how much."""

from advphotoz._random import draw
from advphotoz.perturbations.box import Box
from advphotoz.perturbations.combinations import Compose, GaussianBudget
from advphotoz.perturbations.contract import Parameter, PerturbationSet
from advphotoz.perturbations.optics import PSFWidth, Shift
from advphotoz.perturbations.photometry import (
    MagnitudeOffset,
    ReddeningError,
    ReddeningInputError,
    SkyGradient,
    SkyLevel,
    ZeroPoint,
)
from advphotoz.perturbations.pixels import L2Ball, LinfBall, PixelBall, l2_eps_from_linf

__all__ = [
    "Box",
    "Compose",
    "GaussianBudget",
    "L2Ball",
    "LinfBall",
    "MagnitudeOffset",
    "PSFWidth",
    "Parameter",
    "PerturbationSet",
    "PixelBall",
    "ReddeningError",
    "ReddeningInputError",
    "Shift",
    "SkyGradient",
    "SkyLevel",
    "ZeroPoint",
    "draw",
    "l2_eps_from_linf",
]
