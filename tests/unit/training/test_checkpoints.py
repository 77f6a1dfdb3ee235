"""The checkpoints that stay."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.training.checkpoints import Checkpoints


def test_which_checkpoints_stay(tmp_path: Path) -> None:
    def begin(step: int, identity: str, complete: bool = True) -> None:
        directory = tmp_path / f"step-{step:08d}"
        directory.mkdir()
        (directory / "begun.json").write_text(json.dumps({"identity": identity}))
        if complete:
            (directory / "complete.json").write_text(
                json.dumps({"identity": identity, "files": {}, "state": {}})
            )

    for step in (3, 6, 10, 12, 15, 18, 40):
        begin(step, "mine")
    begin(9, "mine", complete=False)
    begin(14, "other", complete=False)
    begin(17, "other")
    begin(30, "mine", complete=False)
    (tmp_path / "step-00000003.copy").mkdir()
    # As after step 18, where the run resumed from step 15 because step 40 was damaged.
    Checkpoints(tmp_path, "mine", keep=2, keep_every=5)._prune(18, best=6)
    left = sorted(path.name.removeprefix("step-").lstrip("0") for path in tmp_path.iterdir())
    assert left == sorted(["3.copy", "6", "10", "14", "15", "17", "18", "30", "40"])
