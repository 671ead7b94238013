"""From files to stored embeddings."""

from __future__ import annotations

import shutil
import threading
import tracemalloc

import numpy as np
import pytest
import soundfile

from nver import extraction
from nver.corpora.base import Clip, Corpus, CorpusCard
from nver.encoders.base import Encoder, EncoderCard
from nver.errors import (
    AudioError,
    CheckpointError,
    EncoderError,
    MissingExtraError,
    SettingsError,
    StoreError,
)
from nver.extraction import Failure, extract
from nver.store import EmbeddingStore

TEXTS = dict.fromkeys(("title", "summary", "licence", "citation", "url"), "Tones.")
CORPUS = CorpusCard(name="tones", clips=None, speakers=None, labels=("low",), rate=16000, **TEXTS)


class Listener(Encoder):
    """Mean level, peak and length of a clip; remembers what it was given."""

    def __init__(self, name: str = "listener", refuses: int = -1, **facts) -> None:
        self._card = EncoderCard(
            name=name,
            summary="Level, peak and length.",
            dim=3,
            rate=16000,
            modality="weight-free",
            pooling="mean",
            licence="Apache-2.0",
            citation="Nobody",
            revision="1",
            **facts,
        )
        self.refuses = refuses
        self.batches = []
        self.prepared = 0

    @property
    def card(self):
        return self._card

    def features(self, samples):
        self.prepared += 1
        return samples

    def embed(self, inputs):
        self.batches.append([clip.size for clip in inputs])
        if any(clip.size == self.refuses for clip in inputs):
            raise RuntimeError("out of something")
        return np.array([[np.abs(c).mean(), np.abs(c).max(), c.size] for c in inputs], np.float32)

    @property
    def lengths(self):
        return [size for batch in self.batches for size in batch]


def tone(number: int) -> np.ndarray:
    """Return a tone that no other number gives: 0.2 s and a hundredth more per number."""
    time = np.arange(3200 + 160 * number) / 16000
    return 0.4 * np.sin(2 * np.pi * (300 + 10 * number) * time)


def length(number: int) -> int:
    return 3200 + 160 * number


def corpus_of(root, files) -> Corpus:
    clips = tuple(Clip(path=root / file, file=file, emotion="low") for file in files)
    return Corpus(card=CORPUS, root=root, clips=clips, labels=("low",))


@pytest.fixture
def tones(tmp_path):
    """Return a corpus of 11 tones, in no order of length."""
    root = tmp_path / "corpus"
    root.mkdir()
    order = np.random.default_rng(0).permutation(11)
    for number in order:
        soundfile.write(root / f"{number:02d}.wav", tone(number), 16000)
    return corpus_of(root, [f"{number:02d}.wav" for number in order])


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "store")


def reading() -> bool:
    """Return whether a reader's thread is still alive."""
    return any(thread.name.startswith("nver-reader") for thread in threading.enumerate())


def no_decoding(data, name):
    raise AssertionError(f"{name} was decoded")


