"""Clips a second of the speech encoders, beside the loop that researchers write.

    python bench/encoders.py MANIFEST [--kind wav2vec2|hubert|wavlm|unispeech-sat|data2vec-audio]
                             [--clips 48] [--rounds 5] [--device cpu] [--dtype float32]

Base-size networks with random weights, on the first clips of a shuffled manifest of real ones. Both
sides decode, resample and encode the same files in every round, one side after the other, and the
medians count:

- naive: transformers' feature extractor and model, one file at a time, mean over frames;
- nver: `nver.encoding.embed` into an empty store.

The share is that of the best rate at which torch multiplies two 2048 x 2048 matrices on this
machine, measured before and after. Operations are counted as the plain network needs them.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

import nver
from nver.config import EncoderChoice

KINDS = {
    "wav2vec2": "Wav2Vec2",
    "hubert": "Hubert",
    "wavlm": "WavLM",
    "unispeech-sat": "UniSpeechSat",
    "data2vec-audio": "Data2VecAudio",
}


def matrix_rate(device: str, size: int = 2048, times: int = 7) -> float:
    """Return the best rate of a product of matrices, in operations a second."""
    a, b = (torch.randn(size, size, device=device) for _ in range(2))
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        (a @ b).sum().item()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def loaded(path: Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate, 16_000)


def naive(network, extractor, paths: list[Path], device: str) -> np.ndarray:
    rows = []
    with torch.no_grad():
        for path in paths:
            inputs = extractor(loaded(path), sampling_rate=16_000, return_tensors="pt")
            states = network(inputs.input_values.to(device)).last_hidden_state
            rows.append(states.mean(dim=1)[0].float().cpu().numpy())
    return np.stack(rows)


def operations(network, paths: list[Path], device: str) -> int:
    """Return how many operations the plain network needs for all clips."""
    total = 0
    for path in paths:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.from_numpy(loaded(path))[None].to(device))
        total += counter.get_total_flops()
    return total


def with_nver(choice: EncoderChoice, manifest: Path, batch: int) -> np.ndarray:
    with tempfile.TemporaryDirectory() as home:
        os.environ["NVER_HOME"] = home
        return nver.embed(str(manifest), [choice], batch_size=batch).X


def written(manifest: Path, clips: int, folder: Path) -> tuple[Path, list[Path]]:
    """Write a manifest of some clips, and return it and their paths."""
    header, *lines = manifest.read_text(encoding="utf-8").splitlines()
    column = header.split(",").index("file")
    order = np.random.default_rng(0).permutation(len(lines))[:clips]
    paths = [manifest.parent / lines[index].split(",")[column] for index in order]
    rows = [f"{path},{index % 2}" for index, path in enumerate(paths)]
    small = folder / "clips.csv"
    small.write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    return small, paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="wav2vec2")
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    compare(parser.parse_args())


def compare(chosen: argparse.Namespace) -> None:
    """Print both sides' clips a second."""
    name = KINDS[chosen.kind]
    torch.manual_seed(0)  # noqa: TID251 - transformers draws from the global stream
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        network = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")())
        network.eval().save_pretrained(folder / chosen.kind)
        network.to(chosen.device)
        extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)
        options = {"normalise": "no", "device": chosen.device, "dtype": chosen.dtype}
        choice = EncoderChoice("speech", str(folder / chosen.kind), options)
        manifest, paths = written(chosen.manifest.resolve(), chosen.clips, folder)
        needed = operations(network, paths, chosen.device)
        batch = 32 if chosen.device == "cpu" else chosen.clips
        expected = naive(network, extractor, paths, chosen.device)
        found = with_nver(choice, manifest, batch)
        error = (np.abs(found - expected).max(axis=1) / np.abs(expected).max(axis=1)).max()
        peaks = [matrix_rate(chosen.device)]
        encoder = choice.load()
        seconds: dict[str, list[float]] = {"naive": [], "nver": []}
        for _ in range(chosen.rounds):
            started = time.perf_counter()
            naive(network, extractor, paths, chosen.device)
            between = time.perf_counter()
            with_encoder(encoder, manifest, batch)
            seconds["naive"].append(between - started)
            seconds["nver"].append(time.perf_counter() - between)
        peaks.append(matrix_rate(chosen.device))
    report(chosen, seconds, needed, max(peaks), error)


def with_encoder(encoder, manifest: Path, batch: int) -> None:
    """Fill an empty store with a loaded encoder: the model is loaded once per process."""
    from nver.corpora import load_corpus
    from nver.extraction import extract
    from nver.store import EmbeddingStore

    with tempfile.TemporaryDirectory() as home:
        extract(load_corpus(str(manifest)), [encoder], EmbeddingStore(Path(home)), batch_size=batch)


def report(chosen, seconds: dict[str, list[float]], needed: int, peak: float, error: float) -> None:
    ratios = np.array(seconds["naive"]) / np.array(seconds["nver"])
    print(
        f"{chosen.kind}-base, random weights, {chosen.clips} clips, {chosen.rounds} rounds, "
        f"{chosen.device}, {chosen.dtype}; {platform.machine()}, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}, transformers {transformers.__version__}"
    )
    print(
        f"matrix product: {peak / 1e9:.0f} GFLOP/s; {needed / chosen.clips / 1e9:.1f} GFLOP a clip"
    )
    print("\n| | clips a second | share of the matrix product |\n|---|---|---|")
    for side, spent in seconds.items():
        median = float(np.median(spent))
        print(f"| {side} | {chosen.clips / median:.2f} | {needed / median / peak:.0%} |")
    spread = f"{ratios.min():.2f} to {ratios.max():.2f}"
    print(f"\nnver / naive: {np.median(ratios):.2f} (median of the rounds; {spread})")
    print(f"largest difference, relative to a clip's largest value: {error:.1e}")


if __name__ == "__main__":
    main()
