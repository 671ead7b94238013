"""LanguageBind's ear: a CLIP vision transformer over spectrograms, trained to agree with text.

After Zhu et al., LanguageBind: extending video-language pretraining to N-modality by language-based
semantic alignment, ICLR 2024. The Kaldi log-mel spectrogram of 112 bands and 1036 frames (10.4 s),
three times as the three colours of an image, in patches of 14 by 14 through OpenCLIP's ViT-L/14 (24
blocks of width 1024); the class token is projected to the space shared with text (768 values). 304
million parameters.

A shorter clip is repeated along time. Of a longer one the three colours are three windows of 1036
frames, one from each third of the possible starts; what lies outside them is not heard:

- ``thirds``: the first start of each third, so always the clip's first two thirds or so;
- ``even``: the first, the middle and the last start;
- ``random``: one drawn from each third, as in the reference, from ``seed``. The draw begins anew
  for every clip, so that a clip's embedding does not depend on the clips before it.

Of several channels the first is heard. Rates other than 16 kHz are resampled as torchaudio does it.
Both published checkpoints are read: LanguageBind_Audio_FT, whose weights are whole, and
LanguageBind_Audio, whose attention is W + (alpha / r) B A (LoRA, Hu et al. 2022): merged on loading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional

from nver.audio import Waveform
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.kaldi import FilterBank
from nver.encoders.languagebind_weights import (
    CLASS_TOKEN,
    PATCHES,
    POSITIONS,
    PROJECTION,
    blocks,
    is_audio,
    layer,
    merged,
    network_shapes,
    original_names,
)
from nver.encoders.sinc import RESAMPLER, resample
from nver.encoders.tower import find_file, read_tower
from nver.encoders.vit import Transformer, layer_norm, patches, with_class_token
from nver.errors import SettingsError
from nver.registry import unknown
from nver.shapes import Embeddings, Mono
