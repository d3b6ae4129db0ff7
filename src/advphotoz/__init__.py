"""How wrong a photo-z network can be made by a tiny change, and how to train one that resists.

A *perturbation set* says what may change, a *readout* how the network's output becomes a redshift,
an *objective* what to make worse, an *attack* how to search. `AdversarialTrainer` trains with
attacks (Algorithm 1 of Campagne 2020, arXiv:2002.10154), `evaluate` measures under them.
"""

from advphotoz import datasets, metrics, models, survey
from advphotoz._version import __version__ as __version__
from advphotoz.attacks import (
    APGD,
    FGSM,
    PGD,
    Attack,
    GradientAttack,
    Square,
    UniformNoise,
    WorstOf,
    ZeroGradientWarning,
    l2_pgd,
    standard,
)
from advphotoz.evaluation import evaluate, robustness_curve
from advphotoz.memory import keep_freed_memory
from advphotoz.mixed_precision import fast_autocast
from advphotoz.objectives import (
    CrossEntropy,
    LogOdds,
    NegativeLogLikelihood,
    PinballLoss,
    RedshiftError,
    SignedRedshift,
    TowardRedshift,
)
from advphotoz.perturbations import (
    Compose,
    GaussianBudget,
    L2Ball,
    LinfBall,
    MagnitudeOffset,
    PerturbationSet,
    PSFWidth,
    ReddeningError,
    ReddeningInputError,
    Shift,
    SkyGradient,
    SkyLevel,
    ZeroPoint,
    l2_eps_from_linf,
)
from advphotoz.redshift import GaussianMixture, PointEstimate, Quantiles, RedshiftBins
from advphotoz.training import AdversarialTrainer, mix_adversarial

__all__ = [
    "APGD",
    "FGSM",
    "PGD",
    "AdversarialTrainer",
    "Attack",
    "Compose",
    "CrossEntropy",
    "GaussianBudget",
    "GaussianMixture",
    "GradientAttack",
    "L2Ball",
    "LinfBall",
    "LogOdds",
    "MagnitudeOffset",
    "NegativeLogLikelihood",
    "PSFWidth",
    "PerturbationSet",
    "PinballLoss",
    "PointEstimate",
    "Quantiles",
    "ReddeningError",
    "ReddeningInputError",
    "RedshiftBins",
    "RedshiftError",
    "Shift",
    "SignedRedshift",
    "SkyGradient",
    "SkyLevel",
    "Square",
    "TowardRedshift",
    "UniformNoise",
    "WorstOf",
    "ZeroGradientWarning",
    "ZeroPoint",
    "datasets",
    "evaluate",
    "fast_autocast",
    "keep_freed_memory",
    "l2_eps_from_linf",
    "l2_pgd",
    "metrics",
    "mix_adversarial",
    "models",
    "robustness_curve",
    "standard",
    "survey",
]
