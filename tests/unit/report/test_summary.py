from __future__ import annotations

import pandas as pd
import pytest

from nver.report.basis import basis
from nver.report.citations import licence_is_restricted
from nver.report.formats import caption
from nver.report.record import read_record
from nver.report.statement import listed
from nver.report.summary import about_intervals, extremes, summarise
from unit.report.fake_run import predictions


@pytest.fixture
def points(tmp_path):
    """Return what reads a fake run into its points, by topic."""

    def read(fake):
        record = read_record(fake.write(tmp_path))
        return {point.topic: point for point in (*basis(record), *summarise(record))}

    return read


def estimate(value, low, high):
    return {"value": value, "low": low, "high": high}


def test_the_points_stand_in_the_order_in_which_they_are_read(fake, points):
    assert list(points(fake)) == [
        "Corpus",
        "Protocol",
        "Leakage check",
        "Chance",
        "Best system",
        "Networks and linear baseline",
        "Fusion",
        "Transductive",
        "Failed clips",
    ]


def test_a_clean_run_has_no_alarm(fake, points):
    assert [topic for topic, point in points(fake).items() if point.alarm] == []


def test_a_clean_run_in_words(fake, points):
    texts = {topic: point.text for topic, point in points(fake).items()}
    assert texts == {
        "Corpus": "Toy bursts: 72 clips of 6 speakers, 3 labels.",
        "Protocol": (
            "2 folds, divided by speaker. No voice was in training before it was judged. The "
            "scores hold for new speakers of the same corpus: same microphones, same "
            "instructions, same language. They say nothing about another corpus."
        ),
        "Leakage check": "Clean: nothing was found on both sides of a fold.",
        "Chance": "Guessing reaches a UAR of 33.3 % (3 labels).",
        "Best system": (
            "mata (spectral + prosodic): UAR 66.0 % (95 % interval 60.0 to 72.0). It came out best "
            "of 4 on these very clips: expect somewhat less on new ones."
        ),
        "Networks and linear baseline": (
            "The best linear baseline, concat-lda (spectral + prosodic), reaches UAR 64.0 % (95 % "
            "interval 58.0 to 70.0). The best network, mata (spectral + prosodic), UAR 66.0 % "
            "(95 % interval 60.0 to 72.0), is 2.0 points above it; their intervals overlap, so "
            "this is no proof of a difference."
        ),
        "Fusion": (
            "The best fusion, mata (spectral + prosodic), is 6.0 points above the best single "
            "encoder; their intervals overlap, so this is no proof of a difference. The latter is "
            "lda (spectral), UAR 60.0 % (95 % interval 52.0 to 68.0)."
        ),
        "Transductive": (
            "Systems marked so couple the clips of a test batch, as the published method does: "
            "their prediction for one clip depends on the others. They show what that rule yields "
            "and are not named as best."
        ),
        "Failed clips": "None.",
    }


def test_networks_far_below_the_linear_baseline_are_named(fake, points):
    fake.systems[0]["uar"] = estimate(0.4, 0.3, 0.5)
    fake.systems[3]["uar"] = estimate(0.5, 0.45, 0.55)
    point = points(fake)["Networks and linear baseline"]
    assert point.alarm
    assert point.text.endswith(
        "The best network, mata (spectral + prosodic), UAR 50.0 % (95 % interval 45.0 to 55.0), is "
        "14.0 points below it; their intervals do not overlap. Far below the linear baseline on "
        "the same encoders, the whole interval under its value, lie 2 of 2 networks:"
    )
    assert point.details == (
        "mata (spectral + prosodic): 50.0 % against 64.0 % of concat-lda",
        "fcn (spectral): 40.0 % against 60.0 % of lda",
    )


def test_a_long_list_of_networks_is_cut(fake, points):
    bad = estimate(0.2, 0.1, 0.3)
    fake.systems = [fake.systems[1]] + [
        fake.systems[0] | {"name": f"net-{i}", "uar": bad} for i in range(9)
    ]
    details = points(fake)["Networks and linear baseline"].details
    assert len(details) == 6
    assert details[-1] == "and 4 more, marked in the table"


def test_a_run_without_linear_baseline_says_so(fake, points):
    fake.systems = [fake.systems[0]]
    point = points(fake)["Networks and linear baseline"]
    assert point.alarm
    assert point.text == (
        "No linear baseline was run, so nobody can say whether the networks are worth their "
        "trouble. Add -s lda -s concat-lda."
    )


