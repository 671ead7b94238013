"""Whether the compiled loops score what torch's operations alone do, and what float64 does.

400 synthetic clips to train on and 600 to answer for, 48 + 64 dimensions, 16 seeds, 5 epochs of the
default recipe. Each side trains the same networks from the same weights, on the same batches, masks
and noise: `compiled` in float32, the plain path (torch's operations) in float32, and the
compiled one in float64, which is the plain one there but for rounding (tests/unit/test_members.py).

    python -m bench.same_scores [--seeds 16]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import torch
from bench import training
from bench.page import table

from nver.fusion import FusionShape, build_fusion
from nver.scaling.choice import VARIABLE
from nver.training import TrainingSettings, seeded, train_members

TRAINING, SEEDS, EPOCHS = 400, 16, 5
SPREAD = 0.35
VIEWS = (slice(0, 48), slice(48, 112))
SYSTEMS = (("concat", "fcn"), ("mata", "fcn"), ("concat", "cnn"), ("mata", "cnn"))
SIDES = ("compiled", "torch", "float64")
LOOPS = (
    "nver.fusion.attention_core",
    "nver.fusion.batch_plans",
    "nver.heads.layers",
    "nver.heads.networks",
    "nver.heads.standardise",
    "nver.training.optimiser",
    "nver.training.randomness",
)
"""Modules that ask whether compiled loops work."""
HEAD = [
    "system",
    *(f"accuracy, {side}" for side in SIDES),
    "compiled - torch, its standard error",
    *(f"answers unlike float64's, {side}" for side in SIDES[:2]),
    "largest difference of a probability, compiled and torch",
    *(f"{side} and float64" for side in SIDES[:2]),
]


@contextlib.contextmanager
def torch_alone() -> Iterator[None]:
    """Let networks be trained by torch's operations, as where numba is missing."""
    with mock.patch.dict(os.environ, {VARIABLE: "batched"}), contextlib.ExitStack() as stack:
        for name in LOOPS:
            module = importlib.import_module(name)
            stack.enter_context(mock.patch.object(module, "loops_work", return_value=False))
        yield


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and classes, a part of the columns of `bench.training`."""
    X, y = training.clips(SPREAD)
    parts = zip(training.VIEWS, VIEWS, strict=True)
    columns = [torch.arange(whole.start, whole.start + v.stop - v.start) for whole, v in parts]
    return X[:, torch.cat(columns)], y


def probabilities(fusion: str, branch: str, side: str, seeds: int) -> torch.Tensor:
    """Return [seeds, clips, classes] of the clips that are not trained on."""
    X, y = clips()
    dtype = torch.float64 if side == "float64" else torch.float32
    recipe = TrainingSettings() if branch == "fcn" else TrainingSettings.convolutional()
    shape = FusionShape(VIEWS, training.CLASSES, branch, recipe.dropout)
    networks = []
    for seed in range(seeds):
        with seeded(seed):
            networks.append(build_fusion(fusion, shape).to(dtype))
    data = [(X[:TRAINING].to(dtype), y[:TRAINING])] * seeds
    with torch_alone() if side == "torch" else contextlib.nullcontext():
        settings = replace(recipe, epochs=EPOCHS, min_steps=0)
        train_members(networks, data, settings, seeds=range(seeds))
    with torch.no_grad():
        return torch.stack([n.double()(X[TRAINING:].double()).softmax(1) for n in networks])


def scores(seeds: int = SEEDS) -> str:
    """Return the table."""
    rows = [[f"{fusion}-{branch}", *_row(fusion, branch, seeds)] for fusion, branch in SYSTEMS]
    return table(HEAD, rows)


def _row(fusion: str, branch: str, seeds: int) -> list[str]:
    truth = clips()[1][TRAINING:]
    given = {side: probabilities(fusion, branch, side, seeds) for side in SIDES}
    answers = {side: p.argmax(2) for side, p in given.items()}
    accuracy = {side: (found == truth).double().mean(1) for side, found in answers.items()}
    apart = accuracy["compiled"] - accuracy["torch"]
    unlike = [(answers[side] != answers["float64"]).double().mean() for side in SIDES[:2]]
    pairs = (SIDES[:2], SIDES[::2], SIDES[1:])
    return [
        *(f"{accuracy[side].mean():.4f}" for side in SIDES),
        f"{apart.mean():+.4f}, {apart.std() / seeds**0.5:.4f}",
        *(f"{100 * share:.2f} %" for share in unlike),
        *(f"{(given[a] - given[b]).abs().max():.1e}" for a, b in pairs),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    torch.set_num_threads(1)
    print(scores(parser.parse_args().seeds))


if __name__ == "__main__":
    main()
