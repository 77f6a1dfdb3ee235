"""Predictions of a fine-tuned model: the likeliest label, or generated text.

Batches are made of examples of similar length, composed from their tokens alone. So the order of
the rows and the number of ranks that share the work change no prediction, not even in the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline import ranks
from pipeline.downstream.encode import Encoded, encode_labels, pad
from pipeline.downstream.task_metrics import Predictions, pair_predictions
from pipeline.downstream.tasks import Examples, TaskData
from pipeline.hardware import resolve_dtype

if TYPE_CHECKING:
    import torch
    from transformers import (
        EncoderDecoderCache,
        GenerationConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )
    from transformers.modeling_outputs import BaseModelOutput

#: Decoder sequences (rows × labels) scored at once; bounds the memory of their cross-attention keys
#: and values.
LABEL_SEQUENCES = 1024
#: Logits computed at once; 2²⁶ are 256 MiB in float32. The limit that binds for mT5's vocabulary of
#: 250,000.
LABEL_LOGITS = 2**26
#: Special tokens that a GenerationConfig takes from the model.
_SPECIAL_TOKENS = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
)

T = TypeVar("T")


def load_fine_tuned(directory: Path, dtype: str) -> PreTrainedModel:
    """Load a model on this rank's device, in evaluation mode. dtype: "auto" or a name of torch."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    torch_dtype = getattr(torch, resolve_dtype(dtype))
    model = AutoModelForSeq2SeqLM.from_pretrained(directory, dtype=torch_dtype)
    return model.to(ranks.device()).eval()


def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    examples: Examples,
    encoded: Encoded,
    *,
    partitioned: bool = False,
) -> Predictions:
    """Predict every example; the ranks share the work, and each gets all predictions.

    model: in evaluation mode. partitioned: its weights are spread over the ranks (ZeRO-3).
    The predictions do not depend on the number of ranks.
    """
    texts, scores = predict_texts(model, tokenizer, data, encoded, partitioned=partitioned)
    return pair_predictions(data.task, examples.rows, texts, examples.references, scores)


def predict_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: TaskData,
    encoded: Encoded,
    *,
    partitioned: bool = False,
) -> tuple[list[str], list[dict[str, float]] | None]:
    """Return the predicted texts, and each label's log-likelihood where labels are scored."""

    task, part = data.task, (ranks.rank(), ranks.world_size())
    if data.labels is not None and task.decoding == "likelihood":
        ids = encode_labels(tokenizer, data)
        scores = classify(
            model, encoded.sources, ids, pad_token_id=tokenizer.pad_token_id, part=part
        )
        likelihoods = [dict(zip(data.labels, row, strict=True)) for row in _over_ranks(scores)]
        # A tie goes to the earlier label.
        return [max(row, key=row.__getitem__) for row in likelihoods], likelihoods
    texts = generate(
        model,
        tokenizer,
        encoded.sources,
        max_new_tokens=task.target_length,
        beams=task.beams if data.labels is None else 1,
        length_penalty=task.length_penalty,
        part=part,
        partitioned=partitioned,
    )
    return _over_ranks(texts), None


def _over_ranks(mine: dict[int, T]) -> list[T]:
    """Join the values of all ranks, in the order of the examples."""
    import torch.distributed as dist

    parts: list[dict[int, T]] = [mine]
    if ranks.world_size() > 1:
        parts = [{} for _ in range(ranks.world_size())]
        dist.all_gather_object(parts, mine)
    values = {index: value for part in parts for index, value in part.items()}
    return [values[index] for index in range(len(values))]


