"""Heads over one embedding, and the layers that heads and fusions are made of.

`layers` and `convolution` hold layers of one network or of many at once; `networks` the heads.
"""

from __future__ import annotations

from nver.heads.convolution import CLIPS_AT_ONCE, ConvPool
from nver.heads.layers import Batch, Dropout, Hidden, LayerNorm, Linear, Random
from nver.heads.networks import CNN, FCN, HIDDEN, Classifier, ConvTrunk, build_head
from nver.heads.standardise import Standardise

__all__ = [
    "CLIPS_AT_ONCE",
    "CNN",
    "FCN",
    "HIDDEN",
    "Batch",
    "Classifier",
    "ConvPool",
    "ConvTrunk",
    "Dropout",
    "Hidden",
    "LayerNorm",
    "Linear",
    "Random",
    "Standardise",
    "build_head",
]
