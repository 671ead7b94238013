"""Waveforms and decoding."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import soundfile

from nver.audio import (
    NEAR_IDENTICAL,
    RESAMPLER,
    SILENCE,
    Waveform,
    check_audible,
    decode,
    decoder,
    load,
    measure,
    read,
    thumbprint,
)
from nver.errors import AudioError


def tone(rate: int = 48000, seconds: float = 1.0, channels: int = 1) -> np.ndarray:
    """Return [samples, channels]: 440 Hz in channel 0, 880 Hz in channel 1, and so on."""
    time = np.arange(int(rate * seconds))[:, None] / rate
    return 0.5 * np.sin(2 * np.pi * 440 * (1 + np.arange(channels)) * time)


def written(samples: np.ndarray, rate: int, kind: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def muxed(kind: str, codec: str, samples: np.ndarray, rate: int) -> bytes:
    """Return samples [n, 2] in a container that libsndfile does not read."""
    av = pytest.importorskip("av", reason="needs the extra media")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "stereo"
        stream.bit_rate = 256_000
        planes = np.ascontiguousarray(samples.T, dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout="stereo")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return buffer.getvalue()


def loudest_frequency(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(samples.size)))
    return float(np.argmax(spectrum) * rate / samples.size)


SHAPES = "A waveform is [samples] or [channels, samples]"
SCALE = (
    "A waveform is floating point with full scale 1, this is int16. "
    "Divide integer samples by their full scale"
)
FINITE = "A waveform is finite, this has"
PLACE = "samples that are NaN or infinite, the first at 0.250 s."


class TestWaveform:
    def test_one_dimension_becomes_one_channel_of_float32(self):
        waveform = Waveform(np.zeros(10), 8000)
        assert waveform.samples.shape == (1, 10)
        assert waveform.samples.dtype == np.float32

    def test_says_its_duration_and_channels(self):
        waveform = Waveform(np.zeros((3, 4000), dtype=np.float32), 16000)
        assert waveform.seconds == 0.25
        assert waveform.channels == 3

    def test_keeps_peaks_above_one(self):
        assert Waveform(np.array([0.0, -1.5]), 8000).samples.min() == np.float32(-1.5)

    @pytest.mark.parametrize(
        ("samples", "rate", "message"),
        [
            (np.zeros((1, 2, 3)), 8000, f"{SHAPES}, this is [1, 2, 3]."),
            (np.zeros(0), 8000, "A waveform needs at least one sample, this has none."),
            (np.zeros((2, 0)), 8000, "A waveform needs at least one sample, this has none."),
            (np.zeros(4, dtype=np.int16), 8000, f"{SCALE} (16-bit: samples / 32768)."),
            (np.zeros(4), 0, "A sampling rate is a whole number of Hz from 1, not 0."),
            (np.array([0, np.nan, np.inf, 0]), 4, f"{FINITE} 2 {PLACE}"),
            (np.array([0, 1e300]), 4, f"{FINITE} 1 {PLACE}"),
        ],
    )
    def test_refuses_what_is_no_sound(self, samples, rate, message):
        with pytest.raises(AudioError) as caught:
            Waveform(samples, rate)
        assert str(caught.value) == message

    def test_mono_is_the_mean_or_the_first_channel(self):
        stereo = Waveform(np.array([[1.0, 0.5], [0.0, -0.5]]), 8000)
        np.testing.assert_array_equal(stereo.mono().samples, [[0.5, 0.0]])
        np.testing.assert_array_equal(stereo.mono("first").samples, [[1.0, 0.5]])

    def test_mono_of_one_channel_is_the_waveform_itself(self):
        waveform = Waveform(np.zeros(10), 8000)
        assert waveform.mono() is waveform
        assert waveform.mono("first") is waveform

    def test_resampling_keeps_the_tone_and_the_channels(self):
        waveform = Waveform(tone(48000, 1, 2).T, 48000).resample(16000)
        assert waveform.rate == 16000
        assert waveform.samples.shape == (2, 16000)
        assert loudest_frequency(waveform.samples[1], 16000) == pytest.approx(880, abs=1)

    def test_resampling_lets_no_alias_through(self):
        time = np.arange(44100) / 44100
        above = Waveform(np.sin(2 * np.pi * 9000 * time), 44100).resample(16000)
        inner = above.samples[0, 1000:-1000]
        assert 20 * np.log10(np.abs(inner).max()) < -100

    def test_resampling_to_the_same_rate_is_the_waveform_itself(self):
        waveform = Waveform(np.zeros(10), 8000)
        assert waveform.resample(8000) is waveform

    @pytest.mark.parametrize("samples", [1, 2, 5, 30])
    def test_resampling_never_loses_a_short_clip(self, samples):
        short = Waveform(np.full(samples, 0.1), 192000).resample(8000)
        assert short.samples.shape[1] >= 1
        assert Waveform(np.full(samples, 0.1), 8000).resample(192000).samples.shape[1] >= samples

    def test_slices_in_seconds(self):
        waveform = Waveform(np.arange(10.0), 10)
        np.testing.assert_array_equal(waveform.slice(0.2, 0.5).samples, [[2, 3, 4]])
        np.testing.assert_array_equal(waveform.slice(0.8, 5.0).samples, [[8, 9]])

    def test_an_empty_slice_is_an_error(self):
        with pytest.raises(AudioError) as caught:
            Waveform(np.zeros(10), 10).slice(1.5, 2.0)
        assert str(caught.value) == "No sample lies between 1.5 and 2 s: the clip lasts 1 s."

    def test_the_digest_depends_on_rate_shape_and_samples_only(self):
        samples = np.linspace(-1, 1, 12).astype(np.float32)
        digest = Waveform(samples, 8000).digest()
        assert len(digest) == 64
        assert Waveform(samples.astype(np.float64), 8000).digest() == digest
        assert Waveform(samples, 16000).digest() != digest
        assert Waveform(samples.reshape(2, 6), 8000).digest() != digest
        assert Waveform(-samples, 8000).digest() != digest


class TestDecode:
    @pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 96000, 192000])
    def test_keeps_the_rate_of_the_file(self, rate):
        waveform = decode(written(tone(rate, 0.1), rate), "clip")
        assert waveform.rate == rate
        assert waveform.samples.shape == (1, int(rate * 0.1))

    @pytest.mark.parametrize("channels", [1, 2, 3, 6, 16])
    def test_keeps_the_channels_apart(self, channels):
        samples = tone(16000, 0.2, channels)
        waveform = decode(written(samples, 16000, subtype="FLOAT"), "clip")
        np.testing.assert_allclose(waveform.samples, samples.T, atol=1e-6)

    @pytest.mark.parametrize(
        ("kind", "subtype", "error"),
        [
            ("WAV", "PCM_U8", 1e-2),
            ("WAV", "PCM_16", 1e-4),
            ("WAV", "PCM_24", 1e-6),
            ("WAV", "PCM_32", 1e-6),
            ("WAV", "FLOAT", 1e-6),
            ("WAV", "DOUBLE", 1e-6),
            ("WAV", "ULAW", 2e-2),
            ("WAV", "GSM610", 1e-1),
            ("AIFF", "PCM_16", 1e-4),
            ("FLAC", "PCM_24", 1e-6),
            ("OGG", "VORBIS", 1e-1),
            ("OGG", "OPUS", 1e-1),
            ("MP3", "MPEG_LAYER_III", 1e-1),
        ],
    )
    def test_reads_the_formats_of_libsndfile(self, kind, subtype, error):
        samples = tone(48000, 0.5)
        waveform = decode(written(samples, 48000, kind, subtype), "clip")
        inner = slice(4000, 20000)
        assert waveform.rate == 48000
        np.testing.assert_allclose(waveform.samples[0, inner], samples[inner, 0], atol=error)

    def test_keeps_peaks_above_one(self):
        waveform = decode(written(3 * tone(8000), 8000, subtype="FLOAT"), "clip")
        assert waveform.samples.max() == pytest.approx(1.5, abs=1e-3)

    @pytest.mark.parametrize(
        ("kind", "codec"),
        [
            ("mp4", "aac"),
            ("adts", "aac"),
            ("webm", "libopus"),
            ("mp4", "alac"),
            ("matroska", "pcm_s16le"),
        ],
    )
    def test_reads_other_containers_through_the_extra_without_its_downmix(self, kind, codec):
        samples = tone(48000, 0.5, 2)
        waveform = decode(muxed(kind, codec, samples, 48000), "clip")
        assert waveform.rate == 48000
        inner = waveform.samples[:, 4000:20000]
        assert [round(loudest_frequency(row, 48000)) for row in inner] == [441, 879]
        assert np.abs(inner).max(axis=1) == pytest.approx([0.5, 0.5], abs=0.05)

    def test_without_the_extra_the_error_names_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(AudioError) as caught:
            decode(b"no sound" * 100, "clip.m4a")
        assert str(caught.value) == (
            "Cannot decode clip.m4a: libsndfile says 'Format not recognised'. M4A, AAC, MP4 and "
            "WebM are read by an extra: pip install 'nver[media]'"
        )

    def test_the_name_does_not_decide_the_format(self, tmp_path):
        path = tmp_path / "really.wav"
        path.write_bytes(written(tone(), 48000, "MP3"))
        assert load(path).rate == 48000

    def test_an_empty_file_says_so(self):
        with pytest.raises(AudioError) as caught:
            decode(b"", "clip.wav")
        assert str(caught.value) == "Cannot decode clip.wav: the file is empty (0 bytes)."

    def test_a_file_without_samples_says_so(self):
        with pytest.raises(AudioError) as caught:
            decode(written(np.zeros((0, 1)), 8000), "clip.wav")
        assert str(caught.value) == "clip.wav holds no samples."

    @pytest.mark.parametrize(
        "garbage", [b"hello world\n" * 50, np.random.default_rng(0).bytes(4000)]
    )
    def test_garbage_is_refused(self, garbage):
        pytest.importorskip("av", reason="needs the extra media")
        with pytest.raises(AudioError) as caught:
            decode(garbage, "clip.wav")
        assert str(caught.value) == (
            "Cannot decode clip.wav: libsndfile says 'Format not recognised', "
            "FFmpeg says 'Invalid data found when processing input'."
        )

    @pytest.mark.parametrize(
        "script",
        ["#EXTM3U\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile '{}'\n"],
    )
    def test_a_playlist_opens_no_other_file(self, tmp_path, script):
        path = tmp_path / "secret.wav"
        path.write_bytes(written(tone(), 48000))
        with pytest.raises(AudioError, match="Cannot decode"):
            decode(script.format(path).encode(), "clip.m4a")

    def test_nan_is_refused_with_its_place(self):
        samples = tone(8000)
        samples[4000] = np.nan
        with pytest.raises(AudioError) as caught:
            decode(written(samples, 8000, subtype="FLOAT"), "clip.wav")
        assert str(caught.value) == (
            "clip.wav: A waveform is finite, this has 1 samples that are NaN or infinite, "
            "the first at 0.500 s."
        )

    def test_an_impossible_rate_is_refused(self):
        with pytest.raises(AudioError) as caught:
            decode(written(tone(8000), 12), "clip.wav")
        assert str(caught.value) == "clip.wav claims a rate of 12 Hz; sound has 1000 to 768000 Hz."

    @pytest.mark.parametrize("kind", ["WAV", "MP3", "FLAC", "OGG"])
    def test_of_a_truncated_file_the_beginning_is_kept(self, kind):
        noise = np.random.default_rng(0).normal(0, 0.1, (96000, 1))
        data = written(noise, 48000, kind)
        whole, part = decode(data, "whole"), decode(data[: len(data) // 2], "part")
        assert 0.2 < part.seconds / whole.seconds < 0.7
        kept = part.samples.shape[1] - 4000
        np.testing.assert_allclose(part.samples[0, :kept], whole.samples[0, :kept], atol=1e-4)

    def test_a_missing_file_or_a_folder_says_so(self, tmp_path):
        with pytest.raises(AudioError) as caught:
            read(tmp_path / "gone.wav")
        assert (
            str(caught.value) == f"Cannot read {tmp_path / 'gone.wav'}: No such file or directory."
        )
        with pytest.raises(AudioError, match="Is a directory"):
            load(tmp_path)

    def test_versions_of_decoders_and_resampler_are_known(self):
        assert decoder().startswith("libsndfile/")
        assert RESAMPLER.startswith("soxr-HQ/")


class TestAudible:
    def test_quiet_sounds_and_sounds_on_an_offset_pass(self):
        check_audible(Waveform(2e-4 * tone()[:, 0], 48000), "quiet")
        check_audible(Waveform(0.3 + 1e-3 * tone()[:, 0], 48000), "offset")

    def test_one_sounding_channel_is_enough(self):
        stereo = np.vstack([np.zeros(48000), tone()[:, 0]])
        check_audible(Waveform(stereo, 48000), "half")

    @pytest.mark.parametrize(
        ("samples", "message"),
        [
            (np.zeros(100), "clip is silent."),
            (np.tile([0, SILENCE], 50), "clip is silent."),
            (np.full(100, -0.25), "clip holds nothing but a constant offset of -0.25."),
            (
                np.vstack([tone()[:, 0], -tone()[:, 0]]),
                "clip is silent as a mean of channels: they cancel each other.",
            ),
        ],
    )
    def test_silence_in_all_its_forms_is_refused(self, samples, message):
        with pytest.raises(AudioError) as caught:
            check_audible(Waveform(samples, 48000), "clip")
        assert str(caught.value) == message


class TestMeasure:
    def test_facts_are_those_of_the_native_clip(self):
        waveform = Waveform(2 * tone(44100, 0.5, 2).T, 44100)
        facts = measure(waveform)
        assert (facts.seconds, facts.rate, facts.channels) == (0.5, 44100, 2)
        assert facts.peak == pytest.approx(0.0, abs=1e-3)
        assert facts.digest == waveform.digest()
        np.testing.assert_array_equal(facts.thumbprint, thumbprint(waveform))

    def test_zeros_have_no_peak_and_no_thumbprint(self):
        facts = measure(Waveform(np.zeros(100), 8000))
        assert facts.peak == -np.inf
        assert not facts.thumbprint.any()

    @pytest.mark.parametrize("samples", [1, 7, 500])
    def test_very_short_clips_have_a_finite_thumbprint(self, samples):
        print_ = thumbprint(Waveform(np.linspace(-1, 1, samples), 192000))
        assert np.isfinite(print_).all()

    def test_a_constant_has_no_thumbprint(self):
        assert not thumbprint(Waveform(np.full(48000, 0.3), 48000)).any()


def recoded(waveform: Waveform, kind: str, subtype: str | None = None) -> Waveform:
    level = waveform.samples.T / max(1.0, float(np.abs(waveform.samples).max()))
    return decode(written(level, waveform.rate, kind, subtype), kind)


@pytest.mark.corpus
class TestRealClips:
    @pytest.fixture(scope="class")
    @classmethod
    def takes(cls, shared_data):
        """Return 120 clips: three takes of one speaker and class follow each other."""
        import pandas as pd

        folder = shared_data / "emogator12"
        table = pd.read_csv(folder / "metadata.csv", dtype=str)
        sizes = table.groupby(["speaker", "label"])["file"].transform("size")
        return [load(folder / file) for file in table.loc[sizes > 1, "file"][:120]]

    def test_copies_keep_their_thumbprint(self, takes):
        for clip in takes[::6]:
            print_ = thumbprint(clip)
            copies = {
                "mp3": recoded(clip, "MP3"),
                "opus": recoded(clip.resample(48000), "OGG", "OPUS"),
                "mu-law": recoded(clip.resample(8000), "WAV", "ULAW"),
                "16 kHz": clip.resample(16000),
                "-20 dB": Waveform(clip.samples * 0.1, clip.rate),
                "delayed": Waveform(np.pad(clip.samples, ((0, 0), (9000, 3000))), clip.rate),
            }
            cosines = {name: float(thumbprint(copy) @ print_) for name, copy in copies.items()}
            assert min(cosines.values()) >= NEAR_IDENTICAL, cosines

    def test_different_takes_differ(self, takes):
        prints = np.stack([thumbprint(clip) for clip in takes])
        cosines = (prints @ prints.T)[np.triu_indices(len(takes), 1)]
        assert cosines.max() < NEAR_IDENTICAL
        assert np.median(cosines) < 0.5

    def test_every_odd_file_is_read_and_audible(self, shared_data):
        files = sorted((shared_data / "emogator_edge").rglob("*.mp3"))
        clips = {file.name: load(file) for file in files}
        assert len(clips) == 31
        for name, clip in clips.items():
            check_audible(clip, name)
        assert max(float(clip.samples.max()) for clip in clips.values()) > 1.2

    def test_the_exact_duplicates_have_one_digest(self, shared_data):
        folder = shared_data / "emogator_edge" / "mp3"
        for first, second in (("000212-07-2", "000212-07-3"), ("000242-14-2", "000242-14-3")):
            pair = [load(folder / f"{name}.mp3").digest() for name in (first, second)]
            assert pair[0] == pair[1]
