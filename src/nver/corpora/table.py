"""CSV, TSV and Parquet tables, every cell as text.

Speaker ``000046`` must not become 46, and a fold is ``0`` in CSV and Parquet alike: so numbers are
read as they are written, an integral float of Parquet (pandas makes floats of integers beside
missing values) as an integer, and an empty cell as None.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nver.errors import CorpusError

SUFFIXES = (".csv", ".tsv", ".parquet")

Row = Mapping[str, str | None]


@dataclass(frozen=True)
class Table:
    """A table of text.

    Parameters
    ----------
    columns : tuple of str
        The header.
    rows : tuple of (int, row)
        The rows with their line numbers (the header is line 1; in Parquet the first row is 1).
    malformed : tuple of (int, str)
        Lines that do not fit the header, and why.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, Row], ...]
    malformed: tuple[tuple[int, str], ...] = ()


def read_table(path: Path) -> Table:
    """Return the table in a CSV (commas; or semicolons or tabs), TSV (tabs) or Parquet file.

    The header says what parts the cells of a CSV: spreadsheets write semicolons in some countries.

    Raises
    ------
    CorpusError
        If the file has another suffix, is no UTF-8 text, has no header, or names a column twice.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise CorpusError(f"Expected a table ({', '.join(SUFFIXES)}), got {path}.")
    return _read_parquet(path) if suffix == ".parquet" else _read_text(path, suffix)


def _read_text(path: Path, suffix: str) -> Table:
    delimiter = "\t" if suffix == ".tsv" else ","
    rows: list[tuple[int, Row]] = []
    malformed: list[tuple[int, str]] = []
    try:
        # utf-8-sig: spreadsheets write a byte-order mark before the first column's name
        with path.open(encoding="utf-8-sig", newline="") as stream:
            header = stream.readline()
            if "\0" in header:
                raise _not_utf8(path, "it holds zero bytes, as UTF-16 does")
            if suffix == ".csv":
                delimiter = _delimiter(header)
            stream.seek(0)
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            columns = _header(path, next(reader, []))
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) == len(columns):
                    rows.append((reader.line_num, dict(zip(columns, _cells(cells), strict=True))))
                else:
                    reason = f"has {len(cells)} cells, the header has {len(columns)}"
                    malformed.append((reader.line_num, reason))
    except UnicodeDecodeError as error:
        raise _not_utf8(path, str(error)) from error
    except csv.Error as error:
        raise CorpusError(
            f"{path} cannot be read as UTF-8 text with {delimiter!r} between the cells: {error}."
        ) from error
    return Table(columns, tuple(rows), tuple(malformed))


def _not_utf8(path: Path, reason: str) -> CorpusError:
    return CorpusError(
        f"{path} cannot be read as UTF-8 text: {reason}. In a spreadsheet program, save it as "
        "CSV UTF-8."
    )


def _delimiter(header: str) -> str:
    """Return which of comma, semicolon and tab ends the first cell of the header first."""

    def first_cell(delimiter: str) -> int:
        cells = next(csv.reader([header], delimiter=delimiter), [])
        return len(cells[0]) if cells else 0

    return min((",", ";", "\t"), key=first_cell)


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise CorpusError(f"{path} cannot be read as Parquet: {error}") from error
    columns = _header(path, table.column_names)
    cells = [column.to_pylist() for column in table.columns]
    rows = (dict(zip(columns, map(_text, row), strict=True)) for row in zip(*cells, strict=True))
    return Table(columns, tuple(enumerate(rows, start=1)))


def _header(path: Path, names: Iterable[str]) -> tuple[str, ...]:
    columns = tuple(name.strip() for name in names)
    if not any(columns):
        raise CorpusError(f"{path} is empty. Expected a first line with the columns' names.")
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise CorpusError(f"{path} names a column twice: {', '.join(map(repr, twice))}.")
    return columns


def _cells(cells: Iterable[str]) -> list[str | None]:
    return [cell.strip() or None for cell in cells]


def _text(value: Any) -> str | None:
    if value is None or value != value:  # NaN differs from itself
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None
