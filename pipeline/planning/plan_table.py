"""A plan as tables for a terminal of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from pipeline.planning.byte_text import readable_bytes, readable_parameters
from pipeline.planning.figures import Plan, PlannedLink, PlannedModel
from pipeline.planning.memory import RankMemory

WIDTH = 100
_MODEL_COLUMNS = (
    "model",
    "layers",
    "d_model",
    "d_ff",
    "heads × d_kv",
    "parameters",
    "in blocks",
    "ratio",
)


def lines(plan: Plan) -> Iterator[str]:
    """Yield the lines of a plan."""
    assumed, rows = plan.assumed, plan.rows
    yield (f"{plan.recipe} on {assumed.gpus} × {assumed.gpu}, at an assumed MFU of {assumed.mfu:g}")
    yield ""
    if plan.teacher_source is not None:
        yield from _folded("teacher: ", plan.teacher_source)
    yield from _folded(
        "corpus: ",
        f"{rows.rows:,} rows of {rows.input_length} + {rows.target_length} tokens, "
        f"from {rows.source}",
    )
    yield from _folded("disk for caches: ", readable_bytes(assumed.disk))
    yield ""
    yield from _models(plan)
    for link in plan.links:
        yield ""
        yield from _link(link, plan)


def _models(plan: Plan) -> Iterator[str]:
    table = [_MODEL_COLUMNS]
    models: list[tuple[str, PlannedModel, float | None]] = []
    if plan.teacher is not None:
        models.append((plan.teacher.name, plan.teacher, None))
    models += [(link.key, link.student, link.capacity_ratio) for link in plan.links]
    for name, model, ratio in models:
        table.append(
            (
                name,
                f"{model.encoder_layers}+{model.decoder_layers}",
                str(model.d_model),
                str(model.d_ff),
                f"{model.num_heads} × {model.d_kv}",
                readable_parameters(model.parameters),
                readable_parameters(model.parameters - model.embedding_parameters),
                f"{ratio:.2f} : 1" if ratio is not None else "",
            )
        )
    yield from _table(table)


def _link(link: PlannedLink, plan: Plan) -> Iterator[str]:
    taught = f", taught by {link.teacher}" if link.teacher else ""
    yield from _folded(
        "",
        f"{link.key}{taught}: {link.steps:,} steps of {plan.batch_size} rows, "
        f"objective {plan.objective}",
    )
    yield from _targets(link)
    yield from _folded("  compute: ", _compute(link))
    yield from _folded("  memory: ", _memory(link, plan.deepspeed))
    if not link.shares_another_cache:
        for sentence in link.follows:
            yield from _folded("  • ", sentence)
    for sentence in link.does_not_fit:
        yield from _folded("  DOES NOT FIT: ", sentence)


def _targets(link: PlannedLink) -> Iterator[str]:
    if link.shares_another_cache:
        cache = link.targets.get(link.recommended)
        reading = readable_bytes(cache.bytes_per_second if cache is not None else 0.0)
        yield from _folded("  ", f"reads the cache of {link.shares_cache_with}, {reading}/s")
        return
    if link.targets:
        table = [("  targets", "bytes a row", "on disk", "to read while training")]
        for kind, cache in link.targets.items():
            mark = " ←" if kind == link.recommended else ""
            table.append(
                (
                    f"  {kind}{mark}",
                    f"{cache.row_bytes:,.0f}",
                    readable_bytes(cache.bytes),
                    readable_bytes(cache.bytes_per_second) + "/s",
                )
            )
        yield from _table(table)
    yield from _folded(f"  recommended: {link.recommended}: ", link.why)


def _compute(link: PlannedLink) -> str:
    text = (
        f"{link.training_gpu_hours:,.1f} GPU-hours, "
        f"{link.operations_per_step:.3g} operations a step"
    )
    if link.caching_bytes is not None and not link.shares_another_cache:
        text += (
            f"; caching before it {link.caching_gpu_hours:,.1f}, "
            f"with {readable_bytes(link.caching_bytes)} a process"
        )
    if link.targets and link.recommended != "online":
        text += f"; with the teacher online {link.online_gpu_hours:,.1f}, and no caching"
    return text


def _memory(link: PlannedLink, deepspeed: str) -> str:
    memory = link.memory
    return (
        f"peak {readable_bytes(memory.peak)} a rank at micro batch {link.micro_batch_size}, "
        f"{deepspeed}: {_parts(memory)}, update {readable_bytes(memory.update)} (after the "
        "activations); with activation checkpointing peak "
        f"{readable_bytes(link.memory_with_checkpointing.peak)}"
    )


def _parts(memory: RankMemory) -> str:
    return ", ".join(
        f"{name} {readable_bytes(count)}"
        for name, count in asdict(memory).items()
        if count and name != "update"
    )


def _folded(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        label + text,
        WIDTH,
        subsequent_indent="    " if label else "",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * len(widths[1:]))
    for row in rows:
        cells = [
            _clipped(row[0], widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        yield "  ".join(cells).rstrip()


def _clipped(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else "…" + text[len(text) - width + 1 :]
