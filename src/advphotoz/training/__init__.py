"""Algorithm 1: `mix_adversarial` for anyone's loop, and `AdversarialTrainer`, a loop around it."""

from advphotoz.training.carry import Carry
from advphotoz.training.mixing import mix_adversarial
from advphotoz.training.numbered import numbered
from advphotoz.training.trainer import AdversarialTrainer

__all__ = ["AdversarialTrainer", "Carry", "mix_adversarial", "numbered"]
