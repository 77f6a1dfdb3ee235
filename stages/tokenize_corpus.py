"""Stage 1: turn text into tokenised, span-corrupted examples.

    python stages/tokenize_corpus.py --recipe recipes/demo.yaml [section.key=value …]
    torchrun --nproc_per_node 4 stages/tokenize_corpus.py --recipe recipes/demo.yaml
    srun --ntasks 64 python stages/tokenize_corpus.py --recipe recipes/t5-base.yaml

Reads `corpus.sources` (.txt with blank lines between documents, .jsonl, .jsonl.gz, .jsonl.zst, .parquet, or a `datasets` name
written hub:NAME[:CONFIG[:SPLIT]]) and writes

    RUN/tokens/tokenizer/    hf/ (and spiece.model): trained on the training split, or a copy of `tokenizer.path`
    RUN/tokens/train/        examples: input_ids (rows, tokens.input_length) and labels
    RUN/tokens/validation/   the same, of the documents held out by `corpus.split.validation`

Processes share the work by blocks of `tokens.documents_per_shard` documents; any number of them gives the same files. Start
it again after any interruption: shards that are there are kept, and a second complete run does nothing.
"""

from __future__ import annotations

from pipeline.artifacts.manifest import read_manifest
from pipeline.console import say
from pipeline.corpus import build
from pipeline.corpus.readers import attribution
from pipeline.errors import exit_on_error
from pipeline.recipe import Recipe
from pipeline.stage_args import environment_rank, parse


@exit_on_error
def main() -> None:
    recipe, _ = parse(__doc__)
    rank, world = environment_rank()
    if build.is_complete(recipe):
        if rank == 0:
            for split in build.SPLITS:
                say(f"tokens/{split} is up to date: {_totals(recipe, split)}")
        return
    corpus = build.check_recipe(recipe)
    if rank == 0:
        if build.build_tokenizer(recipe):
            say(f"tokens/tokenizer: made in {recipe.root / 'tokens' / 'tokenizer'}")
    else:
        build.wait_for_tokenizer(recipe)
    for split in build.SPLITS:
        work = build.build_tokens(recipe, split, rank, world)
        rate = f"{work.tokens / work.seconds:.0f} tokens/s" if work.tokens else "nothing to do"
        if world > 1:
            say(
                f"tokens/{split}: process {rank} of {world} made {work.rows} rows, {work.tokens} tokens ({rate})"
            )
        if work.complete and (work.tokens or rank == 0):
            say(f"tokens/{split}: {_totals(recipe, split)}" + (f" ({rate})" if world == 1 else ""))
    if rank == 0:
        for note in attribution(corpus):
            say(note)


def _totals(recipe: Recipe, split: str) -> str:
    root = recipe.root / "tokens" / split
    totals = read_manifest(root).totals
    return f"{totals['rows']} rows, {totals['tokens']} tokens in {root}"


if __name__ == "__main__":
    main()
