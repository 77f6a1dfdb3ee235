"""`miniend status RUN`: one line for each artifact."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from pipeline.console import discard_output, say
from pipeline.status.collect import Stage, collect

_HEADINGS = ("artifact", "state", "done", "loss", "tokens/s", "left", "job", "note")
_COLOURS = {
    "running": "36",
    "complete": "32",
    "failed": "31",
    "stale": "33",
    "cancelled": "31",
    "stopped": "33",
}
#: Seconds until the table is shown again.
_PAUSE = 5.0


def show_status(run: Path, *, watch: bool = False) -> None:
    """Print the table, with colours on a terminal.

    watch: print it again every few seconds until Ctrl-C.
    """
    colours = sys.stdout.isatty()
    while True:
        table = format_table(collect(run), colours=colours)
        if watch and colours:
            say("\033[H\033[2J" + time.strftime("%H:%M:%S ") + str(run))
        try:
            say(table)
            if not watch:
                return
            time.sleep(_PAUSE)
        except KeyboardInterrupt:
            return
        except BrokenPipeError:  # `| head` has seen enough
            discard_output()
            return


def format_table(stages: list[Stage], *, colours: bool = False) -> str:
    """Return the table as text, without columns that are empty in every row."""
    rows = [_HEADINGS, *(_cells(stage) for stage in stages)]
    used = [column for column in range(len(_HEADINGS)) if any(row[column] for row in rows[1:])]
    widths = {column: max(len(row[column]) for row in rows) for column in used}
    lines = []
    for row in rows:
        line = "  ".join(row[column].ljust(widths[column]) for column in used).rstrip()
        colour = _COLOURS.get(row[1])
        lines.append(f"\033[{colour}m{line}\033[0m" if colours and colour else line)
    return "\n".join(lines)


def _cells(stage: Stage) -> tuple[str, ...]:
    progress, active = stage.progress, stage.state == "running"
    done = (
        ""
        if progress.done is None
        else f"{progress.done}/{_text(progress.total, '?')} {progress.unit}"
    )
    return (
        stage.key,
        stage.state,
        done,
        "" if progress.loss is None else f"{progress.loss:.3f}",
        "" if progress.tokens_per_second is None else f"{progress.tokens_per_second:,.0f}",
        _duration(progress.eta) if active and progress.eta is not None else "",
        stage.job,
        stage.note,
    )


def _text(value: object, missing: str) -> str:
    return missing if value is None else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s"
