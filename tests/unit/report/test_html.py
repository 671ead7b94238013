from __future__ import annotations

import math
import re
import subprocess
import sys
from html.parser import HTMLParser

import pandas as pd
import pytest

from nver.errors import NverError
from nver.report import write_report
from nver.report.html import Figure, defaults, within
from nver.report.render import clean, render
from nver.report.tables import Estimate, SystemScore

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Every tag with its attributes, the text, and whether tags are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(tmp_path):
    """Return what writes the report of a fake run and reads the page."""

    def read(fake):
        return Page(write_report(fake.write(tmp_path)).read_text(encoding="utf-8"))

    return read


def scripts(found):
    """Return the kinds of the page's scripts: one program and its data."""
    return sorted((script.get("type") for script in found.all("script")), key=bool)


def system(name, encoders=("a",), value=0.5):
    estimate = Estimate(value, value - 0.1, value + 0.1)
    return SystemScore(name, tuple(encoders), estimate, estimate, estimate, 1.0)


def test_the_page_and_the_figures_are_written(run_folder):
    assert write_report(run_folder) == run_folder / "report.html"
    assert sorted(path.name for path in (run_folder / "figures").iterdir()) == [
        "confusion-concat-lda-spectral+prosodic.svg",
        "confusion-fcn-spectral.svg",
        "confusion-lda-spectral.svg",
        "confusion-mata-spectral+prosodic.svg",
        "confusion-mata-transductive-spectral+prosodic.svg",
        "map-prosodic.svg",
        "map-spectral.svg",
    ]


def test_the_same_run_gives_the_same_bytes(run_folder):
    files = [write_report(run_folder), *sorted((run_folder / "figures").iterdir())]
    before = [file.read_bytes() for file in files]
    write_report(run_folder)
    assert [file.read_bytes() for file in files] == before


def test_figures_of_an_earlier_report_go_and_other_files_stay(run_folder):
    folder = run_folder / "figures"
    folder.mkdir()
    (folder / "confusion-old-spectral.svg").write_text("old")
    (folder / "mine.svg").write_text("mine")
    write_report(run_folder)
    assert not (folder / "confusion-old-spectral.svg").exists()
    assert (folder / "mine.svg").read_text() == "mine"


def test_the_page_loads_nothing(fake, page):
    found = page(fake)
    for tag, attributes in found.tags:
        for name in ("src", "srcset", "data", "poster", "action", "xlink:href"):
            assert not str(attributes.get(name, "")).startswith(("http", "//")), (tag, attributes)
    assert [link["href"] for link in found.all("link")] == ["data:,"]
    assert "url(" not in found.text
    assert "@import" not in found.text
    policy = next(m["content"] for m in found.all("meta") if "content" in m and "http-equiv" in m)
    assert policy.startswith("default-src 'none';")


def test_the_page_is_well_formed(fake, page):
    found = page(fake)
    assert found.open == []
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = [a["href"][1:] for a in found.all("a") if a["href"].startswith("#")]
    assert set(anchors) <= set(ids)


def test_every_picture_has_a_text(fake, page):
    pictures = page(fake).all("svg")
    assert all(p.get("aria-label") or p.get("aria-hidden") == "true" for p in pictures)
    # panes, matrices, maps by label and by speaker
    assert sum("aria-label" in p for p in pictures) == 2 + 5 + 2 * 2


def test_every_system_can_be_chosen(fake, page):
    found = page(fake)
    assert len(found.all("option")) == 3 * 5  # two matrices, each emotion
    assert [t["id"] for t in found.all("template")] == [f"matrix-{i}" for i in range(5)]
    chosen = [option["value"] for option in found.all("option") if "selected" in option]
    # each emotion: the best system; matrices: the best linear system, the best network
    assert chosen == ["0", "2", "1"]


def test_the_table_marks_systems(fake, page):
    fake.systems[0]["uar"] = {"value": 0.3, "low": 0.2, "high": 0.4}
    text = " ".join(page(fake).text.split())
    assert "mata-transductive transductive" in text
    assert "fcn far below linear" in text
    assert "lda linear" in text
    assert "mata best" in text


def test_the_long_tables_of_a_large_grid_are_folded(fake, page, monkeypatch):
    whole = page(fake)
    monkeypatch.setattr("nver.report.html.MANY", 1)
    folded = page(fake)
    assert len(folded.all("details")) == len(whole.all("details"))
    opened = [sum("open" in tag for tag in found.all("details")) for found in (whole, folded)]
    assert opened[1] == 0 < opened[0]


def test_synthetic_clips_are_called_so_before_anything_else(fake, page):
    fake.run["corpus"]["synthetic"] = True
    text = page(fake).text
    assert text.index("no person was recorded") < text.index("72 clips")
    fake.run["corpus"]["synthetic"] = False
    assert "no person was recorded" not in page(fake).text


