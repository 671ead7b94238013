"""Published figures: whole, plausible, and about systems and encoders that exist here."""

from __future__ import annotations

from nver.corpora import CORPORA
from nver.encoders import CATALOGUE
from nver.published import mata, published_on
from nver.systems import SYSTEMS


def test_every_figure_names_what_exists_here_and_lies_in_its_range():
    paper = mata()
    assert len(paper.numbers) == 22
    for figure in paper.numbers:
        assert figure.corpus in paper.corpora
        assert figure.name.removesuffix("-transductive") in SYSTEMS
        assert set(figure.encoders) <= set(paper.encoders) <= set(CATALOGUE)
        assert 0.3 < figure.macro_f1 < 0.8 > figure.accuracy > 0.5
    assert set(paper.corpora) <= set(CORPORA.targets())
    assert len({(figure.corpus, figure.key) for figure in paper.numbers}) == 22


def test_a_figure_comes_with_protocol_source_and_status():
    rows = published_on("vivae")
    best = max(rows, key=lambda row: row["accuracy"])
    assert (best["accuracy"], best["macro_f1"]) == (0.7512, 0.7463)
    assert best["name"] == "mata-cnn-transductive"
    assert "not stated" in best["protocol"]
    assert "1/217" in best["protocol"]
    assert "README" in best["source"]
    assert best["status"].startswith("quoted")
    assert published_on("emogator") == []
