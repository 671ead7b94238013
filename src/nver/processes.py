"""Tasks side by side in processes, each in one thread.

Small trainings gain nothing from threads, and lose much to threads that wait for each other: each
task computes with one, and the cores are used by as many processes. Large arrays are mapped into
the processes, not sent with each task.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from threading import Lock, Thread
from typing import Any, Generic, TypeVar

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


def stream(
    work: Callable[[Task, Shared, Any], Generator[Result, None, None]],
    waiting: Iterable[Task],
    processes: int,
    data: Shared,
    systems: Any,
    arrived: Callable[[Result], None],
    alone: bool = False,
) -> None:
    """Call `arrived` with each of the results of every task, at the moment when it is there.

    A process goes on with its task only when the call for its last result has returned: what was
    saved by then is safe, whatever happens to the process. The calls come one at a time, with
    several processes not from the main thread. An error in one ends the work.

    Raises
    ------
    BrokenProcessPool
        If a process was killed from outside.
    """
    if processes == 1:
        for task in waiting:
            with closing(work(task, data, systems)) as results:
                for result in results:
                    arrived(result)
        return
    with _Inbox(arrived) as inbox:
        tell = partial(_tell, work, inbox.address, inbox.key, os.getpid())
        try:
            with closing(execute(tell, waiting, processes, data, systems, alone)) as ends:
                for _ in ends:
                    pass
        except Exception:
            if inbox.error is None:
                raise
        if inbox.error is not None:
            raise inbox.error


def _tell(
    work: Callable[[Task, Shared, Any], Iterable[Result]],
    address: Any,
    key: bytes,
    home: int,
    task: Task,
    data: Shared,
    systems: Any,
) -> None:
    """Do a task, in a process, and send its results home as they come."""
    with _ending_without(home):
        wire = Client(address, authkey=key)
    with wire:
        for result in work(task, data, systems):
            with _ending_without(home):
                wire.send(result)
                wire.recv()


@contextmanager
def _ending_without(home: int) -> Iterator[None]:
    """End this process where the one that started it was killed.

    Waiting for tasks it would keep its memory for five minutes more.
    """
    try:
        yield
    except (EOFError, OSError):
        for _ in range(20):  # a killed process closes what it has open before it is gone
            if os.getppid() != home:
                os._exit(1)
            time.sleep(0.01)
        raise


def _listener(key: bytes) -> Listener:
    """Return an open door for many at once."""
    try:
        return Listener(backlog=128, authkey=key)
    except OSError:  # the folder for temporary files has too long a name for a socket
        return Listener(("localhost", 0), backlog=128, authkey=key)


class _Inbox(Generic[Result]):
    """Takes results from other processes, in threads, and calls `arrived` with one at a time."""

    def __init__(self, arrived: Callable[[Result], None]) -> None:
        self.key = secrets.token_bytes(32)
        self.error: BaseException | None = None
        self._arrived = arrived
        self._listener = _listener(self.key)
        self.address = self._listener.address
        self._lock = Lock()
        self._open = True
        self._door = Thread(target=self._accept, daemon=True)
        self._takers: list[Thread] = []

    def __enter__(self) -> _Inbox[Result]:
        self._door.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        with suppress(OSError), Client(self.address, authkey=self.key):
            pass  # the door opens once more, and sees that it is over
        self._door.join()
        for taker in self._takers:
            taker.join()
        self._listener.close()

    def _accept(self) -> None:
        while self._open:
            try:
                wire = self._listener.accept()
            except (OSError, EOFError, AuthenticationError):  # killed before it had said who it is
                continue
            self._takers = [taker for taker in self._takers if taker.is_alive()]
            self._takers.append(Thread(target=self._take, args=(wire,), daemon=True))
            self._takers[-1].start()

    def _take(self, wire: Connection) -> None:
        """Take what one task sends, until it ends or something is wrong here."""
        with wire, suppress(EOFError, OSError):  # it has ended, or was killed
            while True:
                result = wire.recv()
                with self._lock:
                    if self.error is not None:
                        return
                    try:
                        self._arrived(result)
                    except BaseException as error:  # noqa: BLE001 - raised again by `stream`
                        self.error = error
                        return
                wire.send(True)


def _stop_processes() -> None:
    """End joblib's processes now: idle ones would hold up the exit of the program."""
    from joblib.externals.loky import get_reusable_executor

    executor = get_reusable_executor(reuse=True)
    # What killed processes had mapped is still counted as theirs, unless joblib is told.
    stop = getattr(executor, "terminate", executor.shutdown)
    stop(kill_workers=True)


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
