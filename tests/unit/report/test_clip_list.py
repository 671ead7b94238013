"""The clips of the page: which they are, where they lie, and what of them is told."""

from __future__ import annotations

import base64
from pathlib import Path

import pandas as pd
import pytest

from contracts.full_record import enrich
from nver.errors import SettingsError
from nver.report import clip_list as room
from nver.report import write_report
from nver.report.citations import bibtex, entry
from nver.report.clip_list import FIRST_CODE, Sharing, address, clip_list
from nver.report.coupling import plans
from nver.report.record import read_record


@pytest.fixture
def run(fake, tmp_path):
    """Return a run folder with everything, and its clips beside it, ten bytes each."""
    folder = enrich(fake.write(tmp_path / "run"))
    for path in pd.read_parquet(folder / "clips.parquet")["path"]:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"0123456789")
    return folder


def listed(run, **sharing):
    record = read_record(run)
    return record, clip_list(record, record.systems, plans(record), Sharing(**sharing))


def test_predictions_are_one_character_a_clip(run):
    record, clips = listed(run)
    for system, strings in zip(record.systems, clips.data["systems"], strict=True):
        rows = record.parts[system.key].set_index("file")
        assert len(strings) == record.seeds
        for file, sign in zip(clips.files, strings[0], strict=True):
            assert record.labels[ord(sign) - FIRST_CODE] == rows.loc[file, "predicted"]


def test_points_and_plans_name_their_clips(run):
    record, clips = listed(run)
    for encoder, chart in zip(("spectral", "prosodic"), clips.data["maps"], strict=True):
        rows = record.projection[record.projection["encoder"] == encoder]
        assert [clips.files[clip] for clip in chart["clips"]] == rows["file"].tolist()
        assert len(chart["points"]) == len(rows)
    for plan, told in zip(plans(record), clips.data["plans"], strict=True):
        assert tuple(clips.files[clip] for clip in told["clips"]) == plan.files
        assert all(abs(sum(row) - 1000) <= len(row) / 2 for row in told["shares"])


def test_clips_are_found_beside_the_run(run):
    _, clips = listed(run)
    assert clips.linked
    assert clips.data["root"] == "../audio/"
    assert all((run / clips.data["root"] / file).is_file() for file in clips.files)


def test_clips_that_lie_elsewhere_have_an_address_each(run, tmp_path):
    table = pd.read_parquet(run / "clips.parquet")
    table.loc[0, "path"] = str(tmp_path / "other folder" / "a.wav")
    table.loc[1, "path"] = None
    table.to_parquet(run / "clips.parquet")
    _, clips = listed(run)
    assert clips.data["links"][:2] == ["../other%20folder/a.wav", None]
    assert "root" not in clips.data


def test_paths_are_left_out(run, tmp_path):
    reason = f"'{tmp_path}/x/a.wav' cannot be decoded"
    (run / "failures.csv").write_text(f"file,stage,reason\na.wav,decode,{reason}\n")
    assert reason.replace("'", "&#39;") in write_report(run).read_text(encoding="utf-8")
    _, clips = listed(run, paths=False)
    assert not clips.linked
    assert not {"root", "links"} & set(clips.data)
    page = write_report(run, paths=False).read_text(encoding="utf-8")
    assert "../audio" not in page
    assert str(tmp_path) not in page
    assert "&#39;a.wav&#39; cannot be decoded" in page
    assert "This page does not say where the clips lie" in page


def test_no_file_name_becomes_an_address_of_another_kind():
    here = Path("/runs/a")
    assert address(here, "/runs/a/javascript:alert(1).wav") == "./javascript%3Aalert%281%29.wav"
    assert address(here, "/x/a?b#c.wav") == "../../x/a%3Fb%23c.wav"


def test_clips_are_embedded_up_to_a_size_every_label_in_turn(run):
    record, clips = listed(run, megabytes=0.000_065)
    assert (clips.embedded, clips.bytes) == (6, 60)
    labels = [record.labels[clips.data["truth"][clip]] for clip in clips.data["sounds"]]
    assert sorted(labels) == sorted(2 * list(record.labels))
    content = next(iter(clips.data["sounds"].values()))
    assert content == f"data:audio/wav;base64,{base64.b64encode(b'0123456789').decode()}"


def test_the_page_says_what_it_holds(run):
    page = write_report(run, paths=False, megabytes=1).read_text(encoding="utf-8")
    assert "72 of 72 clips are embedded in this page (0.0 MB)." in page


def test_a_missing_clip_is_not_embedded(run):
    Path(pd.read_parquet(run / "clips.parquet")["path"][3]).unlink()
    _, clips = listed(run, megabytes=1)
    assert clips.embedded == 71
    assert 3 not in clips.data["sounds"]


def test_a_size_is_above_zero():
    with pytest.raises(SettingsError, match="Expected a size above 0 MB for the embedded clips"):
        Sharing(megabytes=0)


def test_cells_of_a_large_corpus_name_no_clips(run, monkeypatch):
    monkeypatch.setattr(room, "LISTED", 10)
    record, clips = listed(run)
    assert clips.data["systems"] == []
    drawn = set(record.projection["file"]) | {file for p in plans(record) for file in p.files}
    assert set(clips.files) == drawn


def test_the_page_has_room_for_so_many_predictions(run, monkeypatch):
    monkeypatch.setattr(room, "ANSWERS", 2 * 72 + 10)
    _, clips = listed(run)
    assert [len(strings) for strings in clips.data["systems"]] == [1, 1, 0, 0, 0]


def test_citations_are_bibtex(run):
    text = bibtex(read_record(run))
    assert text.count("@") == 3  # nver, the method, the corpus; the encoders state none
    assert "@misc{corpus-toy," in text
    assert "note = {Toy et al. 2026}" in text
    assert text.count("{") == text.count("}")


def test_the_software_is_cited_as_its_citation_file_says(run):
    told = (Path(__file__).resolve().parents[3] / "CITATION.cff").read_text(encoding="utf-8")
    text = bibtex(read_record(run))
    for part in ("nver: non-verbal emotion recognition", "The nver authors", "2409.14221"):
        assert part in told
        assert part in text


def test_signs_of_tex_are_escaped():
    found = entry("x y", "100 % & {more}", "a_b \\input{/etc/passwd}", {"url": "https://x.org/}{"})
    assert found.startswith("@misc{x-y,")
    assert r"title = {100 \% \& \{more\}}" in found
    assert r"a\_b \textbackslash{}input\{/etc/passwd\}" in found
    assert r"\url{https://x.org/}" in found


def test_bibtex_stays_as_it_is():
    assert entry("x", "t", "@article{y, title = {A_B}}", {}) == "@article{y, title = {A_B}}"
