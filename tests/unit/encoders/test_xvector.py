"""The x-vector on a tiny random checkpoint: input, network, law, options, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.contracts.checkpoints import save_torch
from tests.contracts.checkpoints_small import write_xvector, xvector_tensors
from tests.unit.encoders.likeness import relative

from nver.audio import Waveform
from nver.encoders.conformance import check_encoder
from nver.encoders.xvector import (
    CONVOLUTIONS,
    DILATIONS,
    NORMS,
    XVectorEncoder,
    decibel_mel,
    mel_triangles,
    statistics,
)
from nver.errors import CheckpointError, SettingsError, UnknownNameError

pytestmark = pytest.mark.usefixtures("nver_home")  # what a PyTorch file holds is kept there


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xvector(tmp_path_factory.mktemp("weights") / "spkrec-xvect-voxceleb")


@pytest.fixture
def encoder(folder: Path) -> XVectorEncoder:
    return XVectorEncoder(folder)


def noise(samples: int, seed: int = 0, level: float = 0.1) -> Waveform:
    rng = np.random.default_rng(seed)
    return Waveform((level * rng.standard_normal(samples)).astype(np.float32), 16000)


def test_the_card_says_what_it_is(encoder: XVectorEncoder):
    card = encoder.card
    assert (card.name, card.dim, card.rate, card.channels) == ("xvector", 12, 16000, "first")
    assert (card.modality, card.layer, card.min_seconds) == ("audio-only", "embedding", 0.03)
    trained = [n for n in xvector_tensors() if "running" not in n and "tracked" not in n]
    assert card.parameters == sum(xvector_tensors()[name].size for name in trained)


def test_it_keeps_the_contract_with_statistics(folder: Path):
    check_encoder(XVectorEncoder(folder, representation="statistics")).raise_if_failed()


def test_a_tone_reads_what_its_amplitude_says():
    # A Hamming window of 400 samples spreads a tone on bin 25 (1 kHz) over bins 24 to 26 only.
    amplitude = 0.3
    tone = amplitude * np.sin(2 * np.pi * 1000 * np.arange(16000) / 16000)
    power = np.zeros(201)
    power[25] = (amplitude / 2 * 0.54 * 400) ** 2
    power[[24, 26]] = (amplitude / 2 * 0.23 * 400) ** 2
    heard = power @ mel_triangles()
    bands = heard > 0
    found = decibel_mel(tone.astype(np.float32))
    assert found.shape == (24, 101)
    inside = found[bands, 2:-2]  # frames without the zeros before and after the clip
    expected = np.broadcast_to(10 * np.log10(heard[bands])[:, None], inside.shape)
    np.testing.assert_allclose(inside, expected, atol=1e-3)
    np.testing.assert_allclose(found[~bands, 2:-2], found.max() - 80, atol=1e-9)


def test_filters_are_symmetric_and_begin_at_the_centre_before():
    # One mel is ln(1 + f / 700) / n everywhere: the centres in closed form.
    edges = 700 * (np.exp(np.arange(26) / 25 * np.log(1 + 8000 / 700)) - 1)
    for band in (5, 15, 23):
        left, centre = edges[band], edges[band + 1]
        bins = np.arange(201) * 40.0
        expected = np.interp(bins, [left, centre, 2 * centre - left], [0.0, 1.0, 0.0])
        np.testing.assert_allclose(mel_triangles()[:, band], expected, atol=1e-12)
    # The next centre lies beyond the triangle: the two would be equal if it ended there.
    assert 2 * edges[20] - edges[19] < edges[21] - 20


def test_silence_is_the_lowest_power_and_nothing_after_its_mean(encoder: XVectorEncoder):
    assert (decibel_mel(np.zeros(1600, np.float32)) == -100).all()
    assert (encoder.frontend(Waveform(np.zeros(1600, np.float32), 16000)) == 0).all()


def test_the_input_does_not_know_the_recording_level(encoder: XVectorEncoder):
    loud, quiet = encoder.frontend(noise(9000)), encoder.frontend(noise(9000, level=0.001))
    assert np.abs(loud.mean(axis=0)).max() < 1e-4
    np.testing.assert_allclose(loud, quiet, atol=1e-3)


def test_options_are_read_as_words(folder: Path):
    plain = XVectorEncoder(folder, normalise="no").encode([noise(9000)])
    assert np.linalg.norm(plain) != pytest.approx(1.0)
    unit = XVectorEncoder(folder, normalise="yes").encode([noise(9000)])
    assert np.linalg.norm(unit) == pytest.approx(1.0)


def test_four_frames_are_the_fewest(encoder: XVectorEncoder):
    shapes = [encoder.frontend(noise(samples)).shape for samples in (1, 479, 480, 640)]
    assert shapes == [(4, 24), (4, 24), (4, 24), (5, 24)]
    with pytest.raises(RuntimeError, match="less than the corresponding input dimension"):
        encoder.embed([np.ones((3, 24), np.float32)])  # so min_seconds may not be smaller


def reference_network(tensors: dict[str, np.ndarray]) -> torch.nn.Module:
    """Return the five layers as torch's own modules, which reflect at the ends by themselves."""
    layers: list[torch.nn.Module] = []
    for convolution, norm, dilation in zip(CONVOLUTIONS, NORMS, DILATIONS, strict=True):
        after, before, size = tensors[f"{convolution}.weight"].shape
        layers += [
            torch.nn.Conv1d(
                before, after, size, dilation=dilation, padding="same", padding_mode="reflect"
            ),
            torch.nn.LeakyReLU(0.01),
            torch.nn.BatchNorm1d(after),
        ]
        for layer, prefix in ((layers[-3], convolution), (layers[-1], norm)):
            layer.load_state_dict(
                {
                    name.removeprefix(f"{prefix}."): torch.from_numpy(np.array(value))
                    for name, value in tensors.items()
                    if name.startswith(f"{prefix}.")
                }
            )
    return torch.nn.Sequential(*layers).eval()


