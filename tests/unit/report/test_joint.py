"""The page over several runs: one table a corpus, each run linked, failures and gaps told."""

from __future__ import annotations

import re

import pytest

from nver.published import published_on
from nver.report.joint import Chapter, write_index

MISSING = [("JNV", "420 clips; get it at https://example.org & unpack it")]


@pytest.fixture
def index(fake, tmp_path):
    """Return the text of both pages over two runs of a corpus and one that failed."""
    fake.run["published"] = published_on("jnv")
    fake.systems[3]["encoders"] = ["imagebind", "languagebind"]
    fake.systems[3]["name"] = "concat"
    fake.write(tmp_path / "toy-speaker")
    fake.scores["folds"] = "random"
    fake.systems.pop(0)
    fake.systems[1]["uar"] = {"value": 0.9, "low": 0.85, "high": 0.95}
    fake.write(tmp_path / "toy-random")
    chapters = [
        Chapter("Toy <bursts>", "random", "toy-random"),
        Chapter("Toy <bursts>", "speaker", "toy-speaker"),
        Chapter("Toy <bursts>", "loso", "toy-loso", "Identical audio is on both sides of a fold."),
    ]
    page = write_index(tmp_path, chapters, MISSING)
    return page.read_text("utf-8"), (tmp_path / "index.md").read_text("utf-8")


def test_each_run_is_linked_from_both_pages(index):
    for text in index:
        for folder in ("toy-random", "toy-speaker"):
            assert f"{folder}/report.html" in text
        assert "toy-loso/report.html" not in text
        assert "leave one speaker out: not done. Identical audio" in text


def test_a_system_has_one_row_with_a_cell_per_run(index):
    page, text = index
    rows = [line for line in text.splitlines() if line.startswith("| lda |")]
    assert len(rows) == 1
    assert rows[0].split("|")[4].strip() == "60.0 [52.0, 68.0]"
    assert rows[0].split("|")[6].strip() == "60.0 [52.0, 68.0]"
    only_speaker = next(line for line in text.splitlines() if line.startswith("| fcn |"))
    assert only_speaker.split("|")[4].strip() == ""
    assert "**90.0** [85.0, 95.0]" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {8}
    assert len(re.findall("<tr>", page)) == 1 + 5


def test_published_figures_stand_beside_and_below_the_table(index):
    page, text = index
    row = next(line for line in text.splitlines() if line.startswith("| concat | imagebind"))
    assert row.split("|")[3].strip() == "72.62 / 72.26"
    for part in ("JNV has four speakers", "quoted; not checked", "MATA: 77.40 / 76.19"):
        assert part in page
        assert part in text


def test_everything_is_escaped_and_nothing_is_loaded(index):
    page, text = index
    assert "Toy &lt;bursts&gt;" in page
    assert "Toy \\<bursts\\>" in text
    assert "<script" not in page
    assert not re.search(r"(src|href)=\"?https?:", page)
    assert "example.org &amp; unpack it" in page


def test_without_published_figures_there_is_no_column_for_them(fake, tmp_path):
    fake.write(tmp_path / "toy")
    page = write_index(tmp_path, [Chapter("Toy", "speaker", "toy")]).read_text("utf-8")
    assert '<th scope="col" class="number">Published' not in page
    assert "Missing here" not in page


def test_a_fusion_stands_against_concat_and_its_encoders_alone(fake, tmp_path):
    fake.systems[2]["name"] = "concat"
    fake.write(tmp_path / "toy")
    page = write_index(tmp_path, [Chapter("Toy", "speaker", "toy")]).read_text("utf-8")
    assert "mata is above concat in 1 of 1 sets of encoders (mean +2.0 points) and above" in page
    assert "one of its encoders in 1 of 1 sets of encoders (mean +12.0 points)" in page
    assert "mata-cnn is" not in page
