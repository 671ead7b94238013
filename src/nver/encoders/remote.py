"""An audio tower from the hub or from an address: downloaded once, and alone.

A checkpoint is a local file or folder, a hub id (``ORG/NAME``, ``@`` and a revision may follow), or
an ``http(s)://`` address of a safetensors or PyTorch file. Where none is given and none lies here,
the published ones are tried in order. Only the audio tower is kept, as safetensors, in
``NVER_HOME/weights/ENCODER/``, under a digest of the id or address: the next run asks the network
nothing. Delete the file to fetch it anew.

- From a safetensors or a zipped PyTorch file only the bytes of the tower's tensors are downloaded.
- A server that gives no ranges sends the whole file: its size is said before.
- Tensors that are missing, unexpected or misshaped are an error that names them, before a tensor
  is downloaded where the file lists them first.
- SHA-256 is verified of a whole file where the hub says it, and of the tower's tensors where the
  encoder knows it. Of ranges only the lengths can be checked (of a PyTorch file its checksums too).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import torch

from nver.encoders import safetensors_ranges, torch_ranges
from nver.encoders.checkpoint import CONFIG_FILE
from nver.encoders.download import (
    download,
    download_ranges,
    only_one,
    part_of,
    remove_other_parts,
)
from nver.encoders.http_file import DownloadError, Remote, fetch_small, probe
from nver.encoders.hub import HUB_ID, one_line
from nver.encoders.network import announce, megabytes, offline
from nver.encoders.torch_file import Tensors, Wanted, from_torch
from nver.encoders.tower import KINDS, Tower, from_safetensors, local_file
from nver.errors import CheckpointError
from nver.home import home, weights_folders

ENDPOINT = "https://huggingface.co"
HUB_FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "imagebind_huge.pth",
    "embedding_model.ckpt",
)
LONGEST_CONFIG = 10_000_000  # bytes
NEARLY_ALL = 0.9  # of a file: whoever wants so much takes all, to verify it


@dataclass(frozen=True)
class TowerKind:
    """How the audio tower of an encoder is found, fetched and told from a foreign one.

    Parameters
    ----------
    encoder : str
        The encoder's name.
    folders : tuple of str
        Names of the folders to look for, see `nver.encoders.tower.local_file`.
    licence : str
        Of the weights.
    sources : tuple of str
        Hub ids and addresses of what is published, in order of preference.
    wanted : callable
        Whether a tensor of that name belongs to the tower.
    check : callable
        Refuses a foreign tower; only names, shapes and the configuration matter to it.
    revisions : mapping of str to str
        SHA-256 of the tower's tensors (`Tower.revision`), of the sources where it is known.
    """

    encoder: str
    folders: tuple[str, ...]
    licence: str
    sources: tuple[str, ...]
    wanted: Wanted
    check: Callable[[Tower], None]
    revisions: Mapping[str, str]


@dataclass(frozen=True)
class Fetched:
    """What `nver fetch` tells of weights.

    Parameters
    ----------
    path : Path
        The file, or the folder of a hub model.
    bytes : int
        Size on the disk.
    licence : str
        Of the weights.
    already : bool
        Whether it was here before.
    """

    path: Path
    bytes: int
    licence: str
    already: bool

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return asdict(self) | {"path": str(self.path)}

    def sentence(self, name: str) -> str:
        """Return it in one line, for a person.

        >>> Fetched(Path("/w/x.bin"), 20_000_000, "MIT", True).sentence("net")
        'net: /w/x.bin (20 MB, licence MIT), already here.'
        """
        size = megabytes(self.bytes)
        how = "already here" if self.already else "downloaded"
        return f"{name}: {self.path} ({size}, licence {self.licence}), {how}."


@dataclass(frozen=True)
class Located:
    """A checkpoint that can be had: what it was called, its file, and its configuration."""

    source: str
    remote: Remote
    config: Mapping[str, Any]


def kept_file(encoder: str, source: str) -> Path:
    """Return where the tower of a hub id or address is kept."""
    digest = hashlib.sha256(source.encode()).hexdigest()
    return home() / "weights" / encoder / f"{digest[:16]}.safetensors"


def is_remote(given: str | Path) -> bool:
    """Return whether it reads like a hub id or an address.

    >>> is_remote("nielsr/imagebind-huge"), is_remote("weights/big.pth"), is_remote("big")
    (True, False, False)
    """
    name = str(given)
    if name.startswith(("http://", "https://")):
        return True
    return bool(HUB_ID.fullmatch(name.partition("@")[0])) and Path(name).suffix not in KINDS


def local_tower(kind: TowerKind, given: str | Path | None = None) -> Path | None:
    """Return the file with a tower that is here, or None; no weights are read.

    Raises
    ------
    CheckpointError
        If a folder holds none, or several and none is a published one.
    """
    published = [kept_file(kind.encoder, source).name for source in kind.sources]
    found = local_file(kind.encoder, kind.folders, given, published)
    if found is None and given is not None and is_remote(given):
        kept = kept_file(kind.encoder, str(given))
        return kept if kept.is_file() else None
    return found


def find_tower(kind: TowerKind, given: str | Path | None = None) -> Path:
    """Return the file with a tower, downloaded if it is not here.

    Raises
    ------
    CheckpointError
        As `fetch_tower`.
    """
    return fetch_tower(kind, given).path


def fetch_tower(kind: TowerKind, given: str | Path | None = None) -> Fetched:
    """Download a tower if it is not here.

    Parameters
    ----------
    kind : TowerKind
        Of which encoder.
    given : path or str or None
        A local file or folder, a hub id or an address; None for what is here, else published.

    Raises
    ------
    CheckpointError
        If it is none of them, cannot be reached, or is not the expected checkpoint.
    """
    found = local_tower(kind, given)
    if found is not None:
        return Fetched(found, found.stat().st_size, kind.licence, already=True)
    if given is not None and not is_remote(given):
        raise CheckpointError(
            f"Encoder '{kind.encoder}' needs a checkpoint: a file ({', '.join(KINDS)}), a folder "
            f"with one, a hub id (ORG/NAME) or an http(s) address; {given} is neither."
        )
    located = _locate(kind, given)
    kept = kept_file(kind.encoder, located.source)
    already = True
    try:
        with only_one(kept):
            if not kept.is_file():
                already = False
                _make(kind, located, kept)
        return Fetched(kept, kept.stat().st_size, kind.licence, already)
    except OSError as error:
        raise CheckpointError(
            f"{kept.parent} cannot be written ({one_line(error)}). Make room, or set NVER_HOME to "
            "another folder."
        ) from error


def _locate(kind: TowerKind, given: str | Path | None) -> Located:
    """Return the first file that its server has, of what is given or of what is published.

    Raises
    ------
    CheckpointError
        If there is none: where it was looked for, and what each server said.
    """
    sources = kind.sources if given is None else (str(given),)
    failures = ["HF_HUB_OFFLINE forbids the network."] if offline() else []
    for source in () if offline() else sources:
        token = None if _is_address(source) else os.environ.get("HF_TOKEN")
        for url in _addresses(source):
            try:
                remote = probe(url, token)
                config = _config(source, remote)
            except DownloadError as error:
                failures.append(str(error))
                if error.status in (404, 410):
                    continue
                break  # another file of the same server will not be had either
            return Located(source, remote, config)
    looked = (
        f"no folder {' or '.join(kind.folders)} in {', '.join(map(str, weights_folders()))}"
        if given is None
        else f"no file or folder of that name, and none kept of it in {home() / 'weights'}"
    )
    raise CheckpointError(
        f"No checkpoint for encoder '{kind.encoder}' (licence {kind.licence}): {looked}; "
        f"{' or '.join(sources)} cannot be downloaded: {' '.join(failures)} "
        f"Pass its file or folder (-e {kind.encoder}=PATH) or list the folder above it in "
        "$NVER_WEIGHTS."
    )


def _is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _addresses(source: str) -> Iterator[str]:
    """Yield where the tensors of a hub id or address may lie.

    Raises
    ------
    CheckpointError
        If an address has a file of another kind.
    """
    if _is_address(source):
        if Path(urlsplit(source).path).suffix not in KINDS:
            raise CheckpointError(
                f"An address of a checkpoint must end in one of {', '.join(KINDS)}; {source} does "
                "not."
            )
        yield source
        return
    repository, _, revision = source.partition("@")
    for file in HUB_FILES:
        yield _hub_url(repository, revision or "main", file)


def _hub_url(repository: str, revision: str, file: str) -> str:
    endpoint = os.environ.get("HF_ENDPOINT") or ENDPOINT
    return f"{endpoint.rstrip('/')}/{repository}/resolve/{revision}/{file}"


def _config(source: str, remote: Remote) -> dict[str, Any]:
    """Return what ``config.json`` beside the file holds; nothing where there is none.

    Beside an address there may be a page of any kind instead of it; on the hub that is an error.
    """
    on_hub = not _is_address(source)
    url = urljoin(remote.url, CONFIG_FILE)
    if on_hub and remote.commit is not None:
        url = _hub_url(source.partition("@")[0], remote.commit, CONFIG_FILE)
    try:
        config = json.loads(fetch_small(url, remote.token, LONGEST_CONFIG))
    except DownloadError as error:
        if error.status in (404, 410) or (error.status is not None and not on_hub):
            return {}
        raise
    except ValueError as error:
        config = one_line(error)
    if isinstance(config, dict):
        return config
    if not on_hub:
        return {}
    raise CheckpointError(f"{url} must hold a JSON object, it does not ({config!r:.80}).")


def _make(kind: TowerKind, located: Located, kept: Path) -> None:
    """Download a tower and keep it; what is left of a download that broke off serves the next."""
    try:
        part, tensors = _take(kind, located, kept)
        kind.check(_named(located, tensors))
        tower = Tower(part, tensors, located.config, kept)
        _verify(kind, located, tower)
    except DownloadError:
        raise
    except CheckpointError:
        remove_other_parts(kept)  # it is whole, and not what it should be
        raise
    facts = {"nver.url": located.remote.url, "nver.licence": kind.licence}
    tower.write(kept, located.source, facts)
    remove_other_parts(kept)


def _take(kind: TowerKind, located: Located, kept: Path) -> tuple[Path, Tensors]:
    """Download the tower's tensors, or the whole file where its server or its layout forces it."""
    suffix = Path(urlsplit(located.remote.url).path).suffix
    if located.remote.ranges and suffix == ".safetensors":
        return _by_ranges(kind, located, kept)
    found = _by_records(kind, located, kept) if located.remote.ranges else None
    return _whole(kind, located, kept, suffix) if found is None else found


