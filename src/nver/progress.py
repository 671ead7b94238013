"""How far a long piece of work has come, and how long the rest will take.

A convolutional network takes twenty times as long as a dense one, so the share of trainings that
are done says little about the time that is left. `Expectation` goes by the seconds that each kind
of task has taken so far; a kind of which none is done is guessed from the others.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Protocol, runtime_checkable

NOTHING = (0.0, 0.0)
"""Costs and seconds before anything is measured."""


@runtime_checkable
class Progress(Protocol):
    """Called with what is counted, how much is done, and the total."""

    def __call__(self, what: str, done: int, total: int, /) -> None:
        """Take note."""


@runtime_checkable
class TimedProgress(Protocol):
    """A `Progress` that wants to know the time left as well."""

    def time_left(self, what: str, seconds: float) -> None:
        """Take note; called before the `Progress` call that it belongs to."""


class Expectation:
    """Seconds that tasks take: measured by kind, guessed from their costs until then.

    A cost is a rough duration in any unit. Within a kind, and between kinds of which nothing is
    known yet, seconds are taken as proportional to it.

    >>> expected = Expectation()
    >>> expected.learn("mata", cost=10.0, seconds=4.0)
    >>> expected.seconds("mata", cost=20.0), expected.seconds("lda", cost=1.0)
    (8.0, 0.4)
    """

    def __init__(self) -> None:
        self._sums: dict[Hashable, tuple[float, float]] = {}
        self._all = NOTHING

    def learn(self, kind: Hashable, cost: float, seconds: float) -> None:
        """Note that a task of this kind and cost took so long; seconds of one process."""
        costs, spent = self._sums.get(kind, NOTHING)
        self._sums[kind] = costs + cost, spent + seconds
        self._all = self._all[0] + cost, self._all[1] + seconds

    def seconds(self, kind: Hashable, cost: float) -> float:
        """Return how long a task will take; its cost where nothing has been measured."""
        for costs, spent in (self._sums.get(kind, NOTHING), self._all):
            if costs > 0:
                return cost * spent / costs
        return cost

    def left(self, tasks: Iterable[tuple[Hashable, float]], processes: int) -> float | None:
        """Return the seconds until all `tasks` (kind and cost of each) are done side by side.

        The work shared out evenly, at least the longest task; None where nothing has been measured.
        """
        if not self._all[0]:
            return None
        each = [self.seconds(kind, cost) for kind, cost in tasks]
        return max(sum(each) / processes, max(each, default=0.0))
