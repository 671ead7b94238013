"""How far scores may be trusted: intervals over speakers and seeds, and paired tests.

- `nver.significance.bootstrap`: the interval of a score, and of a difference on the same clips;
- `nver.significance.intervals`: what an interval is, and how seeds come into it;
- `nver.significance.paired`: permutation test, McNemar's test, effect sizes;
- `nver.significance.multiple`: a table of tests, corrected for their number;
- `nver.significance.best`: which systems of a table cannot be told from the best;
- `nver.significance.power`: the smallest difference that a corpus can show.

Everything rests on counts ``[clusters, ..., classes, classes]`` (clusters are speakers, or clips
where speakers are unknown), so thousands of resamples are one matrix product.
"""

from __future__ import annotations

from nver.significance.best import ConfidenceSet, confidence_set
from nver.significance.bootstrap import (
    cluster_bootstrap,
    cluster_bootstraps,
    paired_difference,
    paired_differences,
    ratio_bootstrap,
)
from nver.significance.intervals import FEW, Interval, Unit, plural
from nver.significance.multiple import step_down
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
    "ConfidenceSet",
    "Interval",
    "McNemar",
    "PermutationTest",
    "Unit",
    "cluster_bootstrap",
    "cluster_bootstraps",
    "cohens_g",
    "confidence_set",
    "detectable_difference",
    "mcnemar",
    "paired_difference",
    "paired_differences",
    "permutation_test",
    "plural",
    "ratio_bootstrap",
    "standardised_difference",
    "step_down",
]
