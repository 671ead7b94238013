"""Training many members at once against the loops that people write, one core or one GPU.

1,000 synthetic clips of 8 Gaussian classes, 768 + 1,024 dimensions, 5 folds, 50 epochs of batches
of 32: 6,250 steps of one network. Every side trains the same network by the same recipe (Adam at
1e-3, dropout 0.3). Sides take turns in one process, each turn twice, of which the second counts;
the table gives medians of CPU milliseconds per step of one network, and what 6,250 of them take.
Slow sides take fewer steps a turn: the column says how many. On a GPU all sides train there, and
the milliseconds are those of the wall.

    python -m bench.training [--rounds 5] [--part dense|conv|same|members] [--device cuda]

The part `members` trains 1, 10 and 100 members by the default recipe, each on as many clips as it
happens to have, at once and one after the other, and compares wall times and probabilities.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np
import torch
from bench.plain_networks import PlainConcat, PlainMata
from sklearn.neural_network import MLPClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nver.fusion import FusionShape, build_fusion
from nver.fusion.coupling import TransportSettings
from nver.training import TrainingSettings, batches, pack_size, seeded, train_members

CLIPS, CLASSES, FOLDS, EPOCHS, BATCH = 1000, 8, 5, 50, 32
ALONE, TURNS = 10, 3
"""Members that are trained one by one too (the others would take as long each), and how often."""
VIEWS = (slice(0, 768), slice(768, 1792))
RECIPE = TrainingSettings(
    epochs=EPOCHS,
    min_steps=0,
    cosine=False,
    weight_decay=0.0,
    dropout=0.3,
    input_noise=0.0,
    label_smoothing=0.0,
)
STEPS = FOLDS * EPOCHS * CLIPS * (FOLDS - 1) // FOLDS // BATCH
Side = Callable[[], int]
"""Trains for a while, and returns how many steps of one network that was."""


def clips(spread: float = 0.12) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and classes; at this spread a linear model gets about two thirds right."""
    rng = np.random.default_rng(0)
    y = np.arange(CLIPS) % CLASSES
    centres = spread * rng.standard_normal((CLASSES, VIEWS[-1].stop))
    X = centres[y] + rng.standard_normal((CLIPS, VIEWS[-1].stop))
    return torch.from_numpy(X.astype(np.float32)), torch.from_numpy(y)


