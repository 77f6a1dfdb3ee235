"""`miniend tensorboard RUN`: TensorBoard over all stages of a run, named like their artifacts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pipeline.errors import ConfigError, DataError

#: Seconds between two searches for stages that have begun.
_PAUSE = 10.0


def start_tensorboard(run: Path, options: Sequence[str]) -> NoReturn:
    """Run TensorBoard until it ends, adding stages as they begin.

    options: passed to TensorBoard unchanged.
    Raises DataError when `run` does not exist, ConfigError where TensorBoard is not installed.
    """
    if not run.is_dir():
        raise DataError(f"{run} is not a run: give the directory that a recipe names as `run`")
    program = shutil.which(
        "tensorboard", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    )
    if program is None:
        raise ConfigError("tensorboard is not installed here: pip install tensorboard")
    server = subprocess.Popen([program, f"--logdir={link_views(run)}", *options])
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: server.terminate())
    while True:
        try:
            sys.exit(server.wait(timeout=_PAUSE))
        except subprocess.TimeoutExpired:
            link_views(run)
        except KeyboardInterrupt:
            continue  # Ctrl-C went to TensorBoard as well


def link_views(run: Path) -> Path:
    """Link RUN/logs/tensorboard/<artifact> to RUN/<artifact>/tensorboard wherever that exists.

    TensorBoard names a run after its directory, and `distill/student` reads better than
    `distill/student/tensorboard`. Returns RUN/logs/tensorboard.
    """
    views = run / "logs" / "tensorboard"
    views.mkdir(parents=True, exist_ok=True)
    for link in [path for path in views.glob("**/*") if path.is_symlink() and not path.exists()]:
        link.unlink()  # its artifact is gone
    for board in sorted(run.glob("*/**/tensorboard")):
        key = board.parent.relative_to(run)
        link = views / key
        if key.parts[0] == "logs" or not board.is_dir() or link.is_symlink():
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(board, link.parent))
    return views
