"""Where a published model lies on this machine: a local folder, or the hub's cache.

A checkpoint is named by a folder or by a hub id (``facebook/wav2vec2-base``). Files of a hub id are
downloaded once, by `huggingface_hub`, and used from its cache afterwards, where the network is not
asked any more; with $HF_HUB_OFFLINE it never is. Size and licence are said before a download, and
the SHA-256 of large files is verified after it. safetensors are preferred; ``pytorch_model.bin`` is
read where there is nothing else (as tensors only: `torch.load` with ``weights_only``).
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import textwrap
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nver.encoders.catalogue import CATALOGUE, licence_of
from nver.encoders.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_json, sha256_of
from nver.encoders.network import announce, megabytes, offline
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
SHA256 = re.compile(r"[0-9a-f]{64}")
NOT_FOUND = 404
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


def find_model(
    encoder: str, checkpoint: str | Path | None, extra: str, *, licence: str | None = None
) -> Model:
    """Return the files of a model.

    Parameters
    ----------
    encoder : str
        The encoder's name, for messages.
    checkpoint : path or str or None
        A folder; a folder's name below `nver.home.weights_folders`; or a hub id, ``@`` and a
        revision (branch, tag or commit) may follow.
    extra : str
        The extra that brings `huggingface_hub`.
    licence : str, optional
        Of the weights, said before they are downloaded; otherwise what the catalogue knows.

    Raises
    ------
    CheckpointError
        If it is None, or neither a folder with a model nor a hub id that can be had.
    MissingExtraError
        If it is a hub id and `huggingface_hub` is not installed.
    """
    if checkpoint is None:
        published = CATALOGUE[encoder].checkpoints.values() if encoder in CATALOGUE else ()
        example = next(iter(published), "facebook/wav2vec2-base")
        raise CheckpointError(
            f"Encoder '{encoder}' needs a checkpoint: a folder or a hub id, for instance "
            f"-e {encoder}={example}."
        )
    name = str(checkpoint)
    given = Path(checkpoint).expanduser()
    for folder in (given, *(place / name for place in weights_folders())):
        if folder.is_dir():
            return local_model(encoder, name, folder)
    repository, _, revision = name.partition("@")
    if HUB_ID.fullmatch(repository):
        require("huggingface_hub", extra)
        known = licence_of(encoder, name) if licence is None else licence
        return hub_model(encoder, repository, revision or None, known)
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


def cached_model(repository: str, revision: str | None) -> Model | None:
    """Return a model of the hub's cache, if all of it is there; the network is not asked.

    Raises
    ------
    CheckpointError
        If an index in the cache lists no shards.
    """
    from huggingface_hub import try_to_load_from_cache

    def here(file: str) -> Path | None:
        found = try_to_load_from_cache(repository, file, revision=revision)
        return Path(found) if isinstance(found, str) else None

    config = here(CONFIG_FILE)
    for candidate in () if config is None else WEIGHTS_FILES:
        listed = here(candidate)
        parts = [] if listed is None else [here(part) for part in parts_of(listed)]
        weights = tuple(part for part in parts if part is not None)
        if config is not None and weights and len(weights) == len(parts):
            return Model(repository, config.parent, weights, config.parent.name)
    return None


def local_or_cached(checkpoint: str | Path) -> Path | None:
    """Return the folder of a model that is on this machine, or None; no weights are read."""
    given, name = Path(checkpoint).expanduser(), str(checkpoint)
    for folder in (given, *(place / name for place in weights_folders())):
        if folder.is_dir():
            return folder if any((folder / file).is_file() for file in WEIGHTS_FILES) else None
    repository, _, revision = name.partition("@")
    if not HUB_ID.fullmatch(repository) or importlib.util.find_spec("huggingface_hub") is None:
        return None
    model = cached_model(repository, revision or None)
    return None if model is None else model.folder


def hub_model(encoder: str, repository: str, revision: str | None, licence: str) -> Model:
    """Return a model of the hub, from its cache or downloaded; its revision is the commit.

    Raises
    ------
    CheckpointError
        If it cannot be had, or a downloaded file has the wrong checksum.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = cached_model(repository, revision)
    if cached is not None:
        known = try_to_load_from_cache(repository, PREPROCESSOR_FILE, revision=revision)
        if known is None and not offline():  # whoever cached the weights may not have asked for it
            with suppress(Exception):
                reach(repository, PREPROCESSOR_FILE, cached.revision)
                hf_hub_download(repository, PREPROCESSOR_FILE, revision=cached.revision)
        return cached
    if offline():
        have = try_to_load_from_cache(repository, CONFIG_FILE, revision=revision)
        raise CheckpointError(
            f"The weights of '{repository}' could not be had: none of {', '.join(WEIGHTS_FILES)} "
            "is whole in the hub's cache, and HF_HUB_OFFLINE forbids the network."
            if isinstance(have, str)
            else f"Encoder '{encoder}' found no model '{repository}' in the hub's cache "
            "(HF_HUB_OFFLINE is set), and no folder of that name: unset it, or pass a folder."
        )
    try:
        reach(repository, CONFIG_FILE, revision)
        folder = Path(hf_hub_download(repository, CONFIG_FILE, revision=revision)).parent
    except Exception as error:  # of the hub, its client, or the HTTP library below it
        raise CheckpointError(
            f"Encoder '{encoder}' found no model '{repository}' on the hub, and no folder of that "
            f"name: {refusal(repository, error)}"
        ) from error
    with suppress(Exception):  # optional: the encoder says what it assumes without it
        hf_hub_download(repository, PREPROCESSOR_FILE, revision=folder.name)
    try:
        weights = downloaded(repository, folder, licence)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"The weights of '{repository}' could not be had: {refusal(repository, error)}"
        ) from error
    return Model(repository, folder, weights, folder.name)


