"""The `miniend` command line: where arguments may stand, and a reader that stops reading."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from pipeline.artifacts import Output
from pipeline.cli import main
from pipeline.errors import EXIT_BROKEN_PIPE
from tests.tiny_run import ENVIRONMENT, PYTHON, REPOSITORY


def test_a_closed_pipe_ends_a_command_quietly(tmp_path: Path) -> None:
    output = Output(tmp_path / "a", "tokens", {"stage": "tokens"}, "run: x\n", {})
    output.begin()
    assert output.finish(0)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [PYTHON, "-m", "pipeline.cli", "inspect", str(tmp_path / "a")],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
        env=ENVIRONMENT,
        cwd=REPOSITORY,
    )
    os.close(writer)
    assert done.stderr == ""
    assert done.returncode == EXIT_BROKEN_PIPE


def test_overrides_of_a_plan_may_stand_behind_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[str], int]] = []
    monkeypatch.setattr(
        "pipeline.planning.plan.show_plan",
        lambda recipe, overrides, **options: calls.append((recipe, overrides, options["gpus"])),
    )
    main(["plan", "r.yaml", "a=1", "--gpus", "4", "b=2", "--json", "c=3"])
    assert calls == [("r.yaml", ["a=1", "b=2", "c=3"], 4)]


def test_options_that_are_not_ours_go_to_tensorboard_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Path, list[str]]] = []
    monkeypatch.setattr(
        "pipeline.status.boards.start_tensorboard",
        lambda run, options: calls.append((run, options)),
    )
    main(["tensorboard", "runs/r", "--port", "6006"])
    main(["tensorboard", "--port=6006", "runs/r"])
    assert calls == [(Path("runs/r"), ["--port", "6006"]), (Path("runs/r"), ["--port=6006"])]
    with pytest.raises(SystemExit) as stopped:
        main(["status", "runs/r", "--port", "6006"])
    assert stopped.value.code == 2
    assert "unrecognized arguments: --port" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), [([], 2), (["nothing"], 2), (["--version"], 0)])
def test_a_call_without_a_command_ends_at_once(words: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == code
