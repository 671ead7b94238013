"""PE-Audio: the audio tower of the Perception Encoder, trained to agree with captions and video.

After Vyas et al., Pushing the frontier of audiovisual perception with large-scale multimodal
correspondence learning (PE-AV), 2025. The waveform at 48 kHz through the convolutions of a neural
codec (25 frames a second), a block of two convolutions and a transformer with a class token. Read
from the layout of the library transformers: ``facebook/pe-av-*`` (``pe_audio_video``),
``pe_audio`` and ``pe_audio_encoder``. Only the audio tower's tensors are read: the video tower's
library (timm) is not needed.

- A clip's end is mirrored to a whole number of frames (40 ms each), as in the reference. There is
  no longest clip; attention's cost grows with the square of the duration.
- Padding a clip to its neighbours' length changes its vector, mask or not: the codec's convolutions
  carry the padding into the last frames, and the network has a norm over all frames. Only clips of
  equally many frames share a forward pass.
- Layer -1 is the network's output, after its last norm and linear layer. "projected" is that in the
  space shared with captions, as the published model gives it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn import functional

from nver.audio import RESAMPLER
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.batching import equal_shapes
from nver.encoders.catalogue import licence_of
from nver.encoders.checkpoint import CONFIG_FILE, compare_tensors, read_json, sha256_of
from nver.encoders.device import check_convolutions, dtype_of, require_device
from nver.encoders.hub import Model, find_model, one_line
from nver.encoders.readout import POOLINGS, read_options
from nver.encoders.torch_file import Tensors, from_torch
from nver.encoders.tower import from_safetensors
from nver.encoders.transformers_network import EXTRA, preprocessor_number, quiet, short_name
from nver.errors import CheckpointError, EncoderError, SettingsError
from nver.registry import require, unknown
from nver.shapes import Embeddings, Mono

CITATION = (
    "Vyas et al., Pushing the frontier of audiovisual perception with large-scale multimodal "
    "correspondence learning, 2025, arXiv:2512.19687"
)

HEAD_EPS = 1e-6  # of the projection's layer norm
TEXT_WIDTH = 1024  # of the published text towers, and so of the space shared with captions
REPRESENTATIONS = ("trunk", "projected")
MOST_SAMPLES = 48_000 * 32  # in one forward pass: bounds memory


@dataclass(frozen=True)
class Layout:
    """Where a checkpoint has its audio tower.

    Parameters
    ----------
    places : tuple of str
        The keys that lead to the tower's configuration.
    tower : str
        How the names of the tower's tensors begin.
    head : str
        How those of its projection begin; "" where there is none.
    """

    places: tuple[str, ...]
    tower: str
    head: str

    def configuration(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the tower's configuration; empty, all published values, where it is left out."""
        for place in self.places:
            config = config.get(place) or {}
        return config


LAYOUTS = {
    "pe_audio": Layout(("audio_config",), "audio_encoder.", "audio_head."),
    "pe_audio_video": Layout(
        ("audio_video_config", "audio_config"),
        "audio_model.audio_encoder.",
        "audio_model.audio_head.",
    ),
    "pe_audio_encoder": Layout((), "", ""),
}