class TestRuns:
    def test_stores_the_embeddings_of_every_clip(self, tones, store):
        encoder = Listener()
        result = extract(tones, [encoder], store)
        assert list(result.digests) == [clip.file for clip in tones.clips]
        assert (result.encoded, result.reused, result.failures) == (11, 0, ())
        vectors = store.open(encoder.card).get(list(result.digests.values()))
        numbers = [int(clip.path.stem) for clip in tones.clips]
        assert vectors[:, 2].tolist() == [length(number) for number in numbers]
        assert result.facts["03.wav"].seconds == pytest.approx(length(3) / 16000)
        assert result.seconds > 0

    def test_a_second_run_decodes_and_encodes_nothing(self, tones, store, monkeypatch):
        first = extract(tones, [Listener()], store)
        monkeypatch.setattr(extraction, "decode", no_decoding)
        encoder = Listener()
        second = extract(tones, [encoder], EmbeddingStore(store.path))
        assert (second.encoded, second.reused, encoder.prepared) == (0, 11, 0)
        assert second.digests == first.digests
        for file, facts in first.facts.items():
            found, expected = vars(second.facts[file]), vars(facts)
            np.testing.assert_array_equal(found.pop("thumbprint"), expected.pop("thumbprint"))
            assert found == expected

    def test_a_new_encoder_computes_only_its_own(self, tones, store):
        old, new = Listener(), Listener("other")
        extract(tones, [old], store)
        result = extract(tones, [old, new], store)
        assert (result.encoded, result.reused) == (11, 11)
        assert (old.prepared, new.prepared) == (11, 11)

    def test_a_changed_file_is_encoded_again(self, tones, store):
        extract(tones, [Listener()], store)
        soundfile.write(tones.root / "05.wav", tone(40), 16000)
        encoder = Listener()
        result = extract(tones, [encoder], store)
        assert (result.encoded, result.reused) == (1, 10)
        assert encoder.lengths == [length(40)]

    def test_a_changed_encoder_reuses_nothing(self, tones, store):
        extract(tones, [Listener()], store)
        result = extract(tones, [Listener(layer="2")], store)
        assert (result.encoded, result.reused) == (11, 0)

    def test_identical_audio_is_encoded_once(self, tones, store):
        shutil.copy(tones.root / "01.wav", tones.root / "copy.wav")
        samples, rate = soundfile.read(tones.root / "02.wav", dtype="int16")
        soundfile.write(tones.root / "other.flac", samples, rate)
        files = [*(clip.file for clip in tones.clips), "copy.wav", "other.flac"]
        encoder = Listener()
        result = extract(corpus_of(tones.root, files), [encoder], store)
        assert (result.encoded, result.reused, len(encoder.lengths)) == (11, 2, 11)
        assert result.digests["copy.wav"] == result.digests["01.wav"]
        assert result.digests["other.flac"] == result.digests["02.wav"]

    def test_the_window_changes_no_number(self, tones, store, monkeypatch):
        whole = extract(tones, [Listener()], store)
        monkeypatch.setattr(extraction, "WINDOW_CLIPS", 4)
        other = EmbeddingStore(store.path.with_name("other"))
        encoder = Listener()
        parts = extract(tones, [encoder], other, batch_size=3)
        assert parts.digests == whole.digests
        assert sorted(map(len, encoder.batches)) == [1, 1, 3, 3, 3]
        keys = list(parts.digests.values())
        one, two = (place.open(encoder.card).get(keys) for place in (store, other))
        np.testing.assert_array_equal(one, two)

    def test_an_empty_corpus_is_a_run_without_clips(self, tmp_path, store):
        result = extract(corpus_of(tmp_path, []), [Listener()], store)
        assert (result.digests, result.failures, result.encoded) == ({}, (), 0)

    def test_without_encoders_the_facts_are_found(self, tones, store):
        result = extract(tones, [], store)
        assert len(result.facts) == 11
        assert (result.encoded, result.reused) == (0, 0)

    def test_encoders_of_one_name_are_refused(self, tones, store):
        with pytest.raises(SettingsError) as caught:
            extract(tones, [Listener(), Listener()], store)
        assert str(caught.value) == (
            "Encoders must have different names, these are listener, listener. "
            "Where an encoder takes an alias, give it one: -e NAME=CHECKPOINT,alias=OTHER."
        )

    def test_a_batch_holds_a_clip_at_least(self, tones, store):
        with pytest.raises(SettingsError) as caught:
            extract(tones, [Listener()], store, batch_size=0)
        assert str(caught.value) == "batch_size must be 1 or more, not 0."


class TestBatches:
    def test_clips_of_similar_length_stand_together(self, tones, store):
        encoder = Listener()
        extract(tones, [encoder], store, batch_size=4)
        assert encoder.lengths == sorted(encoder.lengths)
        assert [len(batch) for batch in encoder.batches] == [4, 4, 3]

    def test_a_long_clip_goes_alone(self, tones, store, monkeypatch):
        soundfile.write(tones.root / "long.wav", tone(300), 16000)
        files = [*(clip.file for clip in tones.clips), "long.wav"]
        monkeypatch.setattr(extraction, "BATCH_VALUES", 12 * length(10))
        encoder = Listener()
        extract(corpus_of(tones.root, files), [encoder], store)
        assert [len(batch) for batch in encoder.batches] == [11, 1]

    def test_no_more_than_two_windows_wait(self, tones, store, monkeypatch):
        monkeypatch.setattr(extraction, "WINDOW_VALUES", 2 * length(0))
        waiting = []

        class Watched(Listener):
            def embed(self, inputs):
                waiting.append(self.prepared - len(self.lengths))
                return super().embed(inputs)

        extract(tones, [Watched()], store)
        assert len(waiting) >= 5
        assert max(waiting) <= 4

    def test_progress_ends_at_the_total(self, tones, store):
        calls = []
        (tones.root / "04.wav").write_bytes(b"")
        encoders = [Listener(), Listener("other", refuses=length(6))]
        extract(tones, encoders, store, batch_size=4, progress=lambda *call: calls.append(call))
        done = [call[1] for call in calls]
        assert {(call[0], call[2]) for call in calls} == {("embeddings", 22)}
        assert done == sorted(done)
        assert done[-1] == 22
        again = []
        extract(tones, encoders[:1], store, progress=lambda *call: again.append(call))
        assert again == [("embeddings", 11, 11)]