def _verify(kind: TowerKind, located: Located, tower: Tower) -> None:
    """Refuse a tower whose tensors are not those that are known of its source."""
    expected = kind.revisions.get(located.source)
    if expected is not None and tower.revision != expected:
        raise CheckpointError(
            f"The audio tower of {located.source} must have SHA-256 {expected}, what came has "
            f"{tower.revision}: it is removed. Run it again."
        )


def _by_ranges(kind: TowerKind, located: Located, kept: Path) -> tuple[Path, Tensors]:
    remote = located.remote
    places = safetensors_ranges.read_places(remote)
    names = [name for name in places if kind.wanted(name)]
    shapes = {name: torch.empty(places[name].shape, device="meta") for name in names}
    kind.check(_named(located, shapes))
    head, ranges = safetensors_ranges.selection(places, names)
    wanted = sum(stop - first for first, stop in ranges)
    if remote.sha256 and remote.size and wanted >= NEARLY_ALL * remote.size:
        return _whole(kind, located, kept, ".safetensors")  # then its checksum can be verified
    _announce(kind, located, kept, wanted)
    part = part_of(kept, remote, ranges)
    remove_other_parts(kept, part)
    download_ranges(remote, ranges, part, head)
    return part, from_safetensors(part, kind.wanted)[0]


