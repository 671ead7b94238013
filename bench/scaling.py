"""How training scales: members at once, and clips.

python -m bench.scaling [--device cpu]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch
from bench import training
from bench.page import Options, table
from bench.training_page import printed

from nver.training import TrainingSettings, batches, train_members

MEMBERS = """Members of one shape, trained at once and, the first ten, one after the other: dense
branches, 768 + 1,024 dimensions, about 700 clips each (every member another number of them),
batches of 32, the default recipe, two epochs, medians of three wall times with all that comes
before the first step and after the last. The last column is the largest difference between the
probabilities that a member gives at once and alone."""
CLIPS = """Five members (folds) at once, dense branches, one epoch, by the number of clips that
each is trained on: wall milliseconds per step of one member. A step has 32 clips; what grows
with the number of clips is the table of inputs."""


def by_clips(device: str, counts: tuple[int, ...]) -> str:
    """Return the milliseconds per step by the number of clips."""
    lines = []
    for clips in counts:
        generator = torch.Generator().manual_seed(0)
        X = torch.randn(clips, training.VIEWS[-1].stop, generator=generator)
        y = torch.arange(clips) % training.CLASSES
        cells = [f"{clips:,}"]
        for fusion in ("mata", "concat"):
            epochs = max(1, 1000 // clips)
            settings = replace(TrainingSettings(), epochs=epochs, min_steps=0)
            spent = []
            for _ in range(3):
                made = training.networks(fusion, "fcn", settings.dropout)
                data = [(X, y)] * len(made)
                started = time.perf_counter()
                train_members(made, data, settings, seeds=range(len(made)), device=device)
                steps = epochs * len(batches(torch.arange(clips), settings.batch_size))
                spent.append(1000 * (time.perf_counter() - started) / steps / len(made))
            cells.append(f"{sorted(spent)[1]:.3f}")
        lines.append(cells)
    return table(["clips", "mata", "concat"], lines)


def section(options: Options) -> str:
    """Return the page's section."""
    gpu = options.device != "cpu"
    members = (1, 10, 100) if gpu else (1, 4, 16)
    clips = (250, 1000, 4000, 16000)
    if options.quick:
        members, clips = members[:2], clips[:2]
    torch.set_num_threads(1)
    text = [MEMBERS, printed(training.members, options.device, members), CLIPS]
    return "\n\n".join([*text, by_clips(options.device, clips)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    print(section(Options(quick=False, device=given.device, threads=1)))


if __name__ == "__main__":
    main()
