"""Making RUN/tokens/tokenizer and RUN/tokens/<split> out of the corpus, with as many processes as one likes.

Every process streams all documents and works on its own blocks (block % world == rank), so nothing has to be agreed on
first. Shard `block * views + view` holds one corruption of one block; what is in it depends on the corpus, the recipe and
that number alone. A process killed anywhere is started again and makes the shards that are missing; the process that
finds all of them there writes the manifest.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pipeline.artifacts import Output, lock
from pipeline.artifacts.atomic import publish_directory, write_bytes
from pipeline.console import say
from pipeline.corpus.readers import attribution, iter_split
from pipeline.corpus.tokens import open_tokenizer
from pipeline.errors import ArtifactError, ConfigError, DataError
from pipeline.layout import Run
from pipeline.lineage import tokenizer_output, tokens_output
from pipeline.recipe import Corpus, Recipe

if TYPE_CHECKING:
    from pipeline.corpus.corruption import Lengths

BuiltSplit = Literal["train", "validation"]
#: The splits that are tokenised, validation first: where it is too small, nothing large has been made in vain. The test
#: split is for whoever wants text that no model has seen.
SPLITS: tuple[BuiltSplit, ...] = ("validation", "train")
#: Seconds between two looks for the tokenizer that rank 0 makes, and between two lines about the progress.
_POLL, _REPORT = 0.5, 10.0


@dataclass
class Work:
    """What this process did for one split."""

    rows: int = 0
    tokens: int = 0
    seconds: float = 0.0
    #: Whether the whole artifact is there now, the other processes' shards included.
    complete: bool = False


def is_complete(recipe: Recipe) -> bool:
    """Whether nothing is left to do. Quick: reads manifests and hashes the corpus files, imports nothing heavy."""
    outputs = [tokenizer_output(recipe), *(tokens_output(recipe, split) for split in SPLITS)]
    # All are asked, so that one made from something else is refused before another is begun.
    complete = [output.complete() for output in outputs]
    return all(complete)


def check_recipe(recipe: Recipe) -> Corpus:
    """Return the recipe's corpus; raises ConfigError for settings that cannot work, before anything is read or written."""
    from pipeline.corpus.tokenizer import check_settings

    corpus = recipe.corpus
    if corpus is None:
        raise ConfigError("this recipe names no corpus: add `corpus: {sources: [FILE, …]}`")
    if corpus.split.validation == 0:
        raise ConfigError(
            "corpus.split.validation is 0, but distill validates on text held out: set it, e.g. to 0.01"
        )
    if corpus.split.validation + corpus.split.test >= 1:
        raise ConfigError(
            "corpus.split.validation and corpus.split.test leave nothing to train on: lower them"
        )
    check_settings(recipe.tokenizer, _lengths(recipe))
    return corpus


def build_tokenizer(recipe: Recipe) -> bool:
    """Train the tokenizer, or copy the one that the recipe names; returns False when it was there already.

    Leaves hf/, which AutoTokenizer.from_pretrained loads, and spiece.model beside it when trained. For one process: the
    others call `wait_for_tokenizer`.
    """
    from pipeline.corpus.tokenizer import load_tokenizer, sentinel_ids, train_model, wrap_model

    corpus = check_recipe(recipe)
    output = tokenizer_output(recipe)
    if output.complete():
        return False
    began = time.monotonic()
    for split in reversed(SPLITS):
        if next(iter_split(corpus, split), None) is None:
            raise DataError(_too_little(recipe, split, 0, 0, 0, _lengths(recipe)))
    settings = recipe.tokenizer
    if settings.path is None:
        model = train_model(iter_split(corpus, "train"), settings.vocab_size)
        tokenizer = wrap_model(model, settings.sentinels)
    else:
        model = None
        tokenizer = load_tokenizer(settings.path)
        sentinel_ids(tokenizer, _lengths(recipe))
    # Only now: whatever is wrong with text or settings has been said, and nothing has been written.
    output.begin()
    with lock.in_turn(output.root):  # with the same command started twice
        if output.complete():
            return False
        _write_tokenizer(
            output,
            tokenizer,
            model,
            {"seconds": round(time.monotonic() - began, 2), "text": attribution(corpus)},
        )
    return True


def _write_tokenizer(
    output: Output, tokenizer: Any, model: bytes | None, provenance: dict[str, Any]
) -> None:
    for leftover in [*output.root.glob(".tmp-hf"), *output.root.glob("hf")]:
        shutil.rmtree(leftover)
    temporary = output.root / ".tmp-hf"
    tokenizer.save_pretrained(str(temporary))
    publish_directory(temporary, output.root / "hf")
    if model is not None:
        write_bytes(output.root / "spiece.model", model)
    files = [
        str(file.relative_to(output.root)) for file in output.root.glob("hf/**/*") if file.is_file()
    ]
    files += ["spiece.model"] if model is not None else []
    output.finish(files=files, provenance=provenance)


