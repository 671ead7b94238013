"""What is published: the checkpoints of every encoder, and what is known of them unseen.

A name alone means the first checkpoint of its entry; ``NAME=SHORT`` another one. Sizes and licences
are said before anything is downloaded. They are those of the checkpoints' pages and papers, as far
as known; "see its page" where they are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nver.home import weights_folders

SPEECH = "the extra 'speech'"
PAGE = "see the checkpoint's page"


@dataclass(frozen=True)
class Entry:
    """What is known of an encoder without building it.

    Parameters
    ----------
    summary : str
        What it hears.
    dim : str
        Width of an embedding of the first checkpoint.
    rate : int
        Sampling rate in Hz.
    modality : {"weight-free", "audio-only", "multimodal"}
        What it was trained on.
    licence : str
        Of the weights.
    checkpoints : mapping of str to str
        Short name to hub id or address; the first is the default. Empty where weights must be
        brought.
    megabytes : int or None
        Download of the first checkpoint, about.
    needs : str
        What must be installed or brought.
    folders : tuple of str
        Other names of a folder with its checkpoint.
    finds_itself : bool
        Whether the encoder looks for its checkpoint, here and among what is published.
    """

    summary: str
    dim: str
    rate: int
    modality: str
    licence: str
    checkpoints: Mapping[str, str] = field(default_factory=dict)
    megabytes: int | None = None
    needs: str = ""
    folders: tuple[str, ...] = ()
    finds_itself: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the entry as plain JSON values."""
        return asdict(self) | {"checkpoints": dict(self.checkpoints)}


def speech(
    summary: str,
    dim: int,
    licence: str,
    megabytes: int,
    checkpoints: Mapping[str, str],
    needs: str = SPEECH,
) -> Entry:
    """Return an entry of a network of the hub that was trained on sound alone, at 16 kHz."""
    return Entry(summary, str(dim), 16_000, "audio-only", licence, checkpoints, megabytes, needs)


