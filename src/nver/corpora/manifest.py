"""A manifest: one row per clip, ``file,label[,speaker][,fold][,...]`` in CSV, TSV or Parquet.

- ``file``: the clip's path, relative to the manifest's folder (or to `root`), with ``/``.
- ``label``: its label; `label_column` names another column instead.
- ``speaker``: who is heard; an empty cell means unknown.
- every other column is kept as a fact of the clip, as text (``--folds column:fold`` uses one).

An absolute path is taken as it is. A row is refused, with its reason, when its file is missing, is
named by no cell, or stands in an earlier row; when rows give one file different labels, all of them
are refused. A row without a label is refused too, unless `label_column` was given: a column such as
``jnv6`` labels a part of the clips on purpose, so rows that it leaves empty are left out and
counted in a note.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from nver.corpora.base import Clip, Corpus, Refusal
from nver.corpora.own import own_card
from nver.corpora.table import SUFFIXES, Row, Table, read_table
from nver.corpora.tree import printable
from nver.errors import CorpusError
from nver.registry import nearest

__all__ = ["SUFFIXES", "is_manifest", "read_manifest"]


def is_manifest(path: Path, label_column: str | None = None) -> bool:
    """Return whether `path` is a table with the columns that a manifest needs."""
    try:
        columns = read_table(path).columns
    except CorpusError:
        return False
    return {"file", label_column or "label"} <= set(columns)


def read_manifest(path: Path, root: Path | None = None, label_column: str | None = None) -> Corpus:
    """Return the clips that a manifest lists, in its order.

    Parameters
    ----------
    path : Path
        The manifest; its suffix says the format.
    root : Path, optional
        What the paths are relative to; default: the manifest's folder.
    label_column : str, optional
        The column with the labels; default: ``label``.

    Raises
    ------
    CorpusError
        If the manifest cannot be read, lacks a column, or no row is a clip.
    """
    table = read_table(path)
    column = label_column or "label"
    _check_columns(path, table.columns, column)
    root = (root or path.parent).absolute()
    rows, unlabelled = table.rows, 0
    if label_column is not None:
        rows = tuple((line, row) for line, row in table.rows if row[column] is not None)
        unlabelled = len(table.rows) - len(rows)
    clips, refused = _judge(rows, root, column)
    refused = [Refusal(f"line {line}", reason) for line, reason in table.malformed] + refused
    if not clips:
        raise CorpusError(_nothing(path, root, table, refused, unlabelled))
    labels = tuple(sorted({clip.emotion for clip in clips}))
    name = path.absolute().parent.name if path.stem == "metadata" else path.stem
    return Corpus(
        own_card(name or path.stem, path.absolute().parent, clips, labels),
        root,
        tuple(clips),
        labels,
        tuple(refused),
        "all",
        tuple(_notes(clips, column, unlabelled)),
    )


def _check_columns(path: Path, columns: tuple[str, ...], label_column: str) -> None:
    for wanted in ("file", label_column):
        if wanted not in columns:
            guess = nearest(wanted, columns)
            hint = f"Did you mean '{guess}'? " if guess and wanted == label_column else ""
            raise CorpusError(
                f"{path} has no column '{wanted}'. {hint}A manifest needs the columns "
                f"file,label[,speaker][,...]; it has: {', '.join(columns)}. "
                "Rename a column, or name the one with the labels (label_column)."
            )


def _judge(
    rows: Sequence[tuple[int, Row]], root: Path, column: str
) -> tuple[list[Clip], list[Refusal]]:
    given: dict[str, set[str]] = defaultdict(set)
    for _, row in rows:
        file, label = row["file"], row[column]
        if file is not None and label is not None:
            given[_normal(file)].add(label)
    clips: dict[str, Clip] = {}
    refused: list[Refusal] = []
    for line, row in rows:
        parsed = _clip(line, row, root, column)
        if isinstance(parsed, Clip) and len(given[parsed.file]) > 1:
            labels = ", ".join(sorted(given[parsed.file]))
            parsed = Refusal(parsed.file, f"line {line}: the manifest contradicts itself: {labels}")
        if isinstance(parsed, Clip) and parsed.file in clips:
            parsed = Refusal(parsed.file, f"line {line}: stands in an earlier line")
        if isinstance(parsed, Clip):
            clips[parsed.file] = parsed
        else:
            refused.append(parsed)
    return list(clips.values()), refused


def _clip(line: int, row: Row, root: Path, column: str) -> Clip | Refusal:
    if row["file"] is None:
        return Refusal(f"line {line}", "names no file")
    file, label = _normal(row["file"]), row[column]
    if label is None:
        return Refusal(file, f"line {line}: has no label in column '{column}'")
    if not printable(file) or "\0" in file or not (root / file).is_file():
        return Refusal(file, f"line {line}: there is no such file")
    facts = {
        name: cell for name, cell in row.items() if name not in {"file", "speaker", column, ""}
    }
    return Clip(root / file, file, label, row.get("speaker"), facts)


def _normal(file: str) -> str:
    return PurePosixPath(file).as_posix()


def _nothing(
    path: Path, root: Path, table: Table, refused: Sequence[Refusal], unlabelled: int
) -> str:
    if refused:
        first = f"The first of {len(refused)}: {refused[0].file}: {refused[0].reason}. "
    elif unlabelled:
        first = f"All {unlabelled} rows are empty in the label's column. "
    else:
        first = "It has a header and no rows. "
    return (
        f"{path} lists no clip that can be used ({len(table.rows)} rows). {first}"
        f"Paths are read relative to {root}."
    )


def _notes(clips: Sequence[Clip], column: str, unlabelled: int) -> list[str]:
    notes = []
    if unlabelled:
        notes.append(f"{unlabelled} rows have no label in column '{column}' and are left out.")
    unknown = sum(clip.speaker is None for clip in clips)
    if unknown == len(clips):
        notes.append("Speakers are unknown: folds cannot keep them apart.")
    elif unknown:
        notes.append(f"{unknown} clips have no speaker.")
    return notes
