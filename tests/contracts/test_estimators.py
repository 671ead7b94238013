"""scikit-learn's own checks of the classifiers.

They pass values of every wrong type on purpose, so they run in a process without the shape checks
that the other tests run under.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import json, sys, warnings
from sklearn.utils.estimator_checks import check_estimator
from nver import EmotionClassifier, FusionClassifier
from nver.training import TrainingSettings

warnings.simplefilter("ignore")  # the checks provoke them
quick = TrainingSettings(epochs=12, min_steps=0)
failed = {}
for source in json.loads(sys.argv[1]):
    results = check_estimator(eval(source), on_fail=None)
    failed[source] = [
        f"{r['check_name']}: {r['exception']}" for r in results if r["status"] == "failed"
    ]
print(json.dumps(failed))
"""


def _check(sources):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(sources)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {source: [] for source in sources}


def test_the_classifiers_pass():
    _check(
        [
            "EmotionClassifier('lda')",
            "EmotionClassifier('logreg')",
            "EmotionClassifier('fcn', settings=quick)",
            "FusionClassifier('mata', settings=quick)",
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize("fusion", ["concat", "late", "transport", "attention", "mata"])
def test_every_fusion_passes_as_it_is_by_default(fusion):
    _check([f"FusionClassifier('{fusion}')"])


@pytest.mark.slow
def test_convolutional_networks_and_the_other_couplings_pass():
    _check(
        [
            "EmotionClassifier('cnn', settings=quick)",
            "FusionClassifier('mata', branch='cnn', settings=quick)",
            "FusionClassifier('mata', coupling='map', settings=quick)",
        ]
    )