def wait_for_tokenizer(recipe: Recipe, timeout: float = 3600.0) -> None:
    """Return once the tokenizer is there; raises ArtifactError when rank 0 has not made it within `timeout` seconds."""
    output = tokenizer_output(recipe)
    deadline = time.monotonic() + timeout
    while not output.complete():
        if time.monotonic() > deadline:
            raise ArtifactError(
                f"{output.root} was not finished by rank 0 within {timeout:.0f} s: see what rank 0 says, then start all again"
            )
        time.sleep(_POLL)


def build_tokens(recipe: Recipe, split: BuiltSplit, rank: int = 0, world: int = 1) -> Work:
    """Make this process's shards of one split, with the tokenizer in RUN/tokens/tokenizer.

    Raises DataError when a block holds less than one example, saying how many tokens are needed.
    """
    import torch

    from pipeline.corpus.corruption import corrupt, random_stream
    from pipeline.corpus.encoding import Encoder
    from pipeline.corpus.packing import iter_blocks, pack
    from pipeline.corpus.tokenizer import load_tokenizer, sentinel_ids

    corpus, lengths, settings = check_recipe(recipe), _lengths(recipe), recipe.tokens
    output = tokens_output(recipe, split)
    if output.complete():
        return Work(complete=True)
    tokenizer = load_tokenizer(open_tokenizer(Run(recipe.root)))
    encoder, sentinels = Encoder(tokenizer), sentinel_ids(tokenizer, lengths)
    output.begin()
    present = _present(output)
    work, began = Work(), time.monotonic()
    reported, blocks = began, 0
    for block, documents in enumerate(
        iter_blocks(iter_split(corpus, split), settings.documents_per_shard)
    ):
        blocks += 1
        shards = {view: block * settings.views + view for view in range(settings.views)}
        todo = {view: shard for view, shard in shards.items() if shard not in present}
        if block % world != rank or not todo:
            continue
        raw, total = pack(
            encoder([document.text for document in documents]), encoder.eos, lengths.raw
        )
        if not len(raw):
            raise DataError(_too_little(recipe, split, block, len(documents), total, lengths))
        notes = {
            "documents": len(documents),
            "raw_tokens": total,
            "dropped_tokens": total - raw.size,
        }
        for view, shard in todo.items():
            inputs, labels = corrupt(
                raw, random_stream(recipe.seed, view, block), lengths, sentinels, encoder.eos
            )
            columns = {
                "input_ids": torch.from_numpy(inputs.astype(encoder.dtype)),
                "labels": torch.from_numpy(labels.astype(encoder.dtype)),
            }
            record = output.write_shard(
                shard, columns, tokens=inputs.size + labels.size, notes=notes
            )
            work.rows += record.rows
            work.tokens += record.tokens
        if time.monotonic() - reported >= _REPORT:
            reported = time.monotonic()
            say(
                f"tokens/{split}: {work.rows} rows, {work.tokens / (reported - began):.0f} tokens/s"
            )
    if not blocks:
        raise DataError(_too_little(recipe, split, 0, 0, 0, lengths))
    work.seconds = time.monotonic() - began
    provenance = {
        "tokens_per_second": round(work.tokens / max(work.seconds, 1e-9)),
        "processes": world,
        "text": attribution(corpus),
    }
    work.complete = output.finish(blocks * settings.views, provenance=provenance)
    return work


def _lengths(recipe: Recipe) -> Lengths:
    from pipeline.corpus.corruption import example_lengths

    settings = recipe.tokens
    return example_lengths(settings.input_length, settings.noise_density, settings.mean_span_length)


def _present(output: Output) -> set[int]:
    """The shards that are whole already."""
    found = {int(path.stem) for path in output.root.glob("shards/*.json") if path.stem.isdecimal()}
    return found - set(output.missing(max(found, default=-1) + 1))


def _too_little(
    recipe: Recipe, split: BuiltSplit, block: int, documents: int, tokens: int, lengths: Lengths
) -> str:
    what = f"tokens/{split}: {documents} documents hold {tokens} tokens, but one example needs {lengths.raw}"
    size = recipe.tokens.documents_per_shard
    if block > 0 or documents == size:  # of several blocks, or perhaps so
        return f"{what}: raise tokens.documents_per_shard (now {size}), lower tokens.input_length or add text"
    if split == "validation" and recipe.corpus is not None:
        return f"{what}: raise corpus.split.validation (now {recipe.corpus.split.validation}) or add text"
    return f"{what}: add text to corpus.sources or lower tokens.input_length"
