"""Attacks: callables that take a model and a batch and return a batch changed within a set."""

from advphotoz._random import SampleGenerators
from advphotoz.attacks.apgd import APGD
from advphotoz.attacks.contract import Attack, Budget, Found, ZeroGradientWarning
from advphotoz.attacks.fgsm import FGSM
from advphotoz.attacks.gradient import GradientAttack
from advphotoz.attacks.noise import UniformNoise
from advphotoz.attacks.noise_fgsm import NoiseFGSM
from advphotoz.attacks.pgd import PGD, l2_pgd
from advphotoz.attacks.problem import Problem
from advphotoz.attacks.square import Square
from advphotoz.attacks.standard import standard
from advphotoz.attacks.worst_of import WorstOf

__all__ = [
    "APGD",
    "FGSM",
    "PGD",
    "Attack",
    "Budget",
    "Found",
    "GradientAttack",
    "NoiseFGSM",
    "Problem",
    "SampleGenerators",
    "Square",
    "UniformNoise",
    "WorstOf",
    "ZeroGradientWarning",
    "l2_pgd",
    "standard",
]