def reach(repository: str, file: str, revision: str | None) -> None:
    """Ask the hub for a file's facts, whatever it answers: without a network this fails at once.

    Raises
    ------
    Exception
        What the HTTP library raises where nobody answers.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    with suppress(HfHubHTTPError):
        get_hf_file_metadata(hf_hub_url(repository, file, revision=revision))


def downloaded(repository: str, folder: Path, licence: str) -> tuple[Path, ...]:
    """Return the weights of a model, downloaded and verified, after saying how large they are.

    Raises
    ------
    CheckpointError
        If the model has none, or one has the wrong checksum; then it is removed.
    Exception
        Whatever the hub's client raises.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    commit = folder.name
    for candidate in WEIGHTS_FILES:
        try:
            get_hf_file_metadata(hf_hub_url(repository, candidate, revision=commit))
        except HfHubHTTPError as error:
            if error.response.status_code != NOT_FOUND:
                raise
            continue
        names = [candidate]
        if candidate.endswith(".index.json"):
            names = parts_of(Path(hf_hub_download(repository, candidate, revision=commit)))
        urls = [hf_hub_url(repository, name, revision=commit) for name in names]
        facts = [get_hf_file_metadata(url) for url in urls]
        sizes = [fact.size for fact in facts]
        total = None if None in sizes else sum(size or 0 for size in sizes)
        announce(f"the model {repository}", megabytes(total), licence, urls[0], folder)
        paths = [Path(hf_hub_download(repository, name, revision=commit)) for name in names]
        for path, fact in zip(paths, facts, strict=True):
            verify(path, fact.etag)
        return tuple(paths)
    raise CheckpointError(
        f"The weights of '{repository}' could not be had: none of {', '.join(WEIGHTS_FILES)} is in "
        f"{folder} or can be downloaded."
    )


def verify(path: Path, etag: str | None) -> None:
    """Refuse a downloaded file whose SHA-256 is not its ETag, which of large files is one.

    Raises
    ------
    CheckpointError
        If it is not; the file is removed.
    """
    if etag is None or not SHA256.fullmatch(etag):
        return
    found = sha256_of(path)
    if found != etag:
        path.resolve().unlink(missing_ok=True)  # the cache holds links to its files
        path.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} must have SHA-256 {etag}, what came has {found}: it is removed. Run it again."
        )


def refusal(repository: str, error: Exception) -> str:
    """Return why the hub did not give a model, and what to do, in one line."""
    from huggingface_hub import errors

    reasons = (
        (
            errors.GatedRepoError,
            f"it is gated: accept its conditions on its page ({repository}) and set HF_TOKEN.",
        ),
        (
            errors.RepositoryNotFoundError,
            "the hub knows no such model, or it is private: check the name, or set HF_TOKEN.",
        ),
        (errors.RevisionNotFoundError, "the hub knows no such revision of it."),
        (errors.LocalEntryNotFoundError, "the hub cannot be reached. Pass a folder, or try again."),
        (errors.EntryNotFoundError, f"it has no {CONFIG_FILE}."),
    )
    hidden = isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None
    cause = error.__cause__ if hidden else error
    for kind, reason in reasons:
        if isinstance(cause, kind):
            return reason
    if isinstance(cause, errors.HfHubHTTPError):
        return f"the hub answers {cause.response.status_code} ({one_line(cause)})."
    return f"the hub cannot be reached ({one_line(cause or error)}). Pass a folder, or try again."


def one_line(error: BaseException, most: int = 200) -> str:
    """Return an error's message in one line, shortened.

    >>> one_line(ValueError("width:    must be positive   "))
    'width: must be positive'
    """
    return textwrap.shorten(str(error) or type(error).__name__, most, placeholder=" ...")
