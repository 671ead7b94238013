"""How often intervals of level 0.95 cover the true drop under a perturbation, with several seeds.

Prints the table of docs/robustness.md: simulated corpora of six classes, four clips per speaker and
class. Speakers, and how much the perturbation costs each of them, differ (logit-normal, standard
deviations 0.6 and 0.4); so do seeds (0 or 0.3, shared by both conditions, and 0 or 0.1 under the
perturbation only). A clip that is hard clean is likely to be hard perturbed. "apart" takes the
trainings of the two conditions as different ones, which they are not.

    python bench/drop_coverage.py [CORPORA]
"""

from __future__ import annotations

import sys

import numpy as np

from nver.metrics import METRICS
from nver.significance import paired_difference

CLASSES, CLIPS = 6, 4
EASE, COST = np.linspace(-0.8, 0.8, CLASSES), 0.6


def recalls(rng, speakers, seeds, common, own):
    """Return the chance of a right answer, clean and perturbed: [speakers, seeds, classes]."""
    skill, weakness = rng.normal(0, 0.6, (speakers, 1, 1)), rng.normal(0, 0.4, (speakers, 1, 1))
    shared, alone = rng.normal(0, common, (1, seeds, 1)), rng.normal(0, own, (1, seeds, 1))
    clean = EASE + skill + shared
    return [1 / (1 + np.exp(-logit)) for logit in (clean, clean - COST + weakness + alone)]


def counts(rng, chance, difficulty):
    """Return confusion matrices [speakers, seeds, classes, classes] of one condition."""
    right = mixed(rng, difficulty) < chance[..., None]
    wrong = rng.integers(1, CLASSES, right.shape)
    answer = (np.arange(CLASSES)[:, None] + np.where(right, 0, wrong)) % CLASSES
    return (answer[..., None] == np.arange(CLASSES)).sum(axis=-2)


def mixed(rng, difficulty):
    """Return difficulties of which half are drawn anew."""
    fresh = rng.random(difficulty.shape)
    return np.where(rng.random(difficulty.shape) < 0.5, difficulty, fresh)


def main(corpora):
    rng = np.random.default_rng(0)
    for speakers, seeds, common, own in (
        (20, 1, 0.0, 0.0),
        (20, 3, 0.0, 0.0),
        (20, 3, 0.3, 0.0),
        (20, 3, 0.3, 0.1),
        (40, 5, 0.3, 0.1),
    ):
        sides = [recalls(rng, 2000, 200, common, own) for _ in range(40)]
        truth = np.mean([clean.mean() - perturbed.mean() for clean, perturbed in sides])
        hits, widths = np.zeros(2), np.zeros(2)
        for seed in range(corpora):
            chances = recalls(rng, speakers, seeds, common, own)
            clip = np.broadcast_to(
                rng.random((speakers, 1, CLASSES, CLIPS)), (speakers, seeds, CLASSES, CLIPS)
            )
            pair = [counts(rng, chance, clip) for chance in chances]
            for place, same in enumerate((True, False)):
                found = paired_difference(*pair, METRICS["uar"], n=1000, seed=seed, same_seeds=same)
                hits[place] += found.low <= truth <= found.high
                widths[place] += found.high - found.low
        told = zip(("same seeds", "apart"), hits / corpora, widths / corpora, strict=True)
        print(
            f"{speakers} speakers, {seeds} seeds ({common}, {own}), true drop {truth:.3f}: "
            + "; ".join(f"{name} {share:.3f}, width {width:.3f}" for name, share, width in told),
            flush=True,
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
