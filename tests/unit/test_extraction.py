"""From files to stored embeddings."""

from __future__ import annotations

import shutil
import tracemalloc

import numpy as np
import pytest
import soundfile

from nver import extraction
from nver.errors import (
    SettingsError,
)
from nver.extraction import extract
from nver.store import EmbeddingStore
from unit.listening import Listener, corpus_of, length, no_decoding, tone


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
