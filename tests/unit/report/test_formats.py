"""The table for a paper: Markdown, LaTeX and JSON say the same, escaped, with marks explained."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from nver.report.formats import as_json, caption, escaped, latex, markdown
from nver.report.record import read_record
from unit.report.fake_run import entry

COMPARISONS = {
    "metric": "uar",
    "method": "permutation test over speakers",
    "alpha": 0.05,
    "correction": "step-down max-T",
    "reference": {"name": "mata", "encoders": ["spectral", "prosodic"]},
    "pairs": [
        {"name": "concat-lda", "encoders": ["spectral", "prosodic"], "distinguishable": False},
        {"name": "lda", "encoders": ["spectral"], "distinguishable": True},
        {"name": "fcn", "encoders": ["spectral"], "distinguishable": True},
    ],
}


@pytest.fixture
def record(fake, tmp_path):
    fake.scores["comparisons"] = COMPARISONS
    fake.run["leakage"]["verdict"] = "No speaker and no recording is on both sides of a fold."
    return read_record(fake.write(tmp_path / "run"))


def test_markdown_has_a_row_per_system_the_best_in_bold(record):
    text = markdown(record)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 2 + 5
    assert all(line.count("|") - line.count("\\|") == 6 for line in rows)
    assert "| **mata** | **spectral + prosodic** | **66.0 [60.0, 72.0]** |" in text
    assert "| concat-lda \\*\u2020 | spectral + prosodic | 64.0 [58.0, 70.0] |" in text
    assert "| mata-transductive \u2021 |" in text
    assert text.count("**66.0 [60.0, 72.0]**") == 3


def test_the_caption_says_protocol_chance_intervals_and_marks(record):
    told = " ".join(caption(record))
    assert told.startswith("Toy bursts: 72 clips, 6 speakers, 3 classes.")
    assert "Protocol: speaker-independent, 2 folds. The scores hold for new speakers" in told
    assert f"{record.run['leakage']['verdict']} Chance: UAR 33.3 %." in told
    assert "In brackets 95 % intervals from a bootstrap" in told
    assert (
        "\u2020 not distinguishable from the best (correction: step-down max-T; permutation test"
        in told
    )
    assert "* linear baseline." in told
    assert "\u2021 transductive" in told


def test_without_tests_there_are_no_daggers(fake, tmp_path):
    record = read_record(fake.write(tmp_path / "run"))
    assert "\u2020" not in markdown(record)
    assert "distinguishable" not in markdown(record)
    assert all(row["distinguishable"] is None for row in json.loads(as_json(record))["rows"])


def test_a_table_in_which_all_differ_says_so(fake, tmp_path):
    pairs = [pair | {"distinguishable": True} for pair in COMPARISONS["pairs"]]
    fake.scores["comparisons"] = COMPARISONS | {"pairs": pairs}
    told = " ".join(caption(read_record(fake.write(tmp_path / "run"))))
    assert "Every other system is distinguishable from the best" in told


def test_json_holds_scores_as_fractions(record):
    told = json.loads(as_json(record))
    assert told["protocol"]["name"] == "speaker"
    best = [row for row in told["rows"] if row["best"]]
    assert [(row["name"], row["uar"]["value"]) for row in best] == [("mata", 0.66)]
    marks = {row["name"]: row["distinguishable"] for row in told["rows"]}
    assert marks["concat-lda"] is False
    assert marks["lda"] is True
    assert marks["mata"] is None
    assert told["leakage"] == record.run["leakage"]["verdict"]


def test_an_undefined_score_is_a_dash_and_null(fake, tmp_path):
    fake.systems[0]["uar"] = {"value": None, "low": None, "high": None}
    record = read_record(fake.write(tmp_path / "run"))
    assert "| fcn | spectral | - |" in markdown(record)
    rows = {row["name"]: row for row in json.loads(as_json(record))["rows"]}
    assert rows["fcn"]["uar"] == {"value": None, "low": None, "high": None}


def test_special_signs_are_escaped(fake, tmp_path):
    for system in fake.systems:
        system["encoders"] = [name.replace("spectral", "a_b|50%") for name in system["encoders"]]
    fake.run["corpus"]["title"] = "R&D {#1}\nnew"
    record = read_record(fake.write(tmp_path / "run"))
    text = latex(record)
    assert "a\\_b\\textbar{}50\\%" in text
    assert "R\\&D \\{\\#1\\} new" in text
    assert "a\\_b\\|50%" in markdown(record)
    assert escaped("\\") == "\\textbackslash{}"


def test_a_leak_stands_in_the_caption(fake, tmp_path):
    verdict = "On both sides of a fold: 2 speakers, 1 test clip with identical audio in training."
    fake.run["leakage"] |= {"clean": False, "verdict": verdict}
    record = read_record(fake.write(tmp_path / "run"))
    for text in (markdown(record), as_json(record), " ".join(latex(record).split())):
        assert verdict in text


def test_no_title_is_taken_for_a_part_of_the_table(fake, tmp_path):
    fake.run["corpus"]["title"] = "HEAD and BODY"
    text = latex(read_record(fake.write(tmp_path / "run")))
    assert "\\caption{HEAD and BODY: 72 clips" in text
    assert text.count("System & Encoders") == 1


def test_no_line_of_a_latex_caption_ends_in_a_hyphen(record):
    assert not re.search(r"[a-z]-$", latex(record), re.MULTILINE)


def test_latex_is_a_booktabs_float_with_five_cells_a_row(record):
    text = latex(record)
    assert text.index("\\toprule") < text.index("\\midrule") < text.index("\\bottomrule")
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len(rows) == 1 + 2 + 5
    for row in rows:
        assert len(re.findall(r"(?<!\\)&", row)) == (0 if "multicolumn" in row else 4)
    assert "\\textbf{mata}" in text
    assert "concat-lda\\textsuperscript{*\\dag{}}" in text
    assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")
    plain = re.sub(r"\\[%&#_{}$]", "", text.partition("\n")[2])
    assert not re.search(r"[%#$_]", plain)
    assert plain.isascii()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
@pytest.mark.parametrize("rows", [8, 60])
def test_latex_compiles_and_is_no_wider_than_an_article(fake, tmp_path, rows):
    heard = ["languagebind", "efficientat-mn04", "spectral"]
    for name in ("mata-transductive", "my_fusion.py:Gated", "concat-logreg"):
        fake.systems.append(entry(name, heard, (1.0, 0.974, 1.0)))
    fake.systems += [entry(f"fcn{i}", heard[1:2], (0.5, 0.4, 0.6)) for i in range(rows - 8)]
    text = latex(read_record(fake.write(tmp_path / "run")))
    assert ("longtable" in text) == (rows > 40)
    needed = re.match(r"% needs (\\usepackage\{\S+\})", text)[1]
    page = f"\\documentclass{{article}}{needed}\\begin{{document}}{text}\\end{{document}}"
    (tmp_path / "page.tex").write_text(page, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"],
        cwd=tmp_path,
        capture_output=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert b"Overfull" not in done.stdout
