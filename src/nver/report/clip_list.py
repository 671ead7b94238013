"""Which clip is which point or cell of a figure, and where the page finds its sound.

By default the page names the place of each clip relative to the run folder, so that a clip plays
where page and corpus lie as they did, and nobody's home folder is told. Nothing is requested before
somebody presses play. Clips may be embedded instead, up to a size; or left out.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from nver.errors import SettingsError
from nver.report.coupling import Plan
from nver.report.record import RunRecord
from nver.report.run_figures import speakers
from nver.report.scatter import placed
from nver.report.tables import SystemScore

LISTED = 6000
"""With more clips than this, the cells of the matrices name none: the page would grow too large."""

ANSWERS = 400_000
"""Most predictions in the page; the cells of the systems behind name no clips."""

FIRST_CODE = 0x100
"""A label is one character of a string, counted from here: far from quotes and from markup."""

SOUNDS = {
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".flac": "audio/flac",
    ".ogg": "audio/ogg",
    ".opus": "audio/ogg",
    ".m4a": "audio/mp4",
    ".aac": "audio/aac",
    ".webm": "audio/webm",
}


@dataclass(frozen=True)
class Sharing:
    """What the page tells and holds of the clips.

    Parameters
    ----------
    paths : bool
        Whether it says where they lie, relative to the run folder.
    megabytes : float or None
        How much sound is embedded, at most; None for none.
    """

    paths: bool = True
    megabytes: float | None = None

    def __post_init__(self) -> None:
        if self.megabytes is not None and not self.megabytes > 0:
            raise SettingsError(
                f"Expected a size above 0 MB for the embedded clips, got {self.megabytes:g}. "
                "Leave the option out to embed none."
            )


@dataclass(frozen=True)
class ClipList:
    """The clips of a page.

    Parameters
    ----------
    files : tuple of str
        Their ids in the corpus; other fields count them from 0.
    data : mapping
        Everything that the page's script needs, as plain JSON values.
    embedded, bytes : int
        How many clips are embedded, and their size as files.
    linked : bool
        Whether the others are played from where they lie.
    """

    files: tuple[str, ...]
    data: Mapping[str, Any] = field(repr=False)
    embedded: int
    bytes: int
    linked: bool


def clip_list(
    record: RunRecord, shown: Iterable[SystemScore], plans: Sequence[Plan], sharing: Sharing
) -> ClipList:
    """Return the clips of a page.

    Parameters
    ----------
    record : RunRecord
        The run.
    shown : iterable of SystemScore
        The systems whose matrices are in the page, in their order.
    plans : sequence of Plan
        The plans in the page, in their order.
    sharing : Sharing
        What may be told.
    """
    clips = record.clips()
    listed = len(clips) <= LISTED
    if not listed:
        clips = clips[clips["file"].isin(_drawn(record, plans))]
    files = clips["file"].tolist()
    place = {file: number for number, file in enumerate(files)}
    codes = {label: code for code, label in enumerate(record.labels)}
    whose = speakers(record)
    people = sorted(set(whose.values()))
    numbers = {name: number for number, name in enumerate(people)}
    paths = _paths(record, files)
    sounds, size = _embedded(files, clips["label"].tolist(), paths, sharing.megabytes)
    links = _links(record.folder, files, paths) if sharing.paths else {}
    data = {
        "labels": list(record.labels),
        "files": files,
        "truth": [codes[label] for label in clips["label"]],
        "people": people,
        "speakers": [numbers[whose[file]] for file in files] if whose else [],
        "systems": _systems(record, shown, place, codes) if listed else [],
        "maps": _maps(record, place),
        "plans": [_plan(plan, place) for plan in plans],
        "sounds": sounds,
        **links,
    }
    return ClipList(tuple(files), data, len(sounds), size, bool(links))


def _drawn(record: RunRecord, plans: Sequence[Plan]) -> set[str]:
    drawn = {file for plan in plans for file in plan.files}
    return drawn if record.projection is None else drawn | set(record.projection["file"])


def _systems(
    record: RunRecord,
    shown: Iterable[SystemScore],
    place: Mapping[str, int],
    codes: Mapping[str, int],
) -> list[list[str]]:
    """Return the predictions of each system, [] for those that no longer fit."""
    systems: list[list[str]] = []
    room = ANSWERS
    for system in shown:
        room -= len(place) * int(record.parts[system.key]["seed"].nunique())
        systems.append(_answers(record, system, place, codes) if room >= 0 else [])
    return systems


def _answers(
    record: RunRecord, system: SystemScore, place: Mapping[str, int], codes: Mapping[str, int]
) -> list[str]:
    """Return the predictions of a system: a string for each seed, a character for each clip."""
    strings = []
    for _, rows in record.parts[system.key].groupby("seed", sort=True):
        signs = ["-"] * len(place)
        for file, predicted in zip(rows["file"], rows["predicted"], strict=True):
            if file in place:
                signs[place[file]] = chr(FIRST_CODE + codes[predicted])
        strings.append("".join(signs))
    return strings


def _maps(record: RunRecord, place: Mapping[str, int]) -> list[dict[str, Any]]:
    if record.projection is None:
        return []
    return [
        {
            "clips": [place.get(file, -1) for file in rows["file"]],
            "points": placed(rows[["x", "y"]].to_numpy("float64")).round().astype(int).tolist(),
        }
        for _, rows in record.projection.groupby("encoder", sort=False, observed=True)
    ]


def _plan(plan: Plan, place: Mapping[str, int]) -> dict[str, Any]:
    """Return the clips of a plan and its mass, in thousandths of each source clip's mass."""
    return {
        "clips": [place.get(file, -1) for file in plan.files],
        "shares": (1000 * plan.shares()).round().astype(int).tolist(),
    }


