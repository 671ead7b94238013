"""What several files ask for: tones and a store, a dataset and its folds."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def tones(tmp_path):
    """Return a corpus of 11 tones, in no order of length."""
    import soundfile

    from unit.listening import corpus_of, tone

    root = tmp_path / "corpus"
    root.mkdir()
    order = np.random.default_rng(0).permutation(11)
    for number in order:
        soundfile.write(root / f"{number:02d}.wav", tone(number), 16000)
    return corpus_of(root, [f"{number:02d}.wav" for number in order])


@pytest.fixture
def store(tmp_path):
    """Return an empty store."""
    from nver.store import EmbeddingStore

    return EmbeddingStore(tmp_path / "store")


@pytest.fixture
def data():
    """Return the small dataset of `unit.toy_systems`; some files have one of their own."""
    from unit.toy_systems import toy

    return toy()


@pytest.fixture
def folds(data):
    """Return three folds of it by speaker."""
    from nver.splits import make_folds

    return make_folds("speaker", data.y, data.speakers, k=3)
