"""Whatever a file is called, a reader says what it is: a clip of a known label, or why not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nver.corpora import Clip, Refusal, asvp_esd, crema_d, deeply_nvd, emogator, jnv, vivae
from nver.corpora.tree import Parsed

ROOT = Path("/corpus")
PARSERS: dict[str, tuple[Callable[..., Parsed], tuple[str, ...]]] = {
    "asvp-esd": (asvp_esd.parse, tuple(asvp_esd.EMOTIONS.values())),
    "jnv": (jnv.parse, jnv.EMOTIONS),
    "vivae": (vivae.parse, vivae.EMOTIONS),
    "crema-d": (crema_d.parse, tuple(crema_d.EMOTIONS.values())),
    "emogator": (emogator.parse, emogator.CATEGORIES),
    "deeply-nvd": (deeply_nvd.parse, deeply_nvd.CLASSES),
}

anything = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=()), min_size=1, max_size=40
)
codes = st.one_of(
    st.integers(0, 400).map(str),
    st.integers(0, 99).map("{:02d}".format),
    st.sampled_from(["F1", "S01", "angry", "anger", "low", "R", "ANG", "XX", "²", "٣", "", " 1"]),
)
coded = st.tuples(st.sampled_from("-_"), st.lists(codes, min_size=1, max_size=13)).map(
    lambda parts: parts[0].join(parts[1])
)
suffixes = st.sampled_from([".wav", ".mp3", ".WAV", "", ".wav.wav"])
names = st.tuples(st.one_of(anything, coded), suffixes).map("".join)
folders = st.sampled_from(["", "Audio/actor_1", "Bonus/actor_", "core_set", "crying", "AudioMP3"])


@pytest.mark.parametrize("corpus", sorted(PARSERS))
@given(folder=folders, name=names)
def test_any_name_is_a_clip_or_is_refused(corpus: str, folder: str, name: str) -> None:
    parse, labels = PARSERS[corpus]
    file = PurePosixPath(folder) / name
    parsed = parse(ROOT, file)
    if isinstance(parsed, Clip):
        assert parsed.emotion in labels
        assert parsed.speaker
        assert parsed.file == str(file)
    elif isinstance(parsed, Refusal):
        assert parsed.reason
    else:
        assert folder in {"core_set", "AudioMP3"}


@given(
    channel=st.sampled_from(["01", "02"]),
    emotion=st.integers(1, 13),
    actor=st.integers(0, 9999),
    rest=st.lists(codes, min_size=2, max_size=6),
)
def test_asvp_esd_reads_label_and_actor_by_position(
    channel: str, emotion: int, actor: int, rest: list[str]
) -> None:
    name = "-".join(["03", channel, f"{emotion:02d}", "01", "01", f"{actor:02d}", *rest])
    parsed = asvp_esd.parse(ROOT, PurePosixPath(f"Audio/actor_/{name}.wav"))
    assert isinstance(parsed, Clip)
    assert parsed.emotion == list(asvp_esd.EMOTIONS.values())[emotion - 1]
    assert parsed.speaker == str(actor)
