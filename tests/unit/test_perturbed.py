"""Perturbed clips in the store, and out of it beside the clean ones."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile

from nver import extraction
from nver.config import Settings
from nver.encoding import Encoding, encode, gather, gather_perturbed, perturb
from nver.errors import MissingExtraError
from nver.extraction import Failure
from nver.perturbation import choose, perturbation

RATE = 16000


@pytest.fixture
def folder(tmp_path, nver_home):
    """Return a corpus of 8 clips: four of one label long, four of another short; one is faint."""
    root = tmp_path / "clips"
    rng = np.random.default_rng(0)
    for number in range(8):
        label = "low" if number % 2 else "high"
        time = np.arange(4000 + 400 * number) / RATE
        tone = 0.4 * np.sin(2 * np.pi * (900 if number % 2 else 300) * time)
        tone += 0.01 * rng.standard_normal(time.size)
        path = root / label / f"{number}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Below the smallest step of G.711: the telephone leaves nothing of it.
        soundfile.write(path, tone * (1e-4 if number == 7 else 1), RATE, subtype="FLOAT")
    return root


def settings(folder, *perturb) -> Settings:
    return Settings(str(folder), ("spectral", "prosodic"), perturb=perturb)


def perturbed(folder, *names) -> Encoding:
    asked = settings(folder, *names)
    clean = encode(asked)
    return perturb(clean, list(clean.extraction.digests), asked)


def no_decoding(data, name):
    raise AssertionError(f"{name} was decoded")


def test_rows_are_those_of_the_perturbed_clips(folder):
    encoding = perturbed(folder, "noise:5", "gain:6")
    dataset = gather(encoding)
    for name in ("noise:5", "gain:6"):
        X = gather_perturbed(encoding, dataset)[name]
        assert np.isfinite(X).all()
        for row in (0, 5):
            path = folder / dataset.files[row]
            clip = perturbation(name).apply(extraction.decode(path.read_bytes(), "clip"))
            for encoder in encoding.encoders:
                np.testing.assert_allclose(
                    X[row, dataset.views[encoder.card.name]], encoder.encode([clip])[0], rtol=1e-4
                )
        assert not np.allclose(X, dataset.X)


def test_the_clean_embeddings_stay_what_they_are(folder):
    before = gather(encode(settings(folder)))
    encoding = perturbed(folder, "noise:0", "telephone")
    after = gather(encode(settings(folder)))
    np.testing.assert_array_equal(before.X, after.X)
    keys = [set(run.digests.values()) for run in encoding.perturbed.values()]
    assert not set.intersection(*keys)
    assert not set(after.digests) & set.union(*keys)


def test_a_second_run_decodes_and_encodes_nothing(folder, monkeypatch):
    first = perturbed(folder, "noise:5", "mp3:32")
    assert [run.encoded for run in first.perturbed.values()] == [16, 16]
    monkeypatch.setattr(extraction, "decode", no_decoding)
    second = perturbed(folder, "noise:5", "mp3:32")
    assert [run.encoded for run in second.perturbed.values()] == [0, 0]
    assert [run.reused for run in second.perturbed.values()] == [16, 16]
    dataset = gather(first)
    for name in ("noise:5", "mp3:32"):
        np.testing.assert_array_equal(
            gather_perturbed(first, dataset)[name], gather_perturbed(second, dataset)[name]
        )


def test_a_clip_of_which_nothing_is_left_fails_under_that_perturbation_only(folder):
    encoding = perturbed(folder, "telephone", "noise:5")
    reason = "low/7.wav after 'telephone' is silent."
    assert encoding.failures == (Failure("low/7.wav", "perturb telephone", reason),)
    dataset = gather(encoding)
    assert len(dataset) == 8
    found = gather_perturbed(encoding, dataset)
    absent = np.flatnonzero(np.isnan(found["telephone"]).all(axis=1))
    assert [dataset.files[row] for row in absent] == ["low/7.wav"]
    assert np.isnan(found["telephone"]).sum() == dataset.X.shape[1]
    assert np.isfinite(found["noise:5"]).all()


def test_a_clip_that_an_encoder_refuses_names_the_perturbation(folder, monkeypatch):
    asked = settings(folder, "shift:0.25")
    clean = encode(asked)
    long = 4000 + 4000 + 400 * 7
    refusing = type(clean.encoders[0])
    features = refusing.features

    def refuse(self, samples):
        if samples.size == long:
            raise RuntimeError("too long")
        return features(self, samples)

    monkeypatch.setattr(refusing, "features", refuse)
    (failure,) = perturb(clean, list(clean.extraction.digests), asked).failures
    assert (failure.file, failure.stage) == ("low/7.wav", "perturb shift:0.25")
    assert "RuntimeError: too long" in failure.reason


def test_only_the_clips_that_are_tested_are_perturbed(folder):
    asked = settings(folder, "gain:6")
    clean = encode(asked)
    encoding = perturb(clean, ["low/1.wav", "high/4.wav"], asked)
    assert set(encoding.perturbed["gain:6"].digests) == {"low/1.wav", "high/4.wav"}
    found = gather_perturbed(encoding, gather(encoding))["gain:6"]
    assert np.isfinite(found).all(axis=1).sum() == 2


def test_progress_counts_all_perturbations_as_one(folder):
    asked = settings(folder, "gain:6", "gain:-6")
    clean, told = encode(asked), []
    perturb(
        clean, list(clean.extraction.digests), asked, lambda what, *at: told.append((what, *at))
    )
    assert {what for what, _, _ in told} == {"perturbed embeddings"}
    assert told[-1][1:] == (32, 32)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


def test_a_missing_package_stops_the_run(folder, monkeypatch):
    chosen = choose(["reverb"])
    monkeypatch.setattr("nver.encoding.choose", lambda _: chosen)

    def absent(*_):
        raise MissingExtraError("not here")

    monkeypatch.setattr("nver.perturbation.require", absent)
    with pytest.raises(MissingExtraError):
        perturbed(folder, "reverb")