def test_linear_systems_alone_need_no_comparison(fake, points):
    fake.systems = [fake.systems[1]]
    found = points(fake)
    assert "Networks and linear baseline" not in found
    assert "Fusion" not in found
    assert found["Best system"].text == ("lda (spectral): UAR 60.0 % (95 % interval 52.0 to 68.0).")


def test_equal_systems_are_level(fake, points):
    fake.systems[3]["uar"] = fake.systems[2]["uar"]
    text = points(fake)["Networks and linear baseline"].text
    assert "is level with it; their intervals overlap" in text


def test_without_intervals_no_difference_is_claimed(fake, points):
    for system in fake.systems:
        system["uar"] = estimate(system["uar"]["value"], None, None)
    found = points(fake)
    assert found["Networks and linear baseline"].text.endswith(
        "is 2.0 points above it; without intervals nobody can say whether that is more than luck."
    )
    assert "UAR 66.0 % (no interval)" in found["Best system"].text


def test_a_system_at_chance_is_called_so(fake, points):
    fake.systems = [fake.systems[1] | {"uar": estimate(0.35, 0.30, 0.40)}]
    point = points(fake)["Best system"]
    assert point.alarm
    assert point.text.endswith("It is not clearly better than guessing.")


def test_a_run_without_any_score_says_so(fake, points):
    fake.systems = [fake.systems[1] | {"uar": estimate(None, None, None)}]
    point = points(fake)["Best system"]
    assert (point.alarm, point.text) == (True, "None: no system has a defined UAR.")


def test_divided_speakers_are_an_alarm(fake, points, tmp_path):
    fake.scores["folds"] = "random"
    fake.run["leakage"] = {
        "clean": False,
        "sentences": ["Both sides of a fold share 6 speakers."],
        "verdict": "Both sides share.",
    }
    import pandas as pd

    fake.write(tmp_path)
    rows = pd.read_parquet(tmp_path / "predictions.parquet")
    fake.predictions = rows.assign(fold=rows["file"].str[-5])
    found = points(fake)
    assert found["Protocol"].alarm
    assert found["Protocol"].text == (
        "4 folds, divided at random. 6 speakers are in training and in test alike, so the figures "
        "are too high for new voices. Do not compare them with speaker-independent ones; for "
        "those, use --folds speaker."
    )
    assert found["Leakage check"].alarm
    assert found["Leakage check"].text == "Both sides of a fold share 6 speakers."


def test_unknown_speakers_are_an_alarm(fake, points, tmp_path):
    import pandas as pd

    fake.write(tmp_path)
    fake.predictions = pd.read_parquet(tmp_path / "predictions.parquet").assign(speaker=None)
    found = points(fake)
    assert found["Corpus"].text == "Toy bursts: 72 clips, speakers unknown, 3 labels."
    assert found["Protocol"].alarm
    assert "Some speakers are unknown" in found["Protocol"].text


@pytest.mark.parametrize(
    ("folds", "start"),
    [
        ("loso", "2 folds, one for each speaker."),
        ("column:part", "2 folds, as the corpus's column 'part' says."),
    ],
)
def test_every_protocol_has_its_words(fake, points, folds, start):
    fake.scores["folds"] = folds
    assert points(fake)["Protocol"].text.startswith(start)


def test_a_leakage_check_that_was_not_made_is_an_alarm(fake, points):
    fake.run["leakage"] = {}
    point = points(fake)["Leakage check"]
    assert (point.alarm, point.text) == (True, "Not clean, or not made.")


def test_a_verdict_is_followed_by_what_must_be_known(fake, points):
    fake.run["leakage"] = {
        "clean": True,
        "verdict": "No recording is on both sides.",
        "sentences": ["2 clips have no speaker."],
    }
    assert points(fake)["Leakage check"].text == (
        "No recording is on both sides. 2 clips have no speaker."
    )


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (1, "1 file could not be used and is in no figure; the list below says why."),
        (2, "2 files could not be used and are in no figure; the list below says why."),
    ],
)
def test_failed_clips_are_counted(fake, points, files, text):
    fake.failures = [(f"{i}.wav", "decode", "empty") for i in range(files)]
    assert points(fake)["Failed clips"].text == text


def test_clips_that_failed_under_a_perturbation_are_in_the_other_figures(fake, points):
    fake.failures = [("0.wav", f"perturb {name}", "silent") for name in ("mp3:32", "gain:-6")]
    alone = "1 clip could not be perturbed in every way, and is left out there alone."
    assert points(fake)["Failed clips"].text == alone
    fake.failures.append(("1.wav", "decode", "empty"))
    assert points(fake)["Failed clips"].text == (
        f"1 file could not be used and is in no figure; the list below says why. {alone}"
    )


