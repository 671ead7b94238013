"""The page's section on training: `bench.training`, one core, dense and convolutional branches."""

from __future__ import annotations

import contextlib
import io

import torch
from bench import training
from bench.page import Options

ABOUT = """{clips} synthetic clips of {classes} Gaussian classes, 768 + 1,024 dimensions,
{folds} folds, {epochs} epochs of batches of {batch}, on one core; CPU time, because that is
what a training costs whatever runs beside it. *Naive* is the loop of most scripts: DataLoader,
Adam as it comes, a loss read back in every step, POT's `sinkhorn` with its defaults (1,000
iterations) or with 50, the plan differentiated through unless detached. *Careful* has batches
by index, fused Adam and nothing read back. MLPClassifier is scikit-learn's, on the embeddings
side by side, with 240 and 128 units."""


def printed(function, *given) -> str:
    """Return what a function prints."""
    with contextlib.redirect_stdout(io.StringIO()) as text:
        function(*given)
    return text.getvalue().strip()


def section(options: Options) -> str:
    """Return the page's section."""
    torch.set_num_threads(1)
    rounds = 1 if options.quick else 3
    about = ABOUT.format(
        clips=training.CLIPS,
        classes=training.CLASSES,
        folds=training.FOLDS,
        epochs=training.EPOCHS,
        batch=training.BATCH,
    )
    parts = [about, printed(training.dense, rounds), printed(training.conv, rounds)]
    if not options.quick:
        parts += [
            "Members trained at once and one after the other, after ten epochs:",
            printed(training.same),
        ]
    return "\n\n".join(parts)
