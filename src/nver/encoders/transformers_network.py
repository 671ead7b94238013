"""Networks of the library transformers, loaded so that nothing is silently random or half precise.

transformers fills tensors that a checkpoint lacks with random numbers and a warning, and takes the
checkpoint's precision, half ones included. Here a tensor that is missing, unexpected or misshaped
is an error that names it, and the precision is the caller's.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nver.encoders.checkpoint import CONFIG_FILE, foreign, read_json
from nver.encoders.device import require_device
from nver.encoders.hub import PREPROCESSOR_FILE, Model, one_line
from nver.errors import CheckpointError, EncoderError
from nver.registry import require

EXTRA = "speech"
"""The extra that brings transformers."""


@dataclass(frozen=True)
class Layout:
    """Which class reads a checkpoint, and which tensors must be in it.

    Parameters
    ----------
    class_name : str
        In transformers ("Wav2Vec2Model"), or ``"module:Class"``.
    backbone : tuple of str
        How the names of the network's own tensors begin, with or without one prefix of a larger
        model. Such a tensor that the network does not know is an error; any other belongs to a head
        or to another tower, and is not read.
    unused : tuple of str
        How the names of tensors end that a checkpoint may lack, or hold in another shape: only
        training or a head uses them.
    options : mapping, optional
        Passed on to ``from_pretrained``.
    """

    class_name: str
    backbone: tuple[str, ...]
    unused: tuple[str, ...] = ()
    options: Mapping[str, Any] | None = None

    def network_class(self) -> Any:
        """Return the class.

        Raises
        ------
        MissingExtraError
            If transformers is not installed.
        """
        library = require("transformers", EXTRA)
        module, colon, name = self.class_name.rpartition(":")
        return getattr(importlib.import_module(module) if colon else library, name)

    def owns(self, name: str) -> bool:
        """Return whether a tensor belongs to the network, not to a head or another tower."""
        return name.startswith(self.backbone) or name.partition(".")[2].startswith(self.backbone)


def require_type(encoder: str, model: Model, known: str) -> None:
    """Refuse a checkpoint whose ``config.json`` names another ``model_type`` than `known`.

    Raises
    ------
    EncoderError
        The message says which one it names.
    """
    path = model.folder / CONFIG_FILE
    found = read_json(path).get("model_type")
    if found != known:
        raise EncoderError(f"Encoder '{encoder}' reads model_type {known}; {path} says '{found}'.")


def preprocessor_of(model: Model) -> dict[str, Any]:
    """Return what ``preprocessor_config.json`` says; nothing where there is none."""
    path = model.folder / PREPROCESSOR_FILE
    return read_json(path) if path.is_file() else {}


def preprocessor_number(model: Model, key: str, default: int) -> int:
    """Return a whole number of ``preprocessor_config.json``, or `default` where it says none.

    Raises
    ------
    CheckpointError
        If it says something that is no positive whole number.
    """
    value = preprocessor_of(model).get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(
            f"{model.folder / PREPROCESSOR_FILE} must give a positive whole number for {key}, it "
            f"gives {value!r}. Is this the right checkpoint?"
        )
    return value


def short_name(model: Model) -> str:
    """Return the last part of a checkpoint's name; the folder's own where it was given as ".".

    >>> short_name(Model("openai/whisper-base", Path("cache/a1b2"), (), ""))
    'whisper-base'
    """
    return Path(model.name).name.strip(".") or model.folder.resolve().name


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what transformers prints, logs and warns; what matters is raised or on the card."""
    settings: Any = importlib.import_module("transformers.utils.logging")
    verbosity, bar = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity(logging.CRITICAL)
    settings.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        settings.set_verbosity(verbosity)
        if bar:
            settings.enable_progress_bar()


def misshapes(report: Mapping[str, Any]) -> list[str]:
    """Return the names of misshaped tensors, and their shapes, which transformers 4 does not say.

    >>> misshapes({"mismatched_keys": ["a.bias"]})
    ['a.bias']
    >>> misshapes({"mismatched_keys": {("a.bias", (2,), (3,))}})
    ['a.bias [2] instead of [3]']
    """
    items = report["mismatched_keys"]
    return sorted(
        item if isinstance(item, str) else f"{item[0]} {list(item[1])} instead of {list(item[2])}"
        for item in items
    )


def load_network(model: Model, layout: Layout, dtype: torch.dtype, device: str) -> nn.Module:
    """Return a network with a checkpoint's weights, in evaluation, frozen.

    Parameters
    ----------
    model : Model
        The checkpoint's files.
    layout : Layout
        How they are read.
    dtype : torch.dtype
        Of the weights.
    device : str
        Where it runs.

    Raises
    ------
    CheckpointError
        If the weights are truncated, or miss tensors, or belong to another architecture.
    SettingsError
        If torch cannot use the device here.
    MissingExtraError
        If transformers is not installed.
    """
    network_class = layout.network_class()
    weights = model.weights[0] if len(model.weights) == 1 else model.folder
    require_device(device)
    try:
        # What is missing is filled with random numbers: not from the caller's stream.
        with quiet(), torch.random.fork_rng(devices=[]):
            network, report = network_class.from_pretrained(
                str(model.folder),
                dtype=dtype,
                local_files_only=True,
                use_safetensors=model.weights[0].suffix == ".safetensors",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **(layout.options or {}),
            )
    except MemoryError:
        raise
    except Exception as error:  # transformers raises a dozen kinds for a broken file
        if type(error).__name__ == "UnpicklingError":
            raise CheckpointError(
                f"{weights} is damaged or holds Python objects besides tensors, which are never "
                "read. Fetch it again, or convert it to safetensors."
            ) from error
        raise CheckpointError(
            f"{weights} cannot be read as a {network_class.__name__} ({one_line(error)}). "
            "Fetch the checkpoint again."
        ) from error
    missing = [name for name in report["missing_keys"] if not name.endswith(layout.unused)]
    extra = [name for name in report["unexpected_keys"] if layout.owns(name)]
    misshaped = [
        fault for fault in misshapes(report) if not fault.partition(" ")[0].endswith(layout.unused)
    ]
    if missing or extra or misshaped:
        tensors = len(network.state_dict())
        raise foreign(weights, tensors, sorted(missing), sorted(extra), misshaped)
    prepared: nn.Module = network.to(device).eval().requires_grad_(False)
    return prepared
