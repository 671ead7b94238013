"""The identity baseline: what codes give away, which columns are codes, what is said of it."""

from __future__ import annotations

import numpy as np
import pytest

from nver.corpora import load_corpus
from nver.errors import EvaluationError
from nver.identity import find_codes, identity_baseline
from nver.splits import Fold, make_folds


def audited(speakers: int = 40, clips: int = 12, bias: float = 0.6, seed: int = 0):
    """Return labels and speakers of a corpus in which each speaker has a favourite emotion."""
    rng = np.random.default_rng(seed)
    labels, names = [], []
    for number in range(speakers):
        favourite = number % 4
        for _ in range(clips):
            chosen = favourite if rng.random() < bias else rng.integers(4)
            labels.append(f"emotion {chosen}")
            names.append(f"actor {number}")
    return np.array(labels), np.array(names, dtype=object)


def test_known_speakers_give_the_label_away_and_new_ones_do_not():
    labels, speakers = audited()
    random = identity_baseline(make_folds("random", labels, None, k=5), labels, speakers, {})
    apart = identity_baseline(make_folds("speaker", labels, speakers, k=5), labels, speakers, {})
    assert random.uar.low > 0.5
    assert random.alarm
    assert apart.uar.value == pytest.approx(0.25)
    assert not apart.alarm
    assert apart.sentence().endswith("They do not give the label away.")


def test_below_chance_says_why():
    labels, speakers = audited(bias=0.0)
    for name in np.unique(speakers):  # as many clips of each emotion
        labels[speakers == name] = [f"emotion {number % 4}" for number in range(12)]
    told = identity_baseline(make_folds("random", labels, None, k=5), labels, speakers, {})
    assert told.uar.high < told.chance_uar
    assert "it is below chance because the labels are balanced" in told.sentence()
    assert not told.alarm


def test_speaker_alone_is_the_commonest_label_of_the_speaker():
    labels, speakers = audited(clips=15, seed=3)
    folds = make_folds("random", labels, None, k=5)
    expected = 0
    for fold in folds:
        for row in fold.test:
            mine = labels[fold.train][speakers[fold.train] == speakers[row]]
            values, counts = np.unique(mine, return_counts=True)
            # A tie is nobody's: count it as half, and leave a margin below for it.
            expected += values[counts.argmax()] == labels[row]
    found = identity_baseline(folds, labels, speakers, {})
    assert found.accuracy.value == pytest.approx(expected / len(labels), abs=0.02)


def test_a_session_that_knows_the_label_is_named():
    labels, speakers = audited(bias=0.0)
    rng = np.random.default_rng(5)
    number = np.array([int(label[-1]) for label in labels])
    session = np.where(rng.random(len(labels)) < 0.7, number, rng.integers(0, 4, len(labels)))
    columns = {
        "session": np.array([f"day {2 * s + rng.integers(2)}" for s in session], dtype=object)
    }
    found = identity_baseline(
        make_folds("speaker", labels, speakers, k=5), labels, speakers, columns
    )
    assert found.alarm
    assert found.per_column["session"].value > 0.6 > found.per_column["speaker"].value
    told = found.to_dict()
    assert told["columns"] == ["speaker", "session"]
    assert told["per_column"][1]["column"] == "session"
    assert told["sentence"].startswith("From speaker and session alone, with no sound")
    assert "who and where, not how it sounds" in told["sentence"]


