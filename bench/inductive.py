"""What an inductive prediction costs against the paper's transductive one.

Networks with transport are trained once per fold and seed; then the same weights predict the test
clips under every rule: in batches of 32 as the paper does, each clip alone, among one or several
sets of fixed training clips (companions), and by the entropic map of a fixed plan between training
clips.

    python -m bench.inductive CORPUS -e ENCODER -e ENCODER [--inner 3] [--seeds 2]

It prints UAR and log-loss per rule, and milliseconds per clip.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from bench.embedded import load, parser, uar

from nver.estimators import FusionClassifier
from nver.fusion import BatchCoupling, Companions, Coupling, EntropicMap

SETS = (1, 2, 4, 8)
REFERENCES = (31, 64, 128, 256, 512)


def rules(model: FusionClassifier, held: torch.Tensor) -> dict[str, list[Coupling]]:
    """Return every inductive rule as the couplings whose predictions are averaged."""
    network, settings = model.network_, model.network_.shape.transport
    found: dict[str, list[Coupling]] = {}
    for count in SETS:
        sets = held[: 31 * count].split(31)
        found[f"companions x{count}"] = [Companions(network.latents(s), settings) for s in sets]
    for count in REFERENCES:
        found[f"map {count}"] = [EntropicMap(network.latents(held[:count]), settings)]
    return found


@torch.no_grad()
def predictions(
    model: FusionClassifier, X: np.ndarray, held: torch.Tensor
) -> dict[str, tuple[np.ndarray, float]]:
    """Return the probabilities under each rule, and the seconds they took."""
    inputs = torch.from_numpy(model.scaler_.transform(X))
    settings = model.network_.shape.transport

    def softmax(part: torch.Tensor, coupling: Coupling) -> np.ndarray:
        return torch.softmax(model.network_(part, coupling=coupling), dim=1).numpy()

    def batches(size: int) -> np.ndarray:
        rule = BatchCoupling(settings)
        return np.vstack([softmax(part, rule) for part in inputs.split(size)])

    made: dict[str, Callable[[], np.ndarray]] = {
        "batches of 32 (paper)": lambda: batches(32),
        "each clip alone": lambda: batches(1),
    }
    for name, couplings in rules(model, held).items():
        made[name] = lambda c=couplings: np.mean([softmax(inputs, rule) for rule in c], axis=0)
    found = {}
    for name, make in made.items():
        clock = time.perf_counter()
        found[name] = make(), time.perf_counter() - clock
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--fusion", action="append", default=None)
    options.add_argument("--branch", default="fcn")
    given = options.parse_args()
    torch.set_num_threads(1)
    data = load(given)
    classes = np.unique(data.y)
    truth = np.searchsorted(classes, data.y)
    print("| fusion | rule | UAR per seed | mean | log-loss | ms per clip |")
    print("|---|---|---|---|---|---|")
    for fusion in given.fusion or ["transport", "mata"]:
        scores, losses, seconds = defaultdict(list), defaultdict(list), defaultdict(float)
        for seed in range(given.seeds):
            whole = defaultdict(lambda: np.zeros((len(data.y), len(classes))))
            for train, test in data.folds:
                rng = np.random.default_rng(seed)
                test = rng.permutation(test)
                model = FusionClassifier(fusion, given.branch, data.views, random_state=seed)
                model.fit(data.X[train], data.y[train], groups=data.speakers[train])
                order = rng.permutation(train)[: max(*REFERENCES, 31 * max(SETS))]
                held = torch.from_numpy(model.scaler_.transform(data.X[order]))
                for rule, (part, spent) in predictions(model, data.X[test], held).items():
                    whole[rule][test] = part
                    seconds[rule] += spent
            for rule, part in whole.items():
                scores[rule].append(uar(data.y, part, classes))
                losses[rule].append(-np.log(part[np.arange(len(truth)), truth]).mean())
        for rule, values in scores.items():
            each = " ".join(f"{value:.3f}" for value in values)
            spent = 1000 * seconds[rule] / given.seeds / len(data.y)
            print(
                f"| {fusion} | {rule} | {each} | {np.mean(values):.3f} "
                f"| {np.mean(losses[rule]):.3f} | {spent:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
