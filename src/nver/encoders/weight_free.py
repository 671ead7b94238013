"""What the weight-free encoders share: named functionals become the embedding. Not an encoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from nver.encoders.base import Encoder
from nver.encoders.contours import Functionals
from nver.encoders.frames import RATE
from nver.shapes import Embedding, Embeddings, Mono


class WeightFreeEncoder(Encoder):
    """An encoder whose embedding is a fixed list of named numbers, measured clip by clip."""

    @abstractmethod
    def functionals(self, samples: Mono) -> Functionals:
        """Return the named numbers of one clip, the same names in the same order for every clip.

        Parameters
        ----------
        samples : float32 [samples]
            One channel at 16 kHz, at least 0.1 s, finite.
        """

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """What each column of an embedding is called, in order."""
        return tuple(self.functionals(np.zeros(RATE // 10, dtype=np.float32)))

    def features(self, samples: Mono) -> Embedding:
        """Return the named numbers as a vector; the whole analysis happens here."""
        return np.fromiter(self.functionals(samples).values(), dtype=np.float32)

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the vectors [clips, dim], stacked: a clip knows nothing of its batch."""
        return np.stack(list(inputs)).astype(np.float32, copy=False)
