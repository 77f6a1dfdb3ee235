"""Conversion of checkpoints from a different number of ranks, with DeepSpeed's universal form."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline import ranks
from pipeline.console import say
from pipeline.errors import PipelineError


@contextlib.contextmanager
def universal_copy(checkpoint: Path) -> Iterator[str]:
    """Convert `checkpoint` on rank 0 and yield the tag of the copy; every rank must enter.

    The copy is next to `checkpoint` and is removed afterwards. It takes 12 bytes per parameter
    (fp32 weights and AdamW's two moments). Raises PipelineError when the conversion fails.
    """
    copy = checkpoint.with_name(f"universal-{checkpoint.name}")
    failure = ""
    if ranks.rank() == 0:
        say(f"{checkpoint} was saved by a different number of ranks: converting it")
        failure = _convert(checkpoint, copy)
    if ranks.largest(int(bool(failure))):
        raise PipelineError(
            f"{checkpoint} cannot be converted to {ranks.world_size()} ranks: "
            f"{failure or 'see rank 0'}"
        )
    try:
        yield copy.name
    finally:
        ranks.barrier()
        if ranks.rank() == 0:
            shutil.rmtree(copy, ignore_errors=True)


def _convert(checkpoint: Path, copy: Path) -> str:
    """Write the universal form; return an error message, empty on success."""
    shutil.rmtree(copy, ignore_errors=True)
    workers = str(min(4, os.cpu_count() or 1))
    command = [
        sys.executable,
        "-m",
        "deepspeed.checkpoint.ds_to_universal",
        "--input_folder",
        str(checkpoint),
        "--output_folder",
        str(copy),
        "--num_extract_workers",
        workers,
        "--num_merge_workers",
        workers,
        "--inject_missing_state",
    ]
    # Without the launcher's variables: it is one process, not a rank.
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    (checkpoint.parent / "latest_universal").unlink(missing_ok=True)
    if done.returncode == 0:
        return ""
    shutil.rmtree(copy, ignore_errors=True)
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"
