"""The page's section on encoders: `bench.encoders` with random weights, on made-up clips."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import soundfile
from bench import encoders
from bench.page import Options
from bench.training_page import printed

ABOUT = """A network of wav2vec 2.0's base size with random weights, {clips} clips of 1 to 4 s
of noise, beside the loop that researchers write (transformers' feature extractor and model, one
file at a time, mean over frames). Both decode, resample and encode the same files in every
round."""


def manifest(folder: Path, clips: int) -> Path:
    """Write clips and their manifest."""
    rng = np.random.default_rng(0)
    lines = ["file,label"]
    for i in range(clips):
        noise = 0.1 * rng.standard_normal(round(rng.uniform(1, 4) * 44_100))
        soundfile.write(folder / f"{i}.wav", noise, 44_100, subtype="PCM_16")
        lines.append(f"{i}.wav,{i % 2}")
    path = folder / "metadata.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def section(options: Options) -> str:
    """Return the page's section."""
    gpu = options.device != "cpu"
    clips = 8 if options.quick else 128 if gpu else 24
    with tempfile.TemporaryDirectory() as folder:
        chosen = Namespace(
            manifest=manifest(Path(folder), clips),
            kind="wav2vec2",
            clips=clips,
            rounds=1 if options.quick else 3,
            device=options.device,
            dtype="float32",
        )
        text = printed(encoders.compare, chosen)
    return f"{ABOUT.format(clips=clips)}\n\n{text}"
