"""HTML and SVG elements. What is not markup already is text and is escaped, so nothing read from a file becomes a tag."""

from __future__ import annotations

import html
import re
from typing import Any

#: Control characters, lone surrogates and the marks that turn the direction of text (UAX #9): none belongs in a name.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
#: Elements that have neither content nor an end tag; SVG's are closed like any other.
_VOID = {"meta", "br", "hr"}


class Markup(str):
    """A string that is markup."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Escape `value` for use between tags or in quotes; characters that cannot be shown become U+FFFD."""
    return (
        value
        if isinstance(value, Markup)
        else Markup(html.escape(_UNPRINTABLE.sub("\ufffd", str(value))))
    )


def el(name: str, /, *children: object, **attributes: Any) -> Markup:
    """One element. class_ is `class`, x_y is `x-y`; an attribute that is None is left out; a float is cut to two decimals."""
    shown = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(
        f"<{name}{shown}>" if name in _VOID else f"<{name}{shown}>{join(*children)}</{name}>"
    )


def join(*parts: object) -> Markup:
    return Markup("".join(text(part) for part in parts if part is not None))


def _short(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
