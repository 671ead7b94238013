"""The page that `python -m bench` writes: sections that can be measured one by one.

A section lies between two comments, so that measuring one leaves the others as they are. Each says
when and where it was measured.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from textwrap import fill

import torch

from nver.provenance import hardware

PACKAGES = (
    "torch",
    "numba",
    "triton",
    "numpy",
    "POT",
    "geomloss",
    "ott-jax",
    "jax",
    "scikit-learn",
)
INTRODUCTION = """# Benchmarks

Times of `nver` beside those of other ways to do the same, measured by the scripts of `bench/`. To
repeat them: `make bench`, or `python -m bench [SECTION ...]` with any of the sections
{sections}. `--quick` is a trial that takes minutes less,
`--device cuda` measures on a GPU, and `--list` tells what other scripts there are. GeomLoss and
OTT-JAX are compared where they are installed; they are no dependencies.

Within a section everything is measured in one run, in turn, so that other work on the machine hits
all alike: ratios can be compared between machines sooner than times. Numbers are medians unless
said otherwise. A section says on which machine and under which load it was measured.
"""


@dataclass(frozen=True)
class Options:
    """How the sections measure.

    Parameters
    ----------
    quick : bool
        Whether a trial is enough: fewer sizes, fewer rounds.
    device : str
        "cpu" or "cuda".
    threads : int
        Of torch, where a section does not say otherwise.
    """

    quick: bool
    device: str
    threads: int

    def wait(self) -> None:
        """Wait for the device."""
        if self.device != "cpu":
            torch.cuda.synchronize()


def machine(options: Options, load: float) -> str:
    """Return a sentence: when, where, with what, beside what."""
    facts = hardware()
    cores, there = facts["cores"], os.cpu_count()
    cores = f"{cores} cores" if cores == there else f"{cores} of {there} cores"
    place = f"{facts['cpu']}, {cores}, {facts['memory_gib']} GiB"
    if options.device != "cpu":
        place = f"{torch.cuda.get_device_name(0)}, driven by {place}"
    packages = []
    for package in PACKAGES:
        try:
            packages.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    when = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    trial = " A trial (`--quick`)." if options.quick else ""
    return (
        f"*{when}; {place}; {facts['system']}; {', '.join(packages)}; "
        f"load average {load:.1f} before and {os.getloadavg()[0]:.1f} after.{trial}*"
    )


def paragraph(*sentences: str) -> str:
    """Return sentences as lines of 100 characters at most."""
    return fill(" ".join(sentences), 100, break_long_words=False, break_on_hyphens=False)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put(page: Path, name: str, text: str, names: list[str], plain: list[str]) -> None:
    """Write a section into the page, in the place that the list of names gives it."""
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    held = dict(re.findall(r"<!-- begin (\S+) -->\n(.*?)\n<!-- end \1 -->", old, flags=re.DOTALL))
    held[name] = text
    parts = [INTRODUCTION.format(sections=", ".join(f"`{part}`" for part in plain))]
    parts += [
        f"<!-- begin {part} -->\n{held[part]}\n<!-- end {part} -->\n"
        for part in names
        if part in held
    ]
    page.write_text("\n".join(parts), encoding="utf-8")
