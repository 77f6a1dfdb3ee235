"""Reading of cached targets, and the check that they belong to the labels of their rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from pipeline.artifacts import Artifact
from pipeline.artifacts.gather import Row, gather, gather_ragged
from pipeline.errors import ConfigError, CorruptArtifact, StaleArtifact
from pipeline.families import Attention
from pipeline.families.recorder import BlockInput
from pipeline.recipe import Cache, TargetKind
from pipeline.teacher import sparse, states
from pipeline.teacher.fidelity import label_log_probs
from pipeline.teacher.model_inputs import model_inputs
from pipeline.teacher.tail import AT_THE_CUT, TAIL_FILES, Tail, load_tail

#: The largest mean distance, in nats, between the labels' replayed log-probabilities and those
#: noted when they were cached. Rounding in another batch shape moves bf16's by about 0.01; rows off
#: by one move even an untrained teacher's by 0.3.
LOG_PROB_TOLERANCE = 0.04
#: Large logits round more coarsely. The noted values must then be this many times nearer than the
#: same values shifted by one position.
NEARER = 4.0


def open_tail(
    cache: Artifact,
    device: torch.device,
    blocks: Mapping[Attention, int] = AT_THE_CUT,
    inputs: Iterable[BlockInput] = (),
) -> Tail:
    """Load the tail of a cache after checking its bytes.

    blocks, inputs: what a replay records. Raises CorruptArtifact when its files are damaged.
    """
    for name in TAIL_FILES:
        cache.verify_file(name)
    return load_tail(cache.root / "tail", device, blocks, inputs)


class CachedTargets:
    """Reads one kind of target from a cache."""

    def __init__(self, cache: Artifact, kind: TargetKind, *, encoder_blocks: bool = True) -> None:
        """Choose the columns to read.

        encoder_blocks: whether the objective uses the encoder's blocks. Otherwise only the
        encoder's output is read, if it is cached. Raises ConfigError when the cache does not hold
        this kind.
        """
        self.cache, self.kind = cache, kind
        self.settings = Cache.model_validate(cache.manifest.payload["settings"])
        if kind not in self.settings.kinds:
            raise ConfigError(
                f"{cache.root} holds {', '.join(self.settings.kinds)}: set distill.targets to one "
                f"of these, or add {kind} to cache.kinds and cache again"
            )
        self._columns: tuple[str, ...] = ()
        if kind == "states":
            stored = self.settings.states
            encoder = (
                "encoder_output"
                if stored.encoder_output and not encoder_blocks
                else "encoder_states"
            )
            self._columns = states.names(encoder, stored) + states.names("decoder_states", stored)
        elif kind == "topk":
            self._columns = sparse.TOPK

    def read(
        self, rows: list[Row], labels: torch.Tensor, vocab_size: int
    ) -> dict[str, torch.Tensor]:
        """Return the targets of these rows, as `Distiller` and `CachedTeacher` read them.

        labels: (rows, L_out), -100 where not scored.
        """
        if self.kind == "sampled":
            coded = gather_ragged(self.cache, rows, sparse.SAMPLED)
            try:
                return sparse.read_sampled(
                    coded, labels != -100, self.settings.sampled.draws, vocab_size
                )
            except CorruptArtifact as error:
                shards = sorted({shard for shard, _ in rows})
                raise CorruptArtifact(
                    f"among shards {shards} of {self.cache.root}: {error}; run miniend verify on it"
                ) from None
        columns = gather(self.cache, rows, self._columns)
        return sparse.read_topk(columns) if self.kind == "topk" else columns


def require_aligned(tokens: Artifact, cache: Artifact) -> None:
    """Raise StaleArtifact unless each cache shard was made from the bytes of its token shard."""
    if len(tokens.shards) != len(cache.shards):
        raise StaleArtifact(
            f"{cache.root} has {len(cache.shards)} shards, {tokens.root} has "
            f"{len(tokens.shards)}: cache again"
        )
    for token_shard, cache_shard in zip(tokens.shards, cache.shards, strict=True):
        source = cache_shard.notes.get("token_shard_sha256")
        if source != token_shard.sha256 or cache_shard.rows != token_shard.rows:
            index = token_shard.index
            raise StaleArtifact(
                f"shard {index} of {cache.root} was not made from shard {index} of {tokens.root}: "
                "remove its sidecar and run cache_teacher again"
            )


def check_labels(
    tokens: Artifact, targets: CachedTargets, shard: int, pad_token_id: int, tail: Tail | None
) -> None:
    """Raise CorruptArtifact unless the first rows of a shard's targets fit its labels.

    For states, the replayed teacher must give the labels the noted log-probabilities. For sampled
    and topk, `label_digest` must give the noted number. A shift between targets and labels changes
    both.
    tail: the tail of the cache, for states.
    """
    notes = targets.cache.shards[shard].notes
    count = len(notes["label_log_probs"]) if targets.kind == "states" else notes["sample_rows"]
    rows = [(shard, row) for row in range(count)]
    batch = model_inputs(gather(tokens, rows, ("input_ids", "labels")), pad_token_id)
    labels = batch["labels"]
    stored = targets.read(rows, labels, vocab_size=1 << 20)
    if targets.kind == "states":
        assert tail is not None
        settings, dtype, device = targets.settings.states, tail.model.dtype, tail.model.device
        columns = {name: tensor.to(device) for name, tensor in stored.items()}
        decoder_states = states.restore("decoder_states", columns, settings, dtype)
        assert decoder_states is not None
        replayed = tail.replay(
            decoder_states,
            batch["attention_mask"].to(device),
            encoder_states=states.restore("encoder_states", columns, settings, dtype),
            encoder_output=states.restore("encoder_output", columns, settings, dtype),
        )
        values = torch.cat(
            label_log_probs(tail.head, replayed.decoder_output, labels.to(device))
        ).cpu()
        noted = torch.tensor([value for row in notes["label_log_probs"] for value in row])
        fits = len(values) == len(noted) and _close(values, noted)
        problem = "the replayed teacher gives them other log-probabilities than were noted"
    else:
        if targets.kind == "sampled":
            digest = sparse.sampled_digest(stored["sampled_ids"], stored["sampled_counts"])
        else:
            digest = sparse.topk_digest(gather(targets.cache, rows, sparse.TOPK))
        fits = sparse.label_digest(digest, labels) == notes[targets.kind]["tie"]
        problem = "together they differ from what was noted"
    if not fits:
        raise CorruptArtifact(
            f"shard {shard} of {targets.cache.root} does not belong to the labels of "
            f"{tokens.root}: {problem}: {targets.cache.rebuild_hint(shard)}"
        )


def _close(values: torch.Tensor, noted: torch.Tensor) -> bool:
    distance = float((values - noted).abs().mean())
    shifted = float((values - noted.roll(1)).abs().mean())
    return distance <= LOG_PROB_TOLERANCE or distance * NEARER <= shifted