def test_one_voice_is_not_sent_to_folds_by_speaker(fake, points):
    rows = predictions(fake.systems)
    fake.predictions = rows.assign(speaker="s1")
    told = points(fake)["Protocol"].text
    assert told.endswith("Do not compare them with speaker-independent ones.")


def test_a_part_that_is_tested_is_not_called_the_corpus(fake, tmp_path):
    rows = predictions(fake.systems)
    part = rows[rows["fold"] == "0"]
    fake.predictions = part
    folder = fake.write(tmp_path / "run")
    files = rows["file"].unique()
    pd.DataFrame({"file": files, "path": files}).to_parquet(folder / "clips.parquet")
    record = read_record(folder)
    clips = part["file"].nunique()
    assert f"Toy bursts: {clips} tested clips of" in basis(record)[0].text
    assert f"Toy bursts: {clips} tested clips, " in caption(record)[0]


def test_failed_systems_are_listed(fake, points):
    fake.scores["failures"] = [{"sentence": "System 'cnn' on a failed: it diverged"}]
    point = points(fake)["Failed systems"]
    assert point.alarm
    assert point.details == ("System 'cnn' on a failed: it diverged",)


def test_restricted_licences_are_named(fake, points):
    fake.run["corpus"]["non_commercial"] = True
    fake.run["encoders"][1]["licence"] = "CC-BY-NC 4.0"
    assert points(fake)["Licence"].text == (
        "Not for commercial use: the corpus and prosodic. Read the licence before you sell what "
        "was trained with it."
    )


def test_a_warning_of_the_corpus_is_an_alarm(fake, points):
    fake.run["corpus"]["warning"] = "Its labels are guesses."
    point = points(fake)["Corpus"]
    assert point.alarm
    assert point.text.endswith("Its labels are guesses.")


def test_cautions_about_intervals_are_an_alarm(fake, points):
    fake.scores["interval"] = {"level": 0.9, "caution": "it rests on 6 speakers"}
    found = points(fake)
    assert found["Intervals"].alarm
    assert found["Intervals"].text == "What to know of every interval: it rests on 6 speakers."
    assert "(90 % interval 60.0 to 72.0)" in found["Best system"].text


def test_the_best_and_the_worst_label_are_named(fake, tmp_path):
    import pandas as pd

    fake.write(tmp_path)
    rows = pd.read_parquet(tmp_path / "predictions.parquet")
    fake.predictions = rows.assign(predicted=rows["label"].replace("fear", "anger"))
    assert extremes(read_record(fake.write(tmp_path))) == (
        "The best system, mata (spectral + prosodic), recognises anger best (100 %) and fear worst "
        "(0 %)."
    )


def test_the_page_says_what_its_intervals_are(fake, tmp_path):
    fake.scores["interval"] = {"level": 0.95, "unit": "speaker", "clusters": 6, "caution": ""}
    record = read_record(fake.write(tmp_path))
    assert about_intervals(record) == "95 % intervals from a bootstrap over 6 speakers"


@pytest.mark.parametrize(
    ("licence", "restricted"),
    [
        ("CC BY-NC 4.0", True),
        ("CC-BY-NC-SA-4.0", True),
        ("Non-commercial research", True),
        ("research only", True),
        ("CC BY 4.0", False),
        ("Apache-2.0", False),
        ("MIT; data from NCSU", False),
    ],
)
def test_licences_that_forbid_commerce(licence, restricted):
    assert licence_is_restricted(licence) is restricted


def test_names_are_listed_as_prose():
    assert listed(["a", "b"]) == "a and b"


@pytest.mark.parametrize("distinguishable", [False, True])
def test_what_cannot_be_told_from_the_best_is_not_called_far_below(fake, points, distinguishable):
    fake.systems[3]["uar"] = estimate(0.5, 0.45, 0.55)
    pair = {"name": "mata", "encoders": ["spectral", "prosodic"], "difference": 0.14}
    fake.scores["comparisons"] = {
        "reference": {"name": "concat-lda", "encoders": ["spectral", "prosodic"]},
        "pairs": [pair | {"distinguishable": distinguishable}],
    }
    point = points(fake)["Networks and linear baseline"]
    assert ("Far below" in point.text) is distinguishable
    assert point.alarm is distinguishable
