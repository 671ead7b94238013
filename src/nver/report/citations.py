"""What to cite, as BibTeX, and under which licences the parts of a run stand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nver.report.record import RunRecord

METHOD = """@inproceedings{chetiaphukan2025mata,
  title = {Strong Alone, Stronger Together: Synergizing Modality-Binding Foundation Models with \
Optimal Transport for Non-Verbal Emotion Recognition},
  author = {Chetia Phukan, Orchid and Akhtar, Mohd Mujtaba and Girish and Behera, Swarup Ranjan \
and Kalita, Sishir and Buduru, Arun Balaji and Sharma, Rajesh and Prasanna, S. R. Mahadeva},
  booktitle = {ICASSP},
  year = {2025},
  eprint = {2409.14221},
  archiveprefix = {arXiv}
}"""

NON_COMMERCIAL = re.compile(r"\bNC\b|non[ -]?commercial|research[ -]only", re.IGNORECASE)

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


@dataclass(frozen=True)
class Licence:
    """A part of the run, its licence, and whether that forbids commercial use."""

    part: str
    text: str
    restricted: bool


def licence_is_restricted(licence: str) -> bool:
    """Return whether a licence text forbids commercial use.

    >>> licence_is_restricted("CC BY-NC-SA 4.0"), licence_is_restricted("MIT")
    (True, False)
    """
    return bool(NON_COMMERCIAL.search(licence))


def licences(record: RunRecord) -> list[Licence]:
    """Return the licence of the corpus and of every encoder."""
    card = record.card
    text = str(card.get("licence", "not recorded"))
    restricted = bool(card.get("non_commercial")) or licence_is_restricted(text)
    name = str(card.get("title") or record.scores["corpus"])
    found = [Licence(f"Corpus: {name}", text, restricted)]
    for encoder in record.run["encoders"]:
        text = str(encoder.get("licence", "not recorded"))
        found.append(
            Licence(f"Encoder: {encoder.get('name', '?')}", text, licence_is_restricted(text))
        )
    return found


def bibtex(record: RunRecord) -> str:
    """Return what to cite as BibTeX: nver, the method where it was run, corpus, encoders.

    Corpora and encoders state their reference as text; it stands in ``note``, so that nothing is
    guessed from it.
    """
    entries = [_software(str(record.run.get("nver", "")))]
    if any("mata" in system.name for system in record.systems):
        entries.append(METHOD)
    title = str(record.card.get("title") or record.scores["corpus"])
    entries.append(
        entry(f"corpus-{record.scores['corpus']}", title, cited(record.card), record.card)
    )
    entries += [
        entry(
            f"encoder-{card.get('name', '?')}",
            str(card.get("name", "?")),
            cited(card),
            card,
        )
        for card in record.run["encoders"]
    ]
    return "\n\n".join(dict.fromkeys(part for part in entries if part))


def cited(card: Mapping[str, Any]) -> str:
    """Return the reference that a card states; "" where it states none."""
    text = str(card.get("citation", "")).strip()
    return "" if text.startswith("not stated") else text


def entry(name: str, title: str, text: str, card: Mapping[str, Any]) -> str:
    r"""Return a reference as BibTeX; "" where there is nothing to cite, unchanged if it is BibTeX.

    >>> print(entry("corpus-x", "X & Y", "A. Nother, 2024", {}))
    @misc{corpus-x,
      title = {X \& Y},
      note = {A. Nother, 2024}
    }
    """
    if not text:
        return ""
    if text.startswith("@"):
        return text
    fields = {"title": escaped(title), "note": escaped(text)}
    url = str(card.get("url", ""))
    if url:
        fields["howpublished"] = f"\\url{{{re.sub(r'[{}]', '', url)}}}"
    lines = ",\n".join(f"  {field} = {{{value}}}" for field, value in fields.items())
    return f"@misc{{{re.sub(r'[^A-Za-z0-9.:+-]+', '-', name)},\n{lines}\n}}"


def escaped(text: str) -> str:
    """Return a text for BibTeX, on one line."""
    return "".join(_SPECIAL.get(sign, sign) for sign in " ".join(text.split()))


def _software(version: str) -> str:
    known = f"\n  version = {{{escaped(version)}}}," if version else ""
    return (
        "@software{nver,\n  title = {nver: non-verbal emotion recognition},\n"
        f"  author = {{{{The nver authors}}}},{known}\n  license = {{Apache-2.0}}\n}}"
    )
