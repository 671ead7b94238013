"""What an encoder is: a pure function of the waveform, with a card that says what it is.

An encoder turns clips into vectors: ``encode(list of Waveform) -> [clips, dim]``. The same clip
gives the same vector alone, in any batch, in any order and twice (1e-5 relative in float32), and no
vector holds NaN or infinity: `nver.encoders.conformance.check_encoder` tests it on any machine.

What happens to unusual clips, the same for every encoder:

- several channels: their mean, or channel 0 where the card says ``channels="first"``;
- another sampling rate (8 to 192 kHz): resampling to the card's rate, see `Encoder.resample`;
- shorter than the card's ``min_seconds``: zeros are added at the end;
- peaks above 1 (mp3 overshoot): kept, never clipped;
- silence: encoded as it is, to a finite vector (a corpus run refuses silent files before this);
- no samples at all, NaN or infinity: AudioError.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from nver.audio import Waveform
from nver.errors import AudioError, EncoderError
from nver.shapes import Embeddings, Mono


@dataclass(frozen=True)
class EncoderCard:
    """The facts of an encoder.

    Parameters
    ----------
    name : str
        Unique within a run; the key of the encoder's view in a dataset.
    summary : str
        One sentence: what it hears.
    dim : int
        Width of an embedding.
    rate : int
        Sampling rate of its input in Hz.
    modality : {"weight-free", "audio-only", "multimodal"}
        What it was trained on; "weight-free" if it was not trained.
    pooling : str
        How frames become one vector.
    licence, citation : str
        Of the weights (of the method where there are none).
    revision : str
        What tells two versions apart: a checkpoint's SHA-256, or a weight-free recipe's version.
    parameters : int
        Number of trained values.
    channels : {"mean", "first"}
        How several channels become one.
    min_seconds : float
        Shorter clips are padded with zeros to this duration.
    layer : str
        Which layer the vectors come from; "" where there is none.
    layers : int
        How many layers a vector holds, one after the other and equally wide: those that a search
        for the best layer chooses among, from 0.
    extra : str or None
        The optional dependency that it needs.
    download_bytes : int or None
        Size of the checkpoint; None where there is nothing to download.
    facts : mapping of str to str
        Whatever else changes the numbers (preprocessing, versions); part of the fingerprint.

    Raises
    ------
    EncoderError
        If so many layers cannot be equally wide parts of a vector.
    """

    name: str
    summary: str
    dim: int
    rate: int
    modality: Literal["weight-free", "audio-only", "multimodal"]
    pooling: str
    licence: str
    citation: str
    revision: str
    parameters: int = 0
    channels: Literal["mean", "first"] = "mean"
    min_seconds: float = 0.1
    layer: str = ""
    layers: int = 1
    extra: str | None = None
    download_bytes: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the layers now: no clip is encoded for a vector that cannot be cut."""
        layers: object = self.layers
        if not isinstance(layers, int) or layers < 1 or self.dim % layers:
            raise EncoderError(
                f"The card of encoder '{self.name}' says layers={layers!r}: expected a number from "
                f"1 that divides dim={self.dim}. Layers of unlike width are encoders of their own."
            )

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything on the card that changes the numbers.

        Embeddings are stored under it: a changed checkpoint, layer, pooling or preprocessing never
        reuses an old entry. Licence, citation and prose are not part of it, nor is how many layers
        a vector holds: that follows from the rest.
        """
        aside = ("summary", "licence", "citation", "extra", "download_bytes", "modality", "layers")
        numbers = {key: value for key, value in self.to_dict().items() if key not in aside}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return the card as plain JSON values."""
        return asdict(self) | {"facts": dict(self.facts)}


class Encoder(ABC):
    """A pure function from waveforms to embeddings; subclasses say how in three members."""

    @property
    @abstractmethod
    def card(self) -> EncoderCard:
        """The facts of this encoder."""

    @abstractmethod
    def features(self, samples: Mono) -> np.ndarray:
        """Return the network's input for one clip.

        Parameters
        ----------
        samples : float32 [samples]
            One channel at the card's rate, at least ``min_seconds`` long, finite.
        """

    @abstractmethod
    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim] of what `features` gave, exact in any batch."""

    def resample(self, waveform: Waveform) -> Waveform:
        """Return a clip at the card's rate.

        Encoders whose reference resamples in another way override it; their cards' facts say so.
        """
        return waveform.resample(self.card.rate)

    def frontend(self, waveform: Waveform) -> np.ndarray:
        """Return the network's input for a clip: channel, rate, length, then `features`.

        Raises
        ------
        AudioError
            If the clip has no samples, or NaN or infinite ones.
        """
        card = self.card
        samples = self.resample(waveform.mono(card.channels)).samples[0]
        if not np.isfinite(samples).all():  # the caller's array may have changed since its check
            raise AudioError("A clip is finite, this one holds NaN or infinity.")
        missing = int(np.ceil(card.min_seconds * card.rate)) - samples.size
        if missing > 0:
            samples = np.pad(samples, (0, missing))
        return self.features(np.ascontiguousarray(samples, dtype=np.float32))

    def encode(self, waveforms: Sequence[Waveform]) -> Embeddings:
        """Return the embeddings of clips.

        Parameters
        ----------
        waveforms : sequence of Waveform
            At least one; any rate, any channel count, any length.

        Returns
        -------
        float32 [clips, dim]

        Raises
        ------
        AudioError
            If a clip has no samples, or NaN or infinite ones; the message gives its index.
        EncoderError
            If the encoder breaks its contract (wrong shape, NaN).
        """
        inputs = []
        for index, waveform in enumerate(waveforms):
            try:
                inputs.append(self.frontend(waveform))
            except AudioError as error:
                raise AudioError(f"clip {index}: {error}") from error
        if not inputs:
            return np.empty((0, self.card.dim), dtype=np.float32)
        return checked(self.embed(inputs), len(inputs), self.card)


def checked(vectors: np.ndarray, clips: int, card: EncoderCard) -> Embeddings:
    """Return `vectors` if they keep the contract: float32 [clips, dim], finite.

    Raises
    ------
    EncoderError
        If they do not.
    """
    if vectors.shape != (clips, card.dim) or vectors.dtype != np.float32:
        raise EncoderError(
            f"Encoder '{card.name}' must return float32 [{clips}, {card.dim}], "
            f"it returned {vectors.dtype} {list(vectors.shape)}."
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise EncoderError(
            f"Encoder '{card.name}' returned NaN or infinity for clip {bad[0]} of the batch. "
            "If it runs in half precision, load it with dtype float32."
        )
    return vectors