def test_the_network_is_torchs_own_layers(encoder: XVectorEncoder):
    mel = torch.from_numpy(encoder.frontend(noise(9000)).T)[None]
    tensors = xvector_tensors()
    with torch.inference_mode():
        frames = reference_network(tensors)(mel)
        np.testing.assert_allclose(encoder.frames(mel), frames, rtol=1e-5, atol=1e-5)
        pooled = np.concatenate([frames[0].mean(1), frames[0].std(1, correction=1) + 1e-5])
    expected = tensors["blocks.16.w.weight"] @ pooled + tensors["blocks.16.w.bias"]
    np.testing.assert_allclose(encoder.encode([noise(9000)])[0], expected, rtol=1e-5, atol=1e-5)


def test_a_standard_deviation_is_that_of_a_sample():
    found = statistics(torch.tensor([[[1.0, 2.0, 6.0]]]))
    np.testing.assert_allclose(found, [[3.0, np.sqrt(7.0) + 1e-5]], rtol=1e-6)


@pytest.fixture(scope="module")
def crowd() -> list[Waveform]:
    """Return clips of 0.1 to 15 s and of very different levels, several of them equally long."""
    rng = np.random.default_rng(5)
    lengths = [1600, 1601, 1760, *rng.integers(1600, 80_000, 10), 240_000, 16_000, 16_000, 16_000]
    return [noise(int(n), seed, 10.0 ** -(seed % 4)) for seed, n in enumerate(lengths)]


def test_clips_do_not_change_each_other(encoder: XVectorEncoder, crowd: list[Waveform]):
    alone = np.concatenate([encoder.encode([clip]) for clip in crowd])
    assert relative(encoder.encode(crowd), alone) < 1e-5
    order = np.random.default_rng(0).permutation(len(crowd))
    assert relative(encoder.encode([crowd[index] for index in order]), alone[order]) < 1e-5
    by_length = np.argsort([clip.seconds for clip in crowd], kind="stable")
    assert relative(encoder.encode([crowd[index] for index in by_length]), alone[by_length]) < 1e-5
    assert np.ptp(alone, axis=0).max() > 0.1


def test_padding_to_a_neighbours_length_would_change_a_clip(encoder: XVectorEncoder):
    clip = noise(16_000)
    alone = encoder.encode([clip])
    padded = np.pad(clip.samples[0], (0, 800))
    assert relative(encoder.encode([Waveform(padded, 16000)]), alone) > 1e-2  # zero samples
    mel = np.pad(encoder.frontend(clip), ((0, 5), (0, 0)))
    assert relative(encoder.embed([mel]), alone) > 1e-3  # zero frames
    with torch.inference_mode():  # and even where they are left out of the statistics
        frames = encoder.frames(torch.from_numpy(mel.T)[None])[:, :, :-5]
        own = encoder.frames(torch.from_numpy(encoder.frontend(clip).T)[None])
    assert (frames - own).abs().max() > 1e-2


def test_nothing_is_drawn(encoder: XVectorEncoder):
    before = torch.get_rng_state()
    first, second = (encoder.encode([noise(9000)]) for _ in range(2))
    assert (first == second).all()  # one draw of the reference differs by 8e-5
    assert torch.equal(torch.get_rng_state(), before)


def test_representations(folder: Path):
    clips = [noise(9000), noise(4000, 1)]
    embedding, found = (
        XVectorEncoder(folder, representation=name) for name in ("embedding", "statistics")
    )
    assert found.card.dim == 48
    tensors = xvector_tensors()
    expected = found.encode(clips) @ tensors["blocks.16.w.weight"].T + tensors["blocks.16.w.bias"]
    np.testing.assert_allclose(embedding.encode(clips), expected, rtol=1e-5, atol=1e-5)
    unit = XVectorEncoder(folder, normalise=1).encode(clips)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1.0, rtol=1e-6)
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, expected / lengths, atol=1e-6)


