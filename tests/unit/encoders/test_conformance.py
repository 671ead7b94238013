from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from nver.audio import Waveform
from nver.encoders.base import Encoder, EncoderCard
from nver.encoders.conformance import CHECKS, check_encoder
from nver.encoders.example_sounds import SECONDS, example_waveforms
from nver.errors import EncoderError, SettingsError

CARD = EncoderCard(
    name="quantiles",
    summary="Quantiles of the samples.",
    dim=5,
    rate=16_000,
    modality="weight-free",
    pooling="quantiles",
    licence="Apache-2.0",
    citation="nobody",
    revision="1",
)


class Quantiles(Encoder):
    """A sound encoder in five lines; each class below breaks one sentence of the contract."""

    card = CARD

    def features(self, samples):
        return samples

    def embed(self, inputs):
        rows = [np.quantile(samples, (0.01, 0.25, 0.5, 0.75, 0.99)) for samples in inputs]
        return np.array(rows, dtype=np.float32)


class KnowsItsNeighbours(Quantiles):
    def embed(self, inputs):
        vectors = super().embed(inputs)
        return vectors - vectors.mean(axis=0)


class IsPadded(Quantiles):
    def embed(self, inputs):
        longest = max(samples.size for samples in inputs)
        return super().embed([np.pad(s, (0, longest - s.size)) for s in inputs])


class IsRandom(Quantiles):
    rng = np.random.default_rng(0)

    def embed(self, inputs):
        vectors = super().embed(inputs)
        return vectors + self.rng.normal(0, 0.01, vectors.shape).astype(np.float32)


class SortsItsRows(Quantiles):
    def embed(self, inputs):
        return super().embed(sorted(inputs, key=len))


class WritesToItsInputs(Quantiles):
    def embed(self, inputs):
        vectors = super().embed(inputs)
        for samples in inputs:
            samples *= 2
        return vectors


class DividesBySilence(Quantiles):
    def embed(self, inputs):
        with np.errstate(invalid="ignore"):
            return super().embed([samples / np.abs(samples).max() for samples in inputs])


class HearsNothing(Quantiles):
    def embed(self, inputs):
        return np.ones((len(inputs), 5), dtype=np.float32)


class ClipsPeaks(Quantiles):
    def features(self, samples):
        return np.clip(samples, -1, 1)


class IgnoresTheRate(Quantiles):
    def frontend(self, waveform):
        # The derivative, so that a wrong rate is heard.
        return np.diff(waveform.mono().samples[0], append=0)


class TakesTheFirstChannel(Quantiles):
    def frontend(self, waveform):
        return super().frontend(waveform.mono("first"))


class NeedsAHundredSamples(Quantiles):
    def frontend(self, waveform):
        samples = waveform.mono().resample(16_000).samples[0]
        if samples.size < 1000:
            raise ValueError("too short")
        return super().frontend(waveform)


class IsDouble(Quantiles):
    def embed(self, inputs):
        return super().embed(inputs).astype(np.float64)


class LosesItsFingerprint(Quantiles):
    calls = 0

    @property
    def card(self):
        return replace(CARD, revision=str(self.calls))

    def embed(self, inputs):
        self.calls += 1
        return super().embed(inputs)


class HasNoLicence(Quantiles):
    card = replace(CARD, licence=" ")


class TakesNan(Quantiles):
    def frontend(self, waveform):
        return np.nan_to_num(waveform.mono().resample(16_000).samples[0])


BROKEN = {
    KnowsItsNeighbours: "alone_as_in_batch",
    IsPadded: "alone_as_in_batch",
    IsRandom: "twice",
    SortsItsRows: "shuffled",
    WritesToItsInputs: "inputs_unchanged",
    DividesBySilence: "silent",
    HearsNothing: "tells_sounds_apart",
    ClipsPeaks: "peaks_kept",
    IgnoresTheRate: "rates",
    TakesTheFirstChannel: "channels",
    NeedsAHundredSamples: "too_short",
    IsDouble: "shape_and_dtype",
    LosesItsFingerprint: "fingerprint_stable",
    HasNoLicence: "card_complete",
    TakesNan: "refuses_nan",
}


def test_a_sound_encoder_passes_every_check():
    report = check_encoder(Quantiles())
    assert report.passed, str(report)
    assert len(report.checks) == len(CHECKS)
    report.raise_if_failed()


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_broken_encoder_fails_the_check_that_is_about_it(broken):
    report = check_encoder(broken())
    assert BROKEN[broken] in [check.name for check in report.failures], str(report)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_check_can_fail_or_only_asks_for_an_embedding(check):
    asks = {"sorted_by_length", "long", "constant_offset", "clipped"}
    assert check.__name__.removeprefix("_") in set(BROKEN.values()) | asks


def test_the_failure_says_what_was_expected_what_came_and_what_to_do():
    with pytest.raises(EncoderError) as failure:
        check_encoder(HasNoLicence()).raise_if_failed()
    assert str(failure.value) == (
        "Encoder 'quantiles' fails 1 of 18 checks:\n"
        "- card_complete: Expected every fact on the card, these are empty: licence."
    )


def test_a_difference_is_told_with_its_clip_and_a_remedy():
    (failure,) = [c for c in check_encoder(IsPadded()).failures if c.name == "alone_as_in_batch"]
    assert failure.detail.startswith("Expected at most 1e-05, got the largest relative difference")
    assert "mask the padding" in failure.detail


def test_the_tolerance_is_relative_to_the_clips_largest_value():
    class Noisy(Quantiles):
        shift = 0.0

        def embed(self, inputs):
            self.shift += 1e-3
            return super().embed(inputs) * np.float32(1 + self.shift)

    assert "twice" in [check.name for check in check_encoder(Noisy()).failures]
    loose = check_encoder(Noisy(), tolerance=0.2)
    assert "twice" not in [check.name for check in loose.failures]


@pytest.mark.parametrize("layers", [0, -5, 2])
def test_a_card_with_layers_that_do_not_divide_its_vectors_is_refused(layers):
    says = f"says layers={layers!r}: expected a number from 1 that divides dim=5."
    with pytest.raises(EncoderError, match=re.escape(says)):
        replace(CARD, layers=layers)


def test_own_waveforms_are_used_and_one_is_too_few():
    rng = np.random.default_rng(0)
    clips = [Waveform(rng.normal(0, 0.1, n).astype(np.float32), 8000) for n in (900, 4000)]
    assert check_encoder(Quantiles(), clips).passed
    with pytest.raises(SettingsError, match="at least two clips, got 1"):
        check_encoder(Quantiles(), clips[:1])


def test_the_report_is_plain_and_readable():
    report = check_encoder(Quantiles())
    plain = report.to_dict()
    assert (plain["encoder"], plain["passed"]) == ("quantiles", True)
    assert plain["checks"][0]["name"] == "card_complete"
    assert str(report).splitlines()[0] == "ok   card_complete: 5 dimensions, 16000 Hz, Apache-2.0"


def test_example_sounds_are_always_the_same_and_of_many_lengths():
    first, second = example_waveforms(22_050), example_waveforms(22_050)
    assert [clip.digest() for clip in first] == [clip.digest() for clip in second]
    assert [clip.seconds for clip in first] == pytest.approx(SECONDS, abs=1e-3)
    assert first[1].channels == 2
