r"""A manifest: one row per clip, ``file,label[,speaker][,fold][,...]`` in CSV, TSV or Parquet.

- ``file``: the clip's path, relative to the manifest's folder (or to `root`), with ``/``.
- ``label``: its label; `label_column` names another column instead.
- ``speaker``: who is heard; an empty cell means unknown.
- every other column is kept as a fact of the clip, as text (``--folds column:fold`` uses one).

Where no column is called ``file``, ``label`` or ``speaker``, one that differs in case alone is
taken. An absolute path is taken as it is; a path that is not found is tried again with ``/`` for
``\``.

A row is refused, with its reason, when its file is missing, is named by no cell, or stands in an
earlier row, by whatever path; when rows give one file different labels, all of them are refused. A
row without a label is refused too, unless `label_column` was given: a column such as ``jnv6``
labels a part of the clips on purpose, so rows that it leaves empty are left out and counted in a
note.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from nver.corpora.base import Clip, Corpus, Refusal
from nver.corpora.own import own_card
from nver.corpora.table import SUFFIXES, Row, Table, read_table
from nver.corpora.tree import not_regular, printable
from nver.errors import CorpusError
from nver.protocols import without_speaker
from nver.registry import nearest

__all__ = ["SUFFIXES", "is_manifest", "read_manifest"]


def is_manifest(path: Path, label_column: str | None = None) -> bool:
    """Return whether `path` is a table with the columns that a manifest needs."""
    try:
        columns = read_table(path).columns
    except CorpusError:
        return False
    return {"file", label_column or "label"} <= set(_canonical(columns, label_column).values())


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
    table = _renamed(read_table(path), label_column)
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


def _canonical(columns: Sequence[str], label_column: str | None) -> dict[str, str]:
    """Return column -> the name that it is read by; most keep their own."""
    names = {column: column for column in columns}
    for wanted in ("file", label_column or "label", "speaker"):
        alike = [column for column in columns if column.lower() == wanted.lower()]
        if wanted not in columns and len(alike) == 1:
            names[alike[0]] = wanted
    return names


def _renamed(table: Table, label_column: str | None) -> Table:
    names = _canonical(table.columns, label_column)
    rows = ((line, {names[name]: row[name] for name in table.columns}) for line, row in table.rows)
    return Table(tuple(names.values()), tuple(rows), table.malformed)


def _check_columns(path: Path, columns: tuple[str, ...], label_column: str) -> None:
    for wanted in ("file", label_column):
        if wanted not in columns:
            guess = nearest(wanted, columns)
            hint = f"Did you mean '{guess}'? " if guess and wanted == label_column else ""
            remedy = "Rename the column that holds the clips' paths to 'file'."
            if wanted == label_column:
                remedy = (
                    "Name the column with the labels: --label-column (label_column= in Python)."
                )
            raise CorpusError(
                f"{path} has no column '{wanted}'. {hint}A manifest needs the columns "
                f"file,label[,speaker][,...]; it has: {', '.join(columns)}. "
                f"{remedy}"
            )


def _judge(
    rows: Sequence[tuple[int, Row]], root: Path, column: str
) -> tuple[list[Clip], list[Refusal]]:
    parsed = [(line, _clip(line, row, root, column)) for line, row in rows]
    # one file may be written in several ways: a/../a/x.wav, an absolute path, a link
    real = {one.path: one.path.resolve() for _, one in parsed if isinstance(one, Clip)}
    given: dict[Path, set[str]] = defaultdict(set)
    for _, one in parsed:
        if isinstance(one, Clip):
            given[real[one.path]].add(one.emotion)
    clips: dict[Path, Clip] = {}
    refused: list[Refusal] = []
    for line, one in parsed:
        if isinstance(one, Refusal):
            refused.append(one)
        elif len(labels := given[real[one.path]]) > 1:
            reason = f"the manifest contradicts itself: {', '.join(sorted(labels))}"
            refused.append(Refusal(one.file, f"line {line}: {reason}"))
        elif real[one.path] in clips:
            refused.append(Refusal(one.file, f"line {line}: stands in an earlier line"))
        else:
            clips[real[one.path]] = one
    return list(clips.values()), refused


def _clip(line: int, row: Row, root: Path, column: str) -> Clip | Refusal:
    if row["file"] is None:
        return Refusal(f"line {line}", "names no file")
    file, label = _normal(row["file"]), row[column]
    if label is None:
        return Refusal(file, f"line {line}: has no label in column '{column}'")
    reason = _missing(root, file)
    if reason is not None and "\\" in file and _missing(root, file.replace("\\", "/")) is None:
        file, reason = _normal(file.replace("\\", "/")), None
    if reason is not None:
        return Refusal(file, f"line {line}: {reason}")
    facts = {
        name: cell for name, cell in row.items() if name not in {"file", "speaker", column, ""}
    }
    return Clip(root / file, file, label, row.get("speaker"), facts)


def _missing(root: Path, file: str) -> str | None:
    if not printable(file) or "\0" in file:
        return "there is no such file"
    return not_regular(root / file)


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
    if unknown:
        notes.append(without_speaker(unknown, len(clips)))
    return notes
