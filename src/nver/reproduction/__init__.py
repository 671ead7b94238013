"""`nver reproduce mata`: the grid of the paper's table, on what is here, beside what was published.

Each corpus is judged twice: in the paper's protocol (random folds) and in one that keeps speakers
apart (leave one speaker out where speakers are few), with the paper's recipe in both, so that they
differ in the folds alone. Every encoder alone, every pair of encoders, and all of them together.
Whatever is missing is said with where to get it. Each corpus and protocol is a run folder as
`nver evaluate` leaves it: a command that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nver.errors import NverError, SettingsError
from nver.experiment import evaluate
from nver.progress import Progress
from nver.protocols import protocol_title
from nver.reproduction.planning import Part, Plan, plan
from nver.reproduction.present import Missing, Wanted

if TYPE_CHECKING:
    from nver.report.joint import Chapter

__all__ = ["Chapters", "Missing", "Part", "Plan", "Wanted", "plan", "reproduce"]


@dataclass(frozen=True)
class Chapters:
    """What `reproduce` has done: the index, its parts, and how many clips and systems failed."""

    index: Path
    parts: tuple[Chapter, ...]
    failed: int
    systems_failed: int = 0

    @property
    def undone(self) -> tuple[str, ...]:
        """A reason for each part that could not be run."""
        return tuple(part.reason for part in self.parts if part.reason)


def reproduce(
    planned: Plan,
    out: Path,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Chapters:
    """Run the grid and write ``index.html`` and ``index.md`` over its runs.

    A part that cannot be run, for a leak or for folds that do not exist, is told in the index with
    its reason; the others go on. The index is written anew after each part.

    Parameters
    ----------
    planned : Plan
    out : Path
        Holds a run folder per part, and the index.
    progress : callable or None
        As in `nver.experiment.evaluate`.
    tell : callable
        Called with a sentence for each part.
    """
    from nver.report.joint import Chapter, write_index

    if out.is_file():
        raise SettingsError(f"Expected a folder for the results, '{out}' is a file.")
    chapters: list[Chapter] = []
    failed = systems_failed = 0
    missing = [(one.name, one.how) for one in planned.missing]
    index = out / "index.html"
    for number, part in enumerate(planned.parts, 1):
        tell(
            f"[{number}/{len(planned.parts)}] {part.corpus}, {protocol_title(part.protocol)}: "
            f"{part.trainings} trainings"
        )
        reason = ""
        try:
            run = evaluate(part.settings, out / part.folder, progress)
            failed += run.failed
            systems_failed += len(run.systems_failed)
            for sentence in run.systems_failed:
                tell(f"  {sentence}")
        except NverError as error:
            reason = str(error)
            tell(f"  not done: {reason}")
        chapters.append(Chapter(part.corpus, part.protocol, part.folder, reason))
        index = write_index(out, chapters, missing)
    return Chapters(index, tuple(chapters), failed, systems_failed)
