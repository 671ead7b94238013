"""LanguageBind's audio tower on a tiny random checkpoint: windows, layouts, LoRA, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tests.contracts.checkpoints import (
    LANGUAGEBIND_CONFIG,
    languagebind_tensors,
    save_torch,
    with_lora,
    write_languagebind,
)

from nver.audio import Waveform
from nver.encoders import languagebind_weights as layout
from nver.encoders import load_encoder
from nver.encoders.languagebind import LanguageBindEncoder, starts
from nver.encoders.vit import ACTIVATIONS
from nver.errors import CheckpointError, UnknownNameError

pytestmark = pytest.mark.usefixtures("nver_home")
MEAN, STD = -4.2677393, 4.5689974
QUERY = "vision_model.encoder.layers.1.self_attn.q_proj"
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_languagebind(tmp_path_factory.mktemp("weights") / "languagebind")


def noise(samples: int, rate: int = 16000, seed: int = 0) -> Waveform:
    rng = np.random.default_rng(seed)
    return Waveform(0.1 * rng.standard_normal(samples).astype(np.float32), rate)


def write(folder: Path, tensors: Tensors, **vision: object) -> Path:
    """Write model.safetensors, and config.json with changes to its vision_config."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    config = LANGUAGEBIND_CONFIG | {
        "vision_config": LANGUAGEBIND_CONFIG["vision_config"] | vision,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_the_card_says_what_it_is(folder: Path):
    card = load_encoder("languagebind", checkpoint=folder).card
    assert (card.name, card.dim, card.rate, card.channels) == ("languagebind", 12, 16000, "first")
    assert (card.modality, card.layer, card.min_seconds) == ("multimodal", "projected", 0.025)
    for part in ("MIT", "CC BY-NC 4.0", "non-commercial", "model page"):
        assert part in card.licence
    assert card.facts["windows"] == "thirds"
    assert card.facts["lora"] == "none"
    assert "1036" in card.facts["recipe"]


def test_the_published_size():
    shapes = layout.network_shapes(width=1024, depth=24, hidden=4096, dim=768, positions=593)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 304_310_272


class TestWindows:
    def test_the_rules(self):
        assert starts(301, "thirds", 0) == [0, 101, 201]
        assert starts(301, "even", 0) == [0, 150, 300]
        assert starts(300, "random", 0) == [44, 147, 264]

    def test_the_random_draw_is_that_of_the_global_generator(self):
        state = np.random.RandomState(7)
        expected = [state.choice(third) for third in np.array_split(range(500), 3)]
        assert starts(500, "random", 7) == expected

    def test_a_third_without_a_start_has_the_first(self):
        assert starts(2, "thirds", 0) == [0, 1, 0]
        assert starts(2, "random", 3) == [0, 1, 0]
        assert starts(2, "even", 0) == [0, 0, 1]


def test_a_short_clip_is_repeated_along_time(folder: Path):
    mel = LanguageBindEncoder(folder).frontend(noise(9600))
    assert mel.shape == (3, 112, 1036)
    np.testing.assert_array_equal(mel[0], mel[2])
    for turn in range(1, 17):
        np.testing.assert_array_equal(mel[0, :, :58], mel[0, :, 58 * turn : 58 * (turn + 1)])
    np.testing.assert_array_equal(mel[0, :, : 1036 - 17 * 58], mel[0, :, 17 * 58 :])


def test_less_than_a_frame_is_padded(folder: Path):
    mel = LanguageBindEncoder(folder).frontend(noise(1))
    np.testing.assert_array_equal(mel, np.broadcast_to(mel[:, :, :1], mel.shape))


def test_a_clip_of_one_window_is_heard_whole(folder: Path):
    samples = 400 + 1035 * 160
    encoder = LanguageBindEncoder(folder)
    clip = noise(samples + 159)
    exact, longer = (encoder.frontend(clip), encoder.frontend(noise(samples + 160)))
    np.testing.assert_array_equal(exact[0], exact[1])
    assert not np.array_equal(longer[0], longer[1])
    signal = torch.from_numpy(clip.samples[0])
    mel = layout.FilterBank(16000, 112, "hanning")(signal - signal.mean()).numpy().T
    np.testing.assert_allclose(exact[1], (mel - MEAN) / (2 * STD), atol=1e-4)


