"""The page's section on training: `bench.training`, dense and convolutional branches."""

from __future__ import annotations

import contextlib
import io

import torch
from bench import same_scores, training
from bench.page import Options, paragraph

ABOUT = """{clips} synthetic clips of {classes} Gaussian classes, 768 + 1,024 dimensions,
{folds} folds, {epochs} epochs of batches of {batch}, {where}.
*Naive* is the loop of most scripts: DataLoader, Adam as it comes, a loss read back in every step,
POT's `sinkhorn` with its defaults (1,000 iterations) or with 50, the plan differentiated through
unless detached. *Careful* has batches by index, fused Adam and nothing read back."""
ON_CPU = """on one core; CPU time, because that is what a training costs whatever runs beside it"""
ON_GPU = """all sides on the GPU; wall time, the GPU's work done, with what a side does before its
first step and after its last"""
PERCEPTRON = """MLPClassifier is scikit-learn's, on the embeddings side by side, with 240 and 128
units."""

SAME = """Scores of the compiled loops and of torch's operations alone, both in float32, and of
float64: {clips} clips of {dims} dimensions to train on, {rest} to answer for, {seeds} seeds,
{epochs} epochs of the default recipe. Dense branches score the same. With convolutions a ReLU or a
maximum that rounding decides otherwise changes a gradient and training makes more of it, so that
single answers differ from float64's, in the compiled loops about as often as in torch's float32."""


def printed(function, *given) -> str:
    """Return what a function prints."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        function(*given)
    return text.getvalue().strip()


def scores(seeds: int) -> list[str]:
    """Return what is said about the table of scores, and the table."""
    dims = " + ".join(str(view.stop - view.start) for view in same_scores.VIEWS)
    clips = {"clips": same_scores.TRAINING, "rest": training.CLIPS - same_scores.TRAINING}
    said = SAME.format(dims=dims, seeds=seeds, epochs=same_scores.EPOCHS, **clips)
    return [paragraph(said), same_scores.scores(seeds)]


def section(options: Options) -> str:
    """Return the page's section."""
    torch.set_num_threads(1)
    rounds = 1 if options.quick else 3
    on_cpu = options.device == "cpu"
    about = ABOUT.format(
        where=ON_CPU if on_cpu else ON_GPU,
        clips=training.CLIPS,
        classes=training.CLASSES,
        folds=training.FOLDS,
        epochs=training.EPOCHS,
        batch=training.BATCH,
    )
    tables = (training.dense, training.conv)
    parts = [
        paragraph(about, *[PERCEPTRON] * on_cpu),
        *(printed(table, rounds, options.device) for table in tables),
    ]
    if on_cpu and not options.quick:
        parts += [
            "Members trained at once and one after the other, after ten epochs:",
            printed(training.same),
        ]
    if on_cpu:
        parts += scores(2 if options.quick else same_scores.SEEDS)
    return "\n\n".join(parts)
