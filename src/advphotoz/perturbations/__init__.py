"""Perturbation sets: what may change in one galaxy, and by how much."""

from advphotoz._random import draw
from advphotoz.perturbations.box import Box
from advphotoz.perturbations.contract import PerturbationSet
from advphotoz.perturbations.photometry import ZeroPoint
from advphotoz.perturbations.pixels import L2Ball, LinfBall, PixelBall, l2_eps_from_linf

__all__ = [
    "Box",
    "L2Ball",
    "LinfBall",
    "PerturbationSet",
    "PixelBall",
    "ZeroPoint",
    "draw",
    "l2_eps_from_linf",
]