def folds() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return training and test rows."""
    order = torch.from_numpy(np.random.default_rng(1).permutation(CLIPS))
    parts = order.chunk(FOLDS)
    return [(torch.cat(parts[:i] + parts[i + 1 :]), parts[i]) for i in range(FOLDS)]


def networks(
    fusion: str,
    branch: str,
    dropout: float = 0.3,
    members: int = FOLDS,
    *,
    plan_gradient: bool = False,
) -> list[nn.Module]:
    """Return untrained networks, one per fold."""
    transport = TransportSettings(plan_gradient=plan_gradient)
    shape = FusionShape(VIEWS, CLASSES, branch, dropout, transport)
    made = []
    for seed in range(members):
        with seeded(seed):
            made.append(build_fusion(fusion, shape))
    return made


def engine(
    fusion: str,
    branch: str,
    epochs: int,
    recipe: TrainingSettings = RECIPE,
    members: int = FOLDS,
    *,
    device: str = "cpu",
    plan_gradient: bool = False,
) -> Side:
    """Return nver's own training of all folds."""
    X, y = clips()
    data = [(X[train], y[train]) for train, _ in folds()][:members]
    settings = replace(recipe, epochs=epochs, min_steps=0)

    def side() -> int:
        made = networks(fusion, branch, recipe.dropout, members, plan_gradient=plan_gradient)
        train_members(made, data, settings, seeds=range(members), device=device)
        return members * epochs * (len(data[0][0]) // BATCH)

    return side


def trained(
    branch: str, iterations: int, device: str = "cpu", *, detached: bool = False
) -> Callable[[], nn.Module]:
    """Return a maker of a plain MATA that has been trained: at first, plans are easy to solve."""
    model = PlainMata(VIEWS, CLASSES, 50, branch, detached=True)
    careful(lambda: model, 100 if branch == "fcn" else 10, device)()

    def make() -> nn.Module:
        own = copy.deepcopy(model)
        own.iterations, own.detached = iterations, detached
        return own

    return make


def naive(make: Callable[[], nn.Module], steps: int, device: str = "cpu") -> Side:
    """Return the loop of most scripts: DataLoader, Adam as it comes, `.item()` per step."""
    X, y = clips()
    train = folds()[0][0]
    loader = DataLoader(TensorDataset(X[train], y[train]), batch_size=BATCH, shuffle=True)

    def side() -> int:
        model = make().to(device)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
        loss_of = nn.CrossEntropyLoss()
        done, total = 0, 0.0
        while done < steps:
            for inputs, labels in loader:
                optimiser.zero_grad()
                loss = loss_of(model(inputs.to(device)), labels.to(device))
                loss.backward()
                optimiser.step()
                total += loss.item()
                done += 1
                if done == steps:
                    break
        return steps

    return side


def careful(make: Callable[[], nn.Module], steps: int, device: str = "cpu") -> Side:
    """Return a loop with care: batches by index, fused Adam, nothing read back."""
    X, y, train = (part.to(device) for part in (*clips(), folds()[0][0]))

    def side() -> int:
        model = make().to(device)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        order = train[torch.randperm(len(train), device=device)]
        for step in range(steps):
            start = step * BATCH % (len(order) - BATCH + 1)
            rows = order[start : start + BATCH]
            loss = nn.functional.cross_entropy(model(X[rows]), y[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        return steps

    return side


def perceptron(epochs: int) -> Side:
    """Return scikit-learn's network on the embeddings side by side."""
    X, y = clips()
    train = folds()[0][0]

    def side() -> int:
        model = MLPClassifier((240, 128), batch_size=BATCH, max_iter=epochs, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(X[train].numpy(), y[train].numpy())
        return epochs * (len(train) // BATCH)

    return side


def now(device: str) -> float:
    """Return the CPU time spent; on a GPU the wall's, when all that was started is done."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def measure(
    sides: dict[str, Side], rounds: int, device: str = "cpu"
) -> dict[str, tuple[float, int]]:
    """Return the median milliseconds per step of one network, and the steps of a turn.

    Whoever has its turn takes it twice, and the second is timed: after a side with threads of its
    own (scikit-learn's) the next one was up to 6 % slower than after another.
    """
    spent: dict[str, list[float]] = {name: [] for name in sides}
    steps: dict[str, int] = {}
    for _ in range(rounds):
        for name, side in sides.items():
            steps[name] = side()
            started = now(device)
            side()
            spent[name].append(1000 * (now(device) - started) / steps[name])
    return {name: (median(times), steps[name]) for name, times in spent.items()}


def report(title: str, found: dict[str, tuple[float, int]], against: str) -> None:
    base = found[against][0]
    print(f"\n| {title} | ms per step | times `{against}` | 5 folds, 50 epochs | steps a turn |")
    print("|---|---|---|---|---|")
    for name, (ms, steps) in found.items():
        print(f"| {name} | {ms:.2f} | {ms / base:.2f} | {ms * STEPS / 1000:.0f} s | {steps} |")


def gemm_peak(device: str = "cpu") -> float:
    """Return the rate of a large matrix product, in GF/s."""
    size = 1536 if device == "cpu" else 8192
    a = torch.randn(size, size, device=device)
    times = []
    for _ in range(5):
        started = now(device)
        torch.mm(a, a)
        times.append(now(device) - started)
    return 2 * size**3 / min(times) / 1e9


def gigaflops(network: nn.Module) -> float:
    """Return the multiplications and additions of a step, counted by torch in thousand millions."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter:
        network(torch.randn(BATCH, VIEWS[-1].stop)).sum().backward()
    return counter.get_total_flops() / 1e9


def dense(rounds: int, device: str = "cpu") -> None:
    default = TrainingSettings()
    own, plain = partial(engine, device=device), partial(trained, device=device)
    loop = partial(naive, device=device)
    sides = {
        "nver mata": own("mata", "fcn", 10),
        "nver mata, plan gradient": own("mata", "fcn", 10, plan_gradient=True),
        "nver concat": own("concat", "fcn", 10),
        "nver mata, one member": own("mata", "fcn", 10, members=1),
        "nver concat, one member": own("concat", "fcn", 10, members=1),
        "nver mata, default recipe": own("mata", "fcn", 10, default),
        "nver concat, default recipe": own("concat", "fcn", 10, default),
        "naive mata, POT's defaults": loop(plain("fcn", 1000), 6),
        "naive mata, POT 50 iterations": loop(plain("fcn", 50), 25),
        "naive mata, POT's defaults, detached": loop(plain("fcn", 1000, detached=True), 10),
        "naive mata, POT 50, detached": loop(plain("fcn", 50, detached=True), 25),
        "naive concat": loop(lambda: PlainConcat(VIEWS, CLASSES), 100),
        "careful concat": careful(lambda: PlainConcat(VIEWS, CLASSES), 100, device),
    }
    if device == "cpu":
        sides["MLPClassifier"] = perceptron(4)
    found = measure(sides, rounds, device)
    report("dense branches", found, "nver mata")
    print(f"\nmata / concat: {found['nver mata'][0] / found['nver concat'][0]:.2f}; ", end="")
    names = ("nver mata, default recipe", "nver concat, default recipe")
    print(f"with the default recipe {found[names[0]][0] / found[names[1]][0]:.2f}.")
    share("mata", "fcn", found["nver mata"][0], device)
    share("concat", "fcn", found["nver concat"][0], device)


def conv(rounds: int, device: str = "cpu") -> None:
    own, plain = partial(engine, device=device), partial(trained, device=device)
    concat = partial(PlainConcat, VIEWS, CLASSES, "cnn")
    found = measure(
        {
            "nver mata": own("mata", "cnn", 1, members=1),
            "careful mata, POT 50, detached": careful(plain("cnn", 50, detached=True), 12, device),
            "naive mata, POT 50 iterations": naive(plain("cnn", 50), 12, device),
            "naive mata, POT's defaults": naive(plain("cnn", 1000), 6, device),
            "nver concat": own("concat", "cnn", 1, members=1),
            "careful concat": careful(concat, 12, device),
        },
        rounds,
        device,
    )
    report("convolutional branches", found, "nver mata")
    print()
    share("mata", "cnn", found["nver mata"][0], device)


def share(fusion: str, branch: str, ms: float, device: str = "cpu") -> None:
    """Print the share of the machine's rate of matrix products; nver's own products are fewer."""
    plain = (PlainMata if fusion == "mata" else PlainConcat)(VIEWS, CLASSES, branch=branch)
    flops, peak = gigaflops(plain), gemm_peak(device)
    rate = flops / ms * 1000
    print(
        f"{fusion} ({branch}): the {1000 * flops:.0f} MFLOP of the plain network's step are done "
        f"at {rate:.0f} GF/s, "
        f"{100 * rate / peak:.0f} % of the {peak:.0f} GF/s of a large matrix product."
    )


def same() -> None:
    """Print that members trained at once score what they score alone, after ten epochs."""
    X, y = clips()
    data = [(X[train], y[train]) for train, _ in folds()]
    print("\n| fusion | accuracy at once | one by one | largest difference of a probability |")
    print("|---|---|---|---|")
    for fusion in ("concat", "late", "attention", "transport", "mata"):
        sizes = (FOLDS, 1)
        made = [networks(fusion, "fcn") for _ in sizes]
        for own, size in zip(made, sizes, strict=True):
            train_members(own, data, replace(RECIPE, epochs=10), seeds=range(FOLDS), at_once=size)
        hits, probabilities = [0, 0], []
        for fold, (_, test) in enumerate(folds()):
            with torch.no_grad():
                both = [torch.softmax(own[fold].double()(X[test].double()), 1) for own in made]
            for i, given in enumerate(both):
                hits[i] += int((given.argmax(1) == y[test]).sum())
            probabilities.append(float((both[0] - both[1]).abs().max()))
        scores = [f"{hit / CLIPS:.4f}" for hit in hits]
        print(f"| {fusion} | {scores[0]} | {scores[1]} | {max(probabilities):.1e} |")


def members(device: str, counts: tuple[int, ...], epochs: int = 2) -> None:
    """Print what members cost at once and one by one, and how far their probabilities differ."""
    X, y = clips()
    order = np.random.default_rng(2)
    part = [torch.from_numpy(order.permutation(CLIPS)[: 700 + m]) for m in range(max(counts))]
    data = [(X[rows], y[rows]) for rows in part]
    settings = replace(TrainingSettings(), epochs=epochs, min_steps=0)
    steps = [epochs * len(batches(rows, BATCH)) for rows in part]

    def trained(fusion: str, count: int, at_once: int | None) -> tuple[list[nn.Module], float]:
        made = networks(fusion, "fcn", settings.dropout, count)
        started = time.perf_counter()
        given = {"seeds": range(count), "device": device, "at_once": at_once}
        train_members(made, data[:count], settings, **given)
        return made, 1000 * (time.perf_counter() - started) / sum(steps[:count])

    print(
        f"\n| on {device} | members | ms per step of one, at once | one by one | times | ", end=""
    )
    print("largest difference of a probability |\n|---|---|---|---|---|---|")
    for fusion in ("mata", "concat"):
        trained(fusion, 2, 1), trained(fusion, 2, 2)
        for count in counts:
            turns = [
                (trained(fusion, count, None), trained(fusion, min(count, ALONE), 1))
                for _ in range(TURNS)
            ]
            (whole, _), (single, _) = turns[0]
            ms, ms_single = (median(turn[side][1] for turn in turns) for side in (0, 1))
            with torch.no_grad():
                pairs = (
                    [n.double()(X[:200].double()).softmax(1) for n in made]
                    for made in (whole[:ALONE], single)
                )
                apart = max(float((a - b).abs().max()) for a, b in zip(*pairs, strict=True))
            cells = (f"{ms:.3f}", f"{ms_single:.3f}", f"{ms_single / ms:.1f}", f"{apart:.1e}")
            print(f"| {fusion} | {count} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--part", choices=("dense", "conv", "same", "members"))
    parser.add_argument("--device", default="cpu", help="of all parts but `same`")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.part == "members":
        members(given.device, (1, 10, 100))
        return
    small = sum(p.numel() for p in networks("mata", "fcn")[0].parameters())
    packs = pack_size(given.device, small)
    print(f"One core; on {given.device} packs of {packs} dense MATA networks at most.")
    if given.part in (None, "dense"):
        dense(given.rounds, given.device)
    if given.part in (None, "conv"):
        conv(given.rounds, given.device)
    if given.part in (None, "same"):
        same()


if __name__ == "__main__":
    main()
