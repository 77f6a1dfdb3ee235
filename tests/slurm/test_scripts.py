"""The shell scripts, checked by shellcheck and by bash itself."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.tiny_run import REPOSITORY

_SCRIPTS = sorted(
    path
    for path in (REPOSITORY / "slurm").iterdir()
    if path.suffix in (".sh", ".sbatch", ".example")
)


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        assert not os.environ.get("MINIEND_REQUIRE_SLURM"), "shellcheck is not installed"
        pytest.skip("not installed: shellcheck")
    assert len(_SCRIPTS) >= 8
    done = subprocess.run(
        ["shellcheck", "--external-sources", "--source-path=slurm", *_SCRIPTS],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stdout
