"""Sinkhorn beside POT, GeomLoss and OTT-JAX: the plan, and the gradient through the plan.

50 iterations, float32, equal weights, eps 0.1 of the largest cost, clouds of 8 classes in 120
dimensions. All methods are timed in turn, so that other work on the machine hits them alike; the
numbers are medians in microseconds per problem. Each library gets arrays of its own. The gradient
is that of <W, P> by the costs: the product of W with the derivative of the plan
(torch.autograd.grad, jax.vjp), so that no library's time has a loss in it. Its error is its largest
difference from that of float64, by nver's reference on logarithms, over the largest entry. A method
that is 10 % off or more is not in the race for the gradient: its time is in brackets.

    python -m bench.sinkhorn [--threads N] [--sizes N ...] [--batches N ...] [--device cuda]
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from bench.page import Options, table
from bench.solvers import EPS, ITERATIONS, LAST_STEP, Method, clouds, methods, own
from torch import Tensor

from nver.scaling import logarithmic
from nver.scaling.problem import Problem

LOOPED = 4
"""Problems that a loop over problems is timed on; the rest would take as long each."""
REPEATS = 5
BUDGET = 0.35
"""Seconds for which one method is timed at one size, forward and again with the gradient."""
LARGEST = 6_000_000
"""Cost entries of a batch; larger batches are left out."""
SLOWEST = 2_000_000
"""Entries of a batch beyond which methods that keep every iteration are left out."""
SCALES = ("POT batch", LAST_STEP, "OTT-JAX", "nver", "nver, torch alone")
"""What is measured on the largest batches."""


def expected(cost: Tensor, w: Tensor) -> np.ndarray:
    """Return the gradient in float64, by the reference."""
    problems, n, _ = cost.shape
    weights = cost.new_full((problems, n), 1 / n, dtype=torch.float64)
    problem = Problem(cost.double(), weights, weights, EPS, ITERATIONS, 0.0)
    found = logarithmic.pull_back(problem, logarithmic.solve(problem, True), w.double())
    return found.cost.numpy(force=True)


def in_numpy(found: Any) -> np.ndarray:
    """Return a library's array as numpy's."""
    return found.numpy(force=True) if isinstance(found, Tensor) else np.asarray(found)


def seconds(calls: list[Callable[[], object]], wait: Callable[[], None]) -> list[float]:
    """Return the median seconds of each call.

    They take turns; in its turn a call is made once, so that the cache is its own, and then timed.
    """
    spent: list[list[float]] = [[] for _ in calls]
    going = True
    while going:
        going = False
        for call, times in zip(calls, spent, strict=True):
            if (len(times) >= 2 and sum(times) > BUDGET) or len(times) >= 40 * REPEATS:
                continue
            going = True
            call()
            for _ in range(REPEATS):
                wait()
                begun = time.perf_counter()
                call()
                wait()
                times.append(time.perf_counter() - begun)
                if times[-1] > BUDGET / 6:
                    break
    return [median(times) for times in spent]


@dataclass(frozen=True)
class Measured:
    """Microseconds per problem of one method at one size, and its gradient's error."""

    n: int
    problems: int
    method: str
    forward: float
    both: float
    error: float

    @property
    def exact(self) -> bool:
        """Whether its gradient is one."""
        return self.error < 0.1


def measure(n: int, problems: int, found: list[Method], options: Options) -> list[Measured]:
    """Measure every method at one size."""
    cost, w = (part.to(options.device) for part in clouds(problems, n))
    if problems * n * n > SLOWEST:
        found = [method for method in found if method.looped or method.name in SCALES]
    part = [min(LOOPED, problems) if method.looped else problems for method in found]
    truth = expected(cost[:LOOPED], w[:LOOPED])
    cases = [(m, k, m.given(cost[:k]), m.given(w[:k])) for m, k in zip(found, part, strict=True)]
    errors = [
        float(np.abs(in_numpy(m.backward(c, v))[:LOOPED] - truth[:k]).max() / np.abs(truth).max())
        for m, k, c, v in cases
    ]
    forward = seconds([partial(m.forward, c) for m, _, c, _ in cases], options.wait)
    both = seconds([partial(m.backward, c, v) for m, _, c, v in cases], options.wait)
    return [
        Measured(n, problems, method.name, 1e6 * forward[i] / k, 1e6 * both[i] / k, errors[i])
        for i, (method, k, _, _) in enumerate(cases)
    ]


def sizes(chosen: list[int], batches: list[int]) -> list[tuple[int, int]]:
    """Return sizes and numbers of problems that are measured."""
    pairs = [(n, problems) for n in chosen for problems in batches]
    return [(n, k) for n, k in pairs if k == 1 or (k * n * n <= LARGEST and n < 1024)]


