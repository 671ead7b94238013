"""Every exception of nver. A message says what was expected, what came, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class NverError(Exception):
    """Base of all errors that nver raises on purpose; the command line prints it in one line."""


class AudioError(NverError):
    """A clip cannot be decoded, or holds nothing that can be heard."""


class CorpusError(NverError):
    """A corpus, folder or manifest is missing, empty or not laid out as its documentation says."""


class EncoderError(NverError):
    """An encoder cannot be built, or broke its contract (shape, finiteness)."""


class CheckpointError(EncoderError):
    """A checkpoint is missing, truncated, or not the one that the encoder expects."""


class StoreError(NverError):
    """The embedding store is unreadable or was written by something else."""


class SplitError(NverError):
    """The requested folds do not exist for this corpus."""


class LeakageError(SplitError):
    """The same speaker or the same audio stands on both sides of a fold."""


class EvaluationError(NverError, ValueError):
    """Labels, predictions or a dataset that no score can be computed from."""


class UnfinishedRunError(EvaluationError):
    """A run folder lacks files that a finished run has."""

    def __init__(self, folder: Path, lacking: Sequence[str]) -> None:
        if not folder.is_dir():
            super().__init__(f"'{folder}' is no run folder: there is no such folder.")
            return
        super().__init__(
            f"'{folder}' is not a finished run: it lacks {', '.join(lacking)}. "
            f"Finish it: nver evaluate CORPUS -e ENCODER --out {folder}"
        )


class SettingsError(NverError, ValueError):
    """A setting is outside its range."""


class DivergedError(NverError, ArithmeticError):
    """A training ended with weights that are NaN or infinite."""


class UnknownNameError(NverError, KeyError):
    """A name is in no table; the message names the nearest known one."""

    def __str__(self) -> str:
        """Return the message as it is: KeyError would quote it."""
        return str(self.args[0])


class MissingExtraError(NverError, ImportError):
    """An optional dependency is needed; the message says which extra brings it."""
