"""Records of systems that are right by chance, each as often as is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from nver.comparison import (
    Effort,
)
from nver.predictions import Predictions, SystemEntry

LABELS = ("sad", "happy", "angry")
QUICK = Effort(resamples=400, swaps=999)


def record(shares, speakers=12, seeds=(0,), names=True, draw=0):
    """Return predictions of 4 clips of each class by each speaker.

    `shares` says how often a system is right, by its name; a transductive one is a system as well.
    """
    rng = np.random.default_rng(draw)
    label = np.tile(np.repeat(LABELS, 4), speakers)
    who = np.repeat([f"{i:03d}" for i in range(speakers)], 12).astype(object)
    tables, entries = [], []
    for name, share in shares.items():
        entries.append(SystemEntry(name, ("a", "b"), 1.0))
        for seed in seeds:
            right = rng.random(len(label)) < share
            wrong = np.roll(LABELS, 1)[[LABELS.index(one) for one in label]]
            tables.append(
                pd.DataFrame(
                    {
                        "clip": [f"{i:064x}" for i in range(len(label))],
                        "file": [f"{i}.wav" for i in range(len(label))],
                        "speaker": who.tolist() if names else [None] * len(label),
                        "label": label,
                        "system": name,
                        "encoders": "a+b",
                        "seed": seed,
                        "fold": (np.arange(len(label)) // 12 % 3).astype(str),
                        "predicted": np.where(right, label, wrong),
                    }
                    | {f"p_{one}": np.float32(1 / 3) for one in LABELS}
                )
            )
    return Predictions(pd.concat(tables, ignore_index=True), LABELS, tuple(entries))


def with_luck(shares, spread, seeds=(0, 1, 2)):
    """Return the predictions of trainings of each system, each of another true share."""
    rng = np.random.default_rng(21)
    parts = [
        record(
            {name: share + rng.normal(0, spread) for name, share in shares.items()},
            seeds=(seed,),
            speakers=40,
            draw=100 + seed,
        )
        for seed in seeds
    ]
    frames = pd.concat([part.frame for part in parts], ignore_index=True)
    return replace(parts[0], frame=frames)
