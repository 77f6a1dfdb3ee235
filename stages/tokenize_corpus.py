"""Stage 1: turn text into tokenised, span-corrupted examples.

    python stages/tokenize_corpus.py --recipe recipes/demo.yaml [section.key=value …]
    torchrun --nproc_per_node 4 stages/tokenize_corpus.py --recipe recipes/demo.yaml
    srun --ntasks 64 python stages/tokenize_corpus.py --recipe recipes/t5-base.yaml

Reads `corpus.sources` (.txt with blank lines between documents, .jsonl, .jsonl.gz, .jsonl.zst,
.parquet, or a `datasets` name written hub:NAME[:CONFIG[:SPLIT]]) and writes

    RUN/tokens/tokenizer/    hf/ (and spiece.model): trained on the training split,
                             or a copy of `tokenizer.path`
    RUN/tokens/train/        examples: input_ids (rows, tokens.input_length) and labels
    RUN/tokens/validation/   the same, from the documents held out by `corpus.split.validation`

Processes share the work by blocks of `tokens.documents_per_shard` documents. Any number of them
gives the same files. Start it again after any interruption: existing shards are kept, and a second
complete run does nothing.
"""

from __future__ import annotations

from pipeline.console import say
from pipeline.corpus.job import resolve
from pipeline.errors import exit_on_error
from pipeline.ranks import environment_rank
from pipeline.stage_args import parse


@exit_on_error
def main() -> None:
    recipe, _ = parse(__doc__)
    rank, world = environment_rank()
    job = resolve(recipe)
    if job.is_complete():
        if rank == 0:
            for split in job.tokens_outputs:
                say(f"tokens/{split} is up to date: {job.totals(split)}")
        return
    job.check()
    from pipeline.corpus.build import tokenize_corpus

    tokenize_corpus(job, rank, world)


if __name__ == "__main__":
    main()
