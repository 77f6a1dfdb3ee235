"""Caching a teacher: for every token shard the states at the cut, and once the tail that replays them."""

from __future__ import annotations

import re
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from pipeline import lineage
from pipeline.artifacts import Artifact, Output, ShardRecord
from pipeline.artifacts.content import resolve_model
from pipeline.console import Progress, say
from pipeline.errors import ArtifactError, ConfigError, CorruptArtifact
from pipeline.families import check_dtype, family_of
from pipeline.hardware import resolve_dtype
from pipeline.recipe import Recipe
from pipeline.teacher.capture import capture_states, resolve_cut
from pipeline.teacher.fidelity import replay_error
from pipeline.teacher.rows import model_inputs
from pipeline.teacher.tail import TAIL_FILES, Tail, cut_tail, save_tail

#: Replay may differ from the teacher by rounding (a GPU may choose other kernels); more than this is a fault.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 1e-2}


def cache_teacher(recipe: Recipe, rank: int = 0, world: int = 1, shards: str | None = None) -> Output:
    """Bring RUN/teacher_cache/<teacher.name> to completion; this process takes what is missing of every `world`-th shard.

    shards: restricts the work of all processes to these, as `chosen_shards` reads them.
    Raises ConfigError when teacher and tokens do not fit, ArtifactError when the disk is too small for the whole cache, and
    CorruptArtifact when replaying a shard's sample does not give what the teacher gives.
    """
    output = lineage.cache_output(recipe)
    if output.complete():
        return output
    tokens = lineage.tokens_artifact(recipe, "train")
    cuts, width = _check(recipe)
    output.begin()
    missing = output.missing(len(tokens.shards))
    _require_disk(output, tokens, missing, width)
    # By index and not by place in `missing`: a process that starts late finds less missing than one that started early.
    share = chosen_shards(shards, len(tokens.shards))[rank::world]
    mine = sorted(set(share) & set(missing))
    tail_is_mine = 0 in share and not _tail_present(output.root)
    if mine or tail_is_mine:
        worker = _Worker(recipe, output, tokens, cuts)
        if tail_is_mine:
            save_tail(worker.teacher, worker.cuts, output.root / "tail")
        worker.run(mine, quiet=rank != 0)
    if _tail_present(output.root) and output.finish(
        len(tokens.shards), files=TAIL_FILES, provenance={"world_size": world}
    ):
        say(f"teacher_cache: {len(tokens.shards)} shards complete in {output.root}")
    return output


def chosen_shards(text: str | None, count: int) -> list[int]:
    """Indices below `count` that `text` names: `3,7-9`, or `1::4` for every fourth from 1 on; all when None.

    Those beyond the last are left out. Raises ConfigError for anything else.
    """
    if text is None:
        return list(range(count))
    chosen: set[int] = set()
    for item in text.split(","):
        found = re.fullmatch(r"(\d+)(?:-(\d+)|::([1-9]\d*))?", item)
        if found is None:
            raise ConfigError(f"--shards {text}: write 3,7-9, or 1::4 for every fourth from 1 on")
        first, last, step = found.groups()
        stop = int(last) + 1 if last else count if step else int(first) + 1
        chosen.update(range(int(first), min(stop, count), int(step or 1)))
    return sorted(chosen)


def _check(recipe: Recipe) -> tuple[tuple[int, int], int]:
    """Return the cuts and d_model; raises ConfigError for what would fail later, before anything is written."""
    from transformers import AutoConfig

    spec = lineage.required_teacher(recipe)
    directory = resolve_model(spec.model)
    config = AutoConfig.from_pretrained(directory)
    family = family_of(config)
    check_dtype(config, resolve_dtype(spec.dtype), "teacher.dtype")
    check_vocabulary(spec.model, directory, config.vocab_size, lineage.tokenizer_directory(recipe))
    shape = family.shape(config)
    cuts = (
        resolve_cut(recipe.cache.encoder_cut, shape.encoder_layers, "encoder_cut"),
        resolve_cut(recipe.cache.decoder_cut, shape.decoder_layers, "decoder_cut"),
    )
    return cuts, shape.d_model


