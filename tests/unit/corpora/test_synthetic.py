"""The synthetic corpus: made once, whole, the same each time, and honest about itself."""

from __future__ import annotations

import inspect
import multiprocessing
import wave
from pathlib import Path

import numpy as np
import pytest

from nver.corpora import corpus_card, load_corpus, synthesis
from nver.corpora.synthesis import BURSTS, SEED, make_voice, record, synthesise
from nver.corpora.vocal_tract import RATE
from nver.errors import CorpusError


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(tmp_path_factory.mktemp("made") / "corpus", speakers=2, takes=2)


def contents(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def samples(path: Path) -> np.ndarray:
    with wave.open(str(path), "rb") as stream:
        assert (stream.getnchannels(), stream.getsampwidth(), stream.getframerate()) == (1, 2, RATE)
        return np.frombuffer(stream.readframes(stream.getnframes()), dtype="<i2") / 32768


def test_the_same_seed_gives_the_same_bytes(tiny: Path, tmp_path: Path) -> None:
    again = synthesise(tmp_path / "again", speakers=2, takes=2)
    assert contents(again) == contents(tiny)
    other = synthesise(tmp_path / "other", speakers=1, takes=1, seed=SEED + 1)
    assert contents(other)["s01/s01_laugh_1.wav"] != contents(tiny)["s01/s01_laugh_1.wav"]


def test_fewer_speakers_and_takes_are_a_part_of_more(tiny: Path, tmp_path: Path) -> None:
    fewer = contents(synthesise(tmp_path / "fewer", speakers=1, takes=1))
    more = contents(tiny)
    wavs = {name for name in fewer if name.endswith(".wav")}
    assert len(wavs) == len(BURSTS)
    assert all(more[name] == fewer[name] for name in wavs)


def test_clips_are_audible_bounded_and_of_the_stated_length(tiny: Path) -> None:
    for clip in load_corpus("synthetic", root=tiny).clips:
        sound = samples(clip.path)
        assert 0.3 < sound.size / RATE < 2.5
        assert sound.size / RATE == pytest.approx(clip.facts["seconds"], abs=1e-3)
        assert 0.05 < np.abs(sound).max() <= 1
        assert abs(sound.mean()) < 0.01


def test_all_clips_differ(tiny: Path) -> None:
    wavs = [data for name, data in contents(tiny).items() if name.endswith(".wav")]
    assert len(set(wavs)) == len(wavs) == 2 * 2 * len(BURSTS)


def test_it_says_that_it_is_synthetic(tiny: Path) -> None:
    corpus = load_corpus("synthetic", root=tiny)
    description = corpus.describe()
    assert description["synthetic"] is True
    assert description["warning"] == (
        "Made by a synthesiser; scores on it say nothing about people."
    )
    assert corpus.notes == (description["warning"],)
    assert "no person was recorded" in (tiny / "README.txt").read_text()


def test_it_is_a_manifest_too(tiny: Path) -> None:
    corpus = load_corpus(tiny)
    assert len(corpus.clips) == 2 * 2 * len(BURSTS)
    assert corpus.speakers == ("s01", "s02")


def test_it_is_made_at_first_use(nver_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def tiny_instead(folder: Path) -> Path:
        made.append(folder)
        return synthesise(folder, speakers=1, takes=1)

    monkeypatch.setattr("nver.corpora.synthesis.synthesise", tiny_instead)
    corpus = load_corpus("synthetic")
    assert made == [nver_home / "corpora" / "synthetic-v2"]
    assert corpus.root == made[0]
    assert [path.name for path in made[0].parent.iterdir()] == ["synthetic-v2"]


def test_the_published_counts_are_the_defaults() -> None:
    card = corpus_card("synthetic")
    defaults = inspect.signature(synthesise).parameters
    speakers, takes = defaults["speakers"].default, defaults["takes"].default
    assert (card.speakers, card.clips) == (speakers, speakers * takes * len(BURSTS))
    assert card.labels == tuple(sorted(burst.emotion for burst in BURSTS))
    assert card.rate == RATE


def test_a_folder_of_something_else_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(CorpusError, match="holds something that is no synthetic corpus"):
        load_corpus("synthetic", root=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_copy_is_refused(tmp_path: Path) -> None:
    folder = synthesise(tmp_path / "damaged", speakers=1, takes=1)
    (folder / "s01" / "s01_laugh_1.wav").unlink()
    with pytest.raises(CorpusError, match=r"is incomplete .*Delete that folder"):
        load_corpus("synthetic", root=folder)


def test_numbers_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="Expected at least 1 speaker and 1 take, got 0 and 1"):
        synthesise(tmp_path / "none", speakers=0, takes=1)


def test_several_processes_may_make_it_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        made = pool.starmap(synthesise, [(folder, 1, 1)] * 2, chunksize=1)
    assert made == [folder] * 2
    assert contents(folder) == contents(synthesise(tmp_path / "alone", speakers=1, takes=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "shared"]


def test_who_loses_the_race_keeps_the_winners_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "raced"
    write = synthesis._write

    def while_another_wins(made: Path, speakers: int, takes: int, seed: int) -> None:
        monkeypatch.setattr(synthesis, "_write", write)
        synthesise(folder, speakers=1, takes=1)
        (made / "late").touch()

    monkeypatch.setattr(synthesis, "_write", while_another_wins)
    assert synthesise(folder, speakers=2, takes=2) == folder
    assert len(load_corpus("synthetic", root=folder).clips) == len(BURSTS)
    assert [path.name for path in tmp_path.iterdir()] == ["raced"]


def test_what_cannot_be_written_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(synthesis, "_write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        synthesise(tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == []


def test_voices_differ_and_women_speak_higher() -> None:
    voices = [make_voice(number) for number in range(12)]
    assert len({voice.pitch for voice in voices}) == 12
    assert [voice.sex for voice in voices] == ["female", "male"] * 6
    lowest = min(voice.pitch for voice in voices if voice.sex == "female")
    assert lowest > max(voice.pitch for voice in voices if voice.sex == "male")


def test_pitch_and_noise_are_where_the_recipe_puts_them() -> None:
    """A scream is higher than a growl; a sigh has more of its energy in noise above 4 kHz."""
    by_name = {burst.vocalisation: burst for burst in BURSTS}
    centre: dict[str, list[float]] = {name: [] for name in by_name}
    for number in range(4):
        for name, burst in by_name.items():
            rng = np.random.default_rng([1, number])
            sound = record(burst, make_voice(number), 0.9, rng)
            power = np.abs(np.fft.rfft(sound)) ** 2
            frequencies = np.fft.rfftfreq(sound.size, 1 / RATE)
            centre[name].append(float((power * frequencies).sum() / power.sum()))
    means = {name: float(np.mean(values)) for name, values in centre.items()}
    assert means["scream"] > means["growl"] > means["moan"]
    assert means["sigh"] > means["groan"]


def test_no_take_is_a_near_copy_of_another_voice(tmp_path: Path) -> None:
    from nver.audio import NEAR_IDENTICAL, load, thumbprint

    paths = sorted(synthesise(tmp_path / "bursts", takes=2).rglob("*.wav"))
    prints = np.stack([thumbprint(load(path)) for path in paths])
    speakers = np.array([path.stem.split("_")[0] for path in paths])
    other = speakers[:, None] != speakers[None]
    assert (prints @ prints.T)[other].max() < NEAR_IDENTICAL
