"""Every protocol, on any corpus, divides the clips or says why not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nver.errors import SplitError
from nver.splits import make_folds

corpora = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 6)), min_size=4, max_size=60
).map(
    lambda rows: (
        np.array([label for label, _ in rows]),
        np.array([str(speaker) for _, speaker in rows], dtype=object),
    )
)


@settings(max_examples=60)
@given(corpora, st.sampled_from(["speaker", "random", "loso", "column:x"]), st.integers(2, 5))
def test_every_clip_is_tested_once_and_never_trained_on_in_that_fold(corpus, protocol, k):
    labels, speakers = corpus
    try:
        folds = make_folds(protocol, labels, speakers, k=k, column=speakers)
    except SplitError:
        return
    tested = np.concatenate([fold.test for fold in folds])
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(labels)))
    for fold in folds:
        both = np.concatenate([fold.train, fold.test])
        np.testing.assert_array_equal(np.sort(both), np.arange(len(labels)))
        if protocol != "random":
            assert not set(speakers[fold.train]) & set(speakers[fold.test])


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(0, 100))
def test_k_speakers_of_every_class_are_enough_for_k_folds(k, seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, size=(k, 3))
    labels = np.concatenate([np.repeat(["a", "b", "c"], row) for row in counts])
    speakers = np.repeat(np.arange(k), counts.sum(1)).astype(object)
    assert len(make_folds("speaker", labels, speakers, k=k, seed=seed)) == k


def test_a_corpus_of_one_class_has_no_folds():
    with pytest.raises(SplitError, match="at least two classes, got 3 clips of 1"):
        make_folds("random", np.array(["a", "a", "a"]), None, k=2)
