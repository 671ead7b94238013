"""Where a published model lies on this machine: a local folder, or the hub's cache.

A checkpoint is named by a folder or by a hub id (``facebook/wav2vec2-base``). Files of a hub id are
downloaded once, by `huggingface_hub`, and used from its cache afterwards; with $HF_HUB_OFFLINE
nothing is asked of the network. safetensors are preferred; ``pytorch_model.bin`` is read where
there is nothing else (as tensors only: `torch.load` with ``weights_only``).
"""

from __future__ import annotations

import hashlib
import os
import re
import textwrap
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nver.encoders.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_json, sha256_of
from nver.errors import CheckpointError
from nver.home import weights_folders
from nver.registry import require

PREPROCESSOR_FILE = "preprocessor_config.json"
WEIGHTS_FILES = (
    WEIGHTS_FILE,
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Model:
    """A model's files.

    Parameters
    ----------
    name : str
        What the user called it: a folder or a hub id.
    folder : Path
        Where ``config.json`` and the weights lie.
    weights : tuple of Path
        The weights file; several where it is sharded.
    revision : str
        The hub's commit, or the SHA-256 of the weights of a local folder.
    """

    name: str
    folder: Path
    weights: tuple[Path, ...]
    revision: str

    @property
    def bytes(self) -> int:
        """Size of the weights."""
        return sum(path.stat().st_size for path in self.weights)


def find_model(encoder: str, checkpoint: str | Path, extra: str) -> Model:
    """Return the files of a model.

    Parameters
    ----------
    encoder : str
        The encoder's name, for messages.
    checkpoint : path or str
        A folder; a folder's name below `nver.home.weights_folders`; or a hub id, ``@`` and a
        revision (branch, tag or commit) may follow.
    extra : str
        The extra that brings `huggingface_hub`.

    Raises
    ------
    CheckpointError
        If it is neither a folder with a model nor a hub id that can be had.
    MissingExtraError
        If it is a hub id and `huggingface_hub` is not installed.
    """
    name = str(checkpoint)
    given = Path(checkpoint).expanduser()
    for folder in (given, *(place / name for place in weights_folders())):
        if folder.is_dir():
            return local_model(encoder, name, folder)
    repository, _, revision = name.partition("@")
    if HUB_ID.fullmatch(repository):
        return hub_model(encoder, repository, revision or None, extra)
    raise CheckpointError(
        f"Encoder '{encoder}' needs a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, or a hub id "
        f"such as facebook/wav2vec2-base; '{name}' is neither."
    )


def local_model(encoder: str, name: str, folder: Path) -> Model:
    """Return the model in a folder; its revision is the SHA-256 of its weights."""
    for candidate in WEIGHTS_FILES:
        if (folder / candidate).is_file():
            weights = tuple(folder / part for part in parts_of(folder / candidate))
            absent = [str(path) for path in weights if not path.is_file()]
            if absent:
                raise CheckpointError(
                    f"{folder / candidate} lists {', '.join(absent)}, which is not there. Fetch it."
                )
            digests = [sha256_of(path) for path in weights]
            whole = digests[0] if len(digests) == 1 else combined(digests)
            return Model(name, folder, weights, whole)
    raise CheckpointError(
        f"Encoder '{encoder}' needs a folder with {CONFIG_FILE} and {WEIGHTS_FILE} (or "
        f"pytorch_model.bin); {folder} holds no weights."
    )


def combined(digests: list[str]) -> str:
    """Return one SHA-256 (hex) for several."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def parts_of(weights: Path) -> list[str]:
    """Return the names of the files that hold the tensors: one, or the shards of an index.

    Raises
    ------
    CheckpointError
        If an index lists no shards, or a shard outside its folder.
    """
    if not weights.name.endswith(".index.json"):
        return [weights.name]
    listed = read_json(weights).get("weight_map")
    names = sorted(set(listed.values())) if isinstance(listed, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise CheckpointError(f"{weights} must list the files beside it under 'weight_map'.")
    return names


def offline() -> bool:
    """Return whether $HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def hub_model(encoder: str, repository: str, revision: str | None, extra: str) -> Model:
    """Return a model of the hub, downloaded where needed; its revision is the commit."""
    require("huggingface_hub", extra)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    def fetched(file: str) -> Path:
        return Path(
            hf_hub_download(repository, file, revision=revision, local_files_only=offline())
        )

    failures = (EntryNotFoundError, OSError, ValueError)  # network, HTTP and offline are OSErrors
    try:
        folder = fetched(CONFIG_FILE).parent
    except failures as error:
        where = "the hub's cache (HF_HUB_OFFLINE is set)" if offline() else "the hub"
        raise CheckpointError(
            f"Encoder '{encoder}' found no model '{repository}' in {where}, and no folder of that "
            f"name: {one_line(error)}"
        ) from error
    with suppress(*failures):  # optional: the encoder says what it assumes without it
        fetched(PREPROCESSOR_FILE)
    for candidate in WEIGHTS_FILES:
        try:
            weights = tuple(fetched(part) for part in parts_of(fetched(candidate)))
        except failures:
            continue
        return Model(repository, folder, weights, folder.name)
    raise CheckpointError(
        f"The weights of '{repository}' could not be had: none of {', '.join(WEIGHTS_FILES)} is in "
        f"{folder} or can be downloaded."
    )


def one_line(error: BaseException, most: int = 200) -> str:
    """Return an error's message in one line, shortened.

    >>> one_line(ValueError("width:    must be positive   "))
    'width: must be positive'
    """
    return textwrap.shorten(str(error) or type(error).__name__, most, placeholder=" ...")
