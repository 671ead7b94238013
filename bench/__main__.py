"""Measure, and write docs/benchmarks.md: `python -m bench [SECTION ...]`.

python -m bench                         # every section, on the CPU
python -m bench sinkhorn grid           # some; the others stay as they are on the page
python -m bench --quick --out page.md   # a trial, into a page of its own
python -m bench --device cuda           # on a GPU
python -m bench --list                  # the scripts of bench/, each with its first line
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import time
from pathlib import Path

import torch
from bench.page import Options, machine, put

HERE = Path(__file__).parent
SECTIONS = {
    "sinkhorn": ("bench.sinkhorn", "Sinkhorn"),
    "training": ("bench.training_page", "Training"),
    "grid": ("bench.grid", "The grid, end to end"),
    "scaling": ("bench.scaling", "Scaling in members and clips"),
    "encoders": ("bench.encoders_page", "Encoders"),
}


def scripts() -> None:
    for path in sorted(HERE.glob("[!_]*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        print(f"bench/{path.name}: {doc.splitlines()[0] if doc else ''}")


def measured(name: str, options: Options) -> str:
    """Return the Markdown of a section."""
    module, title = SECTIONS[name]
    title = title if options.device == "cpu" else f"On a GPU: {title}"
    load = os.getloadavg()[0]
    body = importlib.import_module(module).section(options)
    return f"## {title}\n\n{body}\n\n{machine(options, load)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "benchmarks.md")
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    if given.list:
        scripts()
        return
    unknown = set(given.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here")
    options = Options(given.quick, given.device, given.threads)
    suffix = "" if given.device == "cpu" else "-gpu"
    names = [*SECTIONS, *(f"{name}-gpu" for name in SECTIONS)]
    for name in given.sections or SECTIONS:
        torch.set_num_threads(given.threads)
        started = time.perf_counter()
        put(given.out, name + suffix, measured(name, options), names, list(SECTIONS))
        print(f"{name}: {time.perf_counter() - started:.0f} s -> {given.out}", flush=True)


if __name__ == "__main__":
    main()
