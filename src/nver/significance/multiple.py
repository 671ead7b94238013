"""Many tests in one table: with twenty of them at .05, one is below .05 by chance alone."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from nver.errors import EvaluationError


def holm(p: Float64[np.ndarray, "tests"]) -> Float64[np.ndarray, "tests"]:
    """Return the p values corrected for their number, after Holm (1979).

    The smallest is multiplied by the number m of tests, the next by m - 1, and so on; none becomes
    smaller than one before it, or larger than 1. Those at most alpha hold a single false positive
    with probability alpha at most, whatever the dependence of the tests (Scandinavian Journal of
    Statistics 6). NaN stays NaN, and is no test.

    Raises
    ------
    EvaluationError
        If a value is outside [0, 1].

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, dtype=np.float64)
    tests = np.flatnonzero(~np.isnan(values))
    outside = tests[(values[tests] < 0) | (values[tests] > 1)]
    if outside.size:
        raise EvaluationError(f"Expected p values in [0, 1], got {values[outside[0]]}.")
    order = tests[np.argsort(values[tests], kind="stable")]
    corrected = np.full(len(values), np.nan)
    times = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * times))
    return corrected
