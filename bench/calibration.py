"""Prediction sets and temperatures for new simulated speakers, and the time of a large record.

Every speaker is over- or understated by a factor of its own, and favours some emotions, which the
system does not know; it is too sure by 1 / TEMPERATURE besides. Temperature and sets are fitted on
some speakers and tested on as many others, as in docs/calibration.md.

    python bench/calibration.py corpora [CORPORA]
    python bench/calibration.py time [SYSTEMS] [CLIPS] [SEEDS]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from nver.confidence import calibration
from nver.predictions import Predictions, SystemEntry

LABELS = tuple(f"emotion {index}" for index in range(8))
FOLDS = 5
TAKES = 24
TEMPERATURE = 0.6
ENTRY = SystemEntry("simulated", ("a",), 1.0)


def corpus(rng, speakers, takes, spread):
    """Return probabilities, truths and speakers; `spread` is how much speakers differ."""
    clips = speakers * takes
    speaker = np.repeat(np.arange(speakers), takes)
    scale = np.exp(rng.normal(scale=spread, size=speakers))[speaker, None]
    taste = rng.normal(scale=spread, size=(speakers, len(LABELS)))[speaker]
    logits = rng.normal(scale=1.5, size=(clips, len(LABELS)))
    true = softmax(scale * (logits + taste))
    truth = (true.cumsum(1) > rng.random((clips, 1))).argmax(1)
    return softmax(logits / TEMPERATURE).astype(np.float32), truth, speaker


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def frame(said, truth, speaker, fold, entry=ENTRY, seed=0):
    names = np.array(LABELS, dtype=object)
    files = np.char.add("clip ", np.arange(len(truth)).astype(str)).astype(object)
    table = {
        "clip": files,
        "file": files,
        "speaker": np.char.add("speaker ", speaker.astype(str)).astype(object),
        "label": names[truth],
        "system": entry.name,
        "encoders": entry.joined,
        "seed": seed,
        "fold": fold,
        "predicted": names[said.argmax(1)],
    }
    return pd.DataFrame(table | {f"p_{label}": said[:, i] for i, label in enumerate(LABELS)})


def divided(said, truth, speaker, entry=ENTRY, seed=0):
    """Return the test rows of all folds, and the rows of their training parts."""
    fold = speaker % FOLDS
    whole = frame(said, truth, speaker, "", entry, seed)
    tested = [whole[fold == number].assign(fold=str(number)) for number in range(FOLDS)]
    inner = [whole[fold != number].assign(fold=str(number)) for number in range(FOLDS)]
    return pd.concat(tested, ignore_index=True), pd.concat(inner, ignore_index=True)


def simulate(corpora):
    print("speakers, spread: mean coverage at 0.9, its standard deviation, and that of independent")
    print("  clips; mean set, ECE before and after, temperature")
    for speakers in (10, 20, 75):
        for spread in (0.0, 0.3, 0.6):
            rng = np.random.default_rng([speakers, int(10 * spread)])
            found = [one(rng, speakers, spread) for _ in range(corpora)]
            mean, deviation = np.mean(found, axis=0), np.std(found, axis=0)
            # A share of n clips, and a threshold that is the quantile of n others.
            independent = np.sqrt(2 * 0.9 * 0.1 / (speakers * TAKES))
            print(
                f"{speakers:3d} {spread:.1f}: {mean[0]:.3f} {deviation[0]:.3f} {independent:.3f} "
                f"{mean[1]:.2f} {mean[2]:.3f} {mean[3]:.3f} {mean[4]:.2f}",
                flush=True,
            )


def one(rng, speakers, spread):
    """Fit on some speakers, and return what was found on others."""
    inner, tested = (frame(*corpus(rng, speakers, TAKES, spread), "0") for _ in range(2))
    (section,) = calibration(Predictions(tested, LABELS, (ENTRY,)), inner)
    sets, scaled = section["conformal"], section["scaled"]
    ece = section["raw"]["ece"], scaled["ece"]
    return sets["coverage"], sets["mean_size"], *ece, scaled["temperature"]


def measure(systems, clips, seeds):
    rng = np.random.default_rng(0)
    entries = [SystemEntry(f"system {index}", ("a",), 1.0) for index in range(systems)]
    with tempfile.TemporaryDirectory() as folder:
        path, tables = Path(folder) / "inner.parquet", []
        tables = [
            divided(*corpus(rng, clips // 60, 60, 0.3), entry, seed)
            for entry in entries
            for seed in range(seeds)
        ]
        pd.concat([inner for _, inner in tables]).to_parquet(path)
        record = Predictions(pd.concat([rows for rows, _ in tables]), LABELS, tuple(entries))
        del tables
        started, spent = time.perf_counter(), time.process_time()
        calibration(record, path)
        print(
            f"{systems} systems, {clips} clips, {seeds} seeds, inner predictions from a file: "
            f"{time.perf_counter() - started:.1f} s, {time.process_time() - spent:.1f} s of a core"
        )


if __name__ == "__main__":
    what, *numbers = sys.argv[1:]
    if what == "corpora":
        simulate(*(int(number) for number in numbers or (200,)))
    else:
        measure(*(int(number) for number in numbers or (3, 30_000, 5)))
