"""What the page says of calibration, from the section that `nver.confidence` makes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nver.confidence import calibration
from nver.predictions import Predictions, SystemEntry
from nver.report import write_report
from nver.report.record import read_record
from nver.report.trust import _temperature, trusts

LABELS = ("anger", "fear", "joy")
LDA = SystemEntry("lda", ("spectral",), 1.0)


def frame(seed):
    rng = np.random.default_rng(seed)
    said = rng.dirichlet(np.ones(3), size=90)
    truth = (said.cumsum(1) > rng.random((90, 1))).argmax(1)
    names = np.array(LABELS)
    table = {
        "clip": [str(index) for index in range(90)],
        "file": [f"{index}.wav" for index in range(90)],
        "speaker": [f"{index % 9}" for index in range(90)],
        "label": names[truth],
        "system": "lda",
        "encoders": "spectral",
        "seed": 0,
        "fold": "0",
        "predicted": names[said.argmax(1)],
    }
    return pd.DataFrame(table | {f"p_{label}": said[:, i] for i, label in enumerate(LABELS)})


@pytest.fixture
def page(fake, tmp_path):
    def make(section):
        fake.scores["calibration"] = section
        folder = fake.write(tmp_path / "run")
        return trusts(read_record(folder)), write_report(folder).read_text(encoding="utf-8")

    return make


@pytest.fixture
def record():
    return Predictions(frame(0), LABELS, (LDA,))


def test_a_section_with_everything_is_told(page, record):
    pytest.importorskip("mapie")
    section = calibration(record, frame(1))
    (trust,), text = page(section)
    conformal = section[0]["conformal"]
    low, high = (f"{100 * conformal['interval'][end]:.1f}" for end in ("low", "high"))
    assert f"{100 * conformal['coverage']:.1f} % (interval {low} to {high})" in trust.sets
    assert trust.raw[0] == f"{100 * section[0]['raw']['ece']:.1f}"
    assert trust.missing == ""
    assert trust.sets in text
    chance = f"{100 * section[0]['raw']['ece_by_chance']:.1f}"
    assert f"Of the ECE, about {chance} points are chance" in text


@pytest.mark.parametrize(
    ("value", "limits", "text"),
    [(1.5, [], "1.50"), (19.804, ["2"], "\u2265 19.80"), (0.06, ["2"], "\u2264 0.06")],
)
def test_a_temperature_at_its_limit_is_a_bound(value, limits, text):
    assert _temperature({"temperature": value, "at_limit": limits}) == text


def test_what_is_missing_is_said_once(page, record):
    (trust,), text = page(calibration(record))
    assert trust.sets == trust.temperature == ""
    assert trust.missing.count("--calibrate") == 1
    assert trust.missing.startswith("No temperature scaling and no prediction sets. ")
    assert text.count("nver evaluate --calibrate makes them") == 1


def test_a_system_without_probabilities_is_left_out(page, record):
    broken = Predictions(record.frame.assign(p_joy=np.nan), LABELS, (LDA,))
    found, text = page(calibration(broken))
    assert found == []
    assert 'id="trust"' not in text
