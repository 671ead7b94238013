"""What a wav2vec 2.0-family checkpoint is, and how a speech encoder is asked to read it.

The families that transformers reads alike, and the recipe: layer, pooling, normalisation and frame
counts, taken from the checkpoint's configuration and the options.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from nver.encoders.checkpoint import CONFIG_FILE, read_json
from nver.encoders.hub import PREPROCESSOR_FILE, Model
from nver.encoders.options import truth
from nver.encoders.readout import Readout
from nver.errors import EncoderError
from nver.registry import nearest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Family:
    """A family of networks.

    Parameters
    ----------
    title : str
        What it is called in papers.
    class_name : str
        Its class in transformers.
    citation : str
        Its paper.
    exact_under_padding : bool
        Whether a mask makes padded batches exact.
    """

    title: str
    class_name: str
    citation: str
    exact_under_padding: bool = True


FAMILIES = {
    "wav2vec2": Family(
        "wav2vec 2.0", "Wav2Vec2Model", "Baevski et al., wav2vec 2.0, 2020, arXiv:2006.11477"
    ),
    "hubert": Family("HuBERT", "HubertModel", "Hsu et al., HuBERT, 2021, arXiv:2106.07447"),
    "wavlm": Family("WavLM", "WavLMModel", "Chen et al., WavLM, 2022, arXiv:2110.13900"),
    "unispeech": Family(
        "UniSpeech", "UniSpeechModel", "Wang et al., UniSpeech, 2021, arXiv:2101.07597"
    ),
    "unispeech-sat": Family(
        "UniSpeech-SAT", "UniSpeechSatModel", "Chen et al., UniSpeech-SAT, 2022, arXiv:2110.05752"
    ),
    "data2vec-audio": Family(
        "data2vec",
        "Data2VecAudioModel",
        "Baevski et al., data2vec, 2022, arXiv:2202.03555",
        exact_under_padding=False,
    ),
}


NAMES = {
    "speech": tuple(FAMILIES),
    "wav2vec2": ("wav2vec2",),
    "xls-r": ("wav2vec2",),
    "mms": ("wav2vec2",),
    "hubert": ("hubert",),
    "wavlm": ("wavlm",),
    "unispeech-sat": ("unispeech-sat",),
    "data2vec-audio": ("data2vec-audio",),
    "voc2vec": ("wav2vec2", "hubert"),
}
"""What the encoders of this family are called, and which ``model_type`` each reads."""


@dataclass(frozen=True)
class Recipe:
    """What changes the numbers of a speech encoder, read from its configuration and options.

    Parameters
    ----------
    readout : Readout
        Layer and pooling.
    normalise : bool
        Whether a clip is brought to mean 0 and variance 1.
    rate : int
        Sampling rate in Hz.
    convolutions : tuple of (int, int)
        Kernel and stride of each convolution.
    """

    readout: Readout
    normalise: bool
    rate: int
    convolutions: tuple[tuple[int, int], ...]

    def frames(self, samples: int) -> int:
        """Return how many frames a clip of so many samples has."""
        for kernel, stride in self.convolutions:
            samples = (samples - kernel) // stride + 1
        return samples

    def samples_for(self, frames: int) -> int:
        """Return the fewest samples that have so many frames."""
        for kernel, stride in reversed(self.convolutions):
            frames = (frames - 1) * stride + kernel
        return frames


def family_of(name: str, model: Model) -> Family:
    """Return the family that a checkpoint's ``config.json`` names.

    Raises
    ------
    EncoderError
        If it is none that the encoder `name` reads; the message names them and the nearest.
    """
    found = str(read_json(model.folder / CONFIG_FILE).get("model_type"))
    known = NAMES[name]
    if found not in known:
        guess = nearest(found, known)
        hint = f" The nearest name is '{guess}'." if guess and len(known) > 1 else ""
        raise EncoderError(
            f"Encoder '{name}' reads model_type {', '.join(known)}; "
            f"{model.folder / CONFIG_FILE} says '{found}'.{hint}"
        )
    return FAMILIES[found]


def read_recipe(
    name: str, model: Model, config: Any, readout: Readout, normalise: bool | int | str | None
) -> Recipe:
    """Return what changes the numbers.

    Parameters
    ----------
    name : str
        What the encoder is called.
    model : Model
        The checkpoint's files.
    config : PretrainedConfig
        The network's configuration, defaults filled in.
    readout : Readout
        Layer and pooling.
    normalise : bool, optional
        The option of `SpeechEncoder`.

    Raises
    ------
    SettingsError
        If `normalise` is no truth value.
    EncoderError
        If the network has an adapter on top, which shortens its output.
    """
    if getattr(config, "add_adapter", False):
        raise EncoderError(
            f"{model.folder} has a length adapter on top (add_adapter), which '{name}' does not "
            "read. Use the checkpoint that it was made from."
        )
    preprocessor = model.folder / PREPROCESSOR_FILE
    said = read_json(preprocessor) if preprocessor.is_file() else {}
    # Those with layer-norm convolutions were trained on normalised input, the others were not.
    trained = getattr(config, "feat_extract_norm", "layer") == "layer"
    chosen = (
        bool(said.get("do_normalize", trained))
        if normalise is None
        else truth("normalise", normalise)
    )
    logger.info("%s: normalise=%s (preprocessor says %s)", model.name, chosen, said or "nothing")
    return Recipe(
        readout=readout,
        normalise=chosen,
        rate=int(said.get("sampling_rate", 16_000)),
        convolutions=tuple(zip(config.conv_kernel, config.conv_stride, strict=True)),
    )
