"""Paragraphs of plain prose from HTML, reStructuredText and docstrings, without code and markup."""

from __future__ import annotations

import ast
import html.parser
import re
import textwrap
from collections.abc import Iterator

#: Fewest words of a paragraph, and smallest share of letters and spaces in it.
LEAST_WORDS, LEAST_LETTERS = 8, 0.85

_ROLE = re.compile(r":[\w.:+-]+:`([^`]*)`")
_TARGET = re.compile(r"\s*<[^<>`]*>$")
_MARKUP = re.compile(r"``([^`]*)``|`([^`]*)`_{0,2}|\*\*([^*]+)\*\*|\*([^*\s][^*]*)\*")
_BULLET = re.compile(r"^(?:[*+-]|\d+[.)]|#\.)\s+")


def is_prose(paragraph: str) -> bool:
    """Return whether a paragraph reads as sentences: long enough, with an end, nearly all words."""
    if len(paragraph.split()) < LEAST_WORDS or paragraph[-1:] not in tuple(".!?:;)]\"'”’"):
        return False
    letters = sum(character.isalpha() or character == " " for character in paragraph)
    return letters >= LEAST_LETTERS * len(paragraph) and "::" not in paragraph


def from_rest(text: str) -> Iterator[str]:
    """Yield the paragraphs of prose in a reStructuredText file or a docstring, each as one line."""
    for block in re.split(r"\n[ \t]*\n", text):
        lines = textwrap.dedent(block).strip("\n").splitlines()
        if (
            not lines
            or lines[0].startswith((".. ", ">>>", "|"))
            or any(line.startswith(">>>") for line in lines)
        ):
            continue
        paragraph = " ".join(line.strip() for line in lines)
        yield from _prose(_BULLET.sub("", _plain(paragraph)))


def from_docstrings(source: str) -> Iterator[str]:
    """Yield the paragraphs of prose in the docstrings of a Python module. Nothing of it is run."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from from_rest(ast.get_docstring(node) or "")


def from_html(text: str) -> Iterator[str]:
    """Yield the paragraphs of prose in an HTML page, each as one line."""
    reader = _Paragraphs()
    reader.feed(text)
    reader.close()
    for paragraph in reader.found:
        yield from _prose(" ".join(paragraph.split()))


def from_text(text: str) -> Iterator[str]:
    """Yield the paragraphs of prose in plain text, each as one line."""
    for block in re.split(r"\n[ \t]*\n", text):
        yield from _prose(" ".join(block.split()))


def _prose(paragraph: str) -> Iterator[str]:
    paragraph = paragraph.removesuffix("::") + (":" if paragraph.endswith("::") else "")
    if is_prose(paragraph):
        yield paragraph


def _plain(text: str) -> str:
    text = _ROLE.sub(lambda found: _TARGET.sub("", found[1]).lstrip("~.!"), text)
    return _MARKUP.sub(lambda found: _TARGET.sub("", next(filter(None, found.groups()), "")), text)


class _Paragraphs(html.parser.HTMLParser):
    """Collects the text between tags that begin or end a block."""

    _BLOCKS = frozenset(
        {
            "p",
            "li",
            "div",
            "td",
            "th",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "blockquote",
            "br",
            "ul",
            "ol",
            "body",
        }
    )
    _UNREAD = frozenset({"script", "style", "head", "pre", "code"})

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self._unread = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._unread += tag in self._UNREAD
        if tag in self._BLOCKS:
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self._unread -= tag in self._UNREAD
        if tag in self._BLOCKS:
            self.found.append("")

    def handle_data(self, data: str) -> None:
        if not self._unread and self.found:
            self.found[-1] += data
