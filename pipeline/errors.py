"""Errors that a user can cause, and the exit codes that the stages promise.

Each of these errors prints as **one line**: what is wrong, where, and the command or setting that
fixes it. A stage never shows a traceback for one (`exit_on_error`). Any other exception is a bug
and keeps its traceback.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import sys
from collections.abc import Callable
from typing import TypeVar

#: The user's input, recipe or artifacts are at fault; nothing was written.
EXIT_USER_ERROR = 2
#: Interrupted by SIGTERM or SIGUSR1 after saving: the same command goes on (sysexits' EX_TEMPFAIL).
EXIT_REQUEUE = 75
#: Nobody reads the output any more: the code that a shell gives for an end by SIGPIPE.
EXIT_BROKEN_PIPE = 141

#: How to fix an error of the operating system, by errno.
DISK_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or ask for more",
    errno.EROFS: "make that filesystem writable or choose another `run`",
    errno.EACCES: "ask for the permission or choose another `run`",
    errno.EIO: "check the disk for hardware errors",
}

#: errno in the messages of safetensors and tokenizers: exceptions from Rust have no such attribute.
_RUST_ERRNO = re.compile(r"\(os error (\d+)\)")
#: Messages of torch.save's C++ writer when a write fails, a RuntimeError that names no errno.
_TORCH_SAVE_FAILED = ("PytorchStreamWriter failed writing", "unexpected pos", "iostream error")
_RUN_AGAIN = "then run the same command again"

R = TypeVar("R")


class PipelineError(Exception):
    """Base of all errors that are reported as one clear line."""


class ConfigError(PipelineError):
    """A recipe, an override or a command line is wrong."""


class DataError(PipelineError):
    """Input text or task data is missing, empty or malformed."""


class ArtifactError(PipelineError):
    """An artifact directory cannot be used."""


class StaleArtifact(ArtifactError):
    """The artifact was made from something other than what is asked for now."""


class IncompleteArtifact(ArtifactError):
    """The artifact is missing or was not finished."""


class CorruptArtifact(ArtifactError):
    """A file of the artifact differs from what was written."""


class Preempted(Exception):
    """Raised after a checkpoint was saved because a signal asked the stage to stop."""


def _disk_message(error: Exception) -> str | None:
    """Return the message for an error that a disk caused, None for any other error.

    Such a disk is full, read-only, forbidden or broken.
    """
    number = _errno(error)
    if number is not None and number in DISK_REMEDIES:
        where = f" {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return (
            f"cannot write{where}: {os.strerror(number)}; {DISK_REMEDIES[number]}, {_RUN_AGAIN}: "
            "what is finished is kept"
        )
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _TORCH_SAVE_FAILED):
        return (
            "cannot write a checkpoint, probably because the disk is full; "
            f"free some space, {_RUN_AGAIN}"
        )
    return None


def _errno(error: Exception) -> int | None:
    """Return the operating system's number for `error`, None if it has none.

    It is read from the message only for exceptions of libraries in Rust and C++, which carry none.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = " ".join(str(error).split())
    if in_rust := _RUST_ERRNO.search(text):
        return int(in_rust[1])
    if isinstance(error, (OSError, RuntimeError)):
        return next((number for number in DISK_REMEDIES if os.strerror(number) in text), None)
    return None


def exit_on_error(main: Callable[..., R]) -> Callable[..., R]:
    """Wrap a stage's `main`: a user's error becomes one line on stderr and exit code 2.

    Preemption becomes exit code 75.
    """

    @functools.wraps(main)
    def guarded(*args: object, **kwargs: object) -> R:
        try:
            return main(*args, **kwargs)
        except PipelineError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
            sys.exit(EXIT_USER_ERROR)
        except Preempted as stop:
            print(
                f"stopped: {stop}; run the same command again to continue",
                file=sys.stderr,
                flush=True,
            )
            sys.exit(EXIT_REQUEUE)
        except Exception as error:
            message = _disk_message(error)
            if message is None:
                raise
            print(f"error: {message}", file=sys.stderr, flush=True)
            sys.exit(EXIT_USER_ERROR)
        except KeyboardInterrupt:
            print(
                "interrupted: run the same command again to continue", file=sys.stderr, flush=True
            )
            sys.exit(130)

    return guarded
