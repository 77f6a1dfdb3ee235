"""The study's text: prose and nothing else out of HTML, reStructuredText and docstrings."""

from __future__ import annotations

from benchmarks.study import prose

REST = """
Signing
=======

.. currentmodule:: django

Django's :mod:`signing <django.core.signing>` methods live in a *module* of ``django.core``. To sign
a value, first make a :class:`~django.Signer` instance::

    >>> signer = Signer()
    >>> signer.sign("one two three four five six seven eight nine.")

* Keys are **secret**, and whoever has them can make signatures of his own.

Too short.

=====  =====
a      b
=====  =====
"""


def test_of_restructured_text_only_sentences_are_left_without_markup() -> None:
    assert list(prose.from_rest(REST)) == [
        "Django's signing methods live in a module of django.core. To sign a value, first make a django.Signer instance:",  # noqa: E501
        "Keys are secret, and whoever has them can make signatures of his own.",
    ]


def test_docstrings_are_read_and_nothing_is_run() -> None:
    source = 'raise SystemExit("run")\ndef f():\n    """Give the sum of all the numbers that are in the list.\n\n    >>> f()\n    """\n'  # noqa: E501
    assert list(prose.from_docstrings(source)) == [
        "Give the sum of all the numbers that are in the list."
    ]
    assert list(prose.from_docstrings("def f(:")) == []


def test_html_gives_its_paragraphs_and_neither_code_nor_links_between_pages() -> None:
    page = (
        "<html><head><title>A title that has enough words to be prose, or so it seems.</title></head><body>"  # noqa: E501
        "<p>One <b>long</b> enough sentence that stands\nin a paragraph &amp; ends.</p>"
        "<pre>code that is long enough to be taken for prose.</pre>"
        "<div><a href='x'>next page</a></div></body></html>"
    )
    assert list(prose.from_html(page)) == [
        "One long enough sentence that stands in a paragraph & ends."
    ]
