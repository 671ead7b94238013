"""Simulated corpora for the benches of intervals and tests: speakers, clips and seeds differ.

A clip is right with probability sigmoid(x), x the sum of what the speaker can do, the same for the
class, how hard the clip is (shared by all seeds and systems), and the luck of a training.
"""

from __future__ import annotations

import numpy as np

LEVEL = -0.3


def counts(rng, speakers, classes, seeds, seed_spread=0.0, systems=1):
    """Return counts [systems, speakers, seeds, classes, classes] of systems that are equally good.

    Speakers' skill differs by 0.8 (standard deviation, logit) and by 0.5 within a class, clips by
    1.0, both shared by the systems; each system has 0.3 of its own for each speaker and for each
    clip: equal accuracy, other errors. A training's luck is `seed_spread`, and as much for each
    class. About three clips per speaker and class, at least one.
    """
    clips = np.maximum(1, rng.poisson(3.0, (speakers, classes)))
    most = int(clips.max())
    skill = rng.normal(0, 0.8, (speakers, 1)) + rng.normal(0, 0.5, (speakers, classes))
    shared = skill[..., None] + rng.normal(0, 1.0, (speakers, classes, most))
    own = np.zeros((systems, speakers, classes, most))
    if systems > 1:
        own = rng.normal(0, 0.3, (systems, speakers, 1, 1)) + rng.normal(0, 0.3, own.shape)
    luck = rng.normal(0, seed_spread, (systems, seeds, 1)) + rng.normal(
        0, seed_spread, (systems, seeds, classes)
    )
    logit = LEVEL + (shared + own)[:, :, None] + luck[:, None, :, :, None]
    there = np.arange(most) < clips[..., None]
    right = ((rng.random(logit.shape) < 1 / (1 + np.exp(-logit))) & there[:, None]).sum(-1)
    table = np.zeros((systems, speakers, seeds, classes, classes), dtype=np.int32)
    place = np.arange(classes)
    table[..., place, place] = right
    table[..., place, (place + 1) % classes] = clips[:, None] - right
    return table


def true_uar(seed_spread=0.0, draws=4_000_000):
    """Return the expected UAR over speakers, clips and trainings, for one system."""
    spread = np.sqrt(0.8**2 + 0.5**2 + 1.0 + 2 * seed_spread**2)
    x = LEVEL + spread * np.random.default_rng(1).normal(size=draws)
    return float((1 / (1 + np.exp(-x))).mean())
