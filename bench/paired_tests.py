"""How often the paired test finds a difference where there is none, and where there is one.

Prints the tables of docs/statistics.md: two systems of equal accuracy and other errors on the same
clips, at a p of .05; and a planted difference as large as the corpus is said to detect with 80 %
power.

At last, how often a table of eight equally good systems marks one as worse than its best.

    python bench/paired_tests.py [CORPORA]
"""

from __future__ import annotations

import sys

import numpy as np

from nver.metrics import METRICS
from nver.significance import (
    detectable_difference,
    holm,
    paired_difference,
    permutation_test,
)
from simulated_corpora import counts

UAR = METRICS["uar"]


def lift(table, rng, share):
    """Return the counts after `share` of the wrong clips were put right."""
    better = table.copy()
    place = np.arange(table.shape[-1])
    wrong = table[..., place, (place + 1) % len(place)]
    mended = rng.binomial(wrong, share)
    better[..., place, place] += mended
    better[..., place, (place + 1) % len(place)] -= mended
    return better


def rates(corpora, speakers, classes, seeds, luck, share=0.0):
    """Return how often p <= .05, the interval leaves out 0, and both; and mean detectable."""
    rng = np.random.default_rng([speakers, classes, seeds, int(100 * luck), int(1000 * share)])
    found, least, seen = np.zeros(3), 0.0, 0.0
    for seed in range(corpora):
        one, other = counts(rng, speakers, classes, seeds, luck, systems=2)
        one = lift(one, rng, share) if share else one
        test = permutation_test(one, other, UAR, n=999, seed=seed)
        interval = paired_difference(one, other, UAR, n=500, seed=seed)
        outside = not interval.low <= 0 <= interval.high
        found += [test.p <= 0.05, outside, test.p <= 0.05 and outside]
        least += detectable_difference(interval.error, speakers)
        seen += interval.value
    return found / corpora, least / corpora, seen / corpora


def marked(corpora, speakers=40, systems=8):
    """Return how often Holm's correction leaves a system told apart from the best of equals."""
    rng, found = np.random.default_rng(0), 0
    for seed in range(corpora):
        tables = counts(rng, speakers, 6, 1, systems=systems)
        top = max(range(systems), key=lambda place: float(UAR(tables[place].sum(axis=0)).mean()))
        others = [table for place, table in enumerate(tables) if place != top]
        p = [permutation_test(tables[top], other, UAR, n=999, seed=seed).p for other in others]
        found += bool((holm(np.array(p)) <= 0.05).any())
    return found / corpora


def main(corpora):
    print(f"{corpora} corpora a row, no difference; speakers, classes, seeds, luck:")
    print("share with p <= .05, interval without 0, both")
    rows = [(m, c, 1, 0.0) for c in (6, 12) for m in (4, 8, 20, 40, 75)]
    rows += [(m, 6, 3, luck) for luck in (0.05, 0.1) for m in (20, 75)]
    for row in rows:
        (p, interval, both), _, _ = rates(corpora, *row)
        print("{:3d} {:3d} {:2d} {:.2f}".format(*row) + f": {p:.3f} {interval:.3f} {both:.3f}")
    print("power: true difference, mean detectable, share with p <= .05")
    for speakers in (20, 40, 75):
        _, least, _ = rates(200, speakers, 6, 1, 0.0)
        # About .55 of the clips are wrong: mending this share lifts UAR by what is detectable.
        (p, _, _), again, seen = rates(corpora, speakers, 6, 1, 0.0, share=least / 0.55)
        print(f"{speakers:3d}: {seen:.3f} {again:.3f} {p:.3f}", flush=True)
    print(f"tables of equals with one marked as worse than the best: {marked(corpora):.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
