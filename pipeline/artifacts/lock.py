"""A lock that the kernel releases when its holder dies, so `kill -9` leaves none behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from pipeline.errors import ArtifactError

#: The lock's file, in the directory it guards. It has no meaning itself and is never removed.
NAME = ".lock"


def hold(directory: Path) -> IO[str] | None:
    """Take the lock of `directory` while the returned file is open, or until this process ends.

    Raises ArtifactError naming the holder if another process has it. Returns None if the filesystem
    has no locks.
    """
    handle = open(directory / NAME, "a+")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            handle.close()
            return None  # e.g. Lustre mounted without `flock`
        handle.seek(0)
        holder = handle.read(200).strip() or "another process"
        handle.close()
        raise ArtifactError(
            f"{directory} is being written by {holder}: "
            "wait for it or end it, or give this run another name"
        ) from None
    handle.truncate(0)
    handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    handle.flush()
    return handle


@contextlib.contextmanager
def in_turn(directory: Path) -> Iterator[None]:
    """Run the block while no other process runs one for this directory.

    The other processes are those of this machine, or of all that share the filesystem's locks.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / NAME, "a") as handle:
        with contextlib.suppress(OSError):  # no locks on this filesystem: go on without
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
