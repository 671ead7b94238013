"""Where the numbers come from: command, settings, versions, hardware, hashes, tuning."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from nver.report.record import RunRecord
from nver.report.statement import counted
from nver.report.tables import duration, percent
from nver.report.verdicts import number

_PLACE = re.compile(r"(?<![\w.:/])(?:[A-Za-z]:[\\/]|~?/|\.\.?/)[^\s,)'\"]*[\\/](?=[^\s,)'\"])")


def provenance(record: RunRecord, *, paths: bool = True) -> list[tuple[str, str]]:
    """Return what made the numbers, term by term; without `paths`, folders are left out."""
    run = record.run
    settings = {key: value for key, value in run["settings"].items() if value not in (None, (), [])}
    extraction = run["extraction"]
    rows = [
        ("Command", str(run.get("command", ""))),
        ("Started", str(run.get("started", ""))),
        ("Duration", duration(float(run["seconds"])) if "seconds" in run else ""),
        ("Embeddings", _pairs({k: v for k, v in extraction.items() if isinstance(v, int | float)})),
        ("Hardware", _pairs(run["hardware"])),
        ("Versions", _pairs(run["libraries"])),
        ("Settings", _pairs(settings)),
        ("Seeds", counted(record.seeds, "training") + " of each network"),
        *((f"SHA-256 of {name}", digest) for name, digest in record.digests.items()),
        ("SHA-256 of the clips", str(run.get("corpus_sha256", ""))),
    ]
    return [(term, text if paths else without_folders(text)) for term, text in rows if text]


def without_folders(text: str) -> str:
    """Return a text in which paths keep only their last part.

    >>> without_folders("nver evaluate /home/ann/x/m.csv --out ../runs/a, 44/100 files")
    'nver evaluate m.csv --out a, 44/100 files'
    >>> without_folders("see https://example.org/a/b")
    'see https://example.org/a/b'
    """
    return _PLACE.sub("", text)


def tuning(record: RunRecord) -> list[tuple[str, str, str, str, str, str]]:
    """Return what was chosen: system, encoders, fold, setting, its UAR and that of the default."""
    return [
        (
            str(one["name"]),
            " + ".join(map(str, one["encoders"])),
            str(one["fold"]),
            ", ".join(_chosen(one)) or "the default",
            percent(number(one.get("uar"))),
            percent(number(one.get("default_uar"))),
        )
        for one in record.run["tuning"]
    ]


def _chosen(one: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a fold was given: the layers first, which matter most."""
    for encoder, layer in (one.get("layers") or {}).items():
        yield f"layer {layer} of {encoder}"
    for name, value in one["chosen"].items():
        yield f"{name.replace('_', ' ')} {_number(value)}"


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _pairs(values: Mapping[str, Any]) -> str:
    known = {
        key.replace("_", " "): value
        for key, value in values.items()
        if value not in (None, (), [], {})
    }
    return ", ".join(f"{key} {_plain(value)}" for key, value in known.items())


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return f"({_pairs({str(key): entry for key, entry in value.items()})})"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(entry) for entry in value)
    return str(value)
