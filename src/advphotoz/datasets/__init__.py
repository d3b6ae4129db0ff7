"""Galaxies to train on and to attack: simulated ones, your own files, and loaders of others."""

from __future__ import annotations

from advphotoz.datasets.cutouts import CutoutDataset
from advphotoz.datasets.dihedral import random_dihedral
from advphotoz.datasets.fits_files import FITSCutouts, FITSFile
from advphotoz.datasets.hdf5_files import HDF5File
from advphotoz.datasets.loaders import MappedLoader
from advphotoz.datasets.npy_files import NumpyFiles
from advphotoz.datasets.simulation import simulate
from advphotoz.datasets.sky import sky_noise
from advphotoz.datasets.sources import ArraySource
from advphotoz.datasets.stored import StoredCutouts
from advphotoz.datasets.tables import TableDataset, read_table

__all__ = [
    "ArraySource",
    "CutoutDataset",
    "FITSCutouts",
    "FITSFile",
    "HDF5File",
    "MappedLoader",
    "NumpyFiles",
    "StoredCutouts",
    "TableDataset",
    "random_dihedral",
    "read_table",
    "simulate",
    "sky_noise",
]