@pytest.mark.parametrize("rule", ["thirds", "even", "random"])
def test_a_long_clip_has_three_windows(folder: Path, rule: str):
    encoder = LanguageBindEncoder(folder, windows=rule, seed=5)
    clip = noise(213920)
    found = encoder.frontend(clip)
    signal = torch.from_numpy(clip.samples[0])
    mel = layout.FilterBank(16000, 112, "hanning")(signal - signal.mean()).numpy().T
    for window, start in zip(found, starts(mel.shape[1] - 1035, rule, 5), strict=True):
        expected = (mel[:, start : start + 1036] - MEAN) / (2 * STD)
        np.testing.assert_allclose(window, expected, atol=1e-4)


def test_the_random_draw_does_not_depend_on_other_clips(folder: Path):
    encoder = LanguageBindEncoder(folder, windows="random", seed=1)
    clips = [noise(200000, seed=1), noise(250000, seed=2)]
    together = encoder.encode(clips)
    np.testing.assert_allclose(encoder.encode(clips[::-1])[::-1], together, atol=1e-5)
    other = LanguageBindEncoder(folder, windows="random", seed=2)
    assert np.abs(other.encode(clips) - together).max() > 1e-3


def test_the_first_channel_is_heard(folder: Path):
    encoder = LanguageBindEncoder(folder)
    left, right = noise(20000, seed=1), noise(20000, seed=2)
    both = Waveform(np.concatenate([left.samples, right.samples]), 16000)
    np.testing.assert_array_equal(encoder.frontend(both), encoder.frontend(left))


def test_the_representations(folder: Path):
    clips = [noise(16000), noise(30000, seed=1)]
    projected, normalised, trunk = (
        LanguageBindEncoder(folder, representation=name)
        for name in ("projected", "normalised", "trunk")
    )
    plain = projected.encode(clips)
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    assert not np.allclose(lengths, 1.0)
    np.testing.assert_allclose(normalised.encode(clips), plain / lengths, atol=1e-6)
    assert (normalised.card.dim, trunk.card.dim) == (12, 32)
    matrix = languagebind_tensors()["visual_projection.weight"]
    np.testing.assert_allclose(trunk.encode(clips) @ matrix.T, plain, atol=1e-5)


def test_half_precision_is_close(folder: Path):
    clips = [noise(16000), noise(50000)]
    whole = LanguageBindEncoder(folder).encode(clips)
    half = LanguageBindEncoder(folder, dtype="bfloat16").encode(clips)
    assert half.dtype == np.float32
    assert 0 < np.abs(whole - half).max() < 0.2


def test_many_clips_share_passes(folder: Path):
    encoder = LanguageBindEncoder(folder)
    clips = [noise(4000 + 500 * n, seed=n) for n in range(9)]
    alone = np.concatenate([encoder.encode([clip]) for clip in clips])
    np.testing.assert_allclose(encoder.encode(clips), alone, atol=1e-6)


def test_every_layout_gives_the_same_encoder(folder: Path, tmp_path: Path):
    tensors = languagebind_tensors()
    layouts = [folder, folder / "pytorch_model.bin", write(tmp_path / "safe", tensors)]
    cards = [load_encoder("languagebind", checkpoint=path).card for path in layouts]
    assert len({card.fingerprint for card in cards}) == 1


@pytest.mark.parametrize(
    "change", [{"audio_sample_rate": 0}, {"audio_std": 0}, {"num_mel_bins": 3}]
)
def test_a_configuration_without_sense_is_refused(tmp_path: Path, change: dict[str, float]):
    with pytest.raises(CheckpointError, match=r"must give a rate of 1000 to 192000 Hz, a positive"):
        LanguageBindEncoder(write(tmp_path, languagebind_tensors(), **change))


def test_a_network_without_end_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="missing"):
        LanguageBindEncoder(write(tmp_path, languagebind_tensors(), num_hidden_layers=10**9))


