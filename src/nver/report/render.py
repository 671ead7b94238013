"""One place where text becomes markup: everything is escaped, for HTML and SVG alike."""

from __future__ import annotations

import functools
import re
from typing import Any

import jinja2
from markupsafe import Markup

# A label or a file name can hold these; XML cannot, and lone surrogates cannot be written at all.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def render(template: str, **values: Any) -> Markup:
    """Return a template of ``report/templates`` filled with values; a missing one is an error."""
    return Markup(_environment().get_template(template).render(values))  # noqa: S704 # autoescaped


def clean(value: Any) -> Any:
    """Return a value with the characters that no page can show replaced by U+FFFD.

    >>> clean("a" + chr(0) + "b") == "a" + chr(0xFFFD) + "b"
    True
    """
    if isinstance(value, str) and _UNPRINTABLE.search(value):
        return type(value)(_UNPRINTABLE.sub("\ufffd", value))
    return value


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nver.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=clean,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # a third of the size where text is not English; the tags and quotes are escaped all the same
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":")}
    return environment
