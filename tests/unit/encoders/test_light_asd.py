"""Light-ASD's audio half on a random checkpoint: MFCCs, network, law, pooling, refusals."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import torch
from safetensors.numpy import save_file
from tests.contracts.checkpoints_small import (
    LIGHT_ASD_CONFIG,
    light_asd_tensors,
    write_light_asd,
)
from tests.unit.encoders.likeness import relative

from nver.audio import Waveform
from nver.encoders.conformance import check_encoder
from nver.encoders.light_asd import PREFIX, LightASDEncoder, Mfcc, bin_triangles
from nver.errors import CheckpointError, UnknownNameError

MFCC = Mfcc(16000, 512, 400, 160, 26, 0.0, 8000.0, 0.97, 22.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_light_asd(tmp_path_factory.mktemp("weights") / "light_asd")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> LightASDEncoder:
    return LightASDEncoder(folder)


def noise(samples: int, seed: int = 0, level: float = 0.1) -> Waveform:
    rng = np.random.default_rng(seed)
    return Waveform((level * rng.standard_normal(samples)).astype(np.float32), 16000)


def test_the_card_says_what_it_is(encoder: LightASDEncoder):
    card = encoder.card
    assert (card.name, card.dim, card.rate, card.licence) == ("light-asd", 128, 16000, "MIT")
    assert (card.modality, card.pooling) == ("multimodal", "mean over frames")
    assert card.parameters == 277_952
    assert card.min_seconds == 721 / 16000


def test_it_keeps_the_contract_with_deviations(folder: Path):
    check_encoder(LightASDEncoder(folder, pooling="mean+std")).raise_if_failed()


def slow_mfcc(steps: np.ndarray) -> np.ndarray:
    """Return the MFCCs frame by frame and bin by bin, straight from the description."""
    emphasised = [steps[0]] + [now - 0.97 * before for before, now in pairwise(steps)]
    count = 1 if len(steps) <= 400 else 1 + int(np.ceil((len(steps) - 400) / 160))
    emphasised += [0.0] * (400 + 160 * (count - 1) - len(steps))
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 28)
    edges = [int(513 * 700 * (10 ** (m / 2595) - 1) / 16000) for m in mel]
    rows = []
    for frame in range(count):
        spectrum = np.fft.fft(emphasised[160 * frame : 160 * frame + 400], 512)[:257]
        power = np.abs(spectrum) ** 2 / 512
        bands = []
        for low, peak, high in zip(edges[:-2], edges[1:-1], edges[2:], strict=True):
            rising = sum(power[k] * (k - low) / (peak - low) for k in range(low, peak))
            falling = sum(power[k] * (high - k) / (high - peak) for k in range(peak, high))
            bands.append(rising + falling or np.finfo(float).eps)
        row = scipy.fft.dct(np.log(bands), type=2, norm="ortho")[:13]
        row *= 1 + 11 * np.sin(np.pi * np.arange(13) / 22)
        row[0] = np.log(power.sum() or np.finfo(float).eps)
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("samples", [100, 400, 401, 721, 1600, 2000, 2001])
def test_mfccs_are_those_of_the_description(samples: int):
    steps = np.rint(3000 * np.random.default_rng(samples).standard_normal(samples))
    np.testing.assert_allclose(MFCC(steps), slow_mfcc(steps), rtol=1e-9, atol=1e-9)


def test_no_band_of_the_published_size_is_empty():
    triangles = bin_triangles(16000, 512, 26, 0.0, 8000.0)
    assert triangles.shape == (257, 26)
    assert (triangles.max(axis=0) == 1.0).all()
    assert triangles[256].max() == 0.0  # 8 kHz itself ends the last band


def test_digital_silence_is_finite(encoder: LightASDEncoder):
    mel = encoder.frontend(Waveform(np.zeros(1600, np.float32), 16000))
    lowest = np.log(np.finfo(np.float64).eps)
    np.testing.assert_allclose(mel[0], lowest, rtol=1e-6)
    np.testing.assert_allclose(mel[1:], 0.0, atol=1e-10)


def test_samples_are_steps_of_16_bits_but_not_cut(encoder: LightASDEncoder):
    steps = np.random.default_rng(0).integers(-3000, 3000, 1600)
    offsets = np.random.default_rng(1).uniform(-0.4, 0.4, 1600)
    exact, between = (
        Waveform((values / 32768).astype(np.float32), 16000) for values in (steps, steps + offsets)
    )
    assert (encoder.frontend(exact) == encoder.frontend(between)).all()
    loud = np.array(16 * exact.samples)
    assert np.abs(loud).max() > 1.4
    found = encoder.frontend(Waveform(loud, 16000))
    # 16 times the amplitude: the log energy rises by 2 ln 16, the shape stays.
    np.testing.assert_allclose(found[0] - encoder.frontend(exact)[0], 2 * np.log(16), atol=1e-4)
    np.testing.assert_allclose(found[1:], encoder.frontend(exact)[1:], atol=1e-3)


@pytest.mark.parametrize(
    ("samples", "frames"), [(1, 4), (721, 4), (1360, 4), (1361, 8), (16_000, 96), (16_241, 100)]
)
def test_frames_are_cut_to_a_multiple_of_four(encoder: LightASDEncoder, samples: int, frames: int):
    assert encoder.frontend(noise(samples)).shape == (13, frames)


def test_what_lies_behind_the_last_whole_vector_is_not_heard(encoder: LightASDEncoder):
    clip = noise(16_000)  # 99 frames, of which 96 end at sample 15,600
    changed = clip.samples[0].copy()
    changed[15_600:] *= -2.0
    assert (encoder.encode([Waveform(changed, 16000)]) == encoder.encode([clip])).all()
    changed[15_599] += 0.5
    assert (encoder.encode([Waveform(changed, 16000)]) != encoder.encode([clip])).any()


def reference_frames(tensors: dict[str, np.ndarray], mfcc: np.ndarray) -> torch.Tensor:
    """Return the vectors of one clip, with batch norms as they are and pooling in 3-D."""
    x = torch.from_numpy(mfcc)[None, None]
    for number in (1, 2, 3):
        block = f"{PREFIX}block{number}."

        def layer(x: torch.Tensor, name: str, block: str = block) -> torch.Tensor:
            weight = torch.from_numpy(tensors[f"{block}{name}.weight"])
            padding = (weight.shape[2] // 2, weight.shape[3] // 2)
            norm = torch.nn.BatchNorm2d(len(weight), eps=1e-3).eval()
            names = ("weight", "bias", "running_mean", "running_var")
            state = {key: torch.from_numpy(tensors[f"{block}bn_{name}.{key}"]) for key in names}
            norm.load_state_dict(state, strict=False)
            return norm(torch.nn.functional.conv2d(x, weight, padding=padding)).relu()

        x = layer(layer(layer(x, "m_3"), "t_3") + layer(layer(x, "m_5"), "t_5"), "last")
        if number < 3:
            x = torch.nn.MaxPool3d((1, 1, 3), stride=(1, 1, 2), padding=(0, 0, 1))(x)
    return x.mean(dim=2)[0].T


def test_the_network_is_that_of_the_description(encoder: LightASDEncoder):
    mfcc = encoder.frontend(noise(16_000))
    with torch.inference_mode():
        found = encoder.forward(torch.from_numpy(mfcc)[None])[0]
        expected = reference_frames(light_asd_tensors(), mfcc)
    assert found.shape == (24, 128)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.fixture(scope="module")
def crowd() -> list[Waveform]:
    """Return clips of 0.1 to 15 s and of very different levels, several of them equally long."""
    rng = np.random.default_rng(5)
    lengths = [1600, 1601, 1760, *rng.integers(1600, 80_000, 8), 240_000, 16_000, 16_000, 16_000]
    return [noise(int(n), seed, 10.0 ** -(seed % 4)) for seed, n in enumerate(lengths)]


@pytest.mark.parametrize("pooling", ["mean", "mean+std"])
def test_clips_do_not_change_each_other(folder: Path, crowd: list[Waveform], pooling: str):
    encoder = LightASDEncoder(folder, pooling=pooling)
    alone = np.concatenate([encoder.encode([clip]) for clip in crowd])
    assert relative(encoder.encode(crowd), alone) < 1e-5
    order = np.random.default_rng(0).permutation(len(crowd))
    assert relative(encoder.encode([crowd[index] for index in order]), alone[order]) < 1e-5
    by_length = np.argsort([clip.seconds for clip in crowd], kind="stable")
    assert relative(encoder.encode([crowd[index] for index in by_length]), alone[by_length]) < 1e-5
    assert np.ptp(alone, axis=0).max() > 0.1


def test_padding_to_a_neighbours_length_would_change_a_clip(encoder: LightASDEncoder):
    clip = noise(16_000)
    alone = encoder.encode([clip])
    padded = np.pad(clip.samples[0], (0, 1600))
    assert relative(encoder.encode([Waveform(padded, 16000)]), alone) > 1e-3  # zero samples
    mfcc = np.pad(encoder.frontend(clip), ((0, 0), (0, 8)))
    assert relative(encoder.embed([mfcc]), alone) > 1e-3  # zero frames
    # Even where the padding is left out of the mean, the last vectors have seen it: batch norms
    # give zeros another value than the network's own edge, which is zero before every layer.
    with torch.inference_mode():
        frames = encoder.forward(torch.from_numpy(mfcc)[None])[0, :-2]
        own = encoder.forward(torch.from_numpy(encoder.frontend(clip))[None])[0]
    assert (frames - own).abs().max() > 1e-3 * own.abs().max()


def test_mean_and_deviation(folder: Path, encoder: LightASDEncoder):
    clips = [noise(16_000), noise(721, 1)]
    both = LightASDEncoder(folder, pooling="mean+std")
    assert both.card.dim == 256
    found = both.encode(clips)
    np.testing.assert_allclose(found[:, :128], encoder.encode(clips), rtol=1e-6)
    with torch.inference_mode():
        frames = encoder.forward(torch.from_numpy(encoder.frontend(clips[0]))[None])[0]
    np.testing.assert_allclose(found[0, 128:], frames.std(dim=0, correction=0), rtol=1e-4)
    assert (found[1, 128:] == 0).all()  # one vector alone does not deviate


def test_an_unknown_pooling_gets_the_nearest(folder: Path):
    with pytest.raises(UnknownNameError, match=r"'mean\+sd'. Did you mean 'mean\+std'\?"):
        LightASDEncoder(folder, pooling="mean+sd")


def test_the_fingerprint_follows_what_changes_the_numbers(folder: Path, tmp_path: Path):
    encoders = [
        LightASDEncoder(folder),
        LightASDEncoder(folder, pooling="mean+std"),
        LightASDEncoder(write_light_asd(tmp_path, seed=1)),
    ]
    assert len({encoder.card.fingerprint for encoder in encoders}) == len(encoders)
    assert LightASDEncoder(folder).card.fingerprint == encoders[0].card.fingerprint


@pytest.mark.parametrize("name", ["light_asd", "light-asd"])
def test_it_is_found_by_its_folder_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    write_light_asd(tmp_path / name)
    monkeypatch.setenv("NVER_WEIGHTS", str(tmp_path))
    assert LightASDEncoder().card == LightASDEncoder(folder).card


def test_without_a_checkpoint_it_says_what_to_pass(nver_home: Path):
    with pytest.raises(
        CheckpointError, match=r"looked for a folder light-asd or light_asd in .*-e light-asd=FOLD"
    ):
        LightASDEncoder()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block2.t_5.weight": None}, r"of 75 tensors, 1 missing \(model\..*block2\.t_5\.weight\)"),
        ({"block4.t_5.weight": (1,)}, r"1 unexpected \(model\.audioEncoder\.block4\.t_5\.weight\)"),
        ({"block3.m_3.weight": (128, 64, 1, 3)}, r"\[128, 64, 1, 3\] instead of \[128, 64, 3, 1\]"),
    ],
)
def test_a_foreign_checkpoint_is_refused(tmp_path: Path, change: dict, message: str):
    path = write_light_asd(tmp_path) / "model.safetensors"
    tensors = light_asd_tensors()
    for name, shape in change.items():
        tensors.pop(PREFIX + name, None)
        if shape is not None:
            tensors[PREFIX + name] = np.zeros(shape, dtype=np.float32)
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        LightASDEncoder(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_configuration_of_another_front_end_is_refused(tmp_path: Path):
    write_light_asd(tmp_path)
    config = LIGHT_ASD_CONFIG | {"frontend": {"n_fft": 512}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"must give a number for frontend\.nfft"):
        LightASDEncoder(tmp_path)
