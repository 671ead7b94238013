"""nver: non-verbal emotion recognition.

Which emotion does a laugh, a cry, a scream, a sigh or a gasp express? nver turns clips into
embeddings of frozen foundation models, fuses them by optimal transport and attention (MATA, arXiv
2409.14221), trains small heads, and judges them by speaker-independent cross-validation.

The public names are loaded when they are asked for: `import nver` loads neither torch nor pandas.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Clip": "nver.corpora",
    "Corpus": "nver.corpora",
    "load_corpus": "nver.corpora",
    "Encoder": "nver.encoders",
    "EncoderCard": "nver.encoders",
    "load_encoder": "nver.encoders",
    "check_encoder": "nver.encoders.conformance",
    "Waveform": "nver.audio",
    "EmbeddingStore": "nver.store",
    "EmbeddingDataset": "nver.dataset",
    "Fold": "nver.splits",
    "make_folds": "nver.splits",
    "check_leakage": "nver.leakage",
    "EmotionClassifier": "nver.estimators",
    "FusionClassifier": "nver.estimators",
    "TrainingSettings": "nver.training",
    "TransportPlan": "nver.transport",
    "sinkhorn": "nver.transport",
    "Predictions": "nver.cross_validation",
    "cross_validate": "nver.cross_validation",
    "Settings": "nver.config",
    "embed": "nver.encoding",
    "evaluate": "nver.experiment",
    "write_report": "nver.report",
    "NverError": "nver.errors",
}

__all__ = [*_HOMES, "__version__"]

if TYPE_CHECKING:
    from nver.audio import Waveform as Waveform
    from nver.config import Settings as Settings
    from nver.corpora import Clip as Clip
    from nver.corpora import Corpus as Corpus
    from nver.corpora import load_corpus as load_corpus
    from nver.cross_validation import Predictions as Predictions
    from nver.cross_validation import cross_validate as cross_validate
    from nver.dataset import EmbeddingDataset as EmbeddingDataset
    from nver.encoders import Encoder as Encoder
    from nver.encoders import EncoderCard as EncoderCard
    from nver.encoders import load_encoder as load_encoder
    from nver.encoders.conformance import check_encoder as check_encoder
    from nver.encoding import embed as embed
    from nver.errors import NverError as NverError
    from nver.estimators import EmotionClassifier as EmotionClassifier
    from nver.estimators import FusionClassifier as FusionClassifier
    from nver.experiment import evaluate as evaluate
    from nver.leakage import check_leakage as check_leakage
    from nver.report import write_report as write_report
    from nver.splits import Fold as Fold
    from nver.splits import make_folds as make_folds
    from nver.store import EmbeddingStore as EmbeddingStore
    from nver.training import TrainingSettings as TrainingSettings
    from nver.transport import TransportPlan as TransportPlan
    from nver.transport import sinkhorn as sinkhorn


def __getattr__(name: str) -> Any:
    """Import a public name from its room when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'nver' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