class TestLora:
    def lora(self, seed: int = 0, rank: int = 8) -> Tensors:
        return with_lora(languagebind_tensors(seed), rank, seed)

    def merged(self, tensors: Tensors, scale: float) -> Tensors:
        """Return the same network with whole weights, in the layout of the full fine-tune."""
        whole = {}
        for name, value in tensors.items():
            if ".lora_" in name:
                continue
            prefix = name.removesuffix(".weight")
            if f"{prefix}.lora_A.default.weight" in tensors:
                a, b = (tensors[f"{prefix}.lora_{part}.default.weight"] for part in ("A", "B"))
                value = (value.astype(np.float64) + scale * b.astype(np.float64) @ a).astype("f4")
            whole[name.replace(".base_model.model", "")] = value
        return whole

    @pytest.mark.parametrize(("rank", "alpha"), [(8, 16), (4, 16), (2, 3)])
    def test_the_weights_are_merged(self, tmp_path: Path, rank: int, alpha: float):
        tensors = self.lora(rank=rank)
        narrow = LanguageBindEncoder(write(tmp_path / "lora", tensors, lora_alpha=alpha))
        whole = LanguageBindEncoder(write(tmp_path / "ft", self.merged(tensors, alpha / rank)))
        clips = [noise(16000), noise(30000)]
        np.testing.assert_allclose(narrow.encode(clips), whole.encode(clips), atol=1e-6)
        bare = LanguageBindEncoder(write(tmp_path / "bare", self.merged(tensors, 0.0)))
        assert np.abs(narrow.encode(clips) - bare.encode(clips)).max() > 0.01
        assert narrow.card.facts["lora"] == f"merged, alpha {alpha}"

    def test_alpha_is_16_where_the_configuration_is_silent(self, tmp_path: Path):
        write(tmp_path, self.lora())
        config = json.loads((tmp_path / "config.json").read_text())
        del config["vision_config"]["lora_alpha"]
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert LanguageBindEncoder(tmp_path).card.facts["lora"] == "merged, alpha 16"

    def test_it_must_be_there_where_it_is_announced(self, tmp_path: Path):
        write(tmp_path / "none", languagebind_tensors(), lora_r=8)
        with pytest.raises(CheckpointError, match=r"16 missing \(.*lora_A\.weight"):
            LanguageBindEncoder(tmp_path / "none")
        some = {name: value for name, value in self.lora().items() if "k_proj.lora" not in name}
        write(tmp_path / "some", some)
        with pytest.raises(CheckpointError, match=r"4 missing \(.*k_proj\.lora_A\.weight"):
            LanguageBindEncoder(tmp_path / "some")

    def test_both_namings_are_one_encoder(self, tmp_path: Path):
        tensors = self.lora()
        newer = {
            name.replace("_proj.weight", "_proj.base_layer.weight")
            .replace("_proj.bias", "_proj.base_layer.bias")
            .replace(".default", ""): value
            for name, value in tensors.items()
        }
        paths = [
            save_torch(tmp_path / f"{number}" / "pytorch_model.bin", each)
            for number, each in enumerate((tensors, newer))
        ]
        for path in paths:
            (path.parent / "config.json").write_text(json.dumps(LANGUAGEBIND_CONFIG))
        first, second = (LanguageBindEncoder(path).card for path in paths)
        assert first.fingerprint == second.fingerprint
        again = LanguageBindEncoder(paths[1]).card  # from what was kept
        assert again == second

    @pytest.mark.parametrize(
        ("end", "message"),
        [
            (
                "1.self_attn.v_proj.lora_B.default.weight",
                r"1 missing \(\S+v_proj\.lora_B\.weight\)",
            ),
            (
                "1.self_attn.v_proj.lora_A.default.weight",
                r"1 missing \(\S+v_proj\.lora_A\.weight\)",
            ),
            ("0.self_attn.out_proj.weight", r"1 missing \(\S+layers\.0\.self_attn\.out_proj\.wei"),
        ],
    )
    def test_an_incomplete_one_is_refused(self, tmp_path: Path, end: str, message: str):
        tensors = {name: value for name, value in self.lora().items() if not name.endswith(end)}
        with pytest.raises(CheckpointError, match=message):
            LanguageBindEncoder(write(tmp_path, tensors))

    def test_ranks_must_agree(self, tmp_path: Path):
        tensors = self.lora()
        name = next(name for name in tensors if "1.self_attn.v_proj.lora_B" in name)
        tensors[name] = np.ascontiguousarray(tensors[name][:, :3])
        with pytest.raises(
            CheckpointError, match=r"1 misshaped \(\S+ \[32, 3\] instead of \[32, 8"
        ):
            LanguageBindEncoder(write(tmp_path, tensors))


