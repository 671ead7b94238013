"""The dataset is aligned once, keeps failed clips out, and says what it cannot hold."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nver.corpora.base import Clip, Corpus, CorpusCard
from nver.dataset import EmbeddingDataset
from nver.encoders.base import EncoderCard
from nver.errors import EvaluationError, UnknownNameError
from nver.store import EmbeddingStore


def card(name, dim):
    return EncoderCard(name, "", dim, 16_000, "weight-free", "mean", "", "", "1")


CARDS = (card("spectral", 3), card("prosodic", 2))


def clip(index, emotion="joy", speaker="F1", **facts):
    return Clip(Path(f"{index}.wav"), f"{index}.wav", emotion, speaker, facts)


def corpus_of(*clips, labels=("fear", "joy")):
    about = CorpusCard("toy", "", "", "", "", "", None, None, labels, None)
    return Corpus(about, Path(), clips, labels)


def digest(file):
    return f"{int(file.split('.')[0]):064x}"


def extraction_of(corpus, failed=()):
    files = [c.file for c in corpus.clips if c.file not in failed]
    prints = np.eye(256, dtype=np.float32)
    return SimpleNamespace(
        digests={file: digest(file) for file in files},
        facts={
            file: SimpleNamespace(thumbprint=prints[int(file[0])], seconds=0.5 + int(file[0]))
            for file in files
        },
        failures=[SimpleNamespace(file=file, reason="the file is silent") for file in failed],
    )


@pytest.fixture
def store(tmp_path):
    """Return a store whose vectors say which clip and which encoder they belong to."""
    store = EmbeddingStore(tmp_path)
    for one in CARDS:
        rows = [[index + 100 * one.dim] * one.dim for index in range(4)]
        keys = [digest(f"{index}.wav") for index in range(4)]
        store.open(one).append(keys, np.array(rows, dtype=np.float32))
    return store


CORPUS = corpus_of(
    clip(3, "fear", take=1), clip(1, "joy", "F2", take=2), clip(2, "joy", None), clip(0, "fear")
)


@pytest.fixture
def dataset(store):
    return EmbeddingDataset.gather(CORPUS, CARDS, store, extraction_of(CORPUS))


def test_rows_are_aligned_in_the_corpus_order(dataset):
    assert len(dataset) == 4
    assert dataset.files == ("3.wav", "1.wav", "2.wav", "0.wav")
    assert dataset.y.tolist() == ["fear", "joy", "joy", "fear"]
    assert dataset.speakers.tolist() == ["F1", "F2", None, "F1"]
    assert dataset.columns["take"].tolist() == [1, 2, None, None]
    assert dataset.labels == ("fear", "joy")
    assert dataset.name == "toy"
    np.testing.assert_array_equal(dataset.X[:, 0], [303, 301, 302, 300])
    np.testing.assert_array_equal(dataset.view("prosodic")[:, 1], [203, 201, 202, 200])
    np.testing.assert_array_equal(dataset.thumbprints.argmax(1), [3, 1, 2, 0])
    np.testing.assert_array_equal(dataset.seconds, [3.5, 1.5, 2.5, 0.5])


def test_failed_clips_are_left_out(store):
    left = EmbeddingDataset.gather(CORPUS, CARDS, store, extraction_of(CORPUS, failed=["1.wav"]))
    assert left.files == ("3.wav", "2.wav", "0.wav")
    np.testing.assert_array_equal(left.X[:, 0], [303, 302, 300])


def test_a_class_whose_clips_all_failed_is_an_error(store):
    failed = extraction_of(CORPUS, failed=["3.wav", "0.wav"])
    message = (
        "No clip of class 'fear' of 'toy' could be encoded (2 tried; the first, 3.wav: the file is "
        "silent). Mend these files, or take the class out of the corpus."
    )
    with pytest.raises(EvaluationError, match=re.escape(message)):
        EmbeddingDataset.gather(CORPUS, CARDS, store, failed)


def test_one_class_is_an_error(store):
    corpus = corpus_of(clip(0), clip(1), labels=("joy",))
    message = "Expected clips of at least two classes, got 2 clips of joy."
    with pytest.raises(EvaluationError, match=re.escape(message)):
        EmbeddingDataset.gather(corpus, CARDS, store, extraction_of(corpus))


def test_a_corpus_without_speakers_has_none(store):
    corpus = corpus_of(clip(0, "fear", None), clip(1, "joy", None))
    data = EmbeddingDataset.gather(corpus, CARDS, store, extraction_of(corpus))
    assert data.speakers is None
    assert data.subset(np.array([1, 0])).speakers is None


def test_layers_of_a_view_are_those_of_its_card_and_of_equal_width(dataset, store):
    assert dataset.layers == {}
    two = [replace(card, layers=2) if card.name == "prosodic" else card for card in CARDS]
    layered = EmbeddingDataset.gather(CORPUS, two, store, extraction_of(CORPUS))
    assert layered.layers == layered.subset(np.arange(4)).layers == {"prosodic": 2}
    for layers, width in (({"spectral": 5}, 3), ({"other": 2}, 0)):
        (name,) = layers
        says = f"The {width} columns of view '{name}' are not {layers[name]} layers of one width."
        with pytest.raises(EvaluationError, match=says):
            replace(dataset, layers=layers)


def test_columns_of_one_encoder_start_at_zero(dataset):
    X, views = dataset.columns_of(["prosodic"])
    assert views == {"prosodic": slice(0, 2)}
    np.testing.assert_array_equal(X, dataset.X[:, 3:])


def test_columns_of_encoders_come_in_the_asked_order(dataset):
    X, views = dataset.columns_of(["prosodic", "spectral"])
    assert views == {"prosodic": slice(0, 2), "spectral": slice(2, 5)}
    np.testing.assert_array_equal(X[:, 2:], dataset.view("spectral"))
    whole, views = dataset.columns_of(["spectral", "prosodic"])
    assert whole is dataset.X
    assert views == dataset.views


def test_an_unknown_view_names_the_nearest(dataset):
    with pytest.raises(
        UnknownNameError, match=r"Unknown view 'spektral'\. Did you mean 'spectral'"
    ):
        dataset.columns_of(["spektral"])


def test_a_subset_keeps_everything_aligned(dataset):
    part = dataset.subset(np.array([2, 0]))
    assert part.files == ("2.wav", "3.wav")
    assert part.y.tolist() == ["joy", "fear"]
    assert part.seconds.tolist() == [2.5, 3.5]
    assert part.columns["take"].tolist() == [None, 1]
    np.testing.assert_array_equal(part.X[:, 0], [302, 303])
    mask = dataset.subset(np.array([True, False, True, False]))
    assert mask.files == ("3.wav", "2.wav")


def test_a_subset_of_one_class_is_an_error(dataset):
    with pytest.raises(EvaluationError, match="at least two classes, got 2 clips of joy"):
        dataset.subset(np.array([1, 2]))


def test_it_is_frozen_and_leaves_the_callers_arrays_alone(dataset):
    with pytest.raises(ValueError, match="read-only"):
        dataset.X[0, 0] = 1.0
    with pytest.raises(AttributeError):
        dataset.y = dataset.y
    mine = dataset.X.copy()
    replace(dataset, X=mine)
    mine[0, 0] = 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"digests": ("a",)}, "Expected one row per clip everywhere, got X 4, y 4, files 4, dig"),
        ({"files": ("a", "a", "b", "c")}, "Expected every file once: two clips have the same name"),
        ({"labels": ("fear", "anger")}, "Labels and clips disagree about the class 'anger'."),
        ({"views": {"spectral": slice(0, 3)}}, "Views must tile the 5 columns of X, got"),
        (
            {"views": {"spectral": slice(1, 3), "prosodic": slice(3, 5)}},
            "Views must tile the 5 columns of X, got",
        ),
        (
            {"X": np.full((4, 5), np.nan, dtype=np.float32)},
            "The embedding of '3.wav' holds NaN or infinity.",
        ),
    ],
)
def test_what_is_not_aligned_is_an_error(dataset, change, message):
    with pytest.raises(EvaluationError, match=re.escape(message)):
        replace(dataset, **change)
