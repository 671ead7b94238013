"""Writes the synthetic corpus: voices drawn from a seed, their takes, WAV files and a manifest.

The same seed gives the same samples, up to the rounding of the installed numpy and scipy. Every
clip has a generator of its own, so that more speakers or more takes change none of the others.
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
import wave
from pathlib import Path

import numpy as np

from nver.corpora.bursts import BURSTS, Burst, perform
from nver.corpora.vocal_tract import RATE, Sound, Voice, render
from nver.errors import CorpusError

VERSION = "synthetic-v2"
SEED = 2409
MARK = "synthesis.json"

_COLUMNS = ("file", "label", "speaker", "sex", "vocalisation", "take", "strength", "seconds")
_README = (
    "Made by nver's synthesiser: no person was recorded.\n"
    "Scores on these sounds say nothing about people.\n"
    f"{MARK} says how to make them again.\n"
)


def synthesise(folder: Path, speakers: int = 12, takes: int = 4, seed: int = SEED) -> Path:
    """Write a synthetic corpus into `folder`, unless it holds one, and return it.

    The folder appears whole or not at all: it is made beside itself and renamed. Several processes
    may start at once; the first to finish wins, and the others find the same files there.

    Parameters
    ----------
    folder : Path
        Missing, empty, or already a synthetic corpus.
    speakers, takes : int
        How many voices, and takes of each vocalisation by each; at least 1.
    seed : int
        Fixes everything.

    Raises
    ------
    CorpusError
        If a number is below 1, or `folder` holds something else.
    """
    if speakers < 1 or takes < 1:
        raise CorpusError(f"Expected at least 1 speaker and 1 take, got {speakers} and {takes}.")
    if (folder / MARK).is_file():
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CorpusError(
            f"{folder} holds something that is no synthetic corpus. Expected a missing or empty "
            "folder: pass another one."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write(made, speakers, takes, seed)
        _publish(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def make_voice(number: int, seed: int = SEED) -> Voice:
    """Return synthetic speaker `number` (from 0): women and men in turn, each drawn anew."""
    rng = np.random.default_rng([seed, number])
    female = number % 2 == 0
    low, high = (170.0, 245.0) if female else (90.0, 150.0)
    return Voice(
        name=f"s{number + 1:02d}",
        sex="female" if female else "male",
        pitch=float(np.exp(rng.uniform(np.log(low), np.log(high)))),
        formant_scale=float(rng.uniform(1.06, 1.24) if female else rng.uniform(0.92, 1.08)),
        breath=float(rng.uniform(0.01, 0.15)),
        jitter=float(rng.uniform(0.002, 0.02)),
        shimmer=float(rng.uniform(0.02, 0.12)),
        tension=float(rng.uniform(0.2, 0.6)),
        expression=float(rng.uniform(0.6, 1.0)),
        tempo=float(rng.uniform(0.85, 1.2)),
        brightness=float(rng.uniform(-10, 6)),
        hiss=float(rng.uniform(-62, -38)),
    )


def record(burst: Burst, voice: Voice, strength: float, rng: np.random.Generator) -> Sound:
    """Return one take as the voice's microphone hears it: float64 [samples] at RATE, below 1.

    A level between -20 and -2 dBFS that says nothing about the burst, hiss, and up to 0.15 s of
    background on both sides.
    """
    sound = render(voice, perform(burst, voice, strength, rng), rng)
    level = 10 ** (rng.uniform(-20, -2) / 20)
    sound = sound * (level / np.abs(sound).max())
    before, after = rng.uniform(0.02, 0.15, 2)
    sound = np.pad(sound, (int(before * RATE), int(after * RATE)))
    hiss = 10 ** ((voice.hiss + rng.uniform(-4, 4)) / 20) * level
    return np.clip(sound + hiss * rng.standard_normal(sound.size), -0.999, 0.999)


def _write(folder: Path, speakers: int, takes: int, seed: int) -> None:
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for number in range(speakers):
        voice = make_voice(number, seed)
        (folder / voice.name).mkdir()
        for kind, burst in enumerate(BURSTS, start=1):
            for take in range(1, takes + 1):
                # no index is 0: numpy pads seeds with zeros, [seed, n] is [seed, n, 0, 0]
                rng = np.random.default_rng([seed, number, kind, take])
                strength = float(rng.uniform(0.2, 1.0))
                sound = record(burst, voice, strength, rng)
                file = f"{voice.name}/{voice.name}_{burst.vocalisation}_{take}.wav"
                _write_wav(folder / file, sound)
                facts = (voice.sex, burst.vocalisation, str(take))
                numbers = (f"{strength:.3f}", f"{sound.size / RATE:.3f}")
                rows.append((file, burst.emotion, voice.name, *facts, *numbers))
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
    (folder / "README.txt").write_text(_README, encoding="utf-8")
    recipe = {"version": VERSION, "speakers": speakers, "takes": takes, "seed": seed}
    recipe |= {"clips": len(rows) - 1}
    (folder / MARK).write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")


def _write_wav(path: Path, sound: Sound) -> None:
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(RATE)
        stream.writeframes(np.round(sound * 32767).astype("<i2").tobytes())


def _publish(made: Path, folder: Path) -> None:
    made.chmod(0o755)  # mkdtemp lets nobody else read
    try:
        made.replace(folder)
    except OSError:
        # another process was first, and what it published is the same
        if not (folder / MARK).is_file():
            raise
