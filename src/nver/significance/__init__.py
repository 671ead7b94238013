"""How far scores may be trusted: intervals over speakers and seeds, and paired tests.

- `nver.significance.intervals`: the interval of one score, and of a difference on the same clips;
- `nver.significance.paired`: permutation test, McNemar's test, effect sizes;
- `nver.significance.multiple`: Holm's correction of a table of tests;
- `nver.significance.power`: the smallest difference that a corpus can show.

Everything rests on counts ``[clusters, ..., classes, classes]`` (clusters are speakers, or clips
where speakers are unknown), so thousands of resamples are one matrix product.
"""

from __future__ import annotations

from nver.significance.intervals import (
    FEW,
    Interval,
    Unit,
    cluster_bootstrap,
    paired_difference,
    plural,
    ratio_bootstrap,
)
from nver.significance.multiple import holm
from nver.significance.paired import (
    McNemar,
    PermutationTest,
    cohens_g,
    mcnemar,
    permutation_test,
    standardised_difference,
)
from nver.significance.power import detectable_difference

__all__ = [
    "FEW",
    "Interval",
    "McNemar",
    "PermutationTest",
    "Unit",
    "cluster_bootstrap",
    "cohens_g",
    "detectable_difference",
    "holm",
    "mcnemar",
    "paired_difference",
    "permutation_test",
    "plural",
    "ratio_bootstrap",
    "standardised_difference",
]