def _paths(record: RunRecord, files: Sequence[str]) -> dict[str, str]:
    if record.places is None:
        return {}
    known = dict(zip(record.places["file"], record.places["path"], strict=True))
    return {file: path for file in files if isinstance(path := known.get(file), str) and path}


def _links(folder: Path, files: Sequence[str], paths: Mapping[str, str]) -> dict[str, Any]:
    """Return the addresses of the clips: one root where all lie below it, else one for each."""
    if not paths:
        return {}
    addresses = [address(folder, paths[file]) if file in paths else None for file in files]
    tails = [quote(file) for file in files]
    first = next(one for one in zip(addresses, tails, strict=True) if one[0])
    root = str(first[0]).removesuffix(first[1])
    if all(a == root + tail for a, tail in zip(addresses, tails, strict=True)):
        return {"root": root}
    return {"links": addresses}


def address(folder: Path, path: str) -> str:
    """Return the address of a file as a page in `folder` writes it.

    Nothing in it can be taken for a scheme, so a file name cannot become a program.

    >>> address(Path("/runs/a"), "/data/x/javascript:1.wav")
    '../../data/x/javascript%3A1.wav'
    """
    here = os.path.abspath(folder)  # noqa: PTH100 # lexical, as the browser walks it
    try:
        near = os.path.relpath(path, here)
    except ValueError:  # another drive
        return Path(path).absolute().as_uri()
    near = PurePath(near).as_posix()
    return quote(near if near.startswith("../") else f"./{near}")


def _embedded(
    files: Sequence[str],
    labels: Sequence[str],
    paths: Mapping[str, str],
    megabytes: float | None,
) -> tuple[dict[int, str], int]:
    """Return sounds as data addresses, every label in turn, until the size is reached."""
    if megabytes is None:
        return {}, 0
    counts: dict[str, int] = dict.fromkeys(labels, 0)
    turns = []
    for number, label in enumerate(labels):
        turns.append((counts[label], number))
        counts[label] += 1
    sounds: dict[int, str] = {}
    size, limit = 0, megabytes * 1e6
    for _, number in sorted(turns):
        path = Path(paths.get(files[number], ""))
        kind = SOUNDS.get(path.suffix.lower())
        if kind is None or not path.is_file() or size + path.stat().st_size > limit:
            continue
        content = path.read_bytes()
        size += len(content)
        sounds[number] = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return sounds, size
