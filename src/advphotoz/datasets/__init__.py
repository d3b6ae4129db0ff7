"""Galaxies to train on and to attack: simulated ones, and people's own cutouts."""

from __future__ import annotations

from advphotoz.datasets.cutouts import CutoutDataset
from advphotoz.datasets.dihedral import random_dihedral
from advphotoz.datasets.simulation import simulate
from advphotoz.datasets.stored import StoredCutouts

__all__ = ["CutoutDataset", "StoredCutouts", "random_dihedral", "simulate"]