def test_memory_does_not_grow_with_the_audio(tmp_path, monkeypatch):
    """Of a clip only its facts remain (2 kB): audio that were kept would be 64 kB a second.

    How far the reading thread is ahead moves the peak by a window (8 clips, 0.5 MB).
    """
    monkeypatch.setattr(extraction, "WINDOW_CLIPS", 8)
    listener = Listener()
    peaks = []
    for clips in (16, 16, 128):
        folder = tmp_path / f"{clips} {len(peaks)}"
        (folder / "low").mkdir(parents=True)
        names = [f"low/{number}.wav" for number in range(clips)]
        for number, name in enumerate(names):
            sound = np.random.default_rng((len(peaks), number)).uniform(-0.5, 0.5, 16_000)
            soundfile.write(folder / name, sound, 16_000)
        tracemalloc.start()
        extract(corpus_of(folder, names), [listener], EmbeddingStore(folder / "store"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        listener.batches.clear()
    # The first run also counts what libraries keep from then on.
    assert peaks[2] - peaks[1] < (128 - 16) * 64_000 / 4


class TestFailures:
    def test_each_kind_has_its_stage_and_reason(self, tones, store):
        root = tones.root
        (root / "empty.wav").write_bytes(b"")
        (root / "text.mp3").write_text("not a sound\n" * 50)
        soundfile.write(root / "silent.wav", np.zeros(8000), 16000)
        soundfile.write(root / "dc.wav", np.full(8000, 0.25), 16000, subtype="FLOAT")
        soundfile.write(root / "nan.wav", np.full(8000, np.nan), 16000, subtype="FLOAT")
        odd = ["gone.wav", "empty.wav", "text.mp3", "silent.wav", "dc.wav", "nan.wav"]
        result = extract(corpus_of(root, [*odd, "01.wav"]), [Listener()], store)
        assert list(result.digests) == ["01.wav"]
        assert [failure.file for failure in result.failures] == odd
        stages = ["read", "decode", "decode", "silent", "silent", "decode"]
        assert [failure.stage for failure in result.failures] == stages
        assert result.failures[1].reason == (
            "Cannot decode empty.wav: the file is empty (0 bytes)."
        )
        assert result.failures[3].reason == "silent.wav is silent."
        assert result.failures[4].reason == "dc.wav holds nothing but a constant offset of 0.25."
        assert "samples that are NaN or infinite" in result.failures[5].reason

    def test_a_failure_is_tried_again(self, tones, store):
        path = tones.root / "03.wav"
        good = path.read_bytes()
        path.write_bytes(b"")
        assert len(extract(tones, [Listener()], store).failures) == 1
        assert len(extract(tones, [Listener()], store).failures) == 1
        path.write_bytes(good)
        result = extract(tones, [Listener()], store)
        assert (result.encoded, result.reused, result.failures) == (1, 10, ())

    def test_a_file_that_vanished_is_a_failure_although_its_embedding_is_stored(self, tones, store):
        extract(tones, [Listener()], store)
        (tones.root / "03.wav").unlink()
        result = extract(tones, [Listener()], store)
        assert [failure.file for failure in result.failures] == ["03.wav"]
        assert "03.wav" not in result.digests

    def test_a_clip_that_the_encoder_refuses_does_not_fail_its_neighbours(self, tones, store):
        result = extract(tones, [Listener(refuses=length(4))], store)
        assert result.failures == (
            Failure("04.wav", "encode", "encoder 'listener': RuntimeError: out of something"),
        )
        assert (len(result.digests), result.encoded) == (10, 10)

    def test_what_one_encoder_refuses_has_failed_for_all(self, tones, store):
        good, bad = Listener("good"), Listener("bad", refuses=length(4))
        result = extract(tones, [good, bad], store)
        assert [failure.file for failure in result.failures] == ["04.wav"]
        assert len(result.digests) == 10
        assert (result.encoded, result.reused) == (21, 0)
        again = extract(tones, [good, Listener("bad")], store)
        assert (again.encoded, again.reused, again.failures) == (1, 21, ())

    def test_copies_of_a_refused_clip_have_failed_too(self, tones, store):
        shutil.copy(tones.root / "04.wav", tones.root / "copy.wav")
        files = [*(clip.file for clip in tones.clips), "copy.wav"]
        result = extract(
            corpus_of(tones.root, files), [Listener(refuses=length(4))], store, batch_size=2
        )
        assert {failure.file for failure in result.failures} == {"04.wav", "copy.wav"}
        assert result.reused == 0

    def test_nan_from_an_encoder_is_a_failure_and_never_stored(self, tones, store):
        class Broken(Listener):
            def embed(self, inputs):
                vectors = super().embed(inputs)
                vectors[vectors[:, 2] == length(7)] = np.nan
                return vectors

        encoder = Broken()
        result = extract(tones, [encoder], store)
        assert [(f.file, f.stage) for f in result.failures] == [("07.wav", "encode")]
        assert "returned NaN or infinity" in result.failures[0].reason
        assert len(store.open(encoder.card).keys()) == 10

    @pytest.mark.parametrize("error", [AudioError("too strange."), ValueError("too strange.")])
    def test_a_clip_whose_input_cannot_be_made_is_a_failure(self, tones, store, error):
        class Picky(Listener):
            def features(self, samples):
                if samples.size == length(2):
                    raise error
                return super().features(samples)

        result = extract(tones, [Picky()], store)
        assert [(f.file, f.stage) for f in result.failures] == [("02.wav", "encode")]
        assert result.failures[0].reason.endswith("too strange.")
        assert result.encoded == 10

    @pytest.mark.parametrize("member", ["features", "embed"])
    @pytest.mark.parametrize(
        "error", [MissingExtraError("no extra"), CheckpointError("no weights")]
    )
    def test_an_encoder_that_cannot_work_stops_the_run(self, tones, store, member, error):
        def fail(self, _):
            raise error

        broken = type("Unable", (Listener,), {member: fail})
        with pytest.raises(type(error), match=str(error)):
            extract(tones, [broken()], store)
        assert not reading()

    def test_an_encoder_of_the_wrong_width_fails_every_clip_with_the_reason(self, tones, store):
        class Wide(Listener):
            def embed(self, inputs):
                return np.zeros((len(inputs), 7), dtype=np.float32)

        result = extract(tones, [Wide()], store)
        assert len(result.failures) == 11
        assert "must return float32 [1, 3], it returned float32 [1, 7]" in result.failures[0].reason

    def test_a_store_that_cannot_be_written_stops_the_run(self, tones, store, monkeypatch):
        def refuse(self, keys, vectors):
            raise StoreError("no room")

        monkeypatch.setattr("nver.store.EmbeddingTable.append", refuse)
        with pytest.raises(StoreError, match="no room"):
            extract(tones, [Listener()], store)
        assert not reading()

    def test_an_encoders_error_is_told_in_its_own_words(self, tones, store):
        class Strict(Listener):
            def embed(self, inputs):
                raise EncoderError("I take no tones.")

        result = extract(tones, [Strict()], store)
        assert result.failures[0].reason == "encoder 'listener': I take no tones."


class TestInterruption:
    def test_ctrl_c_leaves_what_was_encoded(self, tones, store):
        class Interrupted(Listener):
            def embed(self, inputs):
                if len(self.batches) == 2:
                    raise KeyboardInterrupt
                return super().embed(inputs)

        with pytest.raises(KeyboardInterrupt):
            extract(tones, [Interrupted()], store, batch_size=3)
        assert not reading()
        encoder = Listener()
        result = extract(tones, [encoder], store, batch_size=3)
        assert (result.encoded, result.reused) == (5, 6)


@pytest.mark.corpus
def test_the_odd_real_files_are_all_encoded(shared_data, store):
    root = shared_data / "emogator_edge"
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.mp3"))
    encoder = Listener()
    result = extract(corpus_of(root, files), [encoder], store)
    assert result.failures == ()
    assert (len(result.digests), result.encoded, result.reused) == (31, 29, 2)
    assert result.facts["mp3/000002-01-1.mp3"].channels == 2
    assert max(facts.peak for facts in result.facts.values()) == pytest.approx(3.17, abs=0.01)
    assert min(facts.peak for facts in result.facts.values()) == pytest.approx(-70.8, abs=0.1)
