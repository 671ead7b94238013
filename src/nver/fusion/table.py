"""The table of fusions."""

from __future__ import annotations

from nver.registry import Registry

FUSIONS = Registry(
    "fusion",
    {
        "concat": "nver.fusion.concat:Concat",
        "late": "nver.fusion.late:Late",
        "transport": "nver.fusion.transported:Transported",
        "attention": "nver.fusion.attention:Attention",
        "mata": "nver.fusion.mata:Mata",
    },
    group="nver.fusions",
)
