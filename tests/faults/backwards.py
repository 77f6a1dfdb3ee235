"""`python backwards.py SCRIPT …`: run a script while the clock is set back by an hour in every
second."""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    began, start = time.monotonic(), time.time()
    time.time = lambda: start - 3600 * (time.monotonic() - began)
    sys.argv = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).resolve().parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
