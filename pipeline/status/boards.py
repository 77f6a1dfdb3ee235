"""`miniend tensorboard RUN`: TensorBoard over every tensorboard/ directory of a run, each under its artifact's name."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pipeline.errors import ConfigError, DataError


def start_tensorboard(run: Path, options: Sequence[str]) -> NoReturn:
    """Become TensorBoard; `options` go to it as they are. Raises DataError when `run` has nothing to show yet."""
    program = shutil.which("tensorboard", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if program is None:
        raise ConfigError("tensorboard is not installed here: pip install tensorboard")
    views = link_views(run)
    sys.stdout.flush()
    os.execv(program, [program, f"--logdir={views}", *options])


def link_views(run: Path) -> Path:
    """Make RUN/logs/tensorboard/<artifact> → RUN/<artifact>/tensorboard for every artifact that has one; return that directory.

    TensorBoard names a run after its directory: `distill/student` reads better than `distill/student/tensorboard`. Links to
    artifacts that are gone are removed; a stage that starts later is taken up by calling again.
    """
    boards = {path.parent.relative_to(run): path.resolve() for path in run.glob("*/**/tensorboard") if path.is_dir()}
    boards = {key: path for key, path in boards.items() if key.parts[0] != "logs"}
    if not boards:
        raise DataError(f"{run} has no tensorboard/ in it yet: start a training stage first")
    views = run / "logs" / "tensorboard"
    for old in [path for path in views.glob("**/*") if path.is_symlink()]:
        old.unlink()
    for key, board in boards.items():
        link = views / key
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(board, link.parent.resolve()))
    return views
