"""Manifests: CSV, TSV and Parquet, and everything that can be wrong with them."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from nver.corpora import Corpus, Refusal, load_corpus
from nver.corpora.table import read_table
from nver.errors import CorpusError
from nver.protocols import without_speaker

GOOD = "file,label,speaker,fold,md5\na/1.wav,sad,007,0,12e4\na/2.wav,happy,,1,0x1\n"


def write(folder: Path, text: str, name: str = "clips.csv") -> Path:
    (folder / "a").mkdir(exist_ok=True)
    for clip in ("1", "2", "3"):
        (folder / "a" / f"{clip}.wav").touch()
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def rows(corpus: Corpus) -> list[tuple[str, str, str | None]]:
    return [(clip.file, clip.emotion, clip.speaker) for clip in corpus.clips]


def test_everything_is_text_and_order_is_kept(tmp_path: Path) -> None:
    corpus = load_corpus(write(tmp_path, GOOD))
    assert rows(corpus) == [("a/1.wav", "sad", "007"), ("a/2.wav", "happy", None)]
    assert corpus.clips[0].facts == {"fold": "0", "md5": "12e4"}
    assert corpus.clips[0].path == tmp_path / "a" / "1.wav"
    assert corpus.labels == ("happy", "sad")
    assert corpus.name == "clips"
    assert corpus.notes == (without_speaker(1, 2),)
    assert list(corpus.to_frame().columns) == ["file", "label", "speaker", "fold", "md5"]


def test_csv_tsv_and_parquet_give_the_same(tmp_path: Path) -> None:
    csv = load_corpus(write(tmp_path, GOOD))
    tsv = load_corpus(write(tmp_path, GOOD.replace(",", "\t"), "clips.tsv"))
    frame = pd.DataFrame(
        {
            "file": ["a/1.wav", "a/2.wav"],
            "label": ["sad", "happy"],
            "speaker": ["007", None],
            "fold": [0, 1],
            "md5": ["12e4", "0x1"],
        }
    )
    frame.to_parquet(tmp_path / "clips.parquet")
    parquet = load_corpus(tmp_path / "clips.parquet")
    assert csv.clips == tsv.clips == parquet.clips


def test_parquet_numbers_beside_missing_values_stay_integers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"file": ["a", "b"], "speaker": [7.0, None], "level": [0.5, 1.5]})
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert [dict(row) for _, row in table.rows] == [
        {"file": "a", "speaker": "7", "level": "0.5"},
        {"file": "b", "speaker": None, "level": "1.5"},
    ]


def test_a_byte_order_mark_blanks_and_quotes_do_no_harm(tmp_path: Path) -> None:
    text = '\ufefffile, label ,speaker\r\n"a/1.wav", sad ,"x, y"\r\n\r\n,,\r\n'
    corpus = load_corpus(write(tmp_path, text))
    assert rows(corpus) == [("a/1.wav", "sad", "x, y")]
    assert corpus.refused == ()


def test_rows_that_are_no_clips_are_refused_one_by_one(tmp_path: Path) -> None:
    corpus = load_corpus(
        write(
            tmp_path,
            "file,label\na/1.wav,sad\na/9.wav,sad\n,sad\na/2.wav,\n./a/1.wav,sad\na/3.wav\n",
        )
    )
    assert rows(corpus) == [("a/1.wav", "sad", None)]
    assert corpus.refused == (
        Refusal("line 7", "has 1 cells, the header has 2"),
        Refusal("a/9.wav", "line 3: there is no such file"),
        Refusal("line 4", "names no file"),
        Refusal("a/2.wav", "line 5: has no label in column 'label'"),
        Refusal("a/1.wav", "line 6: stands in an earlier line"),
    )


def test_a_file_with_two_labels_is_refused_altogether(tmp_path: Path) -> None:
    corpus = load_corpus(write(tmp_path, "file,label\na/1.wav,sad\na/2.wav,sad\na/1.wav,happy\n"))
    assert rows(corpus) == [("a/2.wav", "sad", None)]
    assert corpus.refused == (
        Refusal("a/1.wav", "line 2: the manifest contradicts itself: happy, sad"),
        Refusal("a/1.wav", "line 4: the manifest contradicts itself: happy, sad"),
    )


def test_a_label_column_may_label_a_part(tmp_path: Path) -> None:
    path = write(tmp_path, "file,label,jnv6\na/1.wav,Anger,angry\na/2.wav,Awe,\n")
    corpus = load_corpus(path, label_column="jnv6")
    assert rows(corpus) == [("a/1.wav", "angry", None)]
    assert corpus.refused == ()
    assert corpus.notes[0] == "1 rows have no label in column 'jnv6' and are left out."
    assert corpus.to_frame()["fact_label"].tolist() == ["Anger"]


def test_paths_may_be_relative_to_another_root_or_absolute(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    elsewhere = tmp_path / "tables"
    elsewhere.mkdir()
    moved = path.rename(elsewhere / "clips.csv")
    assert load_corpus(moved, root=tmp_path).clips[0].path == tmp_path / "a" / "1.wav"
    moved.write_text(f"file,label\n{tmp_path}/a/1.wav,sad\n")
    assert load_corpus(moved).clips[0].file == f"{tmp_path.as_posix()}/a/1.wav"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty. Expected a first line with the columns' names."),
        ("file,emotion\na/1.wav,sad\n", "has no column 'label'. A manifest needs the columns"),
        ("path,label\na/1.wav,sad\n", "has no column 'file'."),
        ("file,label,label\n", "names a column twice: 'label'."),
        ("file,label\n", "(0 rows). It has a header and no rows."),
        ("file,label\na/9.wav,sad\n", "The first of 1: a/9.wav: line 2: there is no such file."),
        ('file,label\n"a/1.wav,sad\n', "cannot be read as UTF-8 text with ',' between the cells"),
    ],
)
def test_a_manifest_that_cannot_be_used_says_why(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(CorpusError) as caught:
        load_corpus(write(tmp_path, text))
    assert message in str(caught.value)


def test_a_misspelt_label_column_gets_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "file,label,jnv6\na/1.wav,Anger,\n")
    with pytest.raises(CorpusError, match=r"has no column 'jvn6'\. Did you mean 'jnv6'"):
        load_corpus(path, label_column="jvn6")
    with pytest.raises(CorpusError, match="All 1 rows are empty in the label's column"):
        load_corpus(path, label_column="jnv6")


def test_the_remedy_fits_the_column_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as caught:
        load_corpus(write(tmp_path, "path,label\na/1.wav,sad\n"))
    assert str(caught.value).endswith("Rename the column that holds the clips' paths to 'file'.")
    with pytest.raises(CorpusError) as caught:
        load_corpus(write(tmp_path, "file,emotion\na/1.wav,sad\n"))
    assert str(caught.value).endswith("--label-column (label_column= in Python).")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_header_of_a_csv_says_what_parts_the_cells(tmp_path: Path, delimiter: str) -> None:
    text = '\ufefffile|label|"age, if; known"\na/1.wav|sad|7\n'.replace("|", delimiter)
    corpus = load_corpus(write(tmp_path, text))
    assert rows(corpus) == [("a/1.wav", "sad", None)]
    assert corpus.clips[0].facts == {"age, if; known": "7"}


def test_columns_are_found_in_any_case_where_the_exact_one_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path, "File,LABEL,Speaker,Fold\na/1.wav,sad,007,1\n", "metadata.csv")
    corpus = load_corpus(tmp_path)
    assert rows(corpus) == [("a/1.wav", "sad", "007")]
    assert corpus.clips[0].facts == {"Fold": "1"}
    assert load_corpus(path, label_column="fold").labels == ("1",)
    exact = load_corpus(write(tmp_path, "File,file,label\nx,a/1.wav,sad\n"))
    assert exact.clips[0].facts == {"File": "x"}
    with pytest.raises(CorpusError, match="has no column 'file'"):
        load_corpus(write(tmp_path, "File,FILE,label\na/1.wav,a/2.wav,sad\n"))


def test_paths_with_backslashes_are_tried_with_slashes(tmp_path: Path) -> None:
    corpus = load_corpus(write(tmp_path, "file,label\na\\1.wav,sad\na\\9.wav,sad\n"))
    assert rows(corpus) == [("a/1.wav", "sad", None)]
    assert corpus.refused == (Refusal("a\\9.wav", "line 3: there is no such file"),)


def test_a_cell_that_can_be_no_sound_file_refuses_its_row_alone(tmp_path: Path) -> None:
    long = "x" * 5000
    path = write(tmp_path, f"file,label\na/1.wav,sad\n{long},sad\na/pipe.wav,sad\na,sad\n")
    os.mkfifo(tmp_path / "a" / "pipe.wav")
    corpus = load_corpus(path)
    assert rows(corpus) == [("a/1.wav", "sad", None)]
    assert corpus.refused == (
        Refusal(long, "line 3: cannot be looked up: File name too long"),
        Refusal("a/pipe.wav", "line 4: is no regular file but a pipe, socket or device"),
        Refusal("a", "line 5: is a folder"),
    )


def test_one_file_written_in_several_ways_is_one_clip(tmp_path: Path) -> None:
    same = f"a/../a/1.wav,sad\n{tmp_path}/a/1.wav,sad\n"
    corpus = load_corpus(write(tmp_path, f"file,label\na/1.wav,sad\n{same}"))
    assert rows(corpus) == [("a/1.wav", "sad", None)]
    assert corpus.refused == (
        Refusal("a/../a/1.wav", "line 3: stands in an earlier line"),
        Refusal(f"{tmp_path.as_posix()}/a/1.wav", "line 4: stands in an earlier line"),
    )
    text = "file,label\na/1.wav,sad\na/../a/1.wav,happy\na/2.wav,sad\n"
    corpus = load_corpus(write(tmp_path, text))
    assert rows(corpus) == [("a/2.wav", "sad", None)]
    assert "contradicts itself: happy, sad" in corpus.refused[1].reason


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
def test_another_encoding_is_refused_with_the_remedy(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "clips.csv"
    path.write_bytes("file,label\nä.wav,sad\n".encode(encoding))
    with pytest.raises(CorpusError, match=r"cannot be read as UTF-8 text: .* save it as CSV UTF-8"):
        load_corpus(path)


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    latin = tmp_path / "latin.csv"
    latin.write_bytes("file,label\nä.wav,sad\n".encode("latin-1"))
    with pytest.raises(CorpusError, match="cannot be read as UTF-8 text"):
        load_corpus(latin)
    fake = tmp_path / "fake.parquet"
    fake.write_bytes(b"not parquet")
    with pytest.raises(CorpusError, match="cannot be read as Parquet"):
        load_corpus(fake)
    sheet = tmp_path / "clips.xlsx"
    sheet.touch()
    with pytest.raises(CorpusError, match=r"Expected a table \(\.csv, \.tsv, \.parquet\), got"):
        load_corpus(sheet)
