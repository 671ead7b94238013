"""The drop under perturbations, from predictions alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nver.errors import EvaluationError
from nver.metrics import METRICS
from nver.predictions import Predictions, SystemEntry
from nver.robustness import robustness
from nver.significance import paired_difference

LABELS = ("cry", "laugh", "sigh")
SPEAKERS, CLIPS = 10, 9  # clips of each speaker
UAR = METRICS["uar"]


def rows(system="lda", encoders="spectral", seeds=(0,), wrong=0.0, draw=0) -> pd.DataFrame:
    """Return predictions of which a share is wrong: speakers in order, clips of a class in turn."""
    rng = np.random.default_rng(draw)
    table = []
    for seed in seeds:
        for number in range(SPEAKERS * CLIPS):
            label = LABELS[number % 3]
            other = LABELS[(number + 1) % 3]
            answer = other if rng.random() < wrong else label
            clip = {"clip": f"{number:064x}", "file": f"{number}.wav", "label": label}
            clip |= {"speaker": f"s{number // CLIPS}", "system": system, "encoders": encoders}
            clip |= {"seed": seed, "fold": str(number // CLIPS % 5), "predicted": answer}
            table.append(clip | {f"p_{name}": float(name == answer) for name in LABELS})
    return pd.DataFrame(table)


def record(*frames: pd.DataFrame) -> Predictions:
    frame = pd.concat(frames, ignore_index=True)
    pairs = frame[["system", "encoders"]].drop_duplicates().itertuples(index=False, name=None)
    entries = tuple(SystemEntry(name, tuple(on.split("+")), 1.0) for name, on in pairs)
    return Predictions(frame, LABELS, entries)


def under(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(perturbation=name)


def test_nothing_perturbed_gives_nothing():
    clean = record(rows())
    assert robustness(clean, None) is None
    assert robustness(clean, under("telephone", rows()).iloc[:0]) is None


def test_scores_and_drops_are_those_of_the_same_clips():
    clean = record(rows(wrong=0.2), rows("mata", "a+b", wrong=0.1, draw=1))
    noise = rows(wrong=0.6, draw=2)
    perturbed = pd.concat(
        [under("noise:0", noise), under("telephone", rows(wrong=0.2)),
         under("noise:0", rows("mata", "a+b", wrong=0.1, draw=1))]
    )  # fmt: skip
    first, second = robustness(clean, perturbed)
    assert (first["name"], first["encoders"]) == ("lda", ["spectral"])
    assert (second["name"], second["encoders"]) == ("mata", ["a", "b"])
    worst, none = first["perturbations"]
    assert (worst["name"], worst["title"], worst["n_clips"]) == ("noise:0", "noise, SNR 0 dB", 90)
    recall = [(part["label"] == part["predicted"]).mean() for _, part in noise.groupby("label")]
    assert worst["uar"]["value"] == pytest.approx(np.mean(recall))
    assert worst["drop"]["value"] == pytest.approx(first["clean"]["value"] - np.mean(recall))
    assert 0 < worst["drop"]["low"] < worst["drop"]["value"] < worst["drop"]["high"]
    # The same answers, speaker by speaker: a paired drop is zero without any doubt.
    assert [none["drop"][end] for end in ("value", "low", "high")] == [0, 0, 0]
    assert none["uar"]["low"] < none["uar"]["value"] < none["uar"]["high"]
    assert [part["name"] for part in second["perturbations"]] == ["noise:0"]


def test_a_clip_that_failed_is_left_out_on_both_sides():
    frame = rows(wrong=0.3)
    frame.loc[:8, "predicted"] = ["laugh", "sigh", "cry"] * 3  # the first speaker: all wrong
    there = frame["speaker"] != "s0"
    (found,) = robustness(record(frame), under("telephone", frame[there]))
    (part,) = found["perturbations"]
    assert part["n_clips"] == 81
    assert part["drop"]["value"] == 0
    assert part["uar"]["value"] > found["clean"]["value"]


def test_seeds_that_move_both_sides_alike_do_not_widen_the_drop():
    seeds, shares = (0, 1, 2), (0.0, 0.3, 0.6)
    clean = pd.concat([rows(seeds=(s,), wrong=shares[s], draw=s) for s in seeds])
    worse = clean.copy()
    worse.loc[worse["file"].isin([f"{n}.wav" for n in range(0, 90, 9)]), "predicted"] = "sigh"
    (found,) = robustness(record(clean), under("gain:6", worse))
    (part,) = found["perturbations"]
    sides = [record(frame).confusions(SystemEntry("lda", ("spectral",), 1.0))
             for frame in (clean, worse)]  # fmt: skip
    apart = paired_difference(*sides, UAR)
    width = part["drop"]["high"] - part["drop"]["low"]
    assert part["drop"]["value"] == pytest.approx(apart.value)
    assert width < 0.6 * (apart.high - apart.low)


def test_the_sentence_names_the_largest_drop():
    clean = record(rows(wrong=0.1))
    noise = under("noise:0", rows(wrong=0.9, draw=1))
    (found,) = robustness(clean, pd.concat([under("telephone", rows(wrong=0.3, draw=2)), noise]))
    drop = found["perturbations"][1]["drop"]
    assert found["sentence"] == (
        f"Largest drop: noise, SNR 0 dB, UAR {100 * found['perturbations'][1]['uar']['value']:.1f} "
        f"%, {100 * drop['value']:.1f} points less than clean (95 % interval "
        f"{100 * drop['low']:.1f} to {100 * drop['high']:.1f})."
    )


@pytest.mark.parametrize(
    ("wrong", "says"), [(0.0, "No perturbation lowers the UAR."), (0.27, "it may be chance")]
)
def test_the_sentence_does_not_make_much_of_little(wrong, says):
    clean = record(rows(wrong=0.2, draw=1))
    (found,) = robustness(clean, under("telephone", rows(wrong=wrong, draw=5)))
    assert says in found["sentence"]


def test_one_speaker_has_no_interval_and_says_why():
    one = rows(wrong=0.1).assign(speaker="s0")
    (found,) = robustness(record(one), under("shift:0.25", one))
    drop = found["perturbations"][0]["drop"]
    assert (drop["low"], drop["high"]) == (None, None)
    assert "one speaker" in drop["reason"]


def test_a_perturbation_of_another_version_keeps_its_name():
    (found,) = robustness(record(rows()), under("underwater:3", rows()))
    assert found["perturbations"][0]["title"] == "underwater:3"


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (rows(), "lack the columns perturbation"),
        (under("gain:6", rows(seeds=(1,))), "clips and seeds of its other predictions"),
        (under("gain:6", rows().replace("3.wav", "x.wav")), "clips and seeds of its other"),
    ],
)
def test_predictions_of_other_models_or_clips_are_refused(frame, message):
    with pytest.raises(EvaluationError, match=message):
        robustness(record(rows()), frame)
