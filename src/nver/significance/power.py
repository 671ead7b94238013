"""How small a difference between two systems this corpus could have shown."""

from __future__ import annotations

import math

from nver.errors import EvaluationError


def detectable_difference(
    error: float,
    clusters: int,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    half_width: float = 0.0,
) -> float:
    """Return the smallest true difference that a two-sided test finds with probability `power`.

    ``(t_{1 - alpha/2} + t_{power}) * error`` with clusters - 1 degrees of freedom (Bloom 1995,
    Minimum detectable effects, Evaluation Review 19): about 2.8 standard errors for .05 and 80 %.
    Where an interval must leave out zero as well, half of its width takes the place of
    ``t_{1 - alpha/2} * error`` if it is larger.

    Parameters
    ----------
    error : float
        Standard error of the paired difference: `Interval.error` of `paired_difference`.
    clusters : int
        Number of independent units. NaN is returned for fewer than two.
    alpha, power : float
        In (0, 1).
    half_width : float
        Half the width of the interval that must leave out zero; 0 where the test alone decides.

    Raises
    ------
    EvaluationError
        If `alpha` or `power` is out of range.

    Examples
    --------
    >>> round(detectable_difference(0.01, 75), 4)
    0.0284
    """
    from scipy.special import stdtrit

    if not (0.0 < alpha < 1.0 and 0.0 < power < 1.0):
        raise EvaluationError(f"Expected alpha and power between 0 and 1, got {alpha} and {power}.")
    if clusters < 2 or math.isnan(error):
        return math.nan
    found = float(stdtrit(clusters - 1, power))
    by_test = (float(stdtrit(clusters - 1, 1.0 - alpha / 2.0)) + found) * error
    return max(by_test, half_width + found * error)
