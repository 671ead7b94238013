"""How often intervals of level 0.95 cover the true UAR, by number of speakers.

Prints the table of `nver.significance`: simulated corpora of six classes, about three clips per
speaker and class, whose speakers differ in skill (logit-normal, standard deviation 0.8 over
speakers and 0.5 over speakers and classes).

    python bench/interval_coverage.py [CORPORA]
"""

from __future__ import annotations

import sys

import numpy as np

from nver.metrics import uar
from nver.significance import cluster_bootstrap

CLASSES = 6


def corpus(rng, speakers):
    """Return confusion matrices [speakers, classes, classes] of one simulated corpus."""
    skill = rng.normal(0, 0.8, (speakers, 1)) + rng.normal(0, 0.5, (speakers, CLASSES))
    clips = rng.poisson(3.0, (speakers, CLASSES))
    right = rng.binomial(clips, 1 / (1 + np.exp(0.3 - skill)))
    counts = np.zeros((speakers, CLASSES, CLASSES))
    own = np.arange(CLASSES)
    counts[:, own, own] = right
    for step in range(1, CLASSES):
        last = step == CLASSES - 1
        left = (clips - right) - (counts.sum(2) - counts[:, own, own])
        share = 1.0 if last else 1 / (CLASSES - step)
        counts[:, own, (own + step) % CLASSES] = rng.binomial(left.astype(int), share)
    return counts[counts.sum((1, 2)) > 0]


def plain(counts, rng, n=1000):
    """Return the plain percentile interval of UAR."""
    m = len(counts)
    weights = rng.multinomial(m, np.full(m, 1 / m), size=n)
    draws = uar((weights @ counts.reshape(m, -1)).reshape(n, CLASSES, CLASSES))
    return np.quantile(draws, [0.025, 0.975])


def main(corpora):
    rng = np.random.default_rng(0)
    truth = float(uar(corpus(rng, 200_000).sum(0)))
    print(f"true UAR {truth:.4f}, {corpora} corpora")
    for speakers in (4, 8, 11, 20, 40, 75):
        hits = np.zeros(2)
        for seed in range(corpora):
            counts = corpus(rng, speakers)
            low, high = plain(counts, rng)
            interval = cluster_bootstrap(counts, uar, n=1000, seed=seed)
            hits += [low <= truth <= high, interval.low <= truth <= interval.high]
        plainly, expanded = hits / corpora
        print(f"{speakers:3d} speakers: plain {plainly:.3f}, expanded {expanded:.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 600)
