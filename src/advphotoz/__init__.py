"""How wrong a photo-z network can be made by a tiny change, and how to train one that resists.

Five nouns combine: a *ball* (the allowed perturbations), an *objective* (what to make worse), an
*attack* (how to search), redshift *bins* and a *model*. `AdversarialTrainer` trains with attacks
(Algorithm 1 of Campagne 2020, arXiv:2002.10154), `evaluate` measures under them.
"""

from advphotoz import datasets, metrics, models
from advphotoz.attacks import FGSM, PGD, Attack, UniformNoise, WorstOf, ZeroGradientWarning, l2_pgd
from advphotoz.balls import Ball, L2Ball, LinfBall, l2_eps_from_linf
from advphotoz.evaluation import evaluate, robustness_curve
from advphotoz.memory import keep_freed_memory
from advphotoz.objectives import CrossEntropy, RedshiftError, TowardRedshift
from advphotoz.redshift import RedshiftBins
from advphotoz.training import AdversarialTrainer, mix_adversarial

__version__ = "0.1.0"

__all__ = [
    "FGSM",
    "PGD",
    "AdversarialTrainer",
    "Attack",
    "Ball",
    "CrossEntropy",
    "L2Ball",
    "LinfBall",
    "RedshiftBins",
    "RedshiftError",
    "TowardRedshift",
    "UniformNoise",
    "WorstOf",
    "ZeroGradientWarning",
    "datasets",
    "evaluate",
    "keep_freed_memory",
    "l2_eps_from_linf",
    "l2_pgd",
    "metrics",
    "mix_adversarial",
    "models",
    "robustness_curve",
]
