"""Errors a user can cause, and the exit codes the stages promise.

Every error here prints as **one line** that says what is wrong, where, and the command or setting that mends it; a stage
never shows a traceback for one (`exit_on_error`). Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import TypeVar

#: The user's input, recipe or artifacts are at fault; nothing was written.
EXIT_USER_ERROR = 2
#: Interrupted by SIGTERM/SIGUSR1 after saving: start the same command again to go on (sysexits' EX_TEMPFAIL).
EXIT_REQUEUE = 75

#: What is to be done about an error of the operating system's, by its number.
DISK_MENDS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space or ask for more",
    errno.EROFS: "make that filesystem writable or choose another `run`",
    errno.EACCES: "ask for the permission or choose another `run`",
    errno.EIO: "look after the disk",
}

#: What torch.save says when a disk takes no more.
_TORCH_SAVE_FAILED = ("PytorchStreamWriter failed writing", "unexpected pos", "iostream error")

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
    """The artifact was made from something else than what is asked for now."""


class IncompleteArtifact(ArtifactError):
    """The artifact is missing or was not finished."""


class CorruptArtifact(ArtifactError):
    """A file of the artifact is not what was written."""


class Preempted(Exception):
    """Raised after a checkpoint was saved because a signal asked the stage to stop."""


def _disk_trouble(error: BaseException) -> str | None:
    """What to say of an error that a disk caused: full, read-only, not permitted, or broken; None for any other."""
    if isinstance(error, OSError) and error.errno in DISK_MENDS:
        where = f"cannot write {error.filename}" if error.filename else "cannot write"
        return f"{where}: {error.strerror}; {DISK_MENDS[error.errno]}, then run the same command again: what is finished is kept"
    # torch.save and safetensors say in their own words that a write failed.
    text = " ".join(str(error).split())
    for number, mend in DISK_MENDS.items():
        if f"os error {number})" in text or os.strerror(number) in text:
            return f"cannot write: {os.strerror(number)}; {mend}, then run the same command again: what is finished is kept"
    if any(sign in text for sign in _TORCH_SAVE_FAILED):
        return "cannot write a checkpoint, probably because the disk is full; free some space, then run the same command again"
    return None


def exit_on_error(main: Callable[..., R]) -> Callable[..., R]:
    """Wrap a stage's `main`: user errors become one line on stderr and exit code 2, preemption exit code 75."""

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
            trouble = _disk_trouble(error)
            if trouble is None:
                raise
            print(f"error: {trouble}", file=sys.stderr, flush=True)
            sys.exit(EXIT_USER_ERROR)
        except KeyboardInterrupt:
            print(
                "interrupted: run the same command again to continue", file=sys.stderr, flush=True
            )
            sys.exit(130)

    return guarded
