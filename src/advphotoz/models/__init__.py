"""The paper's two networks, and adapters that make any network callable as ``model(x, *context)``.

:func:`inception` and :func:`cnn` build the networks, from an image cube and E(B-V) to logits on
the redshift bins; :func:`table` prints their layers as the paper does. :class:`Adapter` wraps a
network with another call signature, :class:`AverageOverDraws` one that is random in eval mode.
"""

from __future__ import annotations

from advphotoz.models.adapters import Adapter, AverageOverDraws
from advphotoz.models.apertures import AperturePerceptron
from advphotoz.models.cnn import CNN, cnn
from advphotoz.models.inception import Inception, inception
from advphotoz.models.layers import Layer, layers, table
from advphotoz.models.stretch import AsinhStretch

__all__ = [
    "CNN",
    "Adapter",
    "AperturePerceptron",
    "AsinhStretch",
    "AverageOverDraws",
    "Inception",
    "Layer",
    "cnn",
    "inception",
    "layers",
    "table",
]
