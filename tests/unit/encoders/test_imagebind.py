"""ImageBind's audio tower on a tiny random checkpoint: windows, options, layouts, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tests.contracts.checkpoints import (
    IMAGEBIND_CONFIG,
    imagebind_tensors,
    save_torch,
    write_imagebind,
)

from nver.audio import Waveform
from nver.encoders import load_encoder
from nver.encoders.imagebind import BANK, MEAN, SCALE, STD, ImageBindEncoder, windows
from nver.errors import CheckpointError, SettingsError, UnknownNameError

pytestmark = pytest.mark.usefixtures("nver_home")
NORM = "modality_trunks.audio.blocks.1.norm_1.bias"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_imagebind(tmp_path_factory.mktemp("weights") / "imagebind")


def noise(samples: int, rate: int = 16000, seed: int = 0) -> Waveform:
    rng = np.random.default_rng(seed)
    return Waveform(0.1 * rng.standard_normal(samples).astype(np.float32), rate)


def write(folder: Path, tensors: dict[str, np.ndarray], config: object = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_card_says_what_it_is(folder: Path):
    card = load_encoder("imagebind", checkpoint=folder).card
    assert (card.name, card.dim, card.rate, card.channels) == ("imagebind", 12, 16000, "first")
    assert (card.modality, card.layer, card.min_seconds) == ("multimodal", "projected", 0.025)
    assert "CC BY-NC-SA 4.0" in card.licence
    assert "non-commercial" in card.licence
    assert card.parameters == sum(
        value.size for name, value in imagebind_tensors().items() if ".audio." in name
    )
    assert card.facts["resampler"] == "sinc-hann, 6 zero crossings, roll-off 0.99"
    assert card.facts["heads"] == "4"


def test_the_published_size():
    from nver.encoders.imagebind import network_shapes

    shapes = network_shapes(width=768, depth=12, hidden=3072, dim=1024)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 86_235_649


class TestWindows:
    def test_up_to_two_seconds_there_is_one(self):
        for samples in (1, 400, 31999, 32000):
            first, *others = windows(samples)
            assert first.start == 0
            assert first.stop >= samples
            assert others == [first, first]

    def test_they_span_the_clip(self):
        for samples in (32001, 32219, 48000, 52800, 160000, 213920):
            starts = [part.start for part in windows(samples)]
            assert starts[0] == 0
            assert starts[1] in ((samples - 32000) // 2, (samples - 32000) // 2 - 1)
            assert starts[2] in (samples - 32000, samples - 32001)
            assert {part.stop - part.start for part in windows(samples)} <= {32000, 31999}

    def test_times_are_fractions_of_a_float(self):
        # 1 / 16000 s as a float is a little less than it, 219 / 16000 s a little more.
        assert [part.start for part in windows(32001)] == [0, 0, 0]
        assert [part.start for part in windows(32219)] == [0, 109, 219]


def test_the_input_is_three_spectrograms(folder: Path):
    encoder = ImageBindEncoder(folder)
    long, short = encoder.frontend(noise(80000)), encoder.frontend(noise(9600))
    assert long.shape == short.shape == (3, 1, 128, 204)
    assert long.dtype == np.float32
    assert not np.array_equal(long[0], long[1])
    assert np.array_equal(short[0], short[2])
    # 198 frames hold sound, what follows was padded with zeros before normalising
    np.testing.assert_allclose(long[..., 198:], -MEAN / STD, rtol=1e-6)
    np.testing.assert_allclose(short[..., 58:], 0.46706, rtol=1e-4)


def test_less_than_a_frame_is_padded(folder: Path):
    encoder = ImageBindEncoder(folder)
    mel = encoder.frontend(noise(100))
    np.testing.assert_allclose(mel[..., 1:], -MEAN / STD, rtol=1e-6)
    assert mel[0, 0, :, 0].std() > 0.01


def test_the_first_channel_is_heard(folder: Path):
    encoder = ImageBindEncoder(folder)
    left, right = noise(20000, seed=1), noise(20000, seed=2)
    both = Waveform(np.concatenate([left.samples, right.samples]), 16000)
    np.testing.assert_array_equal(encoder.frontend(both), encoder.frontend(left))


def test_other_rates_are_resampled_with_sinc(folder: Path):
    from nver.encoders.sinc import resample

    encoder, clip = ImageBindEncoder(folder), noise(60000, rate=44100)
    expected = encoder.frontend(resample(clip, 16000))
    np.testing.assert_array_equal(encoder.frontend(clip), expected)
    assert np.abs(encoder.frontend(clip.resample(16000)) - expected).max() > 1e-3


def test_windows_that_overlap_share_their_means_only_when_asked(folder: Path):
    clip = Waveform(noise(48000).samples + np.float32(0.3), 16000)
    before = clip.samples.copy()
    own, shared = (ImageBindEncoder(folder, in_place=flag).frontend(clip) for flag in (False, True))
    np.testing.assert_array_equal(own[0], shared[0])
    assert np.abs(own[1:] - shared[1:]).max() > 0.1
    np.testing.assert_array_equal(clip.samples, before)
    centred = Waveform(clip.samples[:, :32000] - clip.samples[:, :32000].mean(), 16000)
    alone = BANK(torch.tensor(centred.samples[0])).numpy().T
    np.testing.assert_allclose(own[0, 0, :, :198], (alone - MEAN) / STD, atol=1e-4)


def test_an_embedding_is_the_mean_of_windows_at_length_20(folder: Path):
    encoder = ImageBindEncoder(folder)
    short, long = encoder.encode([noise(16000), noise(100000)])
    np.testing.assert_allclose(np.linalg.norm(short), 20.0, rtol=1e-5)
    assert np.linalg.norm(long) < 20.0
    mel = encoder.frontend(noise(100000))
    with torch.inference_mode():
        each = encoder.forward(torch.from_numpy(mel)).numpy()
    np.testing.assert_allclose(np.linalg.norm(each, axis=1), 20.0, rtol=1e-5)
    np.testing.assert_allclose(each.mean(axis=0), long, atol=1e-5)


def test_equal_windows_are_computed_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    encoder, rows = ImageBindEncoder(folder), []
    original = encoder.forward

    def counted(mel: torch.Tensor) -> torch.Tensor:
        rows.append(len(mel))
        return original(mel)

    monkeypatch.setattr(encoder, "forward", counted)
    encoder.encode([noise(16000), noise(40000), noise(8000)])
    assert sum(rows) == 5
    encoder.encode([noise(100000, seed=seed) for seed in range(6)])
    assert sum(rows) == 5 + 18


def test_the_scale_is_at_most_100(tmp_path: Path):
    tensors = imagebind_tensors()
    tensors[SCALE] = np.array(6.0, dtype=np.float32)
    encoder = ImageBindEncoder(write(tmp_path, tensors, IMAGEBIND_CONFIG))
    np.testing.assert_allclose(np.linalg.norm(encoder.encode([noise(9000)])), 100.0, rtol=1e-5)


def test_the_trunk_is_wider(folder: Path):
    encoder = ImageBindEncoder(folder, representation="trunk")
    assert encoder.encode([noise(16000)]).shape == (1, encoder.card.dim) == (1, 32)
    assert encoder.card.layer == "trunk"


def test_half_precision_is_close(folder: Path):
    clips = [noise(16000), noise(50000)]
    whole = ImageBindEncoder(folder).encode(clips)
    half = ImageBindEncoder(folder, dtype="bfloat16").encode(clips)
    assert half.dtype == np.float32
    assert 0 < np.abs(whole - half).max() < 0.5


def test_every_layout_gives_the_same_encoder(folder: Path, tmp_path: Path):
    tensors = imagebind_tensors()
    audio = {name: value for name, value in tensors.items() if ".audio." in name}
    layouts = [
        folder,
        folder / "imagebind_huge.pth",
        write(tmp_path / "safe", audio, {"audio": {"num_heads": 4, "num_blocks": 2}}),
        write(tmp_path / "nested", tensors, {"config": {"audio_num_heads": 4}}),
    ]
    cards = [load_encoder("imagebind", checkpoint=path).card for path in layouts]
    assert len({card.fingerprint for card in cards}) == 1
    bare = save_torch(tmp_path / "bare" / "x.pt", tensors)
    assert ImageBindEncoder(bare, heads=4).card.fingerprint == cards[0].fingerprint


def test_the_fingerprint_follows_what_changes_the_numbers(folder: Path, tmp_path: Path):
    encoders = [
        ImageBindEncoder(folder),
        ImageBindEncoder(folder, representation="trunk"),
        ImageBindEncoder(folder, in_place=True),
        ImageBindEncoder(folder, heads=8),
        ImageBindEncoder(folder, dtype="bfloat16"),
        ImageBindEncoder(write_imagebind(tmp_path, seed=1)),
    ]
    assert len({encoder.card.fingerprint for encoder in encoders}) == len(encoders)


def test_without_a_checkpoint_no_file_that_was_tried_is_used(folder: Path, nver_home: Path):
    with pytest.raises(
        CheckpointError, match=r"No checkpoint for encoder 'imagebind' \(licence CC BY-NC-SA 4\.0"
    ):
        load_encoder("imagebind")
    card = load_encoder("imagebind", checkpoint=folder).card
    with pytest.raises(CheckpointError, match="No checkpoint for encoder 'imagebind'"):
        load_encoder("imagebind")
    (nver_home / "towers").rename(nver_home / "weights")
    assert load_encoder("imagebind").card == card


def test_unknown_options_are_refused(folder: Path):
    with pytest.raises(UnknownNameError, match=r"representation of 'imagebind' 'project'\. Did yo"):
        ImageBindEncoder(folder, representation="project")
    with pytest.raises(UnknownNameError, match=r"Unknown dtype of 'imagebind' 'int8'"):
        ImageBindEncoder(folder, dtype="int8")
    with pytest.raises(SettingsError, match=r"'imagebind' takes checkpoint, representation"):
        load_encoder("imagebind", checkpoint=folder, windows=4)
    with pytest.raises(SettingsError, match="heads must be a whole number from 1, it is 0"):
        ImageBindEncoder(folder, heads=0)
    with pytest.raises(SettingsError, match="in_place must be yes or no, it is 'maybe'"):
        ImageBindEncoder(folder, in_place="maybe")
    with pytest.raises(SettingsError, match="device must be one that torch can use here"):
        ImageBindEncoder(folder, device="abacus")
    assert ImageBindEncoder(folder, in_place="no").card.facts["in_place"] == "False"


def test_the_number_of_heads_is_never_guessed(tmp_path: Path):
    bare = write(tmp_path / "bare", imagebind_tensors())
    with pytest.raises(
        CheckpointError, match=r"heads of .* must divide its width 32, it is unknown: give audio\.n"
    ):
        ImageBindEncoder(bare)
    with pytest.raises(CheckpointError, match=r"must divide its width 32, it is 5"):
        ImageBindEncoder(bare, heads=5)


def renamed(tensors: dict[str, np.ndarray]) -> None:
    tensors[NORM.replace("norm_1", "norm_3")] = tensors.pop(NORM)


def misshaped(tensors: dict[str, np.ndarray]) -> None:
    tensors[NORM] = tensors[NORM][:-1]


def without_a_block(tensors: dict[str, np.ndarray]) -> None:
    for name in [name for name in tensors if "audio.blocks.1." in name]:
        del tensors[name]


def without_audio(tensors: dict[str, np.ndarray]) -> None:
    for name in [name for name in tensors if ".audio." in name]:
        del tensors[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed, r"1 missing \(\S+1\.norm_1\.bias\), 1 unexpected \(\S+1\.norm_3\.bias\)\.$"),
        (misshaped, r"1 misshaped \(\S+norm_1\.bias \[31\] instead of \[32\]\)\.$"),
        (without_a_block, r"of 37 tensors, 14 missing \(modality_trunks\S+, .* and 11 more\)\.$"),
        (without_audio, r"of \d+ tensors, \d+ missing \(modality_heads\.audio\.0\.bias, "),
    ],
)
def test_a_foreign_checkpoint_is_refused_in_one_line(tmp_path: Path, change, message: str):
    tensors = imagebind_tensors()
    change(tensors)
    folder = write(tmp_path, tensors, IMAGEBIND_CONFIG)
    with pytest.raises(CheckpointError, match=message) as caught:
        ImageBindEncoder(folder)
    assert "\n" not in str(caught.value)


def test_a_refused_checkpoint_is_not_kept(tmp_path: Path, nver_home: Path):
    tensors = imagebind_tensors()
    renamed(tensors)
    path = save_torch(tmp_path / "imagebind_huge.pth", tensors)
    with pytest.raises(CheckpointError, match="1 missing"):
        ImageBindEncoder(path, heads=4)
    assert not (nver_home / "towers").exists()
