"""Perturbation sets: what may change in one galaxy, and by how much."""

from advphotoz.perturbations.contract import PerturbationSet
from advphotoz.perturbations.photometry import Box, ZeroPoint
from advphotoz.perturbations.pixels import L2Ball, LinfBall, PixelBall, l2_eps_from_linf

__all__ = [
    "Box",
    "L2Ball",
    "LinfBall",
    "PerturbationSet",
    "PixelBall",
    "ZeroPoint",
    "l2_eps_from_linf",
]
