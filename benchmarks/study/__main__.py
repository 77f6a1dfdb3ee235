"""Run or continue the study: paths from a teacher to students, judged by LM loss and two tasks.

    python -m benchmarks.study [--run runs/study] [--jobs N] [--groups a,b] [--quick]
    python -m benchmarks.study --collect      read what is finished, run nothing

Each unit is a student distilled by stages/distill.py (or distill_interpolated.py) and fine-tuned
by stages/finetune.py. Finished work is kept: start the study again after any interruption.
With --quick it takes a few minutes, and its numbers mean nothing.
Results go to benchmarks/results/study/ and docs/study.md, or below the run's directory with
--quick.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.study import forks, grid  # noqa: E402
from pipeline.artifacts import atomic  # noqa: E402
from pipeline.console import say  # noqa: E402
from pipeline.errors import ConfigError, exit_on_error  # noqa: E402
from pipeline.hardware import usable_cpus  # noqa: E402


@exit_on_error
def main() -> None:
    chosen = _arguments()
    os.chdir(REPOSITORY)
    from benchmarks.study.work import Study

    run = chosen.run or Path("runs/study-quick" if chosen.quick else "runs/study")
    study = Study(run, quick=chosen.quick)
    groups = grid.quick_groups() if chosen.quick else _named(grid.groups(), chosen.groups)
    if not chosen.collect:
        study.prepare()
        _run(study, groups, chosen.jobs or usable_cpus())
    _write(study, run, groups if chosen.quick else grid.groups(), chosen.quick)


def _run(study, groups, jobs: int) -> None:
    forks.prepare(threads=max(1, usable_cpus() // jobs))
    units = list(dict.fromkeys(unit for group in groups for unit in group.units()))
    waiting = [unit for unit in units if not study.tuned(unit.name, unit, unit.seed)]
    made, began = 0, time.monotonic()

    def done() -> None:
        nonlocal made
        made += 1
        left = (time.monotonic() - began) / made * (len(waiting) - made) / 60
        finished = len(units) - len(waiting) + made
        say(
            f"study: {finished} of {len(units)} students distilled and fine-tuned, "
            f"about {left:.0f} min left"
        )

    forks.run_all((study.teacher_work(seed) for seed in groups[0].seeds), jobs)
    forks.run_all(study.caching(waiting), jobs)
    began = time.monotonic()
    forks.run_all((study.work(unit) for unit in waiting), jobs, done)


def _write(study, run: Path, groups, quick: bool) -> None:
    from benchmarks.study.page import write_page
    from benchmarks.study.results import collect

    record = collect(study, groups)
    data, page = Path("benchmarks/results/study/study.json"), Path("docs/study.md")
    if quick:
        data, page = run / "results" / "study.json", run / "results" / "study.md"
    atomic.write_json(data, record)
    write_page(record, page)
    say(f"study: {len(record['units'])} students in {data}; the page is {page}")


def _named(groups: list[grid.Group], names: str | None) -> list[grid.Group]:
    if names is None:
        return groups
    known = {group.name: group for group in groups}
    for name in names.split(","):
        if name not in known:
            raise ConfigError(f"--groups {name}: there are {', '.join(known)}")
    return [known[name] for name in names.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--run", type=Path, help="where the study's artifacts go (runs/study)")
    parser.add_argument(
        "--jobs",
        type=int,
        help="students at a time, each on its share of the cores (all cores, one each)",
    )
    parser.add_argument("--groups", metavar="a,b", help="only these groups of paths")
    parser.add_argument(
        "--collect", action="store_true", help="write results and page from what is finished"
    )
    parser.add_argument("--quick", action="store_true", help="two paths, one seed, a few minutes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