def _by_records(kind: TowerKind, located: Located, kept: Path) -> tuple[Path, Tensors] | None:
    def before(named: Tensors, size: int) -> None:
        kind.check(_named(located, named))
        _announce(kind, located, kept, size)

    return torch_ranges.fetch_tensors(located.remote, kept, kind.wanted, before)


def _whole(kind: TowerKind, located: Located, kept: Path, suffix: str) -> tuple[Path, Tensors]:
    part = part_of(kept, located.remote)
    remove_other_parts(kept, part)
    _announce(kind, located, kept, None)
    download(located.remote, part)
    if suffix == ".safetensors":
        return part, from_safetensors(part, kind.wanted)[0]
    return part, from_torch(part, kind.wanted)


def _named(located: Located, tensors: Tensors) -> Tower:
    """Return a tower without numbers, whose errors name the address."""
    address = urlsplit(located.remote.url)  # a path has no place for the two slashes of https://
    return Tower(Path(address.netloc + address.path), tensors, located.config, None)


def _announce(kind: TowerKind, located: Located, kept: Path, size: int | None) -> None:
    whole = megabytes(located.remote.size)
    said = f"{megabytes(size)} of {whole}"
    if size is None:
        no_ranges = "its server gives no parts" if not located.remote.ranges else "all of the file"
        said = f"{whole} ({no_ranges})"
    announce(f"the audio tower of {kind.encoder}", said, kind.licence, located.remote.url, kept)
