"""What `nver encoders`, `corpora`, `systems` and `perturbations` print: rows of JSON values."""

from __future__ import annotations

import importlib.util
import inspect
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nver.errors import NverError

if TYPE_CHECKING:
    from nver.systems import SystemSpec

Row = dict[str, Any]

TOLD_ANYWAY = ("non_commercial",)
"""What is told as unknown where nobody knows: its absence would be taken for a no."""


def encoders() -> list[Row]:
    """Return one row per known encoder: name, summary, dim, rate (Hz), modality, licence.

    ``available`` is true where its checkpoint is on this machine, or it needs none; otherwise
    ``reason`` says what is missing. Nothing is built, read or downloaded, except that an encoder of
    another package is built to see its card.
    """
    from nver.encoders import ENCODERS

    return [_encoder(name) for name in ENCODERS.names()]


def encoder(name: str) -> list[Row]:
    """Return the row of one encoder, with its published checkpoints' ids and its options.

    Raises
    ------
    UnknownNameError
        If there is no such encoder.
    """
    from nver.encoders import CATALOGUE, ENCODERS

    build = ENCODERS.load(name)
    row = _encoder(name)
    if name in CATALOGUE:
        row["checkpoints"] = dict(CATALOGUE[name].checkpoints)
    given = inspect.signature(build).parameters.values()
    hidden = {"checkpoint", "name"}
    row["options"] = {each.name: str(each.default) for each in given if each.name not in hidden}
    return [row]


def _encoder(name: str) -> Row:
    from nver.encoders import CATALOGUE

    if name not in CATALOGUE:
        return {"name": name} | _built(name)
    facts = CATALOGUE[name].to_dict()
    facts["checkpoints"] = list(facts["checkpoints"])
    del facts["folders"], facts["finds_itself"]
    return {"name": name} | facts | _here(name)


def _here(name: str) -> Row:
    """Return whether an encoder of the catalogue can be used here without a download."""
    from nver.encoders.catalogue import CATALOGUE, SPEECH, folder_here

    entry = CATALOGUE[name]
    if entry.modality == "weight-free":
        return {"available": True, "reason": ""}
    if entry.needs == SPEECH and importlib.util.find_spec("transformers") is None:
        return {"available": False, "reason": _extra("speech")}
    folder = folder_here(name) or _cached(entry.checkpoints.values())
    if folder is not None:
        return {"available": True, "reason": "", "checkpoint": str(folder)}
    if not entry.checkpoints:
        return {"available": False, "reason": f"no checkpoint here: pass one, -e {name}=CHECKPOINT"}
    size = f"{entry.megabytes} MB" if entry.megabytes else "size unknown"
    reason = f"not downloaded yet ({size}): nver fetch {name}, or at its first use"
    return {"available": False, "reason": reason}


def _extra(name: str) -> str:
    return f"install nver's extra '{name}': pip install 'nver[{name}]' (in a checkout: '.[{name}]')"


def _cached(sources: Iterable[str]) -> Path | None:
    """Return the first of some models of the hub that is in its cache."""
    from nver.encoders.hub import local_or_cached

    return next(filter(None, map(local_or_cached, sources)), None)


def _built(name: str) -> Row:
    from nver.encoders import load_encoder

    try:
        card = load_encoder(name).card
    except NverError as error:
        return {"available": False, "reason": str(error)}
    facts = {"summary": card.summary, "dim": str(card.dim), "rate": card.rate}
    facts |= {"modality": card.modality, "licence": card.licence}
    return facts | {"available": True, "reason": ""}


def corpora() -> list[Row]:
    """Return one row per known corpus: its card, and whether it lies where nver looks for it."""
    from nver.corpora import CORPORA

    return [_card(name) for name in CORPORA.names()]


def _card(name: str) -> Row:
    from nver.corpora import corpus_card, default_root

    card, root = corpus_card(name), default_root(name)
    here = card.synthetic or root.is_dir()
    reason = "" if here else f"not in {root}; pass --root, or get it: {card.url}"
    return card.to_dict() | {"available": here, "reason": reason}


