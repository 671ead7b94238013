"""How often intervals of level 0.95 cover the true UAR, by speakers, classes and seeds.

Prints the tables of docs/statistics.md. ``luck`` is how much trainings differ (logit); with one
seed the truth is that of the trained model where luck is 0.

    python bench/interval_coverage.py [CORPORA]
"""

from __future__ import annotations

import sys

import numpy as np

from nver.metrics import METRICS
from nver.significance import cluster_bootstrap
from simulated_corpora import counts, true_uar

UAR = METRICS["uar"]


def plain(table, seed, n=500):
    """Return the plain percentile interval over speakers of the first seed."""
    rng = np.random.default_rng(seed)
    m = len(table)
    weights = rng.multinomial(m, np.full(m, 1 / m), size=n)
    classes = table.shape[-1]
    draws = UAR((weights @ table[:, 0].reshape(m, -1)).reshape(n, classes, classes))
    return np.quantile(draws, [0.025, 0.975])


def covered(corpora, speakers, classes, seeds, luck):
    """Return coverage and mean width of the interval, and the coverage of the plain one."""
    truth = true_uar(luck)
    rng = np.random.default_rng([speakers, classes, seeds, int(100 * luck)])
    hits, width = np.zeros(2), 0.0
    for seed in range(corpora):
        (table,) = counts(rng, speakers, classes, seeds, luck)
        interval = cluster_bootstrap(table, UAR, n=500, seed=seed)
        low, high = plain(table, seed)
        hits += [interval.low <= truth <= interval.high, low <= truth <= high]
        width += interval.high - interval.low
    return (*hits / corpora, width / corpora)


def main(corpora):
    print(f"{2 * corpora} corpora a row with one seed, {corpora} with more")
    print("speakers, classes, seeds, luck: coverage, mean width, coverage of plain percentiles")
    rows = [(m, c, 1, 0.0) for c in (6, 12) for m in (4, 8, 20, 40, 75)]
    rows += [(m, 6, s, luck) for luck in (0.05, 0.1, 0.3) for m in (20, 75) for s in (2, 3, 5)]
    for row in rows:
        hit, naive, width = covered(corpora * (2 if row[2] == 1 else 1), *row)
        print(
            "{:3d} {:3d} {:2d} {:.2f}".format(*row) + f": {hit:.3f} {width:.3f} {naive:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
