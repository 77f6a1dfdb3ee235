"""Predictions of a fine-tuned model: the likeliest label, or generated text. Plain functions of weights and token ids.

Batches are made of examples of similar length, composed from their tokens alone: the order the rows come in and the number
of ranks that share the work change no prediction, not even in the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.downstream.encode import pad

if TYPE_CHECKING:
    import torch

#: Decoder sequences (rows × labels) scored at once; bounds the memory of their cross-attention keys and values.
LABEL_SEQUENCES = 1024
#: Logits computed at once; 2²⁶ are 256 MiB in float32 (mT5's vocabulary of 250,000 makes this the limit that binds).
LABEL_LOGITS = 2**26


def length_sorted_batches(sequences: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Indices in batches of `size`, longest first so that memory runs out at once or never; ties go by the tokens."""
    order = sorted(range(len(sequences)), key=lambda i: (-len(sequences[i]), tuple(sequences[i])))
    return [order[start : start + size] for start in range(0, len(order), size)]


def score_labels(
    model: Any, inputs: torch.Tensor, mask: torch.Tensor, labels: Sequence[Sequence[int]]
) -> torch.Tensor:
    """Log-likelihood of each label text under the model: summed log-probabilities of its tokens, EOS included.

    inputs, mask: int64 (rows, source). labels: token ids of each text, special tokens included.
    Returns float32 (rows, len(labels)). The source is encoded, and its cross-attention keys and values are computed, once
    a row and not once a label: the decoder's first step is shared, the rest runs on the repeated cache.
    Raises ValueError when the labels do not begin with the same decoder start token.
    """
    import torch

    device = inputs.device
    targets = pad(labels, -100).to(device)
    starts = model.prepare_decoder_input_ids_from_labels(labels=targets)
    if (starts[:, 0] != starts[0, 0]).any():
        raise ValueError("label texts begin with different decoder start tokens")
    rows, count = inputs.shape[0], len(labels)
    with torch.inference_mode():
        encoded = model.get_encoder()(input_ids=inputs, attention_mask=mask)
        first = model(
            encoder_outputs=encoded,
            attention_mask=mask,
            decoder_input_ids=starts[:1, :1].expand(rows, 1),
            use_cache=True,
        )
        scores = first.logits[:, 0].float().log_softmax(-1)[:, targets[:, 0]]
        if targets.shape[1] == 1:
            return scores
        cache = first.past_key_values
        cache.batch_repeat_interleave(count)
        # With a filled cross-attention cache the encoder's output is read for its shape only: an expanded view will do.
        states = encoded.last_hidden_state[:, None].expand(-1, count, -1, -1).flatten(0, 1)
        rest = model(
            encoder_outputs=type(encoded)(last_hidden_state=states),
            attention_mask=mask.repeat_interleave(count, 0),
            decoder_input_ids=starts[:, 1:].repeat(rows, 1),
            past_key_values=cache,
            use_cache=True,
        )
        wanted = targets[:, 1:].repeat(rows, 1)
        chosen = (
            rest.logits.float().log_softmax(-1).gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
        )
        return scores + chosen.masked_fill(wanted < 0, 0.0).sum(-1).view(rows, count)


def classify(
    model: Any,
    sources: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]],
    *,
    pad_token_id: int,
    batch_size: int = 64,
    part: tuple[int, int] = (0, 1),
) -> dict[int, list[float]]:
    """Return source index → log-likelihood of each label, for the batches of `part` (rank, world); all by default.

    model: in evaluation mode; batches are moved to its device.
    """
    logits = len(labels) * max(map(len, labels)) * model.config.vocab_size
    size = max(1, min(batch_size, LABEL_SEQUENCES // len(labels), LABEL_LOGITS // logits))
    found: dict[int, list[float]] = {}
    for batch in in_step(length_sorted_batches(sources, size), part):
        inputs, mask = _batch(model, sources, batch, pad_token_id)
        found |= zip(batch, score_labels(model, inputs, mask, labels).tolist(), strict=True)
    return found


def generate(
    model: Any,
    tokenizer: Any,
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

    length_penalty: a hypothesis' log-likelihood is divided by its length to this power. partitioned: the weights are spread over
    the ranks (ZeRO-3), so that all must take as many steps. Nothing is inherited from the model's own generation_config but its
    special tokens, so that all models compared decode alike; no sampling.
    """
    import torch

    beam_search = (
        {"num_beams": beams, "length_penalty": length_penalty, "early_stopping": True}
        if beams > 1
        else {}
    )
    settings = generation_settings(model, max_new_tokens=max_new_tokens, **beam_search)
    found: dict[int, str] = {}
    for batch in in_step(length_sorted_batches(sources, max(1, batch_size // beams)), part):
        inputs, mask = _batch(model, sources, batch, tokenizer.pad_token_id)
        with torch.inference_mode():
            output = model.generate(
                input_ids=inputs,
                attention_mask=mask,
                generation_config=settings,
                synced_gpus=partitioned,
            )
        found |= zip(
            batch,
            (t.strip() for t in tokenizer.batch_decode(output, skip_special_tokens=True)),
            strict=True,
        )
    return found


def in_step(batches: list[list[int]], part: tuple[int, int]) -> list[list[int]]:
    """The batches of one rank, as many as any rank has: one with too few repeats the first.

    Where weights are partitioned, ranks that stop early would leave the others waiting for ever.
    """
    rank, world = part
    mine = batches[rank::world]
    return mine + batches[:1] * (-(-len(batches) // world) - len(mine))


def generation_settings(model: Any, **settings: Any) -> Any:
    """A GenerationConfig with the model's special tokens and `settings`, nothing else."""
    from transformers import GenerationConfig

    special = {}
    for name in (
        "pad_token_id",
        "bos_token_id",
        "eos_token_id",
        "decoder_start_token_id",
        "forced_bos_token_id",
    ):
        value = getattr(model.generation_config, name, None)
        special[name] = getattr(model.config, name, None) if value is None else value
    return GenerationConfig(do_sample=False, use_cache=True, **special, **settings)


def _batch(
    model: Any, sources: Sequence[Sequence[int]], batch: Sequence[int], pad_token_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = pad([sources[i] for i in batch], pad_token_id).to(model.device)
    mask = pad([[1] * len(sources[i]) for i in batch], 0).to(model.device)
    return inputs, mask