def test_nothing_from_outside_becomes_markup(fake, page):
    nasty = "<script>alert(1)</script>\x00\x1b'\"&"
    fake.systems = [s | {"name": s["name"] + nasty} for s in fake.systems]
    fake.run["corpus"] |= dict.fromkeys(("title", "licence", "citation", "warning"), nasty)
    fake.run["encoders"][0] |= dict.fromkeys(("name", "licence", "summary", "pooling"), nasty)
    fake.run["leakage"] = {"clean": True, "sentences": [nasty]}
    fake.run["warnings"] = [nasty]
    fake.run["settings"] = {nasty: {nasty: [nasty]}}
    fake.run["command"] = nasty
    fake.run["systems"] = [{"name": "lda" + nasty, "summary": nasty}]
    fake.scores["failures"] = [{"sentence": nasty}]
    fake.failures = [("<img src=x onerror=alert(1)>.wav", "decode", nasty)]
    found = page(fake)
    assert scripts(found) == [None, "application/json"]
    assert found.all("img") == []
    assert not re.search("[\x00\x1b]", found.text)


def test_labels_may_hold_markup(fake, page, tmp_path):
    nasty = "</template><script>"
    fake.write(tmp_path)
    rows = pd.read_parquet(tmp_path / "predictions.parquet")
    fake.predictions = rows.replace({"joy": nasty})
    fake.scores["labels"] = ["anger", "fear", nasty]
    found = page(fake)
    assert scripts(found) == [None, "application/json"]
    assert found.open == []


def test_only_web_addresses_are_links(fake, page):
    assert "https://example.org/toy" in [a["href"] for a in page(fake).all("a")]
    fake.run["corpus"]["url"] = "javascript:alert(1)"
    assert all(a["href"].startswith("#") for a in page(fake).all("a"))


def test_the_systems_of_the_table_are_explained(fake, page):
    fake.run["systems"] = [
        {"name": "mata", "summary": "the method itself"},
        {"name": "late", "summary": "not in this run"},
    ]
    text = page(fake).text
    assert "the method itself" in text
    assert "not in this run" not in text


def test_notes_stand_once(fake, page):
    fake.run["corpus"]["warning"] = "Its labels are guesses."
    fake.run["leakage"] = {"clean": True, "sentences": ["2 clips have no speaker."]}
    fake.scores["notes"] = ["The fit did not converge."]
    fake.run["warnings"] = [
        *("Its labels are guesses.", "2 clips have no speaker.", "The fit did not converge.")
    ]
    text = page(fake).text
    for note in fake.run["warnings"]:
        assert text.count(note) == 1


def test_failed_clips_are_listed(fake, page):
    fake.failures = [("a.wav", "decode", "it is empty")]
    text = page(fake).text
    assert "a.wav" in text
    assert "it is empty" in text


def test_a_long_list_of_failed_clips_is_cut_and_says_so(fake, page):
    fake.failures = [(f"clip{i}.wav", "decode", "empty") for i in range(250)]
    text = page(fake).text
    assert "250 in all" in text
    assert "The first 200 are shown, all of them are in failures.csv." in text
    assert "clip199.wav" in text
    assert "clip200.wav" not in text


def test_licences_and_citations_are_named(fake, page):
    fake.run["encoders"][1]["licence"] = "CC BY-NC 4.0"
    text = page(fake).text
    for part in ("Toy et al. 2026", "CC BY-NC 4.0", "not for commercial use", "2409.14221"):
        assert part in text


def test_a_run_without_mata_does_not_cite_it(fake, page):
    fake.systems = fake.systems[:3]
    assert "2409.14221" not in page(fake).text


def test_provenance_is_told(fake, page):
    text = " ".join(page(fake).text.split())
    for part in (
        "nver evaluate toy -e spectral -e prosodic --out RUN",
        "1 min 1 s",
        "cpu abacus, cores 2, memory gib 4.0",
        "SHA-256 of predictions.parquet",
    ):
        assert part in text


def test_a_run_without_maps_has_no_section_of_maps(fake, page):
    fake.projection = False
    assert "maps" not in [s.get("id") for s in page(fake).all("section")]


def test_a_run_without_scores_has_a_page(fake, page):
    empty = {"value": None, "low": None, "high": None, "reason": "no clips"}
    fake.systems = [s | dict.fromkeys(("uar", "accuracy", "macro_f1"), empty) for s in fake.systems]
    assert "no system has a defined UAR" in page(fake).text


def test_a_class_without_clips_has_no_recall(fake, page):
    fake.scores["labels"] = ["anger", "fear", "joy", "awe"]
    assert page(fake).text.count("-") > 5


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    with pytest.raises(NverError, match=r"it lacks predictions\.parquet"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_report_needs_no_torch(run_folder):
    code = (
        "import sys; from pathlib import Path; from nver.report import write_report; "
        "write_report(Path(sys.argv[1])); "
        "print([name for name in ('torch', 'sklearn', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run_folder], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_matrices_in_the_page_are_bounded():
    figures = {
        system(f"net{i}", value=0.9 - i / 10): Figure(f"{i}.svg", "", render("page.js")[:100])
        for i in range(8)
    }
    last = list(figures)[-1]
    kept = within(350, figures, first=(last, last))
    assert [entry.name for entry in kept] == ["net0", "net1", "net7"]


def test_a_single_system_stands_on_both_sides():
    alone = system("lda")
    assert defaults([alone]) == (alone, alone)


def test_two_linear_systems_stand_side_by_side():
    one, other = system("lda"), system("logreg", value=0.4)
    assert defaults([one, other]) == (one, other)


def test_clean_leaves_other_values_alone():
    assert clean(3) == 3
    assert math.isnan(clean(math.nan))
    assert clean("tab\tnew\nline é 怒") == "tab\tnew\nline é 怒"
