"""HTML and SVG elements.

Anything that is not `Markup` is escaped as text, so nothing read from a file becomes a tag.
"""

from __future__ import annotations

import html
import re

#: Control characters, lone surrogates, and marks that change the direction of text (UAX #9).
#: None of them belongs in a name.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
#: HTML elements without content or end tag. SVG elements are always closed.
_VOID = {"meta", "br", "hr"}


class Markup(str):
    """A string that is markup."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Escape `value` for use between tags or in quotes; unprintable characters become U+FFFD."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(_UNPRINTABLE.sub("\ufffd", str(value))))


def el(name: str, /, *children: object, **attributes: object) -> Markup:
    """Return one element. Attributes: `class_` becomes `class`, `x_y` becomes `x-y`.

    An attribute that is None is left out. A float is rounded to two decimals.
    """
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{shown}>")
    return Markup(f"<{name}{shown}>{join(*children)}</{name}>")


def join(*parts: object) -> Markup:
    return Markup("".join(text(part) for part in parts if part is not None))


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
