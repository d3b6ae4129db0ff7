"""Attacks: callables that take a model and a batch and return a batch changed within a ball."""

from advphotoz.attacks.attack import Attack, ZeroGradientWarning
from advphotoz.attacks.fgsm import FGSM
from advphotoz.attacks.noise import UniformNoise
from advphotoz.attacks.pgd import PGD, l2_pgd
from advphotoz.attacks.problem import Problem, place, posed
from advphotoz.attacks.worst import WorstOf

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "Problem",
    "UniformNoise",
    "WorstOf",
    "ZeroGradientWarning",
    "l2_pgd",
    "place",
    "posed",
]
