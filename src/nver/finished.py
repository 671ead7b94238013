"""Outcomes and choices as files: what was finished before is found by what decides its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

import numpy as np

from nver.jobs import Curve, Data, ExamplePlans, Job, Outcome, SystemRun
from nver.predictions import SystemTuning
from nver.splits import Fold
from nver.trainings import Digest, Saved, SavedTrainings, engine
from nver.tuning import Attempt, Choice, Search

AnyTask = TypeVar("AnyTask")


class Finished:
    """The finished trainings and searches of one dataset and table of systems.

    Only what succeeded is saved: what failed is tried again by the next run.

    Parameters
    ----------
    saved : SavedTrainings or None
        Where they are; None remembers nothing.
    data : Data
    systems : module or object
        The table of systems. What it builds must follow from a system's name, its ``settings`` and,
        if it has one, its ``code``.
    """

    def __init__(self, saved: SavedTrainings | None, data: Data, systems: Any) -> None:
        self._saved = saved
        self._data = data
        self._systems = systems
        self._views: dict[tuple[str, str | None], str] = {}
        self._clips = ""
        self._attempts: dict[int, list[Attempt]] = {}

    def outcome(self, job: Job) -> Outcome | None:
        """Return the outcome of a job that was done before."""
        found = self._saved.get(self._job_key(job)) if self._saved else None
        if found is None:
            return None
        facts = found.facts
        try:
            seconds = {rule: float(value) for rule, value in facts["seconds"].items()}
            given = {rule: found.arrays[f"rule {rule}"] for rule in job.rules}
            notes, elapsed = tuple(map(str, facts["notes"])), float(facts["elapsed"])
            if job.plans and not facts["asked"]:
                return None
            curve = _curve(found)
            examples = _examples(found, job.run.encoders)
            perturbed = self._perturbed(found, job)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            return None
        shape = (len(job.fold.test), len(self._data.labels))
        if set(seconds) != set(job.rules) or any(one.shape != shape for one in given.values()):
            return None
        return Outcome(
            job.number,
            given,
            seconds,
            notes,
            elapsed=elapsed,
            curve=curve,
            examples=examples,
            perturbed=perturbed,
        )

    def keep_outcome(self, job: Job, outcome: Outcome) -> None:
        """Save the outcome of a job, unless it failed."""
        if self._saved is None or outcome.failure is not None:
            return
        arrays = {f"rule {rule}": given for rule, given in outcome.probabilities.items()}
        facts: dict[str, Any] = {
            "system": job.run.name,
            "encoders": list(job.run.encoders),
            "fold": job.fold.name,
            "seed": job.seed,
            "chosen": dict(job.chosen),
            "layers": dict(job.layers),
            "seconds": dict(outcome.seconds),
            "elapsed": outcome.elapsed,
            "notes": list(outcome.notes),
            "network": outcome.curve is not None,
            "asked": job.plans,
            "plans": [],
            "perturbed": {name: self._of_perturbed(name, job.run) for name in outcome.perturbed},
        }
        arrays |= {f"perturbed {name}": given for name, given in outcome.perturbed.items()}
        if outcome.curve is not None:
            losses = {"training": outcome.curve.training, "validation": outcome.curve.validation}
            arrays |= {f"loss {part}": np.array(values) for part, values in losses.items()}
        if outcome.examples is not None:
            arrays["plan rows"] = outcome.examples.rows
            for index, (pair, plan) in enumerate(outcome.examples.plans.items()):
                # By position: another run may call the encoders otherwise.
                facts["plans"].append([job.run.encoders.index(name) for name in pair])
                arrays[f"plan {index}"] = plan
        self._saved.put(self._job_key(job), arrays, facts)

    def _perturbed(self, found: Saved, job: Job) -> dict[str, np.ndarray]:
        """Return the predictions of perturbed clips; KeyError if any is missing or outdated."""
        known, given = found.facts["perturbed"], {}
        for name in self._data.perturbed if job.outer is None else ():
            if known[name] != self._of_perturbed(name, job.run):
                raise KeyError(name)
            given[name] = found.arrays[f"perturbed {name}"]
        return given

    def choice(self, search: Search) -> Choice | None:
        """Return what a search that was done before has chosen."""
        found = self._saved.get(self._search_key(search)) if self._saved else None
        if found is None:
            return None
        run, facts = search.run, found.facts
        # The names are those of today: an encoder or a fold may be called otherwise.
        names: dict[str, Any] = {
            "name": run.name,
            "encoders": run.encoders,
            "fold": search.fold.name,
        }
        try:
            names["layers"] = _by_name(facts["layers"], run)
            tuning = SystemTuning.from_dict({**facts["tuning"], **names})
            return Choice(search.number, tuning, float(facts["elapsed"]))
        except (KeyError, TypeError, ValueError):
            return None

    def resumed(self, task: AnyTask) -> AnyTask:
        """Return a search with what was trained for it, up to now; a job as it is."""
        return replace(task, seen=self.attempts(task)) if isinstance(task, Search) else task

    def attempts(self, search: Search) -> tuple[Attempt, ...]:
        """Return what was trained in the place of a search, by one of any number of trials.

        What this run has trained is remembered without a folder too: a killed process loses it.
        """
        if search.number not in self._attempts:
            self._attempts[search.number] = list(self._saved_attempts(search))
        return tuple(self._attempts[search.number])

    def _saved_attempts(self, search: Search) -> tuple[Attempt, ...]:
        found = self._saved.get(self._attempts_key(search)) if self._saved else None
        listed = [] if found is None else found.facts.get("attempts", [])
        try:
            return tuple(
                Attempt(
                    search.number,
                    {str(name): float(value) for name, value in one["chosen"].items()},
                    str(one["fold"]),
                    float(one["uar"]),
                    float(one["elapsed"]),
                    _by_name(one["layers"], search.run),
                )
                for one in listed
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            return ()

    def keep_choice(self, search: Search, choice: Choice | Attempt) -> None:
        """Save what a search has chosen, unless it failed, or what it has trained."""
        if isinstance(choice, Attempt):
            self._keep_attempt(search, choice)
            return
        if self._saved is None or choice.failure is not None:
            return
        tuning = choice.tuning
        facts = {
            "tuning": tuning.to_dict(),
            "layers": _by_place(tuning.layers, search.run),
            "elapsed": choice.elapsed,
        }
        self._saved.put(self._search_key(search), {}, facts)

    def _keep_attempt(self, search: Search, attempt: Attempt) -> None:
        done = self.attempts(search)
        if attempt in done:
            return
        self._attempts[search.number].append(attempt)
        if self._saved is None:
            return
        every = (*done, attempt)
        listed = [{**asdict(one), "layers": _by_place(one.layers, search.run)} for one in every]
        self._saved.put(self._attempts_key(search), {}, {"attempts": listed})

    def _job_key(self, job: Job) -> str:
        digest = self._common(job.run, job.fold, job.seed)
        layers = _by_place(job.layers, job.run)
        return digest.add("training", list(job.rules), dict(job.chosen), layers, job.device).key

    def _search_key(self, search: Search) -> str:
        digest = self._common(search.run, search.fold, search.seed)
        spans = {name: asdict(span) for name, span in self._systems.SPANS.items()}
        space = dict(self._systems.space(search.run.name))
        return digest.add("search", search.rule, search.trials, space, spans).key

    def _attempts_key(self, search: Search) -> str:
        # What was tried stands with each attempt: how many trials there are decides none of them.
        return self._common(search.run, search.fold, search.seed).add("tried", search.rule).key

    def _common(self, run: SystemRun, fold: Fold, seed: int) -> Digest:
        """Return what decides the numbers of everything that is done in this place."""
        spec = self._systems.get_system(run.name)
        digest = Digest().add(engine(), run.name, dict(spec.settings), seed)
        if code := getattr(spec, "code", ""):
            digest.add("code", code)
        digest.add(self._of_clips(), *(self._of_view(name) for name in run.encoders))
        digest.add([self._data.layers.get(name) for name in run.encoders])
        return digest.add(np.asarray(fold.train), np.asarray(fold.test))

    def _of_clips(self) -> str:
        """Return the hash of labels, speakers and contents; computed once."""
        if not self._clips:
            data = self._data
            digest = Digest().add(data.y, data.speakers, list(data.labels), data.digests)
            self._clips = digest.key
        return self._clips

    def _of_view(self, name: str, perturbation: str | None = None) -> str:
        """Return the hash of an encoder's embeddings themselves; computed once."""
        if (name, perturbation) not in self._views:
            data = self._data
            X = data.X if perturbation is None else data.perturbed[perturbation]
            self._views[name, perturbation] = Digest().add(X[:, data.views[name]]).key
        return self._views[name, perturbation]

    def _of_perturbed(self, perturbation: str, run: SystemRun) -> list[str]:
        return [self._of_view(name, perturbation) for name in run.encoders]


def _by_place(layers: Mapping[str, int], run: SystemRun) -> list[int | None]:
    """Return the layer of each encoder in order: another run may call the encoders otherwise."""
    return [layers.get(name) for name in run.encoders]


def _by_name(layers: Sequence[int | None], run: SystemRun) -> dict[str, int]:
    """Return what `_by_place` was given, under the names of this run."""
    found = zip(run.encoders, layers, strict=True)
    return {name: int(layer) for name, layer in found if layer is not None}


def _curve(found: Saved) -> Curve | None:
    if not found.facts["network"]:
        return None
    losses = (found.arrays[f"loss {part}"].tolist() for part in ("training", "validation"))
    return Curve(*map(tuple, losses))


def _examples(found: Saved, encoders: Sequence[str]) -> ExamplePlans | None:
    pairs = found.facts["plans"]
    if not pairs:
        return None
    plans = {
        (encoders[source], encoders[target]): found.arrays[f"plan {index}"]
        for index, (source, target) in enumerate(pairs)
    }
    return ExamplePlans(found.arrays["plan rows"], plans)
