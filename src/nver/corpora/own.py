"""The card of clips that are in no table: what can be said of them without asking their owner."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nver.corpora.base import Clip, CorpusCard

_TERMS = ("licence", "license", "copying", "source", "readme")


SPLITS = ("fold", "split")
"""The columns of a manifest that count as the split published with it; the first that is there."""


def own_card(name: str, folder: Path, clips: Sequence[Clip], labels: tuple[str, ...]) -> CorpusCard:
    """Return a card with the counts of `clips`; the licence points at the papers in `folder`."""
    speakers = {clip.speaker for clip in clips} - {None}
    facts = {name for clip in clips for name in clip.facts}
    papers = sorted(
        path.name for path in folder.iterdir() if path.is_file() and path.stem.lower() in _TERMS
    )
    beside = f"; see {', '.join(papers)} beside the clips" if papers else ""
    return CorpusCard(
        name=name,
        title=name,
        summary="Clips of your own.",
        licence=f"not stated{beside}",
        citation=f"not stated{beside}",
        url="",
        clips=len(clips),
        speakers=len(speakers) if speakers else None,
        labels=labels,
        rate=None,
        published_split=next((name for name in SPLITS if name in facts), ""),
    )
