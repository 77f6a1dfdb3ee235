"""RUN/tokens/tokenizer and RUN/tokens/<split>, made with any number of processes.

Rank 0 makes the tokenizer while the others wait, then every process makes its share of the shards.
"""

from __future__ import annotations

from pipeline.console import say
from pipeline.corpus.build_tokenizer import build_tokenizer, wait_for_tokenizer
from pipeline.corpus.build_tokens import build_tokens
from pipeline.corpus.documents import attribution
from pipeline.corpus.job import BuiltSplit, TokenizeJob


def tokenize_corpus(job: TokenizeJob, rank: int, world: int) -> None:
    """Make what is missing of the job's artifacts, as process `rank` of `world`."""
    if rank == 0:
        if build_tokenizer(job):
            say(f"tokens/tokenizer: made in {job.tokenizer_output.root}")
    else:
        wait_for_tokenizer(job)
    for split in job.tokens_outputs:
        _build_split(job, split, rank, world)
    if rank == 0:
        for note in attribution(job.corpus):
            say(note)


def _build_split(job: TokenizeJob, split: BuiltSplit, rank: int, world: int) -> None:
    summary = build_tokens(job, split, rank, world)
    rate = f"{summary.tokens / summary.seconds:.0f} tokens/s" if summary.tokens else "nothing to do"
    if world > 1:
        say(
            f"tokens/{split}: process {rank} of {world} made {summary.rows} rows, "
            f"{summary.tokens} tokens ({rate})"
        )
    if summary.complete and (summary.tokens or rank == 0):
        say(f"tokens/{split}: {job.totals(split)}" + (f" ({rate})" if world == 1 else ""))
