"""Galaxies to train on and to attack: simulated ones, your own cutouts, and loaders of others."""

from __future__ import annotations

from advphotoz.datasets.cutouts import CutoutDataset
from advphotoz.datasets.dihedral import random_dihedral
from advphotoz.datasets.loaders import MappedLoader
from advphotoz.datasets.simulation import simulate
from advphotoz.datasets.stored import StoredCutouts

__all__ = ["CutoutDataset", "MappedLoader", "StoredCutouts", "random_dihedral", "simulate"]
