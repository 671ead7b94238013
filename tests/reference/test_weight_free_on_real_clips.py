"""What the weight-free encoders are worth on real clips: a plain LDA, speakers kept apart.

The bars are those of 226 simple functionals on the same folds: UAR .428 on the 12 emotions of
emogator12, .791 on the 16 sounds of deeply_nvd. In a process without the shape checks that the
other tests run under: they would take longer than the analysis.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import csv, sys
from pathlib import Path

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nver.audio import load
from nver.encoders import load_encoder

root = Path(sys.argv[1])
with (root / "metadata.csv").open(encoding="utf-8") as lines:
    rows = list(csv.DictReader(lines))
encoders = [load_encoder("spectral"), load_encoder("prosodic")]
clips = (load(root / row["file"]) for row in rows)
X = np.array([np.concatenate([e.encode([clip])[0] for e in encoders]) for clip in clips])
y = np.array([row["label"] for row in rows])
fold = np.array([int(row["fold"]) for row in rows])
predicted = np.empty_like(y)
for test in np.unique(fold):
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    model = make_pipeline(StandardScaler(), lda).fit(X[fold != test], y[fold != test])
    predicted[fold == test] = model.predict(X[fold == test])
print(balanced_accuracy_score(y, predicted))
"""


@pytest.mark.slow
@pytest.mark.corpus
@pytest.mark.parametrize(("corpus", "bar"), [("emogator12", 0.428), ("deeply_nvd", 0.791)])
def test_lda_on_both_views_reaches_the_bar(shared_data, corpus, bar):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(shared_data / corpus)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) >= bar
