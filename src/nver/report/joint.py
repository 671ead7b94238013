"""One page over several runs: every system in every corpus and protocol, beside what was published.

Written as Markdown and as HTML that loads nothing; both link the report of each run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nver.protocols import protocol_of, protocol_title
from nver.report.formats import escaped_markdown, indistinguishable
from nver.report.record import RunRecord, read_record
from nver.report.render import render
from nver.report.run_figures import write_text
from nver.report.statement import counted
from nver.report.summary import about_intervals
from nver.report.tables import Estimate, SystemScore, best, groups, percent

INDEX = "index"


@dataclass(frozen=True)
class Chapter:
    """A run of the page: a corpus under a protocol.

    Parameters
    ----------
    corpus, protocol : str
        The corpus's title, and the protocol as ``--folds`` takes it.
    folder : str
        Name of the run folder beside the page.
    reason : str
        Why there is no run; "" where there is one.
    """

    corpus: str
    protocol: str
    folder: str
    reason: str = ""


@dataclass(frozen=True)
class Cell:
    """What one system reached in one run; empty texts where it did not run."""

    uar: str = ""
    ends: str = ""
    accuracy: str = ""
    macro_f1: str = ""
    best: bool = False
    alike: bool = False


@dataclass(frozen=True)
class Line:
    """One system on some encoders: what was published, and what each run says."""

    system: str
    encoders: str
    published: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Column:
    """A run of a section, in words."""

    title: str
    link: str
    points: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """A corpus: its runs, the table over them, and what was published of it."""

    title: str
    columns: tuple[Column, ...]
    groups: tuple[tuple[str, tuple[Line, ...]], ...]
    published: tuple[str, ...]
    undone: tuple[str, ...]

    @property
    def has_published(self) -> bool:
        """Whether a line of the table has a published figure beside it."""
        return any(line.published for _, lines in self.groups for line in lines)


def write_index(
    folder: Path, chapters: Sequence[Chapter], missing: Sequence[tuple[str, str]] = ()
) -> Path:
    """Write ``index.html`` and ``index.md`` over the runs in a folder, and return the former.

    Parameters
    ----------
    folder : Path
        Holds the run folders.
    chapters : sequence of Chapter
        The runs; those of one corpus share a table.
    missing : sequence of (name, how)
        What could not be run here, and how to get it.

    Raises
    ------
    NverError
        If a run folder lacks a file, or holds one that nver did not write.
    """
    sections = _sections(folder, chapters)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{INDEX}.md", markdown(sections, missing))
    page = render("index.html", sections=sections, missing=missing, marks=_MARKS)
    path = folder / f"{INDEX}.html"
    write_text(path, str(page))
    return path


_MARKS = (
    "Bold: the best system of a run by UAR, of those that judge each clip alone. "
    "=: not distinguishable from it (paired test over speakers, corrected for "
    "the choice of the best). "
    "Systems called ...-transductive couple the clips of a test batch, as the published method "
    "does. "
    "Published: accuracy / macro-F1 in percent, under the protocol that is named below the table."
)


def markdown(sections: Sequence[Section], missing: Sequence[tuple[str, str]]) -> str:
    """Return the page in Markdown."""
    lines = ["# The grid of the MATA paper", ""]
    for section in sections:
        lines += [f"## {escaped_markdown(section.title)}", ""]
        for column in section.columns:
            lines.append(f"- **[{escaped_markdown(column.title)}]({column.link})**")
            lines += [f"  - {escaped_markdown(point)}" for point in column.points]
        lines += [f"- {escaped_markdown(reason)}" for reason in section.undone]
        lines += ["", *_markdown_table(section), ""]
        lines += [f"{escaped_markdown(said)}\n" for said in section.published]
    lines += [escaped_markdown(_MARKS), ""]
    if missing:
        lines += ["## Missing here", ""]
        lines += [
            f"- **{escaped_markdown(name)}**: {escaped_markdown(how)}" for name, how in missing
        ]
        lines.append("")
    return "\n".join(lines)


def _markdown_table(section: Section) -> list[str]:
    head = ["system", "encoders", *(["published"] if section.has_published else [])]
    for column in section.columns:
        title = escaped_markdown(column.title)
        head += [f"{title}: UAR %", "accuracy / macro-F1 %"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for heading, members in section.groups:
        lines.append(f"| *{heading}* |{' |' * (len(head) - 1)}")
        for line in members:
            cells = [escaped_markdown(line.system), escaped_markdown(line.encoders)]
            cells += [line.published] if section.has_published else []
            for cell in line.cells:
                uar = f"**{cell.uar}**" if cell.best else cell.uar
                mark = " =" if cell.alike else ""
                pair = f"{cell.accuracy} / {cell.macro_f1}" if cell.uar else ""
                cells += [f"{uar}{cell.ends}{mark}", pair]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _sections(folder: Path, chapters: Sequence[Chapter]) -> list[Section]:
    sections = []
    for corpus in dict.fromkeys(chapter.corpus for chapter in chapters):
        mine = [chapter for chapter in chapters if chapter.corpus == corpus]
        done = [chapter for chapter in mine if not chapter.reason]
        records = [read_record(folder / chapter.folder) for chapter in done]
        told = _published(records)
        sections.append(
            Section(
                corpus,
                tuple(_column(*both) for both in zip(done, records, strict=True)),
                _lines(records, told),
                _sources(told),
                tuple(
                    f"{protocol_title(chapter.protocol)}: not done. {chapter.reason}"
                    for chapter in mine
                    if chapter.reason
                ),
            )
        )
    return sections


def _column(chapter: Chapter, record: RunRecord) -> Column:
    protocol = protocol_of(chapter.protocol)
    clips = record.clips()
    speakers = int(clips["speaker"].dropna().nunique())
    people = counted(speakers, "speaker") if speakers else "speakers unknown"
    leakage, identity = record.run["leakage"], record.run.get("identity") or {}
    facts = (
        f"{counted(len(clips), record.tested)}, {people}, {len(record.labels)} classes, "
        f"{counted(int(clips['fold'].nunique()), 'fold')}; chance: UAR {percent(record.chance)} %; "
        f"in brackets {about_intervals(record)}."
    )
    points = [
        facts,
        protocol.warning if protocol else "",
        str(leakage.get("verdict", "")),
        str(identity.get("sentence", "")),
        _best(record),
        *(_claim(record.systems, name) for name in ("mata", "mata-cnn")),
    ]
    title = protocol_title(chapter.protocol)
    return Column(title, f"{chapter.folder}/report.html", tuple(filter(None, points)))


def _best(record: RunRecord) -> str:
    top = best(record.systems)
    if top is None:
        return "No system has a defined UAR."
    told = f"Best: {top.title}, UAR {percent(top.uar.value)} %{_ends(top.uar)}"
    alike = indistinguishable(record)
    if alike is None:
        return f"{told}."
    rivals = [s for s in record.systems if s != top and not s.transductive]
    same = sum(system.key in alike for system in rivals)
    return (
        f"{told}; {same} of {len(rivals)} others that judge each clip alone are not "
        "distinguishable from it."
    )


def _claim(systems: Sequence[SystemScore], name: str) -> str:
    """Return how a fusion stands to plain concatenation and to its encoders alone; "" if absent."""
    values = {system.key: system.uar.value for system in systems}
    plain, alone = [], []
    for system in systems:
        if system.name != name:
            continue
        plain.append(system.uar.value - values.get(("concat", system.key[1]), math.nan))
        singles = [
            values[head, encoder]
            for head in ("fcn", "cnn")
            for encoder in system.encoders
            if (head, encoder) in values
        ]
        alone.append(system.uar.value - max(singles, default=math.nan))
    said = [
        f"above {what} in {sum(gain > 0 for gain in gains)} of {len(gains)} sets of encoders "
        f"(mean {100 * sum(gains) / len(gains):+.1f} points)"
        for what, gains in (("concat", plain), ("the best network on one of its encoders", alone))
        if gains and not any(map(math.isnan, gains))
    ]
    return f"{name} is {' and '.join(said)}; nver compare tests single pairs." if said else ""


def _lines(
    records: Sequence[RunRecord], told: Mapping[tuple[str, str], Mapping[str, Any]]
) -> tuple[tuple[str, tuple[Line, ...]], ...]:
    """Return a line per system under its heading, ordered by the last run: the stricter one."""
    order: dict[tuple[str, str], SystemScore] = {}
    for record in reversed(records):
        order = {**order, **{s.key: s for s in record.systems if s.key not in order}}
    columns = [_cells(record) for record in records]
    parts = []
    for heading, members in groups(list(order.values())):
        lines = [
            Line(
                system.name,
                " + ".join(system.encoders),
                _figure(told.get(_any_order(*system.key))),
                tuple(cells.get(system.key, Cell()) for cells in columns),
            )
            for system in members
        ]
        parts.append((heading, tuple(lines)))
    return tuple(parts)


def _cells(record: RunRecord) -> dict[tuple[str, str], Cell]:
    top, alike = best(record.systems), indistinguishable(record) or frozenset()
    return {
        system.key: Cell(
            percent(system.uar.value),
            _ends(system.uar),
            percent(system.accuracy.value),
            percent(system.macro_f1.value),
            system == top,
            system != top and system.key in alike,
        )
        for system in record.systems
    }


def _published(records: Sequence[RunRecord]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return the published figures that the runs were given, by system and sorted encoders."""
    return {
        _any_order(row["name"], "+".join(row["encoders"])): row
        for record in records
        for row in record.run.get("published") or ()
    }


def _sources(told: Mapping[tuple[str, str], Mapping[str, Any]]) -> tuple[str, ...]:
    """Return what was published, with protocol, source and status, each said once."""
    if not told:
        return ()
    rows = [f"{row['system']}: {_figure(row)}" for row in told.values()]
    about = dict.fromkeys(
        f"Published (accuracy / macro-F1 %). Source: {row['source']} ({row['status']}). "
        f"Protocol: {row['protocol']}"
        for row in told.values()
    )
    return (*about, f"All of them: {'; '.join(rows)}.")


def _figure(row: Mapping[str, Any] | None) -> str:
    return f"{100 * row['accuracy']:.2f} / {100 * row['macro_f1']:.2f}" if row else ""


def _any_order(name: str, encoders: str) -> tuple[str, str]:
    return name, "+".join(sorted(encoders.split("+")))


def _ends(estimate: Estimate) -> str:
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    return f" [{percent(estimate.low)}, {percent(estimate.high)}]"
