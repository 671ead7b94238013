"""The table of systems that are compared: every encoder alone, the baselines, the fusions, MATA.

A system is a name for an estimator with its settings. Some are judged by more than one rule: the
trained network is the same, only the coupling of test clips differs (`nver.fusion.coupling`).

A fusion of another package (entry points "nver.fusions") or of a file (``FILE.py:CLASS``) is a
system too, under its own name.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nver.errors import SettingsError, UnknownNameError
from nver.own_code import code_of
from nver.registry import Registry, unknown

if TYPE_CHECKING:
    import numpy as np

    from nver.estimators import EmotionClassifier, FusionClassifier, ViewChoice
    from nver.fusion import Fusion
    from nver.training import TrainingSettings

COUPLINGS: Mapping[str, str | None] = {"": None, "inductive": None, "transductive": "batch"}
"""Evaluation rule to the `coupling` of `predict_proba`; None is the estimator's own."""


@dataclass(frozen=True)
class SystemSpec:
    """The facts of a system.

    Parameters
    ----------
    name, summary : str
        Its name and what it is, in one line.
    kind : {"single", "fusion"}
        Whether it sees one encoder or all.
    settings : mapping
        What its estimator is made with.
    rules : tuple of str
        The rules it is evaluated by: ("",) where a prediction depends on the clip alone by
        construction, ("inductive", "transductive") where clips are coupled. The second gives the
        rows of "<name>-transductive".
    code : str
        Hash of code that is not nver's: what an earlier version was trained to is not used again.
        "" for nver's own.
    """

    name: str
    summary: str
    kind: Literal["single", "fusion"]
    settings: Mapping[str, Any]
    rules: tuple[str, ...] = ("",)
    code: str = ""

    def reported_as(self, rule: str) -> str:
        """Return the name under which a rule's predictions are recorded."""
        return f"{self.name}{TRANSDUCTIVE}" if rule == "transductive" else self.name


@dataclass(frozen=True)
class Span:
    """The values of a setting that a search may try; `log` where factors matter, not steps."""

    low: float
    high: float
    log: bool = False


_BOTH = ("inductive", "transductive")
TRANSDUCTIVE = "-transductive"
_OTHERS = Registry("fusion", {}, group="nver.fusions")  # `nver.fusion` itself would load torch

SPANS: Mapping[str, Span] = {
    "learning_rate": Span(2e-4, 5e-3, log=True),
    "dropout": Span(0.1, 0.8),
    "width": Span(0.5, 2.0, log=True),
    "eps": Span(0.01, 0.5, log=True),
}
"""What `nver evaluate --tune` searches beside layers; `eps` only where there is transport."""


def spans() -> str:
    """Return `SPANS` in words.

    >>> spans().partition(", ")[0]
    'learning rate 0.0002 to 0.005'
    """
    found = [f"{name.replace('_', ' ')} {span.low} to {span.high}" for name, span in SPANS.items()]
    return f"{', '.join(found)} (with transport)"


SYSTEMS: Mapping[str, SystemSpec] = {
    spec.name: spec
    for spec in (
        SystemSpec("lda", "shrinkage linear discriminant analysis", "single", {"head": "lda"}),
        SystemSpec("logreg", "logistic regression", "single", {"head": "logreg"}),
        SystemSpec("fcn", "dense head", "single", {"head": "fcn"}),
        SystemSpec("cnn", "convolutional head", "single", {"head": "cnn"}),
        SystemSpec("concat-lda", "lda on all embeddings side by side", "fusion", {"head": "lda"}),
        SystemSpec(
            "concat-logreg", "logreg on all embeddings side by side", "fusion", {"head": "logreg"}
        ),
        SystemSpec(
            "best-lda",
            "lda on the encoder that is best inside the training part",
            "fusion",
            {"head": "lda", "choose": "view"},
        ),
        SystemSpec(
            "best-fcn",
            "dense head on the encoder that is best inside the training part",
            "fusion",
            {"head": "fcn", "choose": "view"},
        ),
        SystemSpec("concat", "dense branches, concatenated", "fusion", {"fusion": "concat"}),
        SystemSpec("late", "mean logits of dense heads", "fusion", {"fusion": "late"}),
        SystemSpec("transport", "MATA without attention", "fusion", {"fusion": "transport"}, _BOTH),
        SystemSpec("attention", "MATA without transport", "fusion", {"fusion": "attention"}),
        SystemSpec("mata", "MATA with dense branches", "fusion", {"fusion": "mata"}, _BOTH),
        SystemSpec(
            "mata-cnn",
            "MATA with the paper's convolutional branches, standardised",
            "fusion",
            {"fusion": "mata", "branch": "cnn"},
            _BOTH,
        ),
    )
}


