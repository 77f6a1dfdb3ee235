"""RUN/tokens/tokenizer: a tokenizer trained on the training split, or a copy of an existing one."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import Output, lock
from pipeline.artifacts.atomic import publish_directory, write_bytes
from pipeline.corpus.documents import attribution, iter_split
from pipeline.corpus.job import BUILT_SPLITS, TokenizeJob, too_little_text
from pipeline.corpus.tokenizer import load_tokenizer, sentinel_ids, train_model, wrap_model
from pipeline.errors import ArtifactError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

#: Seconds that the other ranks wait before they look again for the tokenizer that rank 0 makes.
_POLL = 0.5


def build_tokenizer(job: TokenizeJob) -> bool:
    """Train the tokenizer, or copy `tokenizer.path`; returns False if it existed already.

    Writes hf/, which AutoTokenizer.from_pretrained loads, and spiece.model next to it if it was
    trained. For one process: the others call `wait_for_tokenizer`.
    """
    output = job.tokenizer_output
    if output.complete():
        return False
    began = time.monotonic()
    tokenizer, model = _make_tokenizer(job)
    # Only now: every error in text or settings has been raised, and nothing has been written.
    output.begin()
    with lock.in_turn(output.root):  # with the same command started twice
        if output.complete():
            return False
        provenance = {
            "seconds": round(time.monotonic() - began, 2),
            "text": attribution(job.corpus),
        }
        _write_tokenizer(output, tokenizer, model, provenance)
    return True


def wait_for_tokenizer(job: TokenizeJob, timeout: float = 3600.0) -> None:
    """Return once the tokenizer exists.

    Raises ArtifactError if rank 0 has not made it within `timeout` seconds.
    """
    output = job.tokenizer_output
    deadline = time.monotonic() + timeout
    while not output.complete():
        if time.monotonic() > deadline:
            raise ArtifactError(
                f"{output.root} was not finished by rank 0 within {timeout:.0f} s: "
                "see what rank 0 says, then start all again"
            )
        time.sleep(_POLL)


def _make_tokenizer(job: TokenizeJob) -> tuple[PreTrainedTokenizerBase, bytes | None]:
    """Return the tokenizer, and spiece.model if it was trained."""
    for split in reversed(BUILT_SPLITS):
        if next(iter_split(job.corpus, split), None) is None:
            raise too_little_text(job, split)
    settings = job.tokenizer
    if settings.path is None:
        model = train_model(iter_split(job.corpus, "train"), settings.vocab_size)
        return wrap_model(model, settings.sentinels), model
    tokenizer = load_tokenizer(settings.path)
    sentinel_ids(tokenizer, job.lengths)  # raises if there are too few
    return tokenizer, None


def _write_tokenizer(
    output: Output,
    tokenizer: PreTrainedTokenizerBase,
    model: bytes | None,
    provenance: dict[str, Any],
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
