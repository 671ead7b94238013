"""Small tables of systems for the tests of a table."""

from __future__ import annotations

import numpy as np


def table(seed, lifts, clusters=7, seeds=1, classes=3, luck=0.0):
    """Return counts of systems on the same clips, each right by .5 plus its lift."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, size=(clusters, classes))
    systems = []
    for lift in lifts:
        counts = np.zeros((clusters, seeds, classes, classes), dtype=np.int64)
        for run in range(seeds):
            skill = 0.5 + lift + rng.normal(0, luck)
            right = rng.binomial(sizes, np.clip(skill, 0, 1))
            for place in range(classes):
                counts[:, run, place, place] = right[:, place]
                counts[:, run, place, (place + 1) % classes] = sizes[:, place] - right[:, place]
        systems.append(counts)
    return systems