LABELS, SPEAKERS = audited(bias=0.0)
CODE = {label: str(place + 1) for place, label in enumerate(np.unique(LABELS))}


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("category", [CODE[x] for x in LABELS], "another name of the label, or a coarser one"),
        ("valence", ["bad" if x[-1] in "01" else "good" for x in LABELS], "or a coarser one"),
        ("jnv", [x if x[-1] in "01" else None for x in LABELS], "or a coarser one"),
        ("phrase", [f"{x} {i % 7}" for i, x in enumerate(LABELS)], "commonest label of their"),
        ("recorder_id", [f"{i:x}" for i in range(len(LABELS))], "it names single clips"),
        ("md5", [f"{i:x}" for i in range(len(LABELS))], "it names single clips"),
        ("seconds", [0.25 * (i % 9) for i in range(len(LABELS))], "it is measured, no code"),
        ("rms", [f"-{i % 7}.5" for i in range(len(LABELS))], "it is measured, no code"),
        ("fold", [str(i % 5) for i in range(len(LABELS))], "it is a division of the clips"),
        ("rate", ["16000"] * len(LABELS), "it has one value"),
        ("empty", [None] * len(LABELS), "it has one value"),
    ],
)
def test_a_column_that_is_no_code_is_left_out_with_its_reason(name, values, reason):
    codes = find_codes(LABELS, {name: np.array(values, dtype=object)})
    assert not codes.columns
    assert reason in codes.left_out[name]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sex", ["f" if i % 3 else "m" for i in range(len(LABELS))]),
        ("age", [20.0 + i % 5 for i in range(len(LABELS))]),
        ("speaker", [f"s{i * 2 // 3}" for i in range(len(LABELS))]),
        ("sex", ["f" if i % 3 else None for i in range(len(LABELS))]),
        # A session in which one label was recorded is the leak itself, not a name of the label.
        ("session", [f"{x} {i % 7}" for i, x in enumerate(LABELS)]),
        ("source_folder", [f"{x} {i % 7}" for i, x in enumerate(LABELS)]),
    ],
)
def test_codes_are_kept(name, values):
    codes = find_codes(LABELS, {name: np.array(values, dtype=object)})
    assert list(codes.columns) == [name]


def test_what_says_the_label_is_named_in_the_sentence():
    folds = make_folds("speaker", LABELS, SPEAKERS, k=5)
    columns = {"category": np.array([CODE[x] for x in LABELS], dtype=object)}
    sentence = identity_baseline(folds, LABELS, SPEAKERS, columns).sentence()
    assert "Not used, since the value all but says the label: 'category'." in sentence


def test_without_codes_there_is_no_baseline_and_a_reason():
    folds = make_folds("random", LABELS, None, k=3)
    found = identity_baseline(folds, LABELS, None, {})
    told = found.to_dict()
    assert (told["uar"], told["columns"], told["alarm"]) == (None, [], False)
    assert told["reason"] == (
        "The corpus has no speaker, session or source codes: no identity baseline."
    )


def test_unknown_speakers_are_clusters_of_their_own():
    speakers = SPEAKERS.copy()
    speakers[:10] = None
    found = identity_baseline(make_folds("random", LABELS, None, k=3), LABELS, speakers, {})
    assert found.uar.unit == "mixed"
    assert found.uar.clusters == len(set(SPEAKERS)) + 10


def test_clips_outside_every_test_part_do_not_count():
    half = np.arange(len(LABELS)) < len(LABELS) // 2
    fold = Fold("0", np.flatnonzero(half), np.flatnonzero(~half))
    found = identity_baseline([fold], LABELS, SPEAKERS, {})
    assert found.uar.clusters == len(set(SPEAKERS[~half]))


def test_a_column_of_another_length_is_refused():
    with pytest.raises(EvaluationError, match="a value of 'sex' for each of 480 clips, got 2"):
        find_codes(LABELS, {"sex": np.array(["f", "m"], dtype=object)})


def test_one_of_many_columns_is_above_chance_by_luck_and_no_alarm():
    rng = np.random.default_rng(0)
    labels = np.array([f"e{code}" for code in rng.choice(4, 2000)])
    speakers = np.array([f"s{code}" for code in rng.choice(50, 2000)], dtype=object)
    columns = {
        f"code {i}": np.array([str(code) for code in rng.choice(30, 2000)], dtype=object)
        for i in range(20)
    }
    folds = make_folds("random", labels, None, k=5)
    assert not identity_baseline(folds, labels, speakers, columns).alarm


@pytest.mark.corpus
@pytest.mark.parametrize(("protocol", "alarm"), [("random", True), ("column:fold", False)])
def test_real_speakers_who_recorded_few_types_give_them_away(shared_data, protocol, alarm):
    corpus = load_corpus(shared_data / "deeply_nvd" / "metadata.csv")
    labels = np.array([clip.emotion for clip in corpus.clips])
    speakers = np.array([clip.speaker for clip in corpus.clips], dtype=object)
    columns = {
        name: np.array([clip.facts.get(name) for clip in corpus.clips], dtype=object)
        for name in ("sex", "age", "fold")
    }
    folds = make_folds(protocol, labels, speakers, k=5, column=columns["fold"])
    found = identity_baseline(folds, labels, speakers, columns)
    assert found.alarm == alarm
    assert (found.uar.value > 0.15) == alarm
