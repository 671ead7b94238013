"""How the groups of a batch are shared out over the cores of a CPU.

A network on several threads makes them wait for each other after every operation; several clips,
each on one thread, wait for nothing. So where a batch has more groups than one, every core takes
the next group and runs it alone. The numbers do not change: a group's result depends on its clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from nver.encoders.device import full_precision

Group = TypeVar("Group")
Result = TypeVar("Result")


def over_cores(
    function: Callable[[Group], Result], groups: Sequence[Group], device: str = "cpu"
) -> list[Result]:
    """Return ``function`` of every group, computed in inference mode and in full precision.

    Parameters
    ----------
    function : callable
        Of one group; it may run in several threads at once.
    groups : sequence
        The longest first, so that the cores end at about the same time.
    device : str
        On any but a CPU, the groups run one after the other.

    Raises
    ------
    Exception
        Whatever `function` raised first.
    """

    def run(group: Group) -> Result:
        with torch.inference_mode(), full_precision(torch.device(device)):
            return function(group)

    threads = torch.get_num_threads()
    if threads < 2 or len(groups) < 2 or torch.device(device).type != "cpu":
        return [run(group) for group in groups]
    workers = min(threads, len(groups))
    try:
        with ThreadPoolExecutor(workers, "nver-encoder", torch.set_num_threads, (1,)) as pool:
            return list(pool.map(run, groups))
    finally:
        torch.set_num_threads(threads)  # one of torch's libraries has a count for all threads
