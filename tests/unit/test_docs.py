"""README.md and docs/: lines short enough to hold one sentence, and links that lead to files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Most characters of a line: enough for one long sentence with its links, not for two.
LONGEST = 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_lines_hold_one_sentence_and_links_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for line in prose.splitlines() if not line.startswith(("|", "#"))]
    assert [line for line in lines if len(line) > LONGEST] == []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_architecture_page_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|sh))`", text))
    rooms = {path for path in named if not path.startswith(("stages/", "slurm/"))}
    assert len(rooms) > 40
    assert [path for path in sorted(rooms) if not (ROOT / "pipeline" / path).is_file()] == []
    assert [path for path in sorted(named - rooms) if not (ROOT / path).is_file()] == []
