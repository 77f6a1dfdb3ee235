"""A plan as tables for a terminal of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.planning.advice import size

WIDTH = 100


def lines(plan: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a plan as `make_plan` gives it."""
    assumed, rows = plan["assumed"], plan["rows"]
    yield f"{plan['recipe']} on {assumed['gpus']} × {assumed['gpu']}, at an assumed MFU of {assumed['mfu']:g}"
    yield ""
    if plan["teacher"] is not None:
        yield from _folded("teacher: ", plan["teacher_source"])
    counted = f"{rows['rows']:,} rows of {rows['input_length']} + {rows['target_length']} tokens, from {rows['source']}"
    yield from _folded("corpus: ", counted)
    yield from _folded("disk for caches: ", size(assumed["disk"]))
    yield ""
    yield from _models(plan)
    for link in plan["links"]:
        yield ""
        yield from _link(link, plan)


def _models(plan: dict[str, Any]) -> Iterator[str]:
    table = [
        ("model", "layers", "d_model", "d_ff", "heads × d_kv", "parameters", "in blocks", "ratio")
    ]
    entries = [(plan["teacher"], None)] if plan["teacher"] is not None else []
    entries += [
        (link["student"] | {"name": link["key"]}, link["capacity_ratio"]) for link in plan["links"]
    ]
    for model, ratio in entries:
        table.append(
            (
                model["name"],
                f"{model['encoder_layers']}+{model['decoder_layers']}",
                str(model["d_model"]),
                str(model["d_ff"]),
                f"{model['num_heads']} × {model['d_kv']}",
                _count(model["parameters"]),
                _count(model["parameters"] - model["embedding_parameters"]),
                f"{ratio:.2f} : 1" if ratio is not None else "",
            )
        )
    yield from _table(table)


def _link(link: dict[str, Any], plan: dict[str, Any]) -> Iterator[str]:
    title = f"{link['key']}" + (f", taught by {link['teacher']}" if link["teacher"] else "")
    yield from _folded(
        "",
        f"{title}: {link['steps']:,} steps of {plan['batch_size']} rows, objective {plan['objective']}",
    )
    shared = link["shares_cache_with"] not in (None, link["key"])
    if shared:
        reading = size(
            link["targets"].get(link["recommended"], {"bytes_per_second": 0.0})["bytes_per_second"]
        )
        yield from _folded("  ", f"reads the cache of {link['shares_cache_with']}, {reading}/s")
    elif link["targets"]:
        table = [("  targets", "bytes a row", "on disk", "to read while training")]
        for name, kind in link["targets"].items():
            mark = " ←" if name == link["recommended"] else ""
            table.append(
                (
                    f"  {name}{mark}",
                    f"{kind['row_bytes']:,.0f}",
                    size(kind["bytes"]),
                    size(kind["bytes_per_second"]) + "/s",
                )
            )
        yield from _table(table)
    if not shared:
        yield from _folded(f"  recommended: {link['recommended']}: ", link["why"])
    hours = f"{link['training_gpu_hours']:,.1f} GPU-hours, {link['operations_per_step']:.3g} operations a step"
    if link["caching_gpu_hours"] and not shared:
        hours += f"; caching before it {link['caching_gpu_hours']:,.1f}, with {size(link['caching_bytes'])} a process"
    if link["targets"] and link["recommended"] != "online":
        hours += f"; with the teacher online {link['online_gpu_hours']:,.1f}, and no caching"
    yield from _folded("  compute: ", hours)
    memory, lean = link["memory"], link["memory_with_checkpointing"]
    parts = [
        f"{name} {size(memory[name])}"
        for name in (
            "weights",
            "gradients",
            "optimizer",
            "buckets",
            "teacher",
            "batch",
            "activations",
        )
        if memory[name]
    ]
    yield from _folded(
        "  memory: ",
        f"peak {size(memory['peak'])} a rank at micro batch {link['micro_batch_size']}, {plan['deepspeed']}: {', '.join(parts)}, "
        f"update {size(memory['update'])} (after the activations); with activation checkpointing peak {size(lean['peak'])}",
    )
    for sentence in () if shared else link["follows"]:
        yield from _folded("  • ", sentence)
    for sentence in link["does_not_fit"]:
        yield from _folded("  DOES NOT FIT: ", sentence)


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


def _count(number: int) -> str:
    return f"{number / 1e9:.3f} B" if number >= 1e9 else f"{number / 1e6:.2f} M"
