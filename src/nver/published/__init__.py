"""Published figures, each with its corpus, protocol, source and status: ``mata.json``.

They stand beside a run's own, never instead of them: another protocol makes another number.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One published figure.

    Parameters
    ----------
    corpus : str
        Its name in the table of corpora.
    system : str
        What it was reached with, in words.
    name, encoders
        The system here that is closest, and the encoders, as the record of a run writes them.
    accuracy, macro_f1 : float
        In [0, 1].
    """

    corpus: str
    system: str
    name: str
    encoders: tuple[str, ...]
    accuracy: float
    macro_f1: float

    @property
    def key(self) -> tuple[str, str]:
        """System and encoders, the latter sorted and joined: the order of a fusion is no matter."""
        return self.name, "+".join(sorted(self.encoders))


@dataclass(frozen=True)
class Paper:
    """What a paper published.

    Parameters
    ----------
    paper, source, status, protocol : str
        The citation; where the figures were read; how far they were checked; how they came about.
    encoders, corpora : tuple of str
        What its table is about, by the names of nver's tables.
    sizes : mapping of str to str
        How large a corpus is, where that is known.
    cautions : mapping of str to str
        What a reader of the figures on a corpus must know.
    numbers : tuple of Figure
    """

    paper: str
    source: str
    status: str
    protocol: str
    encoders: tuple[str, ...]
    corpora: tuple[str, ...]
    sizes: Mapping[str, str]
    cautions: Mapping[str, str]
    numbers: tuple[Figure, ...]

    def on(self, corpus: str) -> tuple[Figure, ...]:
        """Return the figures on a corpus; none where nobody published any."""
        return tuple(figure for figure in self.numbers if figure.corpus == corpus)


@functools.cache
def mata() -> Paper:
    """Return what the MATA paper published, as far as it is known."""
    text = files("nver.published").joinpath("mata.json").read_text(encoding="utf-8")
    given: dict[str, Any] = json.loads(text)
    numbers: Sequence[Mapping[str, Any]] = given.pop("numbers")
    figures = tuple(Figure(**{**row, "encoders": tuple(row["encoders"])}) for row in numbers)
    lists = {name: tuple(given[name]) for name in ("encoders", "corpora")}
    return Paper(**{**given, **lists, "numbers": figures})


def published_on(corpus: str) -> list[dict[str, Any]]:
    """Return the figures on a corpus as run.json holds them: plain JSON, scores in [0, 1].

    Keys: corpus, system, name, encoders, accuracy, macro_f1, protocol, source, status.
    """
    paper = mata()
    caution = paper.cautions.get(corpus, "")
    protocol = f"{paper.protocol}. {caution}".strip() if caution else paper.protocol
    return [
        {
            "corpus": figure.corpus,
            "system": figure.system,
            "name": figure.name,
            "encoders": list(figure.encoders),
            "accuracy": figure.accuracy,
            "macro_f1": figure.macro_f1,
            "protocol": protocol,
            "source": paper.source,
            "status": paper.status,
        }
        for figure in paper.on(corpus)
    ]