class PEAudioEncoder(Encoder):
    """The audio tower of a Perception Encoder.

    Parameters
    ----------
    checkpoint : path or str
        A folder (``config.json`` with ``model.safetensors``), its name below $NVER_WEIGHTS or
        NVER_HOME/weights, or a hub id, ``ID@REVISION`` for one revision.
    layer : int or {"mean", "all"}
        0 is what enters the first layer, 1 its output, ...; -1 or the number of layers is the
        network's output. "mean" averages the outputs of all layers, "all" puts the vectors of 0 to
        the last one after the other.
    pooling : {"cls", "mean", "mean+std"}
        The class token, or over the frames.
    representation : {"trunk", "projected"}
        The tower's states, or each of the last ones in the space shared with captions, then pooled;
        for checkpoints that have it.
    dtype : {"float32", "float16", "bfloat16"}
        Precision of the network.
    device : str
        "cpu", "cuda", ...
    alias : str, optional
        The card's name, unique within a run; otherwise ``pe-audio:`` and the checkpoint's last
        part.

    Raises
    ------
    CheckpointError
        If the checkpoint is missing, truncated, incomplete or foreign.
    EncoderError
        If its ``model_type`` is another one, or transformers too old to have the network.
    SettingsError, UnknownNameError
        If an option is out of range.
    MissingExtraError
        If transformers is not installed.
    """

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        *,
        layer: int | str = -1,
        pooling: str = "cls",
        representation: str = "trunk",
        dtype: str = "float32",
        device: str = "cpu",
        alias: str | None = None,
    ) -> None:
        if representation not in REPRESENTATIONS:
            raise unknown("representation of 'pe-audio'", representation, REPRESENTATIONS)
        self._dtype, self._device = dtype_of("pe-audio", dtype), device
        self._representation = representation
        require_device(device)
        model = find_model("pe-audio", checkpoint, EXTRA)
        network, head = load_tower(model, representation == "projected")
        self._network: Any = network.to(device, self._dtype).eval().requires_grad_(False)
        check_convolutions("pe-audio", self._network)
        self._head = {name: part.to(device, self._dtype) for name, part in head.items()}
        config: Any = self._network.config
        self._readout = read_options(
            "pe-audio",
            layer,
            pooling,
            layers=config.num_hidden_layers,
            width=head["proj.weight"].shape[0] if head else config.hidden_size,
            poolings=tuple(POOLINGS),
        )
        if head and not self._readout.only_last:
            raise SettingsError(
                "The representation 'projected' of 'pe-audio' is of the last layer, the layer is "
                f"{layer!r}. Leave one of the two out."
            )
        self._rate = preprocessor_number(model, "sampling_rate", 48_000)
        self._hop = preprocessor_number(model, "hop_length", config.dac_config.hop_length)
        self._card = self._describe(alias, model)

    def _describe(self, alias: str | None, model: Model) -> EncoderCard:
        readout, short = self._readout, short_name(model)
        tensors = (*self._network.parameters(), *self._head.values())
        return EncoderCard(
            name=alias or f"pe-audio:{short}",
            summary=f"PE-Audio ({short}): bound to captions and video",
            dim=readout.dim,
            rate=self._rate,
            modality="multimodal",
            pooling=readout.pooling_name,
            licence=licence_of("pe-audio", model.name),
            citation=CITATION,
            revision=model.revision,
            parameters=sum(tensor.numel() for tensor in tensors),
            min_seconds=self._hop / self._rate,
            layer="projected" if self._head else readout.layer_name,
            layers=readout.held,
            extra=EXTRA,
            download_bytes=model.bytes,
            facts={
                "resampler": RESAMPLER,
                "hop": str(self._hop),
                "dtype": str(self._dtype).removeprefix("torch."),
                "config": sha256_of(model.folder / CONFIG_FILE),
                "transformers": ".".join(version("transformers").split(".")[:2]),
            },
        )

    @property
    def card(self) -> EncoderCard:
        """The facts of this encoder."""
        return self._card

    def features(self, samples: Mono) -> Float32[np.ndarray, "whole_frames"]:
        """Return the samples, the end mirrored to a whole number of frames."""
        return np.pad(samples, (0, -samples.size % self._hop), mode="reflect")

    def embed(self, inputs: Sequence[np.ndarray]) -> Embeddings:
        """Return the embeddings [clips, dim]; clips of equally many frames share a pass."""
        vectors = np.empty((len(inputs), self._card.dim), dtype=np.float32)
        with torch.inference_mode():
            # One group after the other: the network switches cuDNN off for the whole process while
            # it runs, so that threads could leave it off.
            for group in equal_shapes(inputs, MOST_SAMPLES):
                vectors[group] = self._vectors(np.stack([inputs[index] for index in group]))
        return vectors

    def _vectors(self, clips: Float32[np.ndarray, "clips samples"]) -> Embeddings:
        """Return the vectors of clips that share a forward pass."""
        readout = self._readout
        batch = torch.from_numpy(clips)[:, None].to(self._device, self._dtype)
        output = self._network(batch, output_hidden_states=not readout.only_last, return_dict=True)
        last = torch.cat([output.pooler_output[:, None], output.last_hidden_state], dim=1)
        if self._head:
            last = projected(last, self._head)
        if readout.only_last:
            chosen = [last]
        else:
            # The last of `hidden_states` is without the class token.
            states = (*tuple(output.hidden_states)[:-1], last)
            chosen = [states[index] for index in readout.states]
        own = slice(0, 1) if readout.pooling == "cls" else slice(1, None)
        rows = [
            readout.vector([state[index, own] for state in chosen]) for index in range(len(clips))
        ]
        return np.asarray(torch.stack(rows).cpu().numpy())


