"""Classifiers with scikit-learn's contract: one embedding, or several fused.

`EmotionClassifier` puts a head on one matrix of embeddings. `FusionClassifier` sees one matrix too
and cuts its columns into views, one per encoder. Both scale their input inside `fit`, take the
speakers as `groups` (only to hold whole speakers out for early stopping), and predict in float64:
the probabilities of a clip do not depend on the clips beside it, except under ``coupling="batch"``,
which is there to show what that costs. `fit_many` fits many at once. `ViewChoice` takes the encoder
that is best inside the training part.
"""

from __future__ import annotations

from nver.estimators.base import fit_in_turn, fit_many
from nver.estimators.chosen import ViewChoice
from nver.estimators.fused import COUPLINGS, MAP_REFERENCES, FusionClassifier, column_views
from nver.estimators.single import HEADS, EmotionClassifier

__all__ = [
    "COUPLINGS",
    "HEADS",
    "MAP_REFERENCES",
    "EmotionClassifier",
    "FusionClassifier",
    "ViewChoice",
    "column_views",
    "fit_in_turn",
    "fit_many",
]
