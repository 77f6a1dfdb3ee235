"""RUN/tokens/<split>: corrupted examples of one split, with any number of processes.

Every process streams all documents and works on its own blocks (block % world == rank), so the
processes agree on nothing first. Shard `block * views + view` holds one corruption of one block.
Its content depends on the corpus, the recipe and that number alone. A process killed at any point
is started again and makes the missing shards. The process that finds all shards complete writes the
manifest.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from pipeline.artifacts import Artifact, Output, ShardRecord
from pipeline.console import say
from pipeline.corpus.corruption import corrupt, random_stream
from pipeline.corpus.documents import Document, attribution, iter_split
from pipeline.corpus.encoding import Encoder
from pipeline.corpus.job import BuiltSplit, TokenizeJob, too_little_text
from pipeline.corpus.packing import iter_blocks, pack
from pipeline.corpus.tokenizer import load_tokenizer, sentinel_ids

#: Seconds between two lines about the progress.
_REPORT = 10.0


@dataclass
class BuildSummary:
    """The work of this process on one split."""

    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    #: The whole artifact exists now, including the shards of the other processes.
    complete: bool = False


def build_tokens(
    job: TokenizeJob, split: BuiltSplit, rank: int = 0, world: int = 1
) -> BuildSummary:
    """Make this process's shards of one split, with the tokenizer in RUN/tokens/tokenizer.

    Raises DataError if a block holds less than one example, saying how many tokens are needed.
    """
    output, views = job.tokens_outputs[split], job.tokens.views
    if output.complete():
        return BuildSummary(complete=True)
    writer = _BlockWriter(job, split)
    output.begin()
    present = _present(output)
    summary, began, blocks = BuildSummary(), time.monotonic(), 0
    reported = began
    documents = iter_split(job.corpus, split)
    for block, held in enumerate(iter_blocks(documents, job.tokens.documents_per_shard)):
        blocks += 1
        shards = {view: block * views + view for view in range(views)}
        missing = {view: shard for view, shard in shards.items() if shard not in present}
        if block % world != rank or not missing:
            continue
        for record in writer.write(block, held, missing):
            summary.rows += record.rows
            summary.tokens += record.tokens
        if time.monotonic() - reported >= _REPORT:
            reported = time.monotonic()
            rate = summary.tokens / (reported - began)
            say(f"tokens/{split}: {summary.rows} rows, {rate:.0f} tokens/s")
    if not blocks:
        raise too_little_text(job, split)
    summary.seconds = time.monotonic() - began
    summary.complete = _finish(job, output, blocks * views, summary, world)
    return summary


class _BlockWriter:
    """Writes the shards of a block: its documents' tokens, corrupted once for each view."""

    def __init__(self, job: TokenizeJob, split: BuiltSplit) -> None:
        self._job, self._split = job, split
        artifact = Artifact(job.tokenizer_output.root, "tokenizer")
        artifact.verify_files()
        tokenizer = load_tokenizer(artifact.root / "hf")
        self._encoder = Encoder(tokenizer)
        self._sentinels = sentinel_ids(tokenizer, job.lengths)

    def write(
        self, block: int, documents: Sequence[Document], shards: Mapping[int, int]
    ) -> Iterator[ShardRecord]:
        """Write `shards`, {view: index}, of a block and yield their records."""
        job, encoder = self._job, self._encoder
        ids = encoder([document.text for document in documents])
        raw, total = pack(ids, encoder.eos, job.lengths.raw)
        if not len(raw):
            raise too_little_text(
                job, self._split, block=block, documents=len(documents), tokens=total
            )
        notes = {
            "documents": len(documents),
            "raw_tokens": total,
            "dropped_tokens": total - raw.size,
        }
        for view, shard in shards.items():
            stream = random_stream(job.seed, view, block)
            inputs, labels = corrupt(raw, stream, job.lengths, self._sentinels, encoder.eos)
            columns = {
                "input_ids": torch.from_numpy(inputs.astype(encoder.dtype)),
                "labels": torch.from_numpy(labels.astype(encoder.dtype)),
            }
            tokens = inputs.size + labels.size
            output = job.tokens_outputs[self._split]
            yield output.write_shard(shard, columns, tokens=tokens, notes=notes)


def _present(output: Output) -> set[int]:
    """Return the shards that are complete already."""
    sidecars = output.root.glob("shards/*.json")
    indices = {int(path.stem) for path in sidecars if path.stem.isdecimal()}
    return indices - set(output.missing(max(indices, default=-1) + 1))


def _finish(
    job: TokenizeJob, output: Output, shards: int, summary: BuildSummary, world: int
) -> bool:
    provenance = {
        "tokens_per_second": round(summary.tokens / max(summary.seconds, 1e-9)),
        "processes": world,
        "text": attribution(job.corpus),
    }
    return output.finish(shards, provenance=provenance)