CATALOGUE: dict[str, Entry] = {
    "spectral": Entry("log-mel and MFCC functionals", "309", 16_000, "weight-free", "Apache-2.0"),
    "prosodic": Entry(
        "pitch, voicing, energy, rhythm and voice-quality functionals",
        "354",
        16_000,
        "weight-free",
        "Apache-2.0",
    ),
    "imagebind": Entry(
        "trained to agree with images: the joint space, or the trunk (768)",
        "1024",
        16_000,
        "multimodal",
        "CC BY-NC-SA 4.0 (non-commercial)",
        {"huge": "nielsr/imagebind-huge"},
        345,
        folders=("imagebind_huge",),
        finds_itself=True,
    ),
    "languagebind": Entry(
        "trained to agree with text: the joint space, or the trunk (1024)",
        "768",
        16_000,
        "multimodal",
        "code MIT, data CC BY-NC 4.0 (non-commercial)",
        {"ft": "LanguageBind/LanguageBind_Audio_FT", "lora": "LanguageBind/LanguageBind_Audio"},
        1217,
        finds_itself=True,
    ),
    "wavlm": speech(
        "WavLM: speech, denoised and overlapping",
        768,
        "CC BY-SA 3.0 (see its page)",
        378,
        {
            "base": "microsoft/wavlm-base",
            "base-plus": "microsoft/wavlm-base-plus",
            "large": "microsoft/wavlm-large",
        },
    ),
    "unispeech-sat": speech(
        "UniSpeech-SAT: speech, aware of the speaker",
        768,
        PAGE,
        378,
        {
            "base": "microsoft/unispeech-sat-base",
            "base-plus": "microsoft/unispeech-sat-base-plus",
            "large": "microsoft/unispeech-sat-large",
        },
    ),
    "wav2vec2": speech(
        "wav2vec 2.0: English speech",
        768,
        "Apache-2.0",
        378,
        {"base": "facebook/wav2vec2-base", "large": "facebook/wav2vec2-large"},
    ),
    "xls-r": speech(
        "XLS-R: speech of 128 languages",
        1024,
        "Apache-2.0",
        1262,
        {
            "300m": "facebook/wav2vec2-xls-r-300m",
            "1b": "facebook/wav2vec2-xls-r-1b",
            "2b": "facebook/wav2vec2-xls-r-2b",
        },
    ),
    "mms": speech(
        "MMS: speech of 1,400 languages",
        1024,
        "CC BY-NC 4.0 (non-commercial)",
        1262,
        {"300m": "facebook/mms-300m", "1b": "facebook/mms-1b"},
    ),
    "hubert": speech(
        "HuBERT: English speech, by hidden units",
        768,
        "Apache-2.0",
        378,
        {"base": "facebook/hubert-base-ls960", "large": "facebook/hubert-large-ll60k"},
    ),
    "data2vec-audio": speech(
        "data2vec: English speech, by its own contextual states",
        768,
        PAGE,
        373,
        {"base": "facebook/data2vec-audio-base", "large": "facebook/data2vec-audio-large"},
    ),
    "voc2vec": speech(
        "voc2vec: vocalisations without words",
        768,
        "Apache-2.0",
        378,
        {
            "voc2vec": "alkiskoudounas/voc2vec",
            "as-pt": "alkiskoudounas/voc2vec-as-pt",
            "ls-pt": "alkiskoudounas/voc2vec-ls-pt",
            "hubert-ls-pt": "alkiskoudounas/voc2vec-hubert-ls-pt",
        },
    ),
    "w2v-bert": speech(
        "w2v-BERT 2.0: speech of 143 languages",
        1024,
        "MIT",
        2322,
        {"2.0": "facebook/w2v-bert-2.0"},
    ),
    "whisper": speech(
        "Whisper's encoder: speech to be written down",
        512,
        "MIT",
        290,
        {
            "base": "openai/whisper-base",
            "tiny": "openai/whisper-tiny",
            "small": "openai/whisper-small",
            "medium": "openai/whisper-medium",
            "large-v3": "openai/whisper-large-v3",
        },
    ),
    "ast": speech(
        "AST: sounds, trained to tag AudioSet",
        768,
        "BSD-3-Clause (the authors' code)",
        345,
        {"10-10": "MIT/ast-finetuned-audioset-10-10-0.4593"},
    ),
    "clap": Entry(
        "LAION CLAP: sounds and their captions: the joint space, or the trunk (768)",
        "512",
        48_000,
        "multimodal",
        "Apache-2.0",
        {
            "unfused": "laion/clap-htsat-unfused",
            "fused": "laion/clap-htsat-fused",
            "general": "laion/larger_clap_general",
            "music-speech": "laion/larger_clap_music_and_speech",
        },
        614,
        SPEECH,
    ),
    "pe-audio": Entry(
        "PE-Audio: sounds, captions and videos",
        "1024",
        48_000,
        "multimodal",
        "Apache-2.0",
        {
            "small": "facebook/pe-av-small",
            "base": "facebook/pe-av-base",
            "large": "facebook/pe-av-large",
        },
        3400,
        SPEECH,
    ),
    "dasheng": speech(
        "Dasheng: sounds, masked",
        768,
        "Apache-2.0",
        342,
        {
            "base": "mispeech/dasheng-base",
            "0.6b": "mispeech/dasheng-0.6B",
            "1.2b": "mispeech/dasheng-1.2B",
        },
        needs="the extra 'speech' for hub ids",
    ),
    "eat": speech(
        "EAT: sounds, masked",
        768,
        "MIT",
        352,
        {
            "base": "worstchan/EAT-base_epoch30_pretrain",
            "base-finetuned": "worstchan/EAT-base_epoch30_finetune_AS2M",
        },
        needs="the extra 'speech' for hub ids",
    ),
    "beats": Entry(
        "BEATs: sounds, by acoustic tokens",
        "768",
        16_000,
        "audio-only",
        "MIT",
        needs="a checkpoint (BEATs_iter3_plus_AS2M.pt)",
        folders=("BEATs_iter3_plus_AS2M",),
    ),
    "xvector": Entry(
        "x-vector: trained to tell speakers apart",
        "512",
        16_000,
        "audio-only",
        PAGE,
        {"voxceleb": "speechbrain/spkrec-xvect-voxceleb"},
        17,
        finds_itself=True,
    ),
    "light-asd": Entry(
        "a small network trained on films to hear who is speaking",
        "128",
        16_000,
        "multimodal",
        "MIT",
        needs="a checkpoint folder",
        folders=("light_asd",),
    ),
    "byol-s": Entry(
        "a small network, self-supervised on speech",
        "512",
        16_000,
        "audio-only",
        "MIT",
        needs="a checkpoint folder",
        folders=("byols_512",),
    ),
    "efficientat-mn04": Entry(
        "a small network trained to tag AudioSet",
        "384",
        32_000,
        "audio-only",
        "MIT",
        needs="a checkpoint folder",
        folders=("efficientat_mn04",),
    ),
    "speech": Entry(
        "any checkpoint of the wav2vec 2.0 family",
        "the model's",
        16_000,
        "audio-only",
        "the checkpoint's",
        needs=f"{SPEECH}, a folder or a hub id",
    ),
}
"""Name of an encoder to what is published."""