def get_system(name: str) -> SystemSpec:
    """Return the facts of a system, or of a fusion that is no part of nver.

    Raises
    ------
    UnknownNameError
        If no table holds the name; the message names the nearest known one.
    SettingsError
        If the fusion cannot be loaded, or is none.
    """
    if name in SYSTEMS:
        return SYSTEMS[name]
    if ".py:" in name:
        return _of_class(name, code_of(name))
    if name.endswith(".py"):
        raise SettingsError(f"A fusion of your own is named FILE.py:CLASS, '{name}' has no class.")
    if name in (others := other_fusions()):
        return _of_class(name)
    coupled = name.removesuffix(TRANSDUCTIVE)
    if coupled != name and coupled in (*SYSTEMS, *others) and len(get_system(coupled).rules) > 1:
        raise UnknownNameError(
            f"'{name}' is a second row of the system '{coupled}', from the same trained networks. "
            f"Ask for it with -s {coupled}."
        )
    raise unknown("system", name, [*SYSTEMS, *others])


def other_fusions() -> tuple[str, ...]:
    """Return the names of the fusions that other packages bring."""
    return tuple(name for name in _OTHERS.names() if name not in SYSTEMS)


@lru_cache(maxsize=64)
def _of_class(name: str, code: str | None = None) -> SystemSpec:
    """Return the facts of a fusion by its class; `code` is the hash of its file."""
    from nver.fusion import fusion_class

    found = fusion_class(name)
    summary = (found.__doc__ or "a fusion").strip().splitlines()[0].rstrip(".")
    code = _package_hash(found) if code is None else code
    rules = _BOTH if found.couples else ("",)
    return SystemSpec(name, summary, "fusion", {"fusion": name}, rules, code)


def _package_hash(found: type[Fusion]) -> str:
    """Return the hash of all Python files of the package that a class comes from."""
    package = sys.modules[found.__module__.partition(".")[0]]
    folders = getattr(package, "__path__", None)
    files = [Path(str(package.__file__))]
    if folders is not None:
        files = sorted(path for folder in folders for path in Path(folder).rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def space(name: str) -> Mapping[str, float]:
    """Return the settings of a system that can be tuned, with the values that it has untuned.

    Each lies within its span in `SPANS`. Linear systems have none, nor have those that choose an
    encoder: that is their search. Layers of encoders are `nver.tuning`'s.

    Raises
    ------
    UnknownNameError
        If there is no such system.
    """
    spec = get_system(name)
    if spec.settings.get("head") in ("lda", "logreg") or "choose" in spec.settings:
        return {}
    recipe = _recipe(spec)
    found = {"learning_rate": recipe.learning_rate, "dropout": recipe.dropout, "width": 1.0}
    if spec.rules == _BOTH:
        from nver.estimators import FusionClassifier

        found["eps"] = FusionClassifier().eps
    return found


def _recipe(spec: SystemSpec) -> TrainingSettings:
    """Return the recipe that the estimator of a network takes by itself."""
    from nver.training import TrainingSettings

    convolves = "cnn" in spec.settings.values()
    return TrainingSettings.convolutional() if convolves else TrainingSettings()


def build(
    name: str,
    views: Mapping[str, slice],
    seed: int = 0,
    chosen: Mapping[str, float] | None = None,
    device: str = "cpu",
) -> EmotionClassifier | FusionClassifier | ViewChoice:
    """Return the untrained estimator of a system.

    Parameters
    ----------
    name : str
        A key of `SYSTEMS`, or of a fusion that is no part of nver.
    views : mapping of str to slice
        Encoder to its columns in the X that the estimator will see: one for a single system, two or
        more for a fusion.
    seed : int
        Of initial weights, order of clips, dropout and companions.
    chosen : mapping of str to float, optional
        Settings in place of the system's own; names from `space`.
    device : str
        Where networks are trained: "cpu" or "cuda".

    Raises
    ------
    UnknownNameError
        If there is no such system, or it has no such setting.
    SettingsError
        If the number of views does not fit the system.
    """
    spec = get_system(name)
    if (spec.kind == "single") != (len(views) == 1):
        needed = "one encoder" if spec.kind == "single" else "at least two encoders"
        raise SettingsError(
            f"System '{name}' needs {needed}, got {len(views)} ({', '.join(views)})."
        )
    from nver.estimators import EmotionClassifier, FusionClassifier, ViewChoice

    if "choose" in spec.settings:
        head = spec.settings["head"]
        return ViewChoice(head, views=dict(views), random_state=seed, device=device)
    given = dict(spec.settings) | _chosen(spec, chosen or {}) | {"device": device}
    if "head" in spec.settings:
        return EmotionClassifier(**given, random_state=seed)
    return FusionClassifier(**given, views=dict(views), random_state=seed)


def _chosen(spec: SystemSpec, chosen: Mapping[str, float]) -> dict[str, Any]:
    """Return chosen settings as arguments of the estimator."""
    if not chosen:
        return {}
    known = space(spec.name)
    for name in chosen:
        if name not in known:
            raise unknown(f"setting of '{spec.name}'", name, known)
    outside = {name: chosen[name] for name in ("eps", "width") if name in chosen}
    inside = {name: value for name, value in chosen.items() if name not in outside}
    return {"settings": replace(_recipe(spec), **inside), **outside}  # type: ignore[arg-type]


def fit_many(
    models: Sequence[EmotionClassifier | FusionClassifier],
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]],
) -> Iterator[int]:
    """Train several estimators of one system, each on its X, y and speakers, in place.

    Each becomes what its own `fit` would have made of it, and its place is yielded then.
    """
    from nver import estimators

    yield from estimators.fit_in_turn(models, parts)
