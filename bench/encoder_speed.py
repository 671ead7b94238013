"""How fast encoders are on one core, and how exact their batches are.

    python bench/encoder_speed.py byol-s=FOLDER efficientat-mn04=FOLDER speech=FOLDER_OR_ID ...

32 clips of noise, 1 to 3 s. Prints a markdown table: seconds of audio per second of processor time
(front end, network, both), and the largest difference between a clip encoded alone and in a batch,
relative to the clip's largest value.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from nver.audio import Waveform
from nver.encoders import Encoder, load_encoder


def seconds_of(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def row(encoder: Encoder) -> str:
    rng = np.random.default_rng(0)
    rate = encoder.card.rate
    clips = [
        Waveform(0.1 * rng.standard_normal(int(seconds * rate)).astype(np.float32), rate)
        for seconds in rng.uniform(1.0, 3.0, 32)
    ]
    audio = sum(clip.seconds for clip in clips)
    encoder.encode(clips[:2])  # the first call sets up kernels
    inputs = [encoder.frontend(clip) for clip in clips]
    front = seconds_of(lambda: [encoder.frontend(clip) for clip in clips])
    network = seconds_of(lambda: encoder.embed(inputs))
    together = encoder.encode(clips)
    alone = np.concatenate([encoder.encode([clip]) for clip in clips])
    error = (np.abs(together - alone).max(axis=1) / np.abs(alone).max(axis=1)).max()
    speeds = [f"{audio / spent:.0f}" for spent in (front, network, front + network)]
    return " | ".join([encoder.card.name, str(encoder.card.parameters), *speeds, f"{error:.0e}"])


def main() -> None:
    torch.set_num_threads(1)
    print("| encoder | parameters | front end | network | both | batch error |")
    print("|---|---|---|---|---|---|")
    for choice in sys.argv[1:] or ["spectral", "prosodic"]:
        name, _, checkpoint = choice.partition("=")
        print(f"| {row(load_encoder(name, checkpoint or None))} |", flush=True)


if __name__ == "__main__":
    main()