def classify(
    model: PreTrainedModel,
    sources: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    *,
    pad_token_id: int,
    batch_size: int = 64,
    part: tuple[int, int] = (0, 1),
) -> dict[int, list[float]]:
    """Return source index → log-likelihood of each label.

    model: in evaluation mode; batches are moved to its device. part: (rank, world), which batches
    to compute; all by default.
    """
    logits = len(labels) * max(map(len, labels)) * model.config.vocab_size
    size = max(1, min(batch_size, LABEL_SEQUENCES // len(labels), LABEL_LOGITS // logits))
    scores: dict[int, list[float]] = {}
    for batch, inputs, mask in _batches(model, sources, size, part, pad_token_id):
        scores |= zip(batch, score_labels(model, inputs, mask, labels).tolist(), strict=True)
    return scores


def score_labels(
    model: PreTrainedModel,
    inputs: torch.Tensor,
    mask: torch.Tensor,
    labels: Sequence[Sequence[int]],
) -> torch.Tensor:
    """Return the log-likelihood of each label text, float32 (rows, len(labels)).

    The summed log-probabilities of its tokens, EOS included. inputs, mask: int64 (rows, source).
    labels: token ids of each text, special tokens included. The source is encoded once a row and
    not once a label, and so are its cross-attention keys and values: the decoder's first step is
    shared, the rest runs on the repeated cache.
    Raises ValueError when the labels do not begin with the same decoder start token.
    """
    import torch

    targets = pad(labels, -100).to(inputs.device)
    starts = decoder_inputs(model, targets)
    if (starts[:, 0] != starts[0, 0]).any():
        raise ValueError("label texts begin with different decoder start tokens")
    with torch.inference_mode():
        encoded = model.get_encoder()(input_ids=inputs, attention_mask=mask)
        first = model(
            encoder_outputs=encoded,
            attention_mask=mask,
            decoder_input_ids=starts[:1, :1].expand(len(inputs), 1),
            use_cache=True,
        )
        scores = first.logits[:, 0].float().log_softmax(-1)[:, targets[:, 0]]
        if targets.shape[1] == 1:
            return scores
        return scores + _score_rest(model, encoded, mask, first.past_key_values, starts, targets)


def _score_rest(
    model: PreTrainedModel,
    encoded: BaseModelOutput,
    mask: torch.Tensor,
    cache: EncoderDecoderCache,
    starts: torch.Tensor,
    targets: torch.Tensor,
) -> torch.Tensor:
    """Return the log-likelihood of each label's tokens after the first, (rows, labels).

    encoded, cache: the encoder's output and the decoder's cache after the first step, one a row.
    """
    rows, count = len(mask), len(targets)
    assert encoded.last_hidden_state is not None
    cache.batch_repeat_interleave(count)
    # With a filled cross-attention cache the encoder's output is read for its shape only: an
    # expanded view is enough.
    states = encoded.last_hidden_state[:, None].expand(-1, count, -1, -1).flatten(0, 1)
    rest = model(
        encoder_outputs=type(encoded)(last_hidden_state=states),
        attention_mask=mask.repeat_interleave(count, 0),
        decoder_input_ids=starts[:, 1:].repeat(rows, 1),
        past_key_values=cache,
        use_cache=True,
    )
    tokens = targets[:, 1:].repeat(rows, 1)
    scores = rest.logits.float().log_softmax(-1).gather(-1, tokens.clamp(min=0)[..., None])
    return scores[..., 0].masked_fill(tokens < 0, 0.0).sum(-1).view(rows, count)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    beams: int = 1,
    length_penalty: float = 1.0,
    batch_size: int = 64,
    part: tuple[int, int] = (0, 1),
    partitioned: bool = False,
) -> dict[int, str]:
    """Return source index → generated text: greedy, or by beam search.

    length_penalty: a hypothesis' log-likelihood is divided by its length to this power.
    partitioned: the weights are spread over the ranks (ZeRO-3), so all must take as many steps.
    """
    import torch

    search: dict[str, Any] = {}
    if beams > 1:
        search = {"num_beams": beams, "length_penalty": length_penalty, "early_stopping": True}
    settings = generation_settings(model, max_new_tokens=max_new_tokens, **search)
    size = max(1, batch_size // beams)
    texts: dict[int, str] = {}
    for batch, inputs, mask in _batches(model, sources, size, part, tokenizer.pad_token_id):
        with torch.inference_mode():
            output = generate_ids(model, inputs, mask, settings, partitioned=partitioned)
        decoded = tokenizer.batch_decode(output, skip_special_tokens=True)
        texts |= zip(batch, (text.strip() for text in decoded), strict=True)
    return texts


def generate_ids(
    model: PreTrainedModel,
    inputs: torch.Tensor,
    mask: torch.Tensor,
    settings: GenerationConfig,
    *,
    partitioned: bool = False,
) -> torch.Tensor:
    """Return the generated token ids, int64 (rows, generated), start token included."""
    generated: torch.Tensor = model.generate(  # type: ignore[operator]
        input_ids=inputs,
        attention_mask=mask,
        generation_config=settings,
        synced_gpus=partitioned,
    )
    return generated


def decoder_inputs(model: PreTrainedModel, labels: torch.Tensor) -> torch.Tensor:
    """Return the ids that the decoder reads to predict `labels` (rows, target), shifted right."""
    shifted: torch.Tensor = model.prepare_decoder_input_ids_from_labels(  # type: ignore[operator]
        labels=labels
    )
    return shifted


def generation_settings(model: PreTrainedModel, **settings: Any) -> GenerationConfig:
    """Return a GenerationConfig with the model's special tokens and `settings`.

    Nothing else is inherited from the model's own generation_config, so that all models compared
    decode alike. No sampling.
    """
    from transformers import GenerationConfig

    special = {}
    for name in _SPECIAL_TOKENS:
        value = getattr(model.generation_config, name, None)
        special[name] = getattr(model.config, name, None) if value is None else value
    return GenerationConfig(do_sample=False, use_cache=True, **special, **settings)


def length_sorted_batches(sequences: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Return indices in batches of `size`, longest first; ties go by the tokens.

    With the longest first, memory runs out at once or never.
    """
    order = sorted(range(len(sequences)), key=lambda i: (-len(sequences[i]), tuple(sequences[i])))
    return [order[start : start + size] for start in range(0, len(order), size)]


def _batches(
    model: PreTrainedModel,
    sources: Sequence[Sequence[int]],
    size: int,
    part: tuple[int, int],
    pad_token_id: int,
) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
    """Yield indices, padded token ids and mask of one rank's batches, on the model's device."""
    for batch in _in_step(length_sorted_batches(sources, size), part):
        inputs = pad([sources[i] for i in batch], pad_token_id).to(model.device)
        mask = pad([[1] * len(sources[i]) for i in batch], 0).to(model.device)
        yield batch, inputs, mask


def _in_step(batches: list[list[int]], part: tuple[int, int]) -> list[list[int]]:
    """Return the batches of one rank, the same number on every rank.

    A rank with too few repeats the first: where weights are partitioned, ranks that stop early
    would leave the others waiting for ever.
    """
    rank, world = part
    mine = batches[rank::world]
    return mine + batches[:1] * (-(-len(batches) // world) - len(mine))
