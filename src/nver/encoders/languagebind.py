"""LanguageBind's ear: a CLIP vision transformer over spectrograms, trained to agree with text.

After Zhu et al., LanguageBind: extending video-language pretraining to N-modality by language-based
semantic alignment, ICLR 2024. The Kaldi log-mel spectrogram of 112 bands and 1036 frames (10.4 s),
three times as the three colours of an image, in patches of 14 by 14 through OpenCLIP's ViT-L/14 (24
blocks of width 1024); the class token is projected to the space shared with text (768 values). 304
million parameters.

A shorter clip is repeated along time. Of a longer one the three colours are three windows of 1036
frames, one from each third of the possible starts; what lies outside them is not heard:

- ``thirds``: the first start of each third, so never the clip's end;
- ``even``: the first, the middle and the last start;
- ``random``: one drawn from each third, as in the reference, from ``seed``. The draw begins anew
  for every clip, so that a clip's embedding does not depend on the clips before it.

Of several channels the first is heard. Rates other than 16 kHz are resampled as torchaudio does it.
Both published checkpoints are read, see `nver.encoders.languagebind_weights`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

from nver.audio import Waveform
from nver.encoders import languagebind_weights as layout
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.device import DTYPES, require_device
from nver.encoders.options import whole_number
from nver.encoders.parallel import over_cores
from nver.encoders.remote import TowerKind, find_tower
from nver.encoders.sinc import RESAMPLER, resample
from nver.encoders.tower import Tower, read_tower
from nver.encoders.vit import Transformer, layer_norm, patches, with_class_token
from nver.registry import unknown
from nver.shapes import Embeddings, Mono

LICENCE = (
    "code MIT; trained on VIDAL-10M, CC BY-NC 4.0 (non-commercial); the weights' own licence is "
    "said on their model page"
)
CITATION = (
    "Zhu et al., LanguageBind: extending video-language pretraining to N-modality by "
    "language-based semantic alignment, ICLR 2024, arXiv:2310.01852"
)
FOLDERS = ("languagebind", "LanguageBind_Audio_FT", "LanguageBind_Audio")
SOURCES = ("LanguageBind/LanguageBind_Audio_FT",)
REPRESENTATIONS = {
    "projected": "class token in the joint space",
    "normalised": "class token in the joint space, at length 1",
    "trunk": "class token after the last layer norm",
}
WINDOWS = ("thirds", "even", "random")
CLIPS_AT_ONCE = 32  # in one forward pass of a GPU; on a CPU one clip keeps a core busy


def starts(possible: int, rule: str, seed: int) -> list[int]:
    """Return where the three windows of a long clip begin.

    Parameters
    ----------
    possible : int
        How many starts there are: 0 to ``possible - 1``.
    rule : {"thirds", "even", "random"}
        See the module. A third without a start has 0.
    seed : int
        Of the rule "random": the stream of NumPy's legacy generator, as after
        ``numpy.random.seed(seed)``.

    Examples
    --------
    >>> starts(300, "thirds", 0), starts(300, "even", 0), starts(300, "random", 0)
    ([0, 100, 200], [0, 149, 299], [44, 147, 264])
    """
    if rule == "even":
        return [0, (possible - 1) // 2, possible - 1]
    thirds = [
        third if third.size else np.zeros(1, int) for third in np.array_split(range(possible), 3)
    ]
    if rule == "thirds":
        return [int(third[0]) for third in thirds]
    draw = np.random.RandomState(seed)  # the reference's stream, of its own
    return [int(draw.choice(third)) for third in thirds]


def check(tower: Tower) -> None:
    """Refuse a tower that is not LanguageBind's.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unexpected or misshaped, or the configuration makes no sense.
    """
    tower = layout.canonical(tower)
    tower.check(layout.checked_shapes(tower, layout.read_recipe(tower)))


TOWER = TowerKind("languagebind", FOLDERS, LICENCE, SOURCES, layout.is_audio, check, {})


class LanguageBindEncoder(Encoder):
    """The audio tower of LanguageBind.

    Parameters
    ----------
    checkpoint : path or str, optional
        A folder with ``pytorch_model.bin`` (or safetensors) and ``config.json``, or such a file; a
        hub id or an address of such a file. Without it, ``languagebind``,
        ``LanguageBind_Audio_FT`` or ``LanguageBind_Audio`` in $NVER_WEIGHTS and
        NVER_HOME/weights, else what is published is downloaded, see `nver.encoders.remote`.
    representation : {"projected", "normalised", "trunk"}
        The joint space as the projection gives it (768 values), the same brought to length 1, or
        the class token before the projection (1024 values).
    windows : {"thirds", "even", "random"}
        Where the three windows of a clip above 10.4 s begin.
    seed : int
        Of the rule "random".
    dtype : {"float32", "float16", "bfloat16"}
        Precision of the network.
    device : str
        "cpu", "cuda", ...
    alias : str
        The card's name, unique within a run.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, truncated, incomplete or foreign.
    UnknownNameError
        If the representation, windows or dtype is none of the known ones.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        representation: str = "projected",
        windows: str = "thirds",
        seed: int = 0,
        dtype: str = "float32",
        device: str = "cpu",
        alias: str = "languagebind",
    ) -> None:
        options = (
            ("representation", representation, REPRESENTATIONS),
            ("windows", windows, WINDOWS),
            ("dtype", dtype, DTYPES),
        )
        for kind, value, known in options:
            if value not in known:
                raise unknown(f"{kind} of 'languagebind'", value, known)
        require_device(device)
        seed = whole_number("seed", seed, 0)
        path = find_tower(TOWER, checkpoint)
        tower = layout.canonical(read_tower("languagebind", path, layout.is_audio))
        check(tower)
        recipe = layout.read_recipe(tower)
        tower.keep()
        self._representation, self._windows, self._seed = representation, windows, seed
        self._recipe, self._device = recipe, device
        whole, lora = layout.merged(tower.tensors, recipe.alpha)
        weights = {name: tensor.to(device, DTYPES[dtype]) for name, tensor in whole.items()}
        blocks = layout.blocks(weights)
        self._trunk = Transformer(blocks, recipe.heads, recipe.eps, recipe.activation)
        self._weights = {
            name: tensor for name, tensor in weights.items() if not name.startswith(layout.LAYERS)
        }
        facts = {"dtype": dtype, "lora": f"merged, alpha {recipe.alpha:g}" if lora else "none"}
        self._card = self._describe(alias, tower, facts)

    def _describe(self, alias: str, tower: Tower, facts: dict[str, str]) -> EncoderCard:
        recipe, seed = self._recipe, f", seed {self._seed}" if self._windows == "random" else ""
        axis = 1 if self._representation == "trunk" else 0
        return EncoderCard(
            name=alias,
            summary="LanguageBind audio: bound to text",
            dim=tower.size(layout.PROJECTION, axis, 0),
            rate=recipe.bank.rate,
            modality="multimodal",
            pooling=REPRESENTATIONS[self._representation],
            licence=LICENCE,
            citation=CITATION,
            revision=tower.revision,
            parameters=tower.values,
            channels="first",
            min_seconds=recipe.bank.length / recipe.bank.rate,
            layer=self._representation,
            download_bytes=4 * tower.values,
            facts={
                "resampler": RESAMPLER,
                "recipe": repr(recipe),
                "windows": f"{self._windows}{seed}",
                **facts,
            },
        )

    @property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return self._card

    def resample(self, waveform: Waveform) -> Waveform:
        """Return the clip at the card's rate, resampled as torchaudio does it."""
        return resample(waveform, self._recipe.bank.rate)

    def features(self, samples: Mono) -> Float32[np.ndarray, "windows mels frames"]:
        """Return the normalised log-mel spectrograms of the three windows [3, 112, 1036]."""
        bank, frames = self._recipe.bank, self._recipe.frames
        signal = torch.from_numpy(samples)
        signal = signal - signal.mean()
        possible = bank.frames(samples.size) - frames + 1
        if possible > 1:
            reach = (frames - 1) * bank.hop + bank.length  # frames of a slice: no others are made
            first = [start * bank.hop for start in starts(possible, self._windows, self._seed)]
            mel = torch.stack([bank(signal[start : start + reach]) for start in first])
        else:
            once = bank(signal)
            mel = once[torch.arange(frames) % len(once)].expand(layout.COLOURS, -1, -1)
        normalised = (mel - self._recipe.mean) / (2 * self._recipe.std)
        return np.ascontiguousarray(normalised.transpose(1, 2).numpy())

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim]; all inputs have one size, so batches are exact."""
        on_cpu = self._weights[layout.CLASS_TOKEN].device.type == "cpu"
        size = 1 if on_cpu else CLIPS_AT_ONCE
        groups = [np.stack(inputs[first : first + size]) for first in range(0, len(inputs), size)]
        return np.concatenate(over_cores(self._encoded, groups, self._device))

    def _encoded(self, mel: Float32[np.ndarray, "clips windows mels frames"]) -> np.ndarray:
        """Return the vectors of clips that share a forward pass."""
        found = self.forward(torch.from_numpy(mel).to(self._weights[layout.CLASS_TOKEN]))
        return np.asarray(found.float().cpu().numpy())

    def tokens(
        self, mel: Float[Tensor, "clips windows mels frames"]
    ) -> Float[Tensor, "clips tokens width"]:
        """Return what enters the first block: the class token and the patches, normalised."""
        weights = self._weights
        stem = weights[layout.PATCHES]
        found = with_class_token(
            patches(mel, stem, stem.shape[-1]),
            weights[layout.CLASS_TOKEN],
            weights[layout.POSITIONS],
        )
        norm = layout.layer(weights, "vision_model.pre_layrnorm")
        return layer_norm(found, norm, self._recipe.eps)

    def forward(
        self, mel: Float[Tensor, "clips windows mels frames"]
    ) -> Float[Tensor, "clips dim"]:
        """Return the vector of each clip."""
        norm = layout.layer(self._weights, "vision_model.post_layernorm")
        token = layer_norm(self._trunk(self.tokens(mel)), norm, self._recipe.eps)
        if self._representation == "trunk":
            return token
        joint = functional.linear(token, self._weights[layout.PROJECTION])
        if self._representation == "normalised":
            return functional.normalize(joint, dim=-1)
        return joint
