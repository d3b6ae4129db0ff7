"""Algorithm 1: `mix_adversarial` for anyone's loop, and `AdversarialTrainer`, a loop around it."""

from advphotoz.training.alignment import CollapseWarning, GradientAlignment, gradient_alignment
from advphotoz.training.callbacks import Callback, EarlyStopping, WeightAverage
from advphotoz.training.losses import MixedLoss, TrainingLoss
from advphotoz.training.mixing import mix_adversarial
from advphotoz.training.schedule import EpsSchedule
from advphotoz.training.trades import TRADES
from advphotoz.training.trainer import AdversarialTrainer, Trainer
from advphotoz.training.warm_start import IndexedDataset, WarmStart

__all__ = [
    "TRADES",
    "AdversarialTrainer",
    "Callback",
    "CollapseWarning",
    "EarlyStopping",
    "EpsSchedule",
    "GradientAlignment",
    "IndexedDataset",
    "MixedLoss",
    "Trainer",
    "TrainingLoss",
    "WarmStart",
    "WeightAverage",
    "gradient_alignment",
    "mix_adversarial",
]
