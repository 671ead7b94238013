"""How far apart the thumbprints of copies and of different clips lie, for `NEAR_IDENTICAL`.

    python bench/thumbprint.py FOLDER

FOLDER holds ``metadata.csv`` (file, label, speaker). Every 12th clip is copied in several ways.
Prints two markdown tables.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from nver.audio import NEAR_IDENTICAL, Waveform, decode, load, thumbprint

THRESHOLDS = (0.90, 0.95, 0.96, 0.97, 0.98, 0.99)


def recoded(clip: Waveform, kind: str, subtype: str | None = None, **options: float) -> Waveform:
    buffer = io.BytesIO()
    level = clip.samples.T / max(1.0, float(np.abs(clip.samples).max()))
    soundfile.write(buffer, level, clip.rate, format=kind, subtype=subtype, **options)
    return decode(buffer.getvalue(), kind)


def copies(clip: Waveform) -> Iterator[tuple[str, Waveform]]:
    yield "MP3, default quality", recoded(clip, "MP3")
    yield "MP3, lowest quality", recoded(clip, "MP3", compression_level=0.99)
    yield "Vorbis", recoded(clip, "OGG")
    yield "Opus", recoded(clip.resample(48000), "OGG", "OPUS")
    yield "mu-law at 8 kHz", recoded(clip.resample(8000), "WAV", "ULAW")
    yield "16 kHz", clip.resample(16000)
    yield "-20 dB", Waveform(clip.samples * 0.1, clip.rate)
    silence = ((0, 0), (clip.rate // 3, clip.rate // 7))
    yield "silence added on both sides", Waveform(np.pad(clip.samples, silence), clip.rate)
    yield "first 2 % cut", clip.slice(0.02 * clip.seconds, clip.seconds)
    yield "clipped by 6 dB", Waveform(np.clip(clip.samples * 2, -1, 1), clip.rate)


def main(folder: Path) -> None:
    table = pd.read_csv(folder / "metadata.csv", dtype=str)
    prints = np.empty((len(table), 256), dtype=np.float32)
    similar: dict[str, list[float]] = {}
    for row, file in enumerate(table["file"]):
        clip = load(folder / file)
        prints[row] = thumbprint(clip)
        for name, copy in copies(clip) if row % 12 == 0 else ():
            similar.setdefault(name, []).append(float(thumbprint(copy) @ prints[row]))

    first, second = np.triu_indices(len(table), 1)
    cosine = (prints @ prints.T)[first, second]
    takes = np.ones(len(cosine), dtype=bool)
    for column in ("speaker", "label"):
        values = table[column].to_numpy()
        takes &= values[first] == values[second]
    heads = " | ".join(f">= {threshold}" for threshold in THRESHOLDS)
    print(f"| different clips | pairs | median | highest | {heads} |\n|{'---|' * 10}")
    for name, chosen in (("all", cosine), ("same speaker and label", cosine[takes])):
        counts = " | ".join(str(np.count_nonzero(chosen >= limit)) for limit in THRESHOLDS)
        spread = f"{np.median(chosen):.3f} | {chosen.max():.4f}"
        print(f"| {name} | {len(chosen)} | {spread} | {counts} |")
    print(f"\n| copies | clips | lowest | median | >= {NEAR_IDENTICAL} |\n|---|---|---|---|---|")
    for name, values in similar.items():
        found = np.mean(np.array(values) >= NEAR_IDENTICAL)
        spread = f"{min(values):.4f} | {np.median(values):.4f}"
        print(f"| {name} | {len(values)} | {spread} | {found:.1%} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