def test_the_fingerprint_follows_what_changes_the_numbers(folder: Path, tmp_path: Path):
    encoders = [
        XVectorEncoder(folder),
        XVectorEncoder(folder, representation="statistics"),
        XVectorEncoder(folder, normalise=True),
        XVectorEncoder(folder, dtype="bfloat16"),
        XVectorEncoder(write_xvector(tmp_path, seed=1)),
    ]
    assert len({encoder.card.fingerprint for encoder in encoders}) == len(encoders)
    assert XVectorEncoder(folder).card.fingerprint == encoders[0].card.fingerprint


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_half_precision_when_asked(folder: Path, dtype: str, tolerance: float):
    clips = [noise(9000), noise(40_000, 1)]
    half = XVectorEncoder(folder, dtype=dtype).encode(clips)
    exact = XVectorEncoder(folder).encode(clips)
    assert half.dtype == np.float32
    assert 1e-5 < relative(half, exact) < tolerance


def test_unknown_options_are_refused(folder: Path):
    with pytest.raises(UnknownNameError, match=r"'embeding'. Did you mean 'embedding'\?"):
        XVectorEncoder(folder, representation="embeding")
    with pytest.raises(UnknownNameError, match=r"'float'. Did you mean 'float"):
        XVectorEncoder(folder, dtype="float")
    with pytest.raises(SettingsError, match="'abacus' is not"):
        XVectorEncoder(folder, device="abacus")


def test_every_layout_is_the_same_encoder(folder: Path, tmp_path: Path):
    tensors = {name: torch.from_numpy(np.array(v)) for name, v in xvector_tensors().items()}
    (tmp_path / "safe").mkdir()
    save_file(tensors, tmp_path / "safe" / "model.safetensors")
    places = (folder, folder / "embedding_model.ckpt", tmp_path / "safe")
    assert len({XVectorEncoder(place).card.fingerprint for place in places}) == 1


def test_it_is_found_by_its_folder_name(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NVER_WEIGHTS", str(folder.parent))
    card = XVectorEncoder().card
    assert card == XVectorEncoder(folder.name).card == XVectorEncoder(folder).card


def test_it_is_found_where_it_lies(folder: Path, nver_home: Path):
    card = XVectorEncoder(folder).card
    assert len(list((nver_home / "towers" / "xvector").glob("*.safetensors"))) == 1
    (nver_home / "towers").rename(nver_home / "weights")
    assert XVectorEncoder().card == card


def test_without_a_checkpoint_it_says_what_to_pass(tmp_path: Path):
    with pytest.raises(
        CheckpointError, match=r"No checkpoint for encoder 'xvector' .* or spkrec-xvect-voxceleb"
    ):
        XVectorEncoder()
    with pytest.raises(CheckpointError, match=r"'xvector' needs a checkpoint.*holds none\."):
        XVectorEncoder(tmp_path)
    with pytest.raises(CheckpointError, match=r"a file .*; nowhere is neither\."):
        XVectorEncoder("nowhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.9.conv.bias": None}, r"of 32 tensors, 1 missing \(blocks\.9\.conv\.bias\)\."),
        ({"fc.weight": (2, 2)}, r"1 unexpected \(fc\.weight\)\."),
        ({"blocks.5.norm.bias": (8,)}, r"1 misshaped \(blocks\.5\.norm\.bias \[8\] instead of"),
        ({"blocks.0.conv.weight": (16, 40, 5)}, r"\[16, 40, 5\] instead of \[16, 24, 5\]\)\."),
        ({"blocks.3.conv.weight": (16, 16, 4)}, r"\[16, 16, 4\] instead of \[16, 16, 5\]\)\."),
        ({"blocks.16.w.weight": (12, 24)}, r"\[12, 24\] instead of \[12, 48\]\)\."),
    ],
)
def test_a_foreign_checkpoint_is_refused(tmp_path: Path, change: dict, message: str):
    tensors = xvector_tensors()
    for name, shape in change.items():
        tensors.pop(name, None)
        if shape is not None:
            tensors[name] = np.zeros(shape, dtype=np.float32)
    path = save_torch(tmp_path / "embedding_model.ckpt", tensors)
    with pytest.raises(CheckpointError, match=message) as caught:
        XVectorEncoder(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint_is_refused(folder: Path, tmp_path: Path):
    data = (folder / "embedding_model.ckpt").read_bytes()
    (tmp_path / "embedding_model.ckpt").write_bytes(data[:-500])
    with pytest.raises(CheckpointError, match="is truncated or no PyTorch checkpoint"):
        XVectorEncoder(tmp_path)


def test_longer_kernels_need_longer_clips(tmp_path: Path):
    tensors = xvector_tensors()
    tensors["blocks.6.conv.weight"] = np.ones((16, 16, 5), dtype=np.float32)
    card = XVectorEncoder(save_torch(tmp_path / "wide.pth", tensors)).card
    assert card.min_seconds == pytest.approx(0.06)  # reaches 2 x 3 frames to either side
