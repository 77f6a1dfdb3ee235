"""Random models and batches of published shapes, for the benchmarks of caching and training."""

from __future__ import annotations

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, T5Config
from transformers.initialization import no_init_weights

from pipeline.families import Shape
from pipeline.models.architecture import Architecture

Batch = dict[str, torch.Tensor]

#: T5's own vocabulary, and the lengths that its span corruption makes from 512 tokens.
VOCABULARY, INPUTS, TARGETS = 32_128, 512, 114
T5_BASE = Shape(encoder_layers=12, decoder_layers=12, d_model=768, d_ff=2048, num_heads=12, d_kv=64)
T5_3B = Shape(
    encoder_layers=24, decoder_layers=24, d_model=1024, d_ff=16_384, num_heads=32, d_kv=128
)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Wait until the device has done its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def random_t5(
    shape: Shape,
    vocabulary: int = VOCABULARY,
    *,
    v1_1: bool = True,
    dtype: torch.dtype = torch.bfloat16,
) -> PreTrainedModel:
    """Return a random T5 in evaluation mode, without dropout.

    v1_1: T5 v1.1 (gated GELU, separate head); otherwise T5 1.0 (ReLU, tied head).
    Weights are normal with standard deviation 0.02, and norms are one.
    A separate head's logits have a standard deviation of 6: then some 12 of 50 draws differ, as
    with a trained teacher.
    """
    kind = {"feed_forward_proj": "gated-gelu" if v1_1 else "relu", "tie_word_embeddings": not v1_1}
    config = T5Config(vocab_size=vocabulary, dropout_rate=0.0, decoder_start_token_id=0, **kind)  # type: ignore[call-arg]
    architecture = Architecture.of(config).with_shape(shape)
    with torch.device("meta"), no_init_weights():
        model: PreTrainedModel = AutoModelForSeq2SeqLM.from_config(architecture.config, dtype=dtype)
    model.to_empty(device=device())
    model.tie_weights()
    if v1_1:
        with device():
            architecture.family.separate_head(model)
    generator = torch.Generator(device()).manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.fill_(1.0)
            else:
                deviation = 6.0 * shape.d_model**-0.5 if name == "lm_head.weight" else 0.02
                weight.normal_(std=deviation, generator=generator)
    return model.eval()


def random_batch(
    rows: int, inputs: int = INPUTS, targets: int = TARGETS, vocabulary: int = VOCABULARY
) -> Batch:
    """Return input_ids, attention_mask and labels without padding, like packed documents."""
    generator = torch.Generator().manual_seed(1)
    input_ids = torch.randint(3, vocabulary - 100, (rows, inputs), generator=generator)
    labels = torch.randint(3, vocabulary - 100, (rows, targets), generator=generator)
    batch = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}
    return {name: tensor.to(device()) for name, tensor in batch.items()}


def with_decoder_inputs(model: PreTrainedModel, batch: Batch) -> Batch:
    """Return the arguments of a forward pass that ends at the logits: labels would add a loss."""
    shifted = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])  # type: ignore[operator]
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "decoder_input_ids": shifted,
    }
