"""Algorithm 1: `mix_adversarial` for anyone's loop, and `AdversarialTrainer`, a loop around it."""

from advphotoz.training.mixing import mix_adversarial
from advphotoz.training.trainer import AdversarialTrainer

__all__ = ["AdversarialTrainer", "mix_adversarial"]