def test_the_activation_is_the_configurations(folder: Path, tmp_path: Path):
    quick = LanguageBindEncoder(write(tmp_path, languagebind_tensors(), hidden_act="quick_gelu"))
    exact = LanguageBindEncoder(folder)
    assert 1e-5 < np.abs(quick.encode([noise(9000)]) - exact.encode([noise(9000)])).max() < 0.5
    x = torch.linspace(-4, 4, 9)
    expected = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    torch.testing.assert_close(ACTIVATIONS["gelu"](x), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"hidden_act": "relu"}, r"must be one of gelu, quick_gelu, config\.json says 'relu'"),
        ({"num_attention_heads": 5}, r"heads of .* must divide its width 32, it is 5: config"),
        ({"num_attention_heads": None}, r"heads of .* must divide its width 32, it is unknown"),
        ({"num_attention_heads": "4"}, r"must give a number for vision_config\.num_attention_h"),
        ({"num_hidden_layers": 3}, r"of 56 tensors, 16 missing \(vision_model\.encoder\.layers\.2"),
        ({"num_hidden_layers": 1}, r"of 24 tensors, 16 unexpected \(vision_model\.encoder\.layer"),
        ({"target_length": 1008}, r"1 misshaped \(\S+ \[593, 32\] instead of \[577, 32\]\)"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path, vision, message: str):
    with pytest.raises(CheckpointError, match=message) as caught:
        LanguageBindEncoder(write(tmp_path, languagebind_tensors(), **vision))
    assert "\n" not in str(caught.value)


def test_other_tensors_are_refused(tmp_path: Path):
    tensors = languagebind_tensors()
    tensors["vision_model.embeddings.position_embedding.weight"] = np.zeros((257, 32), np.float32)
    tensors[f"{QUERY}.extra"] = tensors.pop(f"{QUERY}.bias")
    with pytest.raises(
        CheckpointError,
        match=r"of 40 tensors, 1 missing \(\S+q_proj\.bias\), 1 unexpected \(\S+q_proj\.extra\), "
        r"1 misshaped \(\S+position_embedding\.weight \[257, 32\] instead of \[593, 32\]\)\.$",
    ):
        LanguageBindEncoder(write(tmp_path, tensors))


def test_unknown_options_are_refused(folder: Path):
    with pytest.raises(UnknownNameError, match=r"Unknown windows of 'languagebind' 'third'\. Did"):
        LanguageBindEncoder(folder, windows="third")
    with pytest.raises(UnknownNameError, match=r"Known: normalised, projected, trunk"):
        LanguageBindEncoder(folder, representation="pooled")


def test_the_fingerprint_follows_what_changes_the_numbers(folder: Path, tmp_path: Path):
    tensors = languagebind_tensors()
    encoders = [
        LanguageBindEncoder(folder),
        LanguageBindEncoder(folder, representation="normalised"),
        LanguageBindEncoder(folder, windows="even"),
        LanguageBindEncoder(folder, windows="random"),
        LanguageBindEncoder(folder, windows="random", seed=1),
        LanguageBindEncoder(write(tmp_path / "eps", tensors, layer_norm_eps=1e-6)),
        LanguageBindEncoder(write(tmp_path / "std", tensors, audio_std=4.0)),
        LanguageBindEncoder(write_languagebind(tmp_path / "seed", seed=1)),
        LanguageBindEncoder(write_languagebind(tmp_path / "lora", lora=8)),
    ]
    assert len({encoder.card.fingerprint for encoder in encoders}) == len(encoders)
    assert LanguageBindEncoder(folder, seed=9).card.fingerprint == encoders[0].card.fingerprint
