"""Errors that become one line, and errors that keep their traceback."""

from __future__ import annotations

import errno
import os

import pytest

from pipeline.errors import EXIT_USER_ERROR, exit_on_error


def _torch_error(text: str) -> RuntimeError:
    return RuntimeError(f"[enforce fail at inline_container.cc:747] . {text}")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/r/x"),
            "cannot write runs/r/x: No space left on device; free some space",
        ),
        (
            Exception("I/O error: Read-only file system (os error 30)"),  # safetensors, tokenizers
            "cannot write: Read-only file system; make that filesystem writable",
        ),
        (
            _torch_error("open file failed with strerror: Permission denied"),
            "ask for the permission",
        ),
        (_torch_error("unexpected pos 576 vs 534"), "cannot write a checkpoint, probably because"),
        (OSError("No space left on device"), "free some space"),
    ],
)
def test_a_disk_error_is_one_line(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        exit_on_error(_raise)(error)
    assert stopped.value.code == EXIT_USER_ERROR
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert line in written
    assert "then run the same command again" in written


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOENT, os.strerror(errno.ENOENT)),
        ValueError("Permission denied: text of something else"),
        ValueError("unexpected pos"),
        Exception("No such file or directory (os error 2)"),
    ],
)
def test_any_other_error_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        exit_on_error(_raise)(error)


def _raise(error: Exception) -> None:
    raise error
