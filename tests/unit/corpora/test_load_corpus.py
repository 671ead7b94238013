"""The one door to all corpora: names, folders, manifests, and what is none of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nver.corpora import CORPORA, corpus_card, default_root, load_corpus
from nver.errors import CorpusError, UnknownNameError


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'vivai'\. Did you mean 'vivae'\?"):
        load_corpus("vivai")
    with pytest.raises(UnknownNameError, match="Unknown corpus 'asvp'"):
        corpus_card("asvp")


@pytest.mark.parametrize("given", ["missing/folder", "./missing", "~/missing.d", "missing.csv"])
def test_a_path_that_is_not_there_is_no_unknown_name(given: str) -> None:
    with pytest.raises(CorpusError, match="There is no such folder or manifest: ") as caught:
        load_corpus(given)
    assert given in str(caught.value)
    assert "emogator" in str(caught.value)


def test_a_name_wins_over_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nver_home: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jnv" / "sad").mkdir(parents=True)
    (tmp_path / "jnv" / "sad" / "1.wav").touch()
    with pytest.raises(CorpusError, match="JNV is not at"):
        load_corpus("jnv")
    assert load_corpus("./jnv").labels == ("sad",)


def test_a_folder_with_a_manifest_is_read_through_it(tmp_path: Path) -> None:
    (tmp_path / "sad").mkdir()
    (tmp_path / "sad" / "1.wav").touch()
    (tmp_path / "metadata.csv").write_text("file,label,speaker\nsad/1.wav,sadness,07\n")
    corpus = load_corpus(tmp_path)
    assert corpus.labels == ("sadness",)
    assert corpus.speakers == ("07",)
    assert corpus.name == tmp_path.name
    assert corpus.notes == (
        "The folder was read through its metadata.csv, not by its sub-folders.",
    )


def test_a_metadata_file_that_is_no_manifest_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sad").mkdir()
    (tmp_path / "sad" / "1.wav").touch()
    (tmp_path / "metadata.csv").write_text("name,score\nx,1\n")
    assert load_corpus(tmp_path).labels == ("sad",)
    with pytest.raises(CorpusError, match="has the columns 'file' and 'jnv6'"):
        load_corpus(tmp_path, label_column="jnv6")
    with pytest.raises(CorpusError, match="A root belongs to a name or a manifest"):
        load_corpus(tmp_path, root=tmp_path)


def test_options_that_do_not_apply_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="corpus 'vivae' has its own labels"):
        load_corpus("vivae", label_column="intensity")
    with pytest.raises(CorpusError, match="is no corpus of the table and has no subset 'core'"):
        load_corpus(tmp_path, subset="core")


def test_the_synthetic_corpus_has_a_versioned_folder(nver_home: Path) -> None:
    assert default_root("synthetic") == nver_home / "corpora" / "synthetic-v2"
    assert default_root("vivae") == nver_home / "corpora" / "vivae"


@pytest.mark.corpus
def test_a_real_manifest(shared_data: Path) -> None:
    corpus = load_corpus(shared_data / "emogator12" / "metadata.csv")
    description = corpus.describe()
    assert description["clips"] == 1800
    assert description["speakers"] == 75
    assert set(description["labels"].values()) == {150}
    assert {clip.facts["fold"] for clip in corpus.clips} == set("01234")
    assert all(len(str(clip.speaker)) == 6 for clip in corpus.clips)
    jnv6 = load_corpus(shared_data / "emogator12", label_column="jnv6")
    assert len(jnv6.clips) == 900
    assert jnv6.labels == ("angry", "disgust", "fear", "happy", "sad", "surprise")


def test_a_corpus_in_a_message_does_not_list_its_clips(tmp_path: Path) -> None:
    (tmp_path / "sad").mkdir()
    (tmp_path / "sad" / "a.wav").touch()
    (tmp_path / "stray.wav").touch()
    corpus = load_corpus(tmp_path)
    assert len(corpus.clips) == len(corpus.refused) == 1
    assert "Clip(" not in repr(corpus)
    assert "Refusal(" not in repr(corpus)


def test_listing_the_corpora_loads_nothing_heavy() -> None:
    code = (
        "import sys; from nver.corpora import CORPORA, corpus_card\n"
        "[corpus_card(name) for name in CORPORA.table]\n"
        "print([m for m in ('torch', 'pandas', 'pyarrow', 'scipy', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert len(CORPORA.table) == 7