def corpus(
    name: str, root: Path | None = None, subset: str | None = None, label_column: str | None = None
) -> list[Row]:
    """Return one row that describes a corpus on disk, as `Corpus.describe` does.

    A corpus of the table that does not lie where nver looks for it is described by its card, with
    ``available`` false and a ``reason`` that says where to get it, as in `corpora`.

    Raises
    ------
    NverError
        If a name is unknown, or what was named, a `root` above all, is not there or no such corpus.
    """
    from nver.corpora import CORPORA, corpus_card, load_corpus

    if root is None and label_column is None and name in CORPORA.names():
        corpus_card(name).choose(subset)
        if not (row := _card(name))["available"]:
            return [row]
    return [load_corpus(name, root, subset=subset, label_column=label_column).describe()]


def systems() -> list[Row]:
    """Return one row per system: name, kind ("single" or "fusion"), summary.

    A system that is evaluated by two rules has a second row for the other one. Fusions of other
    packages come last; of one that cannot be loaded ``reason`` says why.
    """
    from nver.systems import SYSTEMS, get_system, other_fusions

    rows = [row for spec in SYSTEMS.values() for row in _rules(spec)]
    for name in other_fusions():
        try:
            rows += _rules(get_system(name))
        except Exception as error:  # noqa: BLE001 - another package's code fails in its own ways
            reason = f"cannot be loaded: {type(error).__name__}: {error}"
            rows.append({"name": name, "kind": "fusion", "summary": "", "reason": reason})
    return rows


def _rules(spec: SystemSpec) -> list[Row]:
    rows: list[Row] = [{"name": spec.name, "kind": spec.kind, "summary": spec.summary}]
    if "transductive" in spec.rules:
        rows.append(
            {
                "name": spec.reported_as("transductive"),
                "kind": spec.kind,
                "summary": f"the networks of {spec.name}, test clips coupled with each other as "
                "published; what is predicted for a clip then depends on its company, so it is "
                f"never called the best; evaluated with -s {spec.name}",
            }
        )
    return rows


def perturbations() -> list[Row]:
    """Return one row per kind of perturbation: name, summary, usual value, unit, range, extra.

    ``all`` says what of it ``--perturb all`` asks for.
    """
    from nver.perturbation import PERTURBATIONS, STANDARD

    rows = []
    for kind in PERTURBATIONS.values():
        row: Row = {"name": kind.name, "summary": kind.summary}
        if kind.value is not None:
            row |= {"usage": f"{kind.name}:{kind.unit}", "default": kind.value}
            row |= {"low": kind.low, "high": kind.high}
        row["all"] = [name for name in STANDARD if name.partition(":")[0] == kind.name]
        missing = kind.extra is not None and importlib.util.find_spec(kind.extra[0]) is None
        reason = _extra(kind.extra[1]) if missing and kind.extra else ""
        rows.append(row | {"available": not missing, "reason": reason})
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the encoders for a terminal, a line each: what most people ask of them.

    >>> row = {"name": "x", "dim": "3", "rate": 16000, "modality": "audio-only", "licence": "MIT"}
    >>> print(table([row | {"available": True}]))
    name  dim     Hz  trained on  here  licence
    x       3  16000  audio-only  yes   MIT
    """
    lines = [("name", "dim", "Hz", "trained on", "here", "licence")]
    for row in rows:
        here = (
            "yes"
            if row["available"]
            else (f"{row['megabytes']} MB" if row.get("megabytes") else "no")
        )
        facts = (row.get("dim", ""), row.get("rate", ""), row.get("modality", ""))
        lines.append((row["name"], *map(str, facts), here, str(row.get("licence", ""))))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    right = (False, True, True, False, False)
    return "\n".join(
        "  ".join(
            [
                f"{cell:>{width}}" if aligned else f"{cell:<{width}}"
                for cell, width, aligned in zip(line, widths, right, strict=False)
            ]
            + [line[5]]
        )
        for line in lines
    )


def text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows for a terminal: the name, then every other non-empty value, wrapped.

    >>> print(text([{"name": "lda", "kind": "single", "reason": ""}]))
    lda
      kind: single
    """
    width = max(60, min(shutil.get_terminal_size((100, 24)).columns, 110))
    return "\n".join(_paragraph(row, width) for row in rows)


def _paragraph(row: Mapping[str, Any], width: int) -> str:
    lines = [str(row["name"])]
    for key, value in row.items():
        if key == "name" or (value in ("", None, [], {}) and key not in TOLD_ANYWAY):
            continue
        line = f"{key.replace('_', ' ')}: {_plain(value)}"
        lines += textwrap.wrap(
            line,
            width,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,  # a path or an address is copied in one piece
        )
    return "\n".join(lines)


def _plain(value: object) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(entry)}" for key, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return str(value)
