"""A run that the crash test kills: ``python interrupted_run.py CORPUS STORE LOG [MOST]``.

Its encoder is slow, and writes the length of every clip to LOG before it returns a vector. After
MOST clips it waits for its end: however late the signal comes, it comes in the middle of the run.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path

import numpy as np

from nver.corpora.base import Clip, Corpus, CorpusCard
from nver.encoders.base import Encoder, EncoderCard
from nver.extraction import extract
from nver.store import EmbeddingStore


class Slow(Encoder):
    """Level, peak and length of a clip, after a while."""

    card = EncoderCard(
        name="slow",
        summary="Level, peak and length.",
        dim=3,
        rate=8000,
        modality="weight-free",
        pooling="mean",
        licence="Apache-2.0",
        citation="Nobody",
        revision="1",
    )

    def __init__(self, log: Path | None = None, pause: float = 0.0, most: float = math.inf) -> None:
        self.log = log
        self.pause = pause
        self.left = most

    def features(self, samples):
        return samples

    def embed(self, inputs):
        time.sleep(self.pause)
        if self.log is not None:
            line = "".join(f"{clip.size}\n" for clip in inputs).encode()
            descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, line)
            os.close(descriptor)
        self.left -= len(inputs)
        while self.left <= 0:
            time.sleep(1)
        return np.array([[np.abs(c).mean(), np.abs(c).max(), c.size] for c in inputs], np.float32)


def corpus(root: Path) -> Corpus:
    """Return the WAV files of a folder as a corpus."""
    card = CorpusCard(
        name="tones",
        title="Tones",
        summary="Tones of different length.",
        licence="Apache-2.0",
        citation="Nobody",
        url="https://example.org",
        clips=None,
        speakers=None,
        labels=("low",),
        rate=8000,
    )
    clips = [Clip(path=path, file=path.name, emotion="low") for path in sorted(root.glob("*.wav"))]
    return Corpus(card=card, root=root, clips=tuple(clips), labels=("low",))


if __name__ == "__main__":
    folder, place, record = map(Path, sys.argv[1:4])
    encoder = Slow(record, 0.02, *map(int, sys.argv[4:]))
    result = extract(corpus(folder), [encoder], EmbeddingStore(place), batch_size=4)
    raise SystemExit(1 if result.failures else 0)
