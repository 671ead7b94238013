"""The figures of a run: the confusion matrix of every system, the map of every encoder."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from nver.report.confusions import confusion_svg
from nver.report.record import RunRecord
from nver.report.scatter import map_svg, neighbours
from nver.report.tables import SystemScore, percent

LONGEST_NAME = 80
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Figure:
    """A drawing: the name of its file, its caption, and its SVG text."""

    file: str
    caption: str
    svg: Markup


def confusion_figures(record: RunRecord) -> dict[SystemScore, Figure]:
    """Return the confusion matrix of every system, highest UAR first."""
    return {
        system: Figure(
            file_name("confusion", "-".join(system.key)),
            f"{system.title}, UAR {percent(system.uar.value)} %",
            confusion_svg(record.confusions[system], record.labels, system.title),
        )
        for system in record.systems
    }


@dataclass(frozen=True)
class EncoderMap:
    """The map of one encoder: marked by label, marked by speaker, and what it says in words."""

    by_label: Figure
    by_speaker: Markup | None
    words: str


def encoder_maps(record: RunRecord) -> list[EncoderMap]:
    """Return the map of every encoder that has one, in the run's order."""
    if record.projection is None:
        return []
    whose = speakers(record)
    return [
        _encoder_map(record, str(encoder), rows, whose)
        for encoder, rows in record.projection.groupby("encoder", sort=False, observed=True)
    ]


def speakers(record: RunRecord) -> dict[str, str]:
    """Return the speaker of each file; empty where nobody or one person is known."""
    clips = record.clips()
    known = clips["speaker"].dropna()
    if known.nunique() < 2:
        return {}
    return dict(zip(clips["file"], clips["speaker"].fillna(UNKNOWN).astype(str), strict=True))


def _encoder_map(
    record: RunRecord, encoder: str, rows: pd.DataFrame, whose: dict[str, str]
) -> EncoderMap:
    points = rows[["x", "y"]].to_numpy("float64")
    labels = rows["label"].tolist()
    drawn = map_svg(points, labels, record.labels, encoder)
    figure = Figure(file_name("map", encoder), encoder, drawn)
    words = [_nearest("emotion", *neighbours(points, labels))]
    if not whose:
        return EncoderMap(figure, None, " ".join(words))
    people = [whose.get(file, UNKNOWN) for file in rows["file"]]
    words.append(_nearest("speaker", *neighbours(points, people)))
    names = sorted(set(whose.values()))
    drawn = map_svg(points, people, names, encoder, by="speaker")
    return EncoderMap(figure, drawn, " ".join(words))


def _nearest(what: str, share: float, chance: float) -> str:
    if math.isnan(share):
        return ""
    return (
        f"The nearest clip is of the same {what} for {percent(share)} % (by chance "
        f"{percent(chance)} %)."
    )


def write_figures(folder: Path, figures: Iterable[Figure]) -> None:
    """Write drawings into a folder and remove those of an earlier report; other files stay."""
    folder.mkdir(exist_ok=True)
    written = set()
    for figure in figures:
        write_text(folder / figure.file, str(figure.svg))
        written.add(figure.file)
    for pattern in ("confusion-*.svg", "map-*.svg"):
        for path in folder.glob(pattern):
            if path.name not in written:
                path.unlink()


def file_name(kind: str, name: str) -> str:
    """Return a file name that any file system takes; names that differ stay different.

    >>> file_name("map", "byol-s")
    'map-byol-s.svg'
    """
    plain = re.sub(r"[^a-z0-9.+_-]+", "_", name.lower())
    if plain != name or len(plain) > LONGEST_NAME:
        plain = f"{plain[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"{kind}-{plain}.svg"


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)