def projected(
    states: Float[Tensor, "clips tokens width"], head: Mapping[str, Tensor]
) -> Float[Tensor, "clips tokens joint"]:
    """Return states in the space shared with captions: a layer norm and a linear layer."""
    weight, bias = head["layer_norm.weight"], head["layer_norm.bias"]
    normed = functional.layer_norm(states, weight.shape, weight, bias, HEAD_EPS)
    return functional.linear(normed, head["proj.weight"])


def load_tower(model: Model, with_head: bool) -> tuple[nn.Module, Tensors]:
    """Return the audio tower of a checkpoint in float32, and the projection where it is asked for.

    Parameters
    ----------
    model : Model
        The checkpoint's files.
    with_head : bool
        Whether the projection is read; without it, the second is empty.

    Raises
    ------
    CheckpointError
        If a file is truncated, a tensor missing, unexpected or misshaped, or the configuration none
        of a tower.
    EncoderError
        If the ``model_type`` is another one, or transformers has no such network.
    SettingsError
        If the checkpoint has no projection.
    """
    path = model.folder / CONFIG_FILE
    config = read_json(path)
    layout = layout_of(path, config, with_head)
    network = empty_network(path, layout.configuration(config))
    shapes = {name: tuple(part.shape) for name, part in network.state_dict().items()}
    expected = {layout.tower + name: shape for name, shape in shapes.items()}
    beginnings = [layout.tower]
    if with_head:
        joint = (config.get("text_config") or {}).get("hidden_size", TEXT_WIDTH)
        head = head_shapes(network.config.hidden_size, joint)
        expected |= {layout.head + name: shape for name, shape in head.items()}
        beginnings.append(layout.head)
    tensors = read_tensors(model, tuple(beginnings))
    found = {name: tuple(part.shape) for name, part in tensors.items()}
    compare_tensors(model.weights[0], expected, found)
    network.load_state_dict({name: tensors[layout.tower + name] for name in shapes}, assign=True)
    return network, {name: tensors[layout.head + name] for name in head} if with_head else {}


def layout_of(path: Path, config: Mapping[str, Any], with_head: bool) -> Layout:
    """Return the layout that a configuration names.

    Raises
    ------
    EncoderError
        If it names another ``model_type``.
    SettingsError
        If the projection is asked for and such checkpoints have none.
    """
    kind = str(config.get("model_type"))
    if kind not in LAYOUTS:
        raise EncoderError(
            f"Encoder 'pe-audio' reads model_type {', '.join(LAYOUTS)}; {path} says '{kind}'."
        )
    if with_head and not LAYOUTS[kind].head:
        raise SettingsError(
            f"{path.parent} is the tower alone ({kind}) and has no projection. Take the "
            "representation 'trunk'."
        )
    return LAYOUTS[kind]


def head_shapes(width: int, joint: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of the projection: a layer norm, and a matrix without offset."""
    return {
        "layer_norm.weight": (width,),
        "layer_norm.bias": (width,),
        "proj.weight": (joint, width),
    }


def empty_network(path: Path, config: Mapping[str, Any]) -> Any:
    """Return the network of a configuration, which takes no memory until its tensors are loaded.

    Raises
    ------
    EncoderError
        If this release of transformers has no such network.
    CheckpointError
        If no network can be made of the configuration.
    """
    library: Any = require("transformers", EXTRA)
    if not hasattr(library, "PeAudioEncoder"):
        raise EncoderError(
            "Encoder 'pe-audio' needs a transformers that has PeAudioEncoder, "
            f"{version('transformers')} has not. Install a newer one: pip install -U transformers."
        )
    try:
        with quiet(), torch.device("meta"):
            network = library.PeAudioEncoder(library.PeAudioEncoderConfig.from_dict(dict(config)))
        network.rotary_emb = type(network.rotary_emb)(network.config)  # is in no file
    except Exception as error:  # the library raises a dozen kinds for a strange value
        raise CheckpointError(
            f"{path} describes no audio tower ({one_line(error)}). Is this the right checkpoint?"
        ) from error
    return network


def read_tensors(model: Model, beginnings: tuple[str, ...]) -> Tensors:
    """Return the tensors of a checkpoint whose names begin so, in float32; no others are read.

    Raises
    ------
    CheckpointError
        If a file is truncated or of another kind.
    """
    tensors: Tensors = {}
    for file in model.weights:
        if file.suffix == ".safetensors":
            tensors |= from_safetensors(file, lambda name: name.startswith(beginnings))[0]
        else:
            tensors |= from_torch(file, lambda name: name.startswith(beginnings))
    return tensors
