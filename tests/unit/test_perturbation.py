"""Perturbations by name, and the keys under which their clips are stored."""

from __future__ import annotations

import hashlib
import sys

import numpy as np
import pytest

from nver import perturbation as module
from nver.audio import Waveform
from nver.errors import AudioError, MissingExtraError, SettingsError, UnknownNameError
from nver.perturbation import PERTURBATIONS, STANDARD, choose, perturbation


@pytest.mark.parametrize(
    ("asked", "name", "title"),
    [
        ("noise", "noise:10", "noise, SNR 10 dB"),
        ("noise:5.0", "noise:5", "noise, SNR 5 dB"),
        ("noise:-0", "noise:0", "noise, SNR 0 dB"),
        (" gain:-12", "gain:-12", "gain, -12 dB"),
        ("telephone", "telephone", "telephone, 300 to 3400 Hz"),
        ("reverb:.4", "reverb:0.4", "reverberation, T60 0.4 s"),
    ],
)
def test_names_have_one_spelling(asked, name, title):
    found = perturbation(asked)
    assert (found.name, found.title) == (name, title)
    assert perturbation(found.name) == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("noise:loud", "Expected noise:DB from -30 to 80, got 'noise:loud'"),
        ("noise:nan", "Expected noise:DB from -30 to 80, got 'noise:nan'"),
        ("mp3:8", "Expected mp3:KBITS from 32 to 128, got 'mp3:8'"),
        ("reverb:5", "Expected reverb:SECONDS from 0.2 to 1, got 'reverb:5'"),
        ("telephone:3", "Expected 'telephone' without a value, got ':3'"),
        ("noise:", "Expected a value after the colon, got 'noise:'"),
    ],
)
def test_a_bad_value_is_refused(name, message):
    with pytest.raises(SettingsError, match=message):
        perturbation(name)


def test_an_unknown_name_gives_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'telefone'\. Did you mean 'telephone'\?"):
        choose(["telefone"])


def test_all_is_the_standard_set_and_nothing_is_taken_twice():
    assert tuple(found.name for found in choose(["all"])) == STANDARD
    names = [found.name for found in choose(["noise:3", "all", "noise", "noise:3"])]
    assert names == ["noise:3", *STANDARD]


def test_a_missing_package_is_found_before_anything_is_done(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    message = (
        "The perturbation 'reverb:0.5' needs the package 'pyroomacoustics', which is not "
        "installed. Install nver with its extra 'perturb': pip install 'nver[perturb]' (in a "
        "checkout: '.[perturb]'). Or go on without it: "
    )
    with pytest.raises(MissingExtraError) as caught:
        choose(["all"])
    told, _, way = str(caught.value).partition("Or go on without it: ")
    assert f"{told}Or go on without it: " == message
    rest = way.removesuffix(".").removeprefix("--perturb ").split(" --perturb ")
    assert rest == [name for name in STANDARD if name != "reverb:0.5"]
    assert [found.name for found in choose(rest)] == rest
    with pytest.raises(MissingExtraError, match=r"Or go on without --perturb\.$"):
        choose(["reverb"])


class TestKeys:
    DIGEST = hashlib.sha256(b"clip").hexdigest()

    def test_are_digests_that_no_two_perturbations_share(self):
        keys = {self.DIGEST}
        for name in (*STANDARD, "noise:10.5"):
            keys.add(perturbation(name).key(self.DIGEST))
        assert len(keys) == len(STANDARD) + 2
        assert all(len(bytes.fromhex(key)) == 32 for key in keys)
        assert perturbation("noise").key(self.DIGEST) == perturbation("noise:10").key(self.DIGEST)

    def test_change_with_the_recipe(self, monkeypatch):
        before = {name: perturbation(name).key(self.DIGEST) for name in STANDARD}
        monkeypatch.setattr(module.soundfile, "__libsndfile_version__", "99")
        changed = {name for name in STANDARD if perturbation(name).key(self.DIGEST) != before[name]}
        assert changed == {"telephone", "mp3:32"}

    @pytest.mark.parametrize("kind", PERTURBATIONS)
    def test_hold_a_version(self, kind):
        assert PERTURBATIONS[kind].recipe().split()[0].isdecimal()


def test_an_encoder_that_refuses_is_a_fault_of_the_clip(monkeypatch):
    def refuse(*_, **__):
        raise module.soundfile.LibsndfileError(1, "no: ")

    monkeypatch.setattr(module.soundfile, "write", refuse)
    with pytest.raises(AudioError, match="libsndfile refuses it"):
        perturbation("mp3").apply(Waveform(np.ones(100) * 0.1, 16000))
