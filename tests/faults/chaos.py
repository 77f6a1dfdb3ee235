"""The long test of `kill -9`: `make chaos`, or `python -m tests.faults.chaos [FILE.md]`.

CHAOS_KILLS (100) kills at random moments, over every stage, on one rank and on two; CHAOS_SEED
repeats the moments of an earlier run. Each killed run is then left to finish and its bytes are
compared with those of a run left alone. Prints a table and puts it between the markers of FILE.md.
Ends with 1 when anything differed; what differed is kept.
"""

from __future__ import annotations

import itertools
import os
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from pipeline.corpus.wiki import fetch_wiki
from tests.faults.kills import CASES, Case, Killer, Tally
from tests.forked import REPOSITORY
from tests.tiny_run import ARTIFACTS, TinyRun, write_few_documents

_BEGIN, _END = "<!-- chaos: begin, written by make chaos -->\n", "<!-- chaos: end -->\n"
#: Most kills of a run before it is left to finish.
_IN_A_ROW = 4


def main() -> None:
    wanted = int(os.environ.get("CHAOS_KILLS") or 100)
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbits(32))
    print(f"CHAOS_SEED={seed} CHAOS_KILLS={wanted}", flush=True)
    root = Path(tempfile.mkdtemp(prefix="chaos-"))
    documents = write_few_documents(fetch_wiki(REPOSITORY / ".cache"), root / "few.jsonl")
    finished = TinyRun(root / "finished", documents)
    for stage in ARTIFACTS:
        finished.complete(stage, fresh=True)
    killer, chances = Killer(finished, documents, root, seed), random.Random(seed + 1)
    tallies = {case: Tally() for case in CASES}
    began, done = time.monotonic(), 0
    for case in itertools.cycle(CASES):
        if done >= wanted:
            break
        tally = tallies[case]
        killer.round(case, min(chances.randint(1, _IN_A_ROW), wanted - done), tally)
        done = sum(tally.kills for tally in tallies.values())
        print(
            f"{time.monotonic() - began:6.0f} s: {done} kills, {case[0]} on {case[1]}: {tally}",
            flush=True,
        )
    report = f"{done} kills, seed {seed}:\n\n{table(tallies)}"
    print(f"\n{report}")
    for name in sys.argv[1:]:
        _insert(Path(name), report)
    if any(tally.mismatches for tally in tallies.values()):
        sys.exit(f"some runs differed: see {root}")


def table(tallies: Mapping[Case, Tally]) -> str:
    """A Markdown table with a line for each case and one for all."""
    lines = [
        "| stage | ranks | kills | survived | mismatches | median seconds to recover |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    whole = Tally()
    for (stage, ranks), tally in tallies.items():
        lines.append(_line(stage, str(ranks), tally))
        whole.kills += tally.kills
        whole.survived += tally.survived
        whole.mismatches += tally.mismatches
        whole.recoveries += tally.recoveries
    return "\n".join([*lines, _line("**all**", "", whole)]) + "\n"


def _line(stage: str, ranks: str, tally: Tally) -> str:
    median = f"{statistics.median(tally.recoveries):.1f}" if tally.recoveries else "–"
    counts = f"{tally.kills} | {tally.survived} | {len(tally.mismatches)}"
    return f"| {stage} | {ranks} | {counts} | {median} |"


def _insert(path: Path, report: str) -> None:
    before, begin, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise SystemExit(f"{path} has no markers {_BEGIN.strip()} … {_END.strip()}")
    path.write_text(f"{before}{begin}{report}{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
