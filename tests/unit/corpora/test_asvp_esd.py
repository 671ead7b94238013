"""ASVP-ESD: names as dirty as the real 13,964 are documented to be."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from nver.corpora import Clip, Refusal, load_corpus
from nver.corpora.asvp_esd import EMOTIONS, parse

ROOT = Path("/corpus")

# names that stand in public listings of the corpus
REAL = {
    "Audio/actor_36/03-01-09-01-06-36-02-02-01-39.wav": ("excited", "36", "speech"),
    "Audio/actor_36/03-01-04-01-08-36-03-03-01-77.wav": ("sad", "36", "speech"),
    "Audio/actor_36/03-02-08-02-81-36-03-03-01-18.wav": ("surprise", "36", "non-speech"),
    "Audio/actor_101/03-02-04-01-28-101-02-01-00-14-02.wav": ("sad", "101", "non-speech"),
    "Audio/actor_101/03-02-08-02-50-101-02-01-00-14.wav": ("surprise", "101", "non-speech"),
    "Bonus/actor_50/03-02-03-01-35-50-02-01-00-13-16.wav": ("happy", "50", "non-speech"),
    "Bonus/actor_50/03-02-04-01-09-50-04-01-00-14-77-02.wav": ("sad", "50", "non-speech"),
}


def documented_names(rng: np.random.Generator) -> list[str]:
    """Return 13,964 made-up paths with every documented irregularity, in the documented numbers."""
    lengths = [8] * 99 + [9] * 2983 + [10] * 7972 + [11] * 2900 + [12] * 10
    lengths = list(rng.permutation(lengths))
    names = []
    for number, length in enumerate(lengths):
        bonus = number >= 12625
        actor = int(rng.choice([150, 50, 200])) if bonus else int(rng.integers(0, 129))
        emotion, channel = f"{rng.integers(1, 14):02d}", f"{rng.integers(1, 3):02d}"
        fields = ["03", channel, emotion, f"{rng.integers(1, 3):02d}", f"{number % 100:02d}"]
        fields += [f"{actor:02d}", f"{rng.integers(1, 5):02d}", f"{rng.integers(1, 4):02d}"]
        fields += [f"{code:02d}" for code in rng.integers(0, 99, length - 8)]
        folder = f"actor_{actor}"
        if number < 12:
            fields[3] = ("00", "021", "03", "04", "05", "07", "10", "11", "18", "00", "03", "04")[
                number
            ]
        elif number < 83:
            fields[6] = ("05", "00", "106", "55", "0401", "110", "56", "013")[number % 8]
        elif number < 134:
            fields[7] = ("04", "07", "05", "00")[number % 4]
        elif number < 434 and length > 8:
            fields[8] = ("16", "33", "18")[number % 3]
        elif number < 605:
            folder = "actor_"
        elif number < 621:
            folder = f"actor_{actor + 200}"  # a number that stands nowhere in the name
        elif number == 13000:
            fields[2] = "17"
        names.append(f"{'Bonus' if bonus else 'Audio'}/{folder}/{'-'.join(fields)}.wav")
    return names


@pytest.fixture(scope="module")
def names() -> list[str]:
    return documented_names(np.random.default_rng(0))


def test_every_documented_irregularity_parses_with_its_label_or_is_refused(
    names: list[str],
) -> None:
    assert len(names) == 13964
    refused = []
    for name in names:
        parsed = parse(ROOT, PurePosixPath(name))
        fields = PurePosixPath(name).stem.split("-")
        if isinstance(parsed, Refusal):
            refused.append(parsed)
            continue
        assert isinstance(parsed, Clip)
        assert parsed.emotion == EMOTIONS[fields[2]]
        assert parsed.speaker == str(int(fields[5]))
        assert parsed.facts["folder"] == PurePosixPath(name).parent.name
    assert [refusal.reason for refusal in refused] == ["emotion '17' is not one of 01 to 13"]


def test_subsets_part_the_names(names: list[str]) -> None:
    for name in names[::9]:
        file = PurePosixPath(name)
        found = {
            subset
            for subset in ("non-speech", "speech", "babies")
            if isinstance(parse(ROOT, file, subset), Clip)
        }
        channel = {"01": "speech", "02": "non-speech"}[file.stem.split("-")[1]]
        assert found == {"babies" if file.parts[0] == "Bonus" else channel}


@pytest.mark.parametrize(("name", "expected"), REAL.items())
def test_real_names(name: str, expected: tuple[str, str, str]) -> None:
    parsed = parse(ROOT, PurePosixPath(name))
    assert isinstance(parsed, Clip)
    assert (parsed.emotion, parsed.speaker, parsed.facts["channel"]) == expected


def test_facts_of_a_full_name() -> None:
    parsed = parse(ROOT, PurePosixPath("Bonus/actor_50/03-02-04-01-09-50-04-01-00-14-77-02.wav"))
    assert isinstance(parsed, Clip)
    assert parsed.facts == {
        "channel": "non-speech",
        "intensity": "normal",
        "statement": "09",
        "sex": "male",
        "age": "baby",
        "source": "web site",
        "language": "00",
        "subtype": "14",
        "take": "77-02",
        "noisy": 1,
        "mixed_voices": 0,
        "folder": "actor_50",
    }


def test_undocumented_later_codes_are_kept_as_they_stand() -> None:
    parsed = parse(ROOT, PurePosixPath("Audio/actor_/03-02-06-021-3-07-0401-09.wav"))
    assert isinstance(parsed, Clip)
    assert parsed.speaker == "7"
    facts = parsed.facts
    assert (facts["intensity"], facts["age"], facts["source"]) == ("021", "0401", "09")
    assert (facts["language"], facts["subtype"], facts["take"]) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("03-02-06-01-02.wav", "its name has 5 fields between hyphens, at least 8 are needed"),
        (
            "03-02-06-01-02-12-02.wav",
            "its name has 7 fields between hyphens, at least 8 are needed",
        ),
        ("03-02-06-01_02-12-02-01-01-16.wav", "intensity '01_02' is no number"),
        ("03-02-06-01-x-12-02-01.wav", "statement 'x' is no number"),
        (
            "03-02-06-01-12-02-01-01.wav",
            "its actor '02' is not that of actor_12, which stands in field 5: a field may be lost",
        ),
        ("03-02-06-01-02-02-012-01.wav", "its actor '02' is not that of actor_12, which stands in"),
        ("03_02_06_01_02_12_02.wav", "its name has 1 fields between hyphens"),
        ("01-02-06-01-02-12-02-01.wav", "modality '01' is not 03 (audio only)"),
        ("03-2-06-01-02-12-02-01.wav", "vocal channel '2' is neither 01 (speech) nor 02"),
        ("03-02-17-01-02-12-02-01.wav", "emotion '17' is not one of 01 to 13"),
        ("03-02-6-01-02-12-02-01.wav", "emotion '6' is not one of 01 to 13"),
        ("03-02-06-01-02-1a-02-01.wav", "actor '1a' is no number"),
        ("03-02-06-01-02-²-02-01.wav", "actor '²' is no number"),
        ("03-02-06-01-02-12-02-01.WAV", "expected a .wav file, got '.WAV'"),
    ],
)
def test_doubtful_names_are_refused(name: str, reason: str) -> None:
    parsed = parse(ROOT, PurePosixPath("Audio/actor_12") / name)
    assert isinstance(parsed, Refusal)
    assert parsed.reason.startswith(reason)


def test_the_stray_17_of_the_babies_is_no_refusal_of_the_others(tmp_path: Path) -> None:
    for file in (
        "Audio/actor_2/03-02-06-01-02-02-02-01-01-16.wav",
        "Bonus/actor_200/03-01-17-01-02-200-05-02-01-12.wav",
        "Bonus/actor_200/03-02-04-01-02-200-05-02-01-12.wav",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert load_corpus("asvp-esd", root=tmp_path).refused == ()
    assert len(load_corpus("asvp-esd", root=tmp_path, subset="babies").refused) == 1


def test_one_name_in_two_folders_is_two_clips(tmp_path: Path) -> None:
    for folder in ("actor_2", "actor_"):
        file = tmp_path / "Audio" / folder / "03-02-06-01-02-02-02-01-01-16.wav"
        file.parent.mkdir(parents=True)
        file.touch()
    assert len(load_corpus("asvp-esd", root=tmp_path).clips) == 2
