"""Tasks side by side in processes, each in one thread.

Small trainings gain nothing from threads, and lose much to threads that wait for each other: each
task computes with one, and the cores are used by as many processes. Large arrays are mapped into
the processes, not sent with each task.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Task = TypeVar("Task")
Shared = TypeVar("Shared")
Result = TypeVar("Result")


def execute(
    work: Callable[[Task, Shared, Any], Result],
    waiting: Iterable[Task],
    processes: int,
    data: Shared,
    systems: Any,
    alone: bool = False,
) -> Generator[Result, None, None]:
    """Yield ``work(task, data, systems)`` as it comes; closing the iterator stops the processes.

    With `alone`, one task is under way at a time, still in a process of its own.

    Raises
    ------
    BrokenProcessPool
        If a process was killed from outside.
    """
    if processes == 1:
        for task in waiting:
            yield work(task, data, systems)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config("loky", n_jobs=processes, inner_max_num_threads=1, max_nbytes="1M"):
        ahead = 1 if alone else "2 * n_jobs"
        parallel = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch=ahead)
    results = parallel(delayed(work)(task, data, systems) for task in waiting)
    try:
        yield from results
    finally:
        with warnings.catch_warnings():
            # On Ctrl-C joblib warns that it stops jobs, which is what was asked for.
            warnings.simplefilter("ignore")
            results.close()
            _stop_processes()


def _stop_processes() -> None:
    """End joblib's processes now: idle ones would hold up the exit of the program."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor(reuse=True).shutdown(wait=True, kill_workers=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread, so that speed and numbers do not depend on the number of jobs."""
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 1
    with threadpool_limits(limits=1):
        if torch:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)