class _Worker:
    """A loaded teacher that turns token shards into cache shards."""

    def __init__(self, recipe: Recipe, output: Output, tokens: Artifact, cuts: tuple[int, int]) -> None:
        spec = lineage.required_teacher(recipe)
        self.output, self.tokens, self.batch_size = output, tokens, recipe.cache.batch_size
        self.dtype = resolve_dtype(spec.dtype)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        directory = resolve_model(spec.model)
        self.teacher: PreTrainedModel = AutoModelForSeq2SeqLM.from_pretrained(
            directory, dtype=getattr(torch, self.dtype)
        )
        self.teacher.to(self.device).eval()
        config: Any = self.teacher.config
        self.pad_token_id: int = config.pad_token_id
        self.family = family_of(config)
        self.cuts = cuts
        self.tail: Tail = cut_tail(self.teacher, self.cuts)

    def run(self, shards: list[int], *, quiet: bool) -> None:
        # One shard is written while the next is computed; more in flight would only hold memory.
        rows = sum(self.tokens.shards[index].rows for index in shards)
        with ThreadPoolExecutor(1) as writer, Progress("cache_teacher", rows, "row", quiet=quiet) as progress:
            pending: Future[ShardRecord] | None = None
            for index in shards:
                columns, notes = self._compute(index, progress)
                if pending is not None:
                    pending.result()
                count = sum(column.shape[0] * column.shape[1] for column in columns.values())
                pending = writer.submit(self.output.write_shard, index, columns, tokens=count, notes=notes)
            if pending is not None:
                pending.result()

    def _compute(self, index: int, progress: Progress) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        record = self.tokens.shards[index]
        encoder, decoder, fidelity = [], [], {}
        for start in range(0, record.rows, self.batch_size):
            stop = min(start + self.batch_size, record.rows)
            rows = self.tokens.rows(index, slice(start, stop), ("input_ids", "labels"))
            batch = {name: tensor.to(self.device) for name, tensor in model_inputs(rows, self.pad_token_id).items()}
            states = capture_states(self.teacher, self.family, self.cuts, **batch)
            if start == 0:
                fidelity = replay_error(self.teacher, self.family, self.tail, self.cuts, batch, *states)
                self._require_exact(index, fidelity)
            encoder.append(states[0].cpu())
            decoder.append(states[1].cpu())
            progress.advance(stop - start)
        columns = {"encoder_states": torch.cat(encoder), "decoder_states": torch.cat(decoder)}
        return columns, {"token_shard_sha256": record.sha256, "replay_error": fidelity}

    def _require_exact(self, index: int, fidelity: dict[str, float]) -> None:
        worst = max(fidelity, key=lambda name: fidelity[name])
        if not fidelity[worst] <= TOLERANCE[self.dtype]:
            raise CorruptArtifact(
                f"cache shard {index}: replayed {worst} differs from the teacher by {fidelity[worst]:.3g} of its largest value "
                f"(allowed {TOLERANCE[self.dtype]}); nothing was written for it: check that the teacher's weights are finite"
            )


def check_vocabulary(name: str, model: Path, vocab_size: int, tokenizer: Path) -> None:
    """Refuse a model whose tokenizer is not the one the tokens were made with.

    Raises ConfigError. A model directory without a tokenizer passes when every token id fits its vocabulary.
    """
    from transformers import AutoTokenizer

    ours = AutoTokenizer.from_pretrained(tokenizer)
    if len(ours) > vocab_size:
        raise ConfigError(
            f"{name} has a vocabulary of {vocab_size}, but the corpus was tokenised with {len(ours)} tokens ({tokenizer}): "
            f"set tokenizer.path to {name} and tokenise again"
        )
    if not any((model / file).is_file() for file in ("tokenizer.json", "spiece.model", "tokenizer_config.json")):
        return
    if AutoTokenizer.from_pretrained(model).get_vocab() != ours.get_vocab():
        raise ConfigError(
            f"{name} comes with another tokenizer than the one the corpus was tokenised with ({tokenizer}): "
            f"set tokenizer.path to {name} and tokenise again"
        )


def _tail_present(root: Path) -> bool:
    return all((root / name).is_file() for name in TAIL_FILES)


def _require_disk(output: Output, tokens: Artifact, missing: list[int], width: int) -> None:
    itemsize = 4 if output.payload["dtype"] == "float32" else 2
    need = sum(tokens.shards[index].tokens for index in missing) * width * itemsize
    free = shutil.disk_usage(output.root).free
    if need > free:
        raise ArtifactError(
            f"{output.root} will take {need / 1e9:.1f} GB more, but {free / 1e9:.1f} GB are free there: "
            "free some space, tokenise fewer views, or move the run to another disk"
        )
