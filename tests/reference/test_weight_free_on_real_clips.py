"""What the weight-free encoders are worth on real clips: a plain LDA, speakers kept apart.

The bars are those of 226 simple functionals on the same folds: UAR .428 on the 12 emotions of
emogator12, .791 on the 16 sounds of deeply_nvd.
"""

from __future__ import annotations

import csv

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nver.audio import load
from nver.encoders import load_encoder


@pytest.mark.slow
@pytest.mark.corpus
@pytest.mark.parametrize(("corpus", "bar"), [("emogator12", 0.428), ("deeply_nvd", 0.791)])
def test_lda_on_both_views_reaches_the_published_bar(shared_data, corpus, bar):
    with (shared_data / corpus / "metadata.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    encoders = [load_encoder("spectral"), load_encoder("prosodic")]
    X = []
    for row in rows:
        clip = load(shared_data / corpus / row["file"])
        X.append(np.concatenate([encoder.encode([clip])[0] for encoder in encoders]))
    X, y = np.array(X), np.array([row["label"] for row in rows])
    fold = np.array([int(row["fold"]) for row in rows])
    predicted = np.empty_like(y)
    for test in np.unique(fold):
        lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        model = make_pipeline(StandardScaler(), lda).fit(X[fold != test], y[fold != test])
        predicted[fold == test] = model.predict(X[fold == test])
    assert balanced_accuracy_score(y, predicted) >= bar
