"""List the benchmarks: `python -m bench`. Each is a script that prints what it measured."""

from __future__ import annotations

import ast
from pathlib import Path

for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
    first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").splitlines()[0]
    print(f"bench/{path.name}: {first}")
