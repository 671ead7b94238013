"""Clips, encoders and stores that fail, and runs that are interrupted."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import soundfile

from nver.errors import (
    AudioError,
    CheckpointError,
    EncoderError,
    MissingExtraError,
    StoreError,
)
from nver.extraction import Failure, extract
from unit.listening import Listener, corpus_of, length, reading


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
