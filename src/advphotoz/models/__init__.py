"""The paper's two networks: from an image cube and E(B-V) to logits on redshift bins.

:func:`inception` and :func:`cnn` build them, :func:`table` prints their layers as the paper does.
"""

from __future__ import annotations

from advphotoz.models._shared import Layer, layers, table
from advphotoz.models.cnn import CNN, cnn
from advphotoz.models.inception import Inception, inception

__all__ = ["CNN", "Inception", "Layer", "cnn", "inception", "layers", "table"]
