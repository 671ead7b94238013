"""How often the paired test finds a difference where there is none, and where there is one.

Prints the tables of docs/statistics.md: two systems of equal accuracy and other errors on the same
clips, at a p of .05; and a planted difference as large as the corpus is said to detect with 80 %
power.

Then whole tables: how often a system that is as good as the best is told from the one that came out
best, or from one that was named, and how often worse ones are; by Holm's correction over the pairs,
and by the confidence set, both with the interval of each pair.

Last two runs: how often the best of each are told apart though all are equal, and how often any of
the systems that both have; and how often those that did become better are found.

    python bench/paired_tests.py [CORPORA [tables]]
"""

from __future__ import annotations

import sys

import numpy as np
from statsmodels.stats.multitest import multipletests

from nver.metrics import METRICS
from nver.significance import (
    confidence_set,
    detectable_difference,
    paired_difference,
    paired_differences,
    permutation_test,
    step_down,
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


def holm(pairs, seed):
    """Return the p of the paired tests, corrected for their number after Holm (1979)."""
    p = [permutation_test(one, other, UAR, n=999, seed=seed).p for one, other in pairs]
    return multipletests(p, method="holm")[1]


def told_apart(tables, seed, named):
    """Return the places told from the best, or the first, system: by Holm's p, and by the set's."""
    scores = [float(UAR(table.sum(axis=0)).mean()) for table in tables]
    top = 0 if named else int(np.argmax(scores))
    others = np.array([place for place in range(len(tables)) if place != top])
    sides = [tables[place] for place in others]
    intervals = paired_differences(tables[top], sides, UAR, n=500, seed=seed)
    outside = np.array([not one.low <= 0 <= one.high for one in intervals])
    p = holm([(tables[top], one) for one in sides], seed)
    rivals = np.full(len(tables), not named)
    found = confidence_set(tables, UAR, reference=top, rivals=rivals, n=999, seed=seed)
    return [others[(each <= 0.05) & outside] for each in (p, found.p[others])]


def whole_tables(corpora, systems, speakers, seeds, luck=0.0, better=0, points=0.0, named=False):
    """Return for Holm and the set: tables with one of the best marked; share of worse ones marked.

    `better` systems are `points` above the others; with 0 all are equal. The reference is the one
    that came out best, or named beforehand.
    """
    rng = np.random.default_rng([systems, speakers, seeds, int(100 * luck), better])
    wrong, power = np.zeros(2), np.zeros(2)
    for seed in range(corpora):
        tables = list(counts(rng, speakers, 6, seeds, luck, systems=systems))
        for place in range(better):
            tables[place] = lift(tables[place], rng, points / 0.55)
        equals = better or systems
        for way, marked in enumerate(told_apart(tables, seed, named)):
            wrong[way] += (marked < equals).any() / corpora
            power[way] += (marked >= equals).sum() / max(1, systems - equals) / corpora
    return wrong, power


def print_tables(corpora):
    print(f"{corpora} tables a row; systems, speakers, seeds, luck, better ones, points above:")
    print("one of the best marked as worse, Holm / set; worse ones marked, Holm / set")
    rows = [(m, k, 1, 0.0, 0, 0.0) for m in (2, 4, 8, 20) for k in (10, 30, 75)]
    rows += [
        (m, k, seeds, luck, 0, 0.0)
        for m in (8, 20)
        for seeds in (3, 5)
        for luck in (0.05, 0.1)
        for k in (30, 75)
    ]
    rows += [
        (8, k, seeds, 0.05 if seeds > 1 else 0.0, better, points)
        for k, points in ((30, 0.1), (75, 0.06))
        for better in (1, 3)
        for seeds in (1, 3, 5)
    ]
    print_rows(corpora, rows)
    print("the same, against one that was named beforehand")
    rows = [
        (m, 75, seeds, luck, 0, 0.0) for m in (8, 20) for seeds in (3, 5) for luck in (0.05, 0.1)
    ]
    rows += [(8, 75, seeds, 0.05 if seeds > 1 else 0.0, 1, 0.06) for seeds in (1, 3, 5)]
    print_rows(corpora, [(m, 75, 1, 0.0, 0, 0.0) for m in (8, 20)] + rows, named=True)


def print_rows(corpora, rows, **options):
    for row in rows:
        (holm_wrong, set_wrong), (holm_power, set_power) = whole_tables(corpora, *row, **options)
        print(
            "{:3d} {:3d} {:2d} {:.2f} {:2d} {:.2f}".format(*row)
            + f": {holm_wrong:.3f} {set_wrong:.3f}  {holm_power:.3f} {set_power:.3f}",
            flush=True,
        )


def two_runs(corpora, ours, theirs, speakers, seeds, luck=0.0, points=0.0):
    """Return for Holm and for what is done: bests told apart, equals told apart, better ones found.

    The runs share as many systems as both can have; of those the first half are `points` above
    themselves in the second run.
    """
    rng = np.random.default_rng([ours, theirs, speakers, seeds, int(100 * luck), int(1e3 * points)])
    shared, found = min(ours, theirs), np.zeros((2, 3))
    better = shared // 2 if points else 0
    for seed in range(corpora):
        tables = list(counts(rng, speakers, 6, seeds, luck, systems=ours + theirs))
        for place in range(better):
            tables[place] = lift(tables[place], rng, points / 0.55)
        scores = np.array([float(UAR(table.sum(axis=0)).mean()) for table in tables])
        best = (int(scores[:ours].argmax()), ours + int(scores[ours:].argmax()))
        pairs = [best, *((place, ours + place) for place in range(shared))]
        sides = [(tables[one], tables[two]) for one, two in pairs]
        intervals = [paired_difference(*each, UAR, n=500, seed=seed) for each in sides]
        outside = np.array([not one.low <= 0 <= one.high for one in intervals])
        rivals = [(one, best[1]) for one in range(ours)]
        if scores[best[0]] < scores[best[1]]:
            rivals = [(best[0], ours + two) for two in range(theirs)]
        p = np.concatenate(
            [
                step_down(tables, UAR, pairs[:1], beside=rivals, n=999, seed=seed),
                step_down(tables, UAR, pairs[1:], n=999, seed=seed),
            ]
        )
        for way, each in enumerate((holm(sides, seed), p)):
            marked = (each <= 0.05) & outside
            same = marked[1 + better :].any()
            found[way] += [marked[0], same, marked[1 : 1 + better].sum() / max(1, better)]
    return found / corpora


def print_two_runs(corpora):
    print(f"{corpora} tables a row; systems of one and of the other run, speakers, seeds, luck,")
    print("points above: bests told apart, equals marked, better ones marked, Holm / what is done")
    sizes, seeded = ((20, 1), (20, 4), (8, 8)), ((1, 0.0), (5, 0.1))
    equal = [(*size, 30, *trainings) for size in sizes for trainings in seeded]
    better = [(8, 8, 30, 1, 0.0, 0.1), (8, 8, 30, 3, 0.05, 0.1)]
    for row in equal + better:
        ours = two_runs(corpora, *row)
        print(*row, ":", *(f"{one:.3f} / {two:.3f} " for one, two in ours.T), flush=True)


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


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    if "tables" not in sys.argv:
        main(wanted)
    print_tables(wanted)
    print_two_runs(wanted)
