"""How the default training recipe was chosen: each part of it taken away, by validation.

With `--inner 3` only the clips of the first three folds are seen, cut anew into five
speaker-disjoint parts; that is where the recipe was chosen. Without it every recipe is judged on
the corpus's own folds, which was done once, for the two recipes named in docs/recipe.md.

    python -m bench.recipe CORPUS -e ENCODER -e ENCODER --inner 3 [--seeds 2] [--system NAME ...]
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import torch
from bench.embedded import Embedded, load, parser, uar

from nver.systems import COUPLINGS, SYSTEMS, build
from nver.training import TrainingSettings

DEFAULT = TrainingSettings()
CARELESS = TrainingSettings(
    epochs=30,
    cosine=False,
    weight_decay=0.0,
    dropout=0.3,
    input_noise=0.0,
    label_smoothing=0.0,
)
RECIPES = {
    "default": DEFAULT,
    "careless (30 epochs, nothing else)": CARELESS,
    "paper (early stopping)": TrainingSettings.paper(),
    "without input noise": replace(DEFAULT, input_noise=0.0),
    "without label smoothing": replace(DEFAULT, label_smoothing=0.0),
    "dropout 0.3": replace(DEFAULT, dropout=0.3),
    "constant learning rate": replace(DEFAULT, cosine=False),
    "without weight decay": replace(DEFAULT, weight_decay=0.0),
    "early stopping too": replace(DEFAULT, patience=10),
    "60 epochs": replace(DEFAULT, epochs=60),
    "learning rate 3e-4": replace(DEFAULT, learning_rate=3e-4),
    "learning rate 3e-3": replace(DEFAULT, learning_rate=3e-3),
    "batches of 128": replace(DEFAULT, batch_size=128),
}
DENSE = ("fcn", "concat", "late", "transport", "attention", "mata")
LINEAR = ("lda", "logreg", "concat-lda", "concat-logreg")


def runs(names: list[str], encoders: list[str]) -> list[tuple[str, list[str]]]:
    """Return each system with the encoders that it sees."""
    found = []
    for name in names:
        single = SYSTEMS[name].kind == "single"
        found += [(name, [encoder]) for encoder in encoders] if single else [(name, encoders)]
    return found


def judge(
    data: Embedded, name: str, encoders: list[str], settings: TrainingSettings | None, seed: int
) -> tuple[dict[str, tuple[float, float]], float]:
    """Return UAR and log-loss per evaluation rule of out-of-fold predictions, and the seconds."""
    X, views = data.columns(encoders)
    classes = np.unique(data.y)
    whole = {rule: np.zeros((len(data.y), len(classes))) for rule in SYSTEMS[name].rules}
    clock = time.perf_counter()
    for train, test in data.folds:
        test = np.random.default_rng(seed).permutation(test)
        model = build(name, views, seed)
        if name not in LINEAR:
            model.set_params(settings=settings)
        model.fit(X[train], data.y[train], groups=data.speakers[train])
        for rule, part in whole.items():
            coupling = {} if COUPLINGS[rule] is None else {"coupling": COUPLINGS[rule]}
            part[test] = model.predict_proba(X[test], **coupling)
    spent = time.perf_counter() - clock
    truth = np.searchsorted(classes, data.y)
    rows = np.arange(len(truth))
    return {
        rule: (uar(data.y, part, classes), float(-np.log(part[rows, truth] + 1e-12).mean()))
        for rule, part in whole.items()
    }, spent


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--system", action="append", choices=SYSTEMS)
    options.add_argument("--recipe", action="append", choices=RECIPES)
    given = options.parse_args()
    torch.set_num_threads(1)
    data = load(given)
    names = given.system or [*LINEAR, *DENSE]
    print("| system | encoders | recipe | UAR per seed | mean | log-loss | seconds a seed |")
    print("|---|---|---|---|---|---|---|")
    for name, encoders in runs(names, given.encoder):
        recipes = ["-"] if name in LINEAR else given.recipe or list(RECIPES)
        for recipe in recipes:
            settings = RECIPES.get(recipe)
            if recipe == "default":
                settings = None  # the estimator's own: convolutions train for fewer epochs
            results = [
                judge(data, name, encoders, settings, seed)
                for seed in range(1 if name in LINEAR else given.seeds)
            ]
            seconds = np.mean([spent for _, spent in results])
            for rule in SYSTEMS[name].rules:
                scores, losses = zip(*(result[rule] for result, _ in results), strict=True)
                each = " ".join(f"{score:.3f}" for score in scores)
                print(
                    f"| {SYSTEMS[name].reported_as(rule)} | {' + '.join(encoders)} | {recipe} "
                    f"| {each} | {np.mean(scores):.3f} | {np.mean(losses):.3f} | {seconds:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