def by_size(rows: list[Measured]) -> list[tuple[str, dict[str, Measured]]]:
    """Return the methods of each size by name."""
    found: dict[str, dict[str, Measured]] = {}
    for row in rows:
        found.setdefault(f"{row.n} x {row.n}, {row.problems}", {})[row.method] = row
    return list(found.items())


def ratios(rows: list[Measured]) -> str:
    """Return how many times nver's time the others take."""
    lines = []
    for size, methods_there in by_size(rows):
        mine = methods_there.get("nver") or methods_there["nver, torch alone"]
        others = [row for name, row in methods_there.items() if not name.startswith("nver")]
        cells = [size]
        for what in ("forward", "both"):
            fair = [row for row in others if what == "forward" or row.exact]
            best = min(fair, key=lambda row: getattr(row, what)) if fair else None
            loop = methods_there.get("POT loop")
            times_mine = [getattr(o, what) / getattr(mine, what) if o else 0 for o in (loop, best)]
            cells.append(f"{times_mine[0]:.1f}" if loop else "")
            cells.append(f"{times_mine[1]:.1f} ({best.method})" if best else "")
        lines.append(cells)
    head = ["size, problems", "plan: POT loop", "plan: fastest other"]
    return table([*head, "with gradient: POT loop", "with gradient: fastest other"], lines)


def times(rows: list[Measured], which: str) -> str:
    """Return microseconds per problem, a column per method."""
    names = list(dict.fromkeys(row.method for row in rows))
    lines = []
    for size, there in by_size(rows):
        cells = [size]
        for name in names:
            spent = f"{getattr(there[name], which):.0f}" if name in there else ""
            wrong = which == "both" and name in there and not there[name].exact
            cells.append(f"({spent})" if wrong else spent)
        lines.append(cells)
    return table(["us per problem", *names], lines)


def errors(rows: list[Measured]) -> str:
    """Return the largest error of each method's gradient, over all sizes."""
    worst: dict[str, float] = {}
    for row in rows:
        worst[row.method] = max(worst.get(row.method, 0.0), row.error)
    return table(["method", "gradient's error"], [[name, f"{e:.0e}"] for name, e in worst.items()])


def section(options: Options) -> str:
    """Return the page's section."""
    chosen = ([32, 64], [1, 32]) if options.quick else ([32, 64, 120, 256, 1024], [1, 5, 32, 256])
    found, missing = methods(options.device)
    rows: list[Measured] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n, problems in sizes(*chosen):
            rows += measure(n, problems, found, options)
    about = " ".join((__doc__ or "").split("\n\n")[1].split())
    parts = [
        about + f" Threads: {options.threads}.",
        "How many times nver's time the others take:",
        ratios(rows),
        "The plan alone, without a gradient:",
        times(rows, "forward"),
        "The plan and the gradient through it:",
        times(rows, "both"),
        errors(rows),
    ]
    if missing:
        parts.append("Not measured: " + "; ".join(" ".join(why.split()) for why in missing) + ".")
    if options.device != "cpu":
        parts.append(launches())
    return "\n\n".join(parts)


def launches() -> str:
    """Return how many programs and copies a solve starts on the GPU."""
    from torch.profiler import ProfilerActivity, profile

    solver = own("nver", "")
    lines = []
    for n, problems in ((32, 1), (32, 256), (120, 32), (256, 5), (1024, 1)):
        cost, w = (part.cuda() for part in clouds(problems, n))
        counts = []
        for call in (partial(solver.forward, cost), partial(solver.backward, cost, w)):
            call()
            with profile(activities=[ProfilerActivity.CUDA]) as watched:
                call()
                torch.cuda.synchronize()
            kind = torch.autograd.DeviceType.CUDA
            counts.append(sum(e.count for e in watched.key_averages() if e.device_type == kind))
        lines.append([f"{n} x {n}, {problems}", *map(str, counts)])
    return table(["launches and copies of one call", "plan", "plan, loss and gradient"], lines)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--sizes", type=int, nargs="+", default=[32, 64, 120, 256, 1024])
    options.add_argument("--batches", type=int, nargs="+", default=[1, 5, 32, 256])
    options.add_argument("--device", default="cpu")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    settings = Options(quick=False, device=given.device, threads=given.threads)
    found, missing = methods(given.device)
    print(missing)
    print(f"{given.threads} threads, torch {torch.__version__}; us per problem.\n", flush=True)
    rows = []
    for n, problems in sizes(given.sizes, given.batches):
        rows += measure(n, problems, found, settings)
        for row in rows[-len(found) :]:
            print(f"{n} x {problems} {row.method}: {row.forward:.0f}, {row.both:.0f}", flush=True)
    print(
        "\n\n".join(["", ratios(rows), times(rows, "forward"), times(rows, "both"), errors(rows)])
    )


if __name__ == "__main__":
    main()
