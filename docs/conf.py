"""Sphinx settings."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "nver"
author = "The nver authors"
project_copyright = "the nver authors"
version = release = installed_version("nver")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "nver"

autodoc_typehints = (
    "none"  # the docstrings say shapes, units and ranges; the signatures stay readable
)
autodoc_member_order = "bysource"
napoleon_google_docstring = False
