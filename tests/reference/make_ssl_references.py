"""Make ``data/dasheng.npz``, ``data/eat.npz`` and ``data/beats.npz``: what the references give.

Run as ``python -m tests.reference.make_ssl_references`` with the references on PYTHONPATH. They
were made with torch 2.13.0+cpu, one thread, and

- ``dasheng``: the package dasheng 0.0.9 of PyPI, unmodified (einops 0.8.2); for zeros after the
  last window its `forward_features` on a padded window, as dasheng 0.0.7 and
  jimbozhang/hf_transformers_custom_model_dasheng@58eb3fb6 do it;
- ``BEATs``: microsoft/unilm@c68101b6 ``beats/``, as the package bacpipe 1.3.5 carries it (laid out
  anew; `extract_features` called `forward`);
- ``eat_model``: the inference of ``eat_model.py`` and ``model_core.py`` beside the hub's
  worstchan/EAT-base_epoch30_pretrain, with the blocks of cwx-worst-one/EAT@e421f1c8
  ``models/modules.py``, typed anew; timm's Mlp is two linear layers and a GELU; and the front end
  of its ``feature_extract/feature_extract.py`` as `features`;
- torchaudio 2.11.0: the files ``functional``, ``transforms`` and ``compliance/kaldi.py`` of its
  wheel, the rest left empty.

Weights and clips are `drawn` and `burst` of tests/contracts/checkpoints_ssl.py. Per clip (its
seconds), of the tiny networks: ``mean`` over the patches of the output and, for the shortest,
``input`` and ``states``: all tokens of every state. ``full`` is the embedding of the published
size, ``parameters`` the number of its trained values.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from tests.contracts.checkpoints_ssl import (
    BEATS_CONFIG,
    BEATS_FULL,
    DASHENG_CONFIG,
    EAT_CONFIG,
    FULL,
    burst,
    drawn,
)

DATA = Path(__file__).parent / "data"
SHORT, MIDDLE, LONG = 0.4, 2.7, 11.5  # seconds
Arrays = dict[str, np.ndarray]


def filled(network: torch.nn.Module, left: tuple[str, ...] = ()) -> torch.nn.Module:
    """Give a network the drawn weights, but for the names that begin as in `left`."""
    state = {
        name: tensor
        if name.startswith(left) or name.endswith("num_batches_tracked")
        else torch.from_numpy(drawn(name, tuple(tensor.shape)))
        for name, tensor in network.state_dict().items()
    }
    network.load_state_dict(state)
    return network.eval()


def trained(network: torch.nn.Module) -> np.ndarray:
    """Return the number of a network's trained values."""
    return np.array(sum(tensor.numel() for tensor in network.parameters() if tensor.requires_grad))


def outputs_of(layers: Any, run: Any) -> tuple[Any, list[np.ndarray]]:
    """Return what `run` returns, and the inputs of the first layer and the outputs of all."""
    seen: list[Any] = []
    hooks = [layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))]
    hooks += [layer.register_forward_hook(lambda _, __, out: seen.append(out)) for layer in layers]
    result = run()
    for hook in hooks:
        hook.remove()
    return result, [np.asarray(x[0] if isinstance(x, tuple) else x) for x in seen]


def dasheng() -> Arrays:
    """Return the outputs of Dasheng."""
    from dasheng.pretrained.pretrained import Dasheng

    tiny = filled(Dasheng(**DASHENG_CONFIG), ("front_end",))
    found: Arrays = {}
    for seconds in (SHORT, MIDDLE, LONG):
        clip = torch.from_numpy(burst(seconds))[None]
        entered = tiny.forward_to_spec(clip)
        output, states = outputs_of(tiny.blocks, partial(tiny.forward_spectrogram, entered))
        found[f"{seconds}/mean"] = output[0].mean(0).numpy()
        if seconds == SHORT:
            found[f"{seconds}/input"] = entered[0, 0].T.numpy()
            found[f"{seconds}/states"] = np.concatenate([*states[:-1], output.numpy()])
    frames = entered.shape[-1]
    padded = torch.nn.functional.pad(entered, (0, 2016 - frames))
    windows = [tiny.forward_features(tiny.patch_embed(part)) for part in padded.split(1008, -1)]
    found[f"{LONG}/padded"] = torch.cat(windows, 1)[0, : frames // 4].mean(0).numpy()
    full = filled(Dasheng(**{**DASHENG_CONFIG, **FULL}), ("front_end",))
    found["parameters"] = trained(full)
    found["full"] = full(torch.from_numpy(burst(SHORT))[None])[0].mean(0).numpy()
    return found


def eat() -> Arrays:
    """Return the outputs of EAT; its first token is the class token."""
    from eat_model import EAT, features

    tiny = filled(EAT(SimpleNamespace(**EAT_CONFIG)))
    found: Arrays = {}
    for seconds in (SHORT, MIDDLE):
        clip = torch.from_numpy(burst(seconds))
        entered = features(clip)
        output, states = outputs_of(tiny.blocks, partial(tiny.encode, entered))
        found[f"{seconds}/mean"] = output[0, 1:].mean(0).numpy()
        found[f"{seconds}/cls"] = output[0, 0].numpy()
        found[f"{seconds}/cls of 1024"] = tiny.encode(features(clip, 1024))[0, 0].numpy()
        if seconds == SHORT:
            found[f"{seconds}/input"] = entered[0, 0].numpy()
            found[f"{seconds}/states"] = np.concatenate(states)
    full = filled(EAT(SimpleNamespace(**{**EAT_CONFIG, **FULL})))
    found["parameters"] = trained(full)
    found["full"] = full.encode(features(torch.from_numpy(burst(SHORT))))[0, 0].numpy()
    return found


def beats() -> Arrays:
    """Return the outputs of BEATs, and of a variant with the norms first."""
    from BEATs import BEATs, BEATsConfig

    first = {**BEATS_CONFIG, "layer_norm_first": True, "deep_norm": False}
    tiny = filled(BEATs(BEATsConfig(BEATS_CONFIG)))
    found: Arrays = {}
    for seconds in (SHORT, MIDDLE, LONG):
        clip = torch.from_numpy(burst(seconds))[None]
        (output, _), states = outputs_of(tiny.encoder.layers, partial(tiny.extract_features, clip))
        found[f"{seconds}/mean"] = output[0].mean(0).numpy()
        if seconds == SHORT:
            found[f"{seconds}/input"] = tiny.preprocess(clip)[0].numpy()
            found[f"{seconds}/states"] = np.concatenate([s.transpose(1, 0, 2) for s in states])
    clip = torch.from_numpy(burst(MIDDLE))[None]
    other = filled(BEATs(BEATsConfig(first)))
    found["norms first"] = other.extract_features(clip)[0][0].mean(0).numpy()
    full = filled(BEATs(BEATsConfig(BEATS_FULL)))
    found["parameters"] = trained(full)
    found["full"] = full.extract_features(clip)[0][0].mean(0).numpy()
    return found


def main() -> None:
    """Write the three files."""
    torch.set_num_threads(1)
    DATA.mkdir(exist_ok=True)
    with torch.no_grad():
        for make in (dasheng, eat, beats):
            np.savez_compressed(DATA / f"{make.__name__}.npz", **make())


if __name__ == "__main__":
    main()
