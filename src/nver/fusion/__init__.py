"""Fusions: how the embeddings of several encoders become one decision.

Each fusion is one leaf file and one line in the table. All see the same input, one matrix whose
columns are cut into views (one per encoder), and all have the same branches, so that they differ in
the fusion alone: `concat` and `late` are the baselines, `transport` is MATA without attention,
`attention` is MATA without transport, `mata` is the paper's network (arXiv 2409.14221).
"""

from __future__ import annotations

from nver.fusion.base import Fusion, FusionShape, build_fusion, fusion_class
from nver.fusion.coupling import BatchCoupling, Companions, Coupling, EntropicMap
from nver.fusion.table import FUSIONS

__all__ = [
    "FUSIONS",
    "BatchCoupling",
    "Companions",
    "Coupling",
    "EntropicMap",
    "Fusion",
    "FusionShape",
    "build_fusion",
    "fusion_class",
]
