r"""The result table of a run for a paper or a program: Markdown, LaTeX (booktabs) and JSON.

The best system is bold; a dagger marks those that a paired test cannot tell from it, where the run
has such tests. The caption says what a reader must know to believe the numbers: the corpus, the
protocol, chance, what the intervals are, and what the marks mean.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from nver.protocols import protocol_of, protocol_title
from nver.report.record import RunRecord
from nver.report.statement import counted
from nver.report.summary import about_intervals
from nver.report.tables import (
    Estimate,
    SystemScore,
    best,
    groups,
    percent,
    shared_encoders,
)

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\u2020": r"\dag{}",
    "\u2021": r"\ddag{}",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")

DAGGER = "\u2020"
TRANSDUCTIVE_MARK = "\u2021"
LINEAR_MARK = "*"


@dataclass(frozen=True)
class TableRow:
    """A system with its marks.

    Parameters
    ----------
    system : SystemScore
    best : bool
        Whether it is the best that judges each clip alone.
    marks : str
        Asterisk: linear baseline; double dagger: transductive; dagger: not distinguishable from the
        best.
    """

    system: SystemScore
    best: bool
    marks: str


def indistinguishable(record: RunRecord) -> frozenset[tuple[str, str]] | None:
    """Return the systems that the tests cannot tell from the best; None where none was tested."""
    comparisons = record.scores.get("comparisons")
    if not comparisons:
        return None
    return frozenset(
        (str(pair["name"]), "+".join(pair["encoders"]))
        for pair in comparisons["pairs"]
        if not pair["distinguishable"]
    )


def table_rows(record: RunRecord) -> list[tuple[str, list[TableRow]]]:
    """Return the rows of the result table under their headings, each group by falling UAR."""
    top, alike = best(record.systems), indistinguishable(record) or frozenset()

    def row(system: SystemScore) -> TableRow:
        marks = (
            (LINEAR_MARK, system.linear),
            (TRANSDUCTIVE_MARK, system.transductive),
            (DAGGER, system.key in alike and system != top),
        )
        return TableRow(system, system == top, "".join(mark for mark, holds in marks if holds))

    return [(heading, [row(one) for one in members]) for heading, members in groups(record.systems)]


def caption(record: RunRecord) -> list[str]:
    """Return what the table needs said, a sentence each."""
    title = str(record.card.get("title") or record.scores["corpus"])
    clips = record.clips()
    speakers = int(clips["speaker"].dropna().nunique())
    people = f"{counted(speakers, 'speaker')}" if speakers else "speakers unknown"
    name = str(record.scores["folds"])
    folds = counted(int(clips["fold"].nunique()), "fold")
    rows = [row for _, members in table_rows(record) for row in members]
    marks = {mark for row in rows for mark in row.marks}
    said = [
        f"{title}: {counted(len(clips), record.tested)}, {people}, {len(record.labels)} classes.",
        f"Protocol: {protocol_title(name)}, {folds}. {_warning(name)}".rstrip(),
        str(record.run["leakage"].get("verdict", "")),
        f"Chance: UAR {percent(record.chance)} %.",
        f"In brackets {about_intervals(record)}.",
        _seeds(record),
        "Bold: the best system by UAR that judges each clip alone." if rows else "",
        _daggers(record, marks),
        f"{LINEAR_MARK} linear baseline." if LINEAR_MARK in marks else "",
        f"{TRANSDUCTIVE_MARK} transductive: its prediction for a clip depends on the other test "
        "clips."
        if TRANSDUCTIVE_MARK in marks
        else "",
    ]
    return [sentence for sentence in said if sentence]


def markdown(record: RunRecord) -> str:
    """Return the table with its caption in Markdown."""
    lines = [
        "| system | encoders | UAR % | accuracy % | macro-F1 % |",
        "|---|---|---|---|---|",
    ]
    for heading, members in table_rows(record):
        lines.append(f"| *{heading}* | | | | |")
        for row in members:
            name = escaped_markdown(row.system.name) + (
                f" {escaped_markdown(row.marks)}" if row.marks else ""
            )
            cells = [name, escaped_markdown(" + ".join(row.system.encoders))]
            cells += [_with_ends(estimate) for estimate in _estimates(row.system)]
            lines.append(f"| {' | '.join(_bold(cell, row.best, '**{}**') for cell in cells)} |")
    told = " ".join(escaped_markdown(sentence) for sentence in caption(record))
    return "\n".join([*lines, "", told, ""])


def latex(record: RunRecord) -> str:
    """Return the table with its caption in LaTeX; its first line says which packages it needs.

    It is a float as wide as its column; more rows than a page holds (`LONG`) make a longtable.
    Encoders that all fusions share stand in their heading.
    """
    grouped, shared = table_rows(record), shared_encoders(record.systems)
    parts = []
    for heading, members in grouped:
        alike = members[0].system.encoders == shared
        named = escaped(f"{heading}: {' + '.join(shared)}" if alike else heading)
        lines = [rf"\multicolumn{{5}}{{@{{}}p{{\linewidth}}@{{}}}}{{\emph{{{named}}}}} \\"]
        lines += [_latex_row(row, encoders=not alike) for row in members]
        parts.append("\n".join(lines))
    # A line that ends in a hyphen would be printed with a space after it.
    told = textwrap.fill(
        escaped(" ".join(caption(record))), 96, break_long_words=False, break_on_hyphens=False
    )
    label = re.sub(r"[^a-z0-9]+", "-", str(record.scores["corpus"]).lower()).strip("-")
    named = rf"\caption{{{told}}}\label{{tab:nver-{label}}}"
    body = "\n\\midrule\n".join(parts)
    form = _LONG if sum(len(members) for _, members in grouped) > LONG else _FLOAT
    parts_of = {"CAPTION": named, "COLUMNS": _COLUMNS, "HEAD": _HEAD, "BODY": body}
    return re.sub("CAPTION|COLUMNS|HEAD|BODY", lambda found: parts_of[found[0]], form)


_LATEX_ENDS = r" {{\scriptsize[{}, {}]}}"

LONG = 40
"""Most rows of a table that is one float."""

_HEAD = r"System & Encoders & UAR \% & Accuracy \% & Macro-F1 \% \\"

_COLUMNS = r"""@{}
  >{\raggedright\arraybackslash}p{0.21\linewidth}
  >{\raggedright\arraybackslash}p{0.155\linewidth}
  rrr@{}"""

_FLOAT = r"""% needs \usepackage{array,booktabs}; in two columns make it a table*
\begin{table}
\centering
CAPTION
\footnotesize\setlength{\tabcolsep}{2pt}
\begin{tabular}{COLUMNS}
\toprule
HEAD
\midrule
BODY
\bottomrule
\end{tabular}
\end{table}
"""

_LONG = r"""% needs \usepackage{array,booktabs,longtable}
{\footnotesize\setlength{\tabcolsep}{2pt}
\begin{longtable}{COLUMNS}
CAPTION \\
\toprule
HEAD
\midrule
\endfirsthead
\toprule
HEAD
\midrule
\endhead
\bottomrule
\endlastfoot
BODY
\end{longtable}}
"""


def as_json(record: RunRecord) -> str:
    """Return the table as JSON: scores in [0, 1], and the caption."""
    tested = indistinguishable(record)
    rows = []
    for row in (row for _, members in table_rows(record) for row in members):
        told = tested is not None and not row.best
        rows.append(
            {
                "name": row.system.name,
                "encoders": list(row.system.encoders),
                **{
                    name: _plain(estimate)
                    for name, estimate in zip(
                        ("uar", "accuracy", "macro_f1"), _estimates(row.system), strict=True
                    )
                },
                "best": row.best,
                "distinguishable": row.system.key not in (tested or ()) if told else None,
                "linear": row.system.linear,
                "transductive": row.system.transductive,
            }
        )
    name = str(record.scores["folds"])
    content = {
        "corpus": record.scores["corpus"],
        "protocol": {"name": name, "title": protocol_title(name), "warning": _warning(name)},
        "leakage": record.run["leakage"].get("verdict"),
        "chance_uar": record.chance,
        "labels": list(record.labels),
        "rows": rows,
        "identity": record.run.get("identity"),
        "caption": " ".join(caption(record)),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: Mapping[str, Callable[[RunRecord], str]] = {
    "md": markdown,
    "latex": latex,
    "json": as_json,
}
"""What ``nver report --format`` prints."""


def escaped(text: str) -> str:
    r"""Return text as LaTeX prints it.

    >>> print(escaped("a_b & 5 % of {x}~"))
    a\_b \& 5 \% of \{x\}\textasciitilde{}
    """
    return "".join(_SPECIAL.get(sign, sign) for sign in _CONTROL.sub(" ", text))


def _latex_row(row: TableRow, *, encoders: bool) -> str:
    name = escaped(row.system.name) + (
        rf"\textsuperscript{{{escaped(row.marks)}}}" if row.marks else ""
    )
    cells = [_bold(name, row.best, r"\textbf{{{}}}")]
    cells.append(escaped(" + ".join(row.system.encoders)) if encoders else "")
    for estimate in _estimates(row.system):
        value = _bold(percent(estimate.value), row.best, r"\textbf{{{}}}")
        cells.append(f"{value}{_ends(estimate, _LATEX_ENDS)}")
    return " & ".join(cells) + r" \\"


def _estimates(system: SystemScore) -> tuple[Estimate, Estimate, Estimate]:
    return system.uar, system.accuracy, system.macro_f1


def _with_ends(estimate: Estimate) -> str:
    return percent(estimate.value) + _ends(estimate, " [{}, {}]")


def _ends(estimate: Estimate, form: str) -> str:
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    return form.format(percent(estimate.low), percent(estimate.high))


def _bold(cell: str, bold: bool, form: str) -> str:
    return form.format(cell) if bold and cell else cell


def escaped_markdown(text: str) -> str:
    r"""Return text that Markdown prints as it is.

    >>> print(escaped_markdown("a_b|c *"))
    a\_b\|c \*
    """
    return re.sub(r"([\\`*_{}\[\]<>|~])", r"\\\1", _CONTROL.sub(" ", text))


def _plain(estimate: Estimate) -> dict[str, float | None]:
    values = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def _warning(name: str) -> str:
    protocol = protocol_of(name)
    return "" if protocol is None else protocol.warning


def _seeds(record: RunRecord) -> str:
    seeds = record.seeds
    if seeds > 1:
        return f"Networks: mean of {seeds} trainings."
    if all(system.linear for system in record.systems):
        return ""
    return "Networks: one training; how much a score moves from training to training is not known."


def _daggers(record: RunRecord, marks: Set[str]) -> str:
    comparisons: Mapping[str, Any] | None = record.scores.get("comparisons")
    if not comparisons:
        return ""
    test = f"correction: {comparisons['correction']}; {comparisons['method']}"
    if DAGGER not in marks:
        return f"Every other system is distinguishable from the best ({test})."
    return f"{DAGGER} not distinguishable from the best ({test})."