KINDS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
"""How the names of files with weights end."""


def folders_of(name: str) -> tuple[str, ...]:
    """Return the names of folders that may hold an encoder's checkpoint, the likeliest first."""
    entry = CATALOGUE[name]
    published = [source.rpartition("/")[2] for source in entry.checkpoints.values()]
    return (name, *entry.folders, *published)


def folder_here(name: str, places: Sequence[Path] | None = None) -> Path | None:
    """Return the folder with an encoder's checkpoint in some places, or None.

    The places are by default those of `nver.home.weights_folders`.
    """
    for place in weights_folders() if places is None else places:
        for folder in folders_of(name):
            if any(path.suffix in KINDS for path in (place / folder).glob("[!.]*")):
                return place / folder
    return None


def checkpoint_of(name: str, given: str | Path | None) -> str | Path | None:
    """Return the checkpoint that an encoder is to read.

    Parameters
    ----------
    name : str
        The encoder's name.
    given : path or str or None
        What the user named; a short name of the entry becomes its hub id unless there is a file or
        folder of that name. None becomes the folder that is here, else the first checkpoint's id;
        it stays None where the encoder looks for its checkpoint itself.
    """
    entry = CATALOGUE.get(name)
    if entry is None or not entry.checkpoints:
        return given
    if given is not None:
        return given if Path(given).exists() else entry.checkpoints.get(str(given), given)
    if entry.finds_itself:
        return None
    return folder_here(name) or next(iter(entry.checkpoints.values()))


def licence_of(name: str, checkpoint: str) -> str:
    """Return the licence of a checkpoint, as far as its name tells.

    That of the published checkpoint of the same id, or of the same last part where it is a folder;
    that of the encoder's entry where it is non-commercial, since what is made from such a network
    is so too; else `PAGE`.

    Parameters
    ----------
    name : str
        The encoder's name.
    checkpoint : str
        A folder or a hub id, perhaps with a revision.

    Examples
    --------
    >>> licence_of("speech", "facebook/mms-1b"), licence_of("whisper", "models/whisper-tiny")
    ('CC BY-NC 4.0 (non-commercial)', 'MIT')
    """
    identity = checkpoint.partition("@")[0].rstrip("/")
    last = identity.rpartition("/")[2]
    own = CATALOGUE.get(name)
    for entry in CATALOGUE.values():
        ids = entry.checkpoints.values()
        if identity in ids or (entry is own and last in (id_.rpartition("/")[2] for id_ in ids)):
            return entry.licence
    return own.licence if own is not None and "non-commercial" in own.licence else PAGE
