"""Sphinx settings."""

from __future__ import annotations

import shutil
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

project = "nver"
author = "The nver authors"
project_copyright = "the nver authors"
version = release = installed_version("nver")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "example"]  # the example is pages already; they are copied below
html_theme = "furo"
html_title = "nver"

autodoc_typehints = (
    "none"  # the docstrings say shapes, units and ranges; the signatures stay readable
)
autodoc_member_order = "bysource"
napoleon_google_docstring = False

EXAMPLE = Path(__file__).parent / "example"


def _copy_example(app: Any, error: Exception | None) -> None:
    """Put the example report beside the built pages, so that ``example/index.html`` opens it."""
    if error is None and EXAMPLE.is_dir() and app.builder.format == "html":
        shutil.copytree(EXAMPLE, Path(app.outdir) / EXAMPLE.name, dirs_exist_ok=True)


def setup(app: Any) -> None:
    """Register what happens after a build."""
    app.connect("build-finished", _copy_example)
