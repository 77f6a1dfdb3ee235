"""Settings shared by all training stages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from pipeline.recipe.section import (
    ByContent,
    Dtype,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Section,
    Watching,
)


class Optimisation(Section):
    """Training settings, the same for distillation and fine-tuning.

    The recipe owns them; DeepSpeed's JSON owns ZeRO and leaves these at "auto".
    """

    max_steps: PositiveInt = 100_000
    """Optimiser steps."""
    batch_size: PositiveInt = 256
    """Examples in one optimiser step, over all ranks."""
    micro_batch_size: Annotated[PositiveInt | None, Watching] = None
    """Examples in one forward pass on one rank. When absent, all of a rank's share."""
    learning_rate: PositiveFloat = 5e-4
    """The peak of the learning rate."""
    scale_parameter: bool = False
    """Multiply each weight's learning rate by the root mean square of its first values, as
    Adafactor does (arXiv 1804.04235, section 8). T5's first weights differ in scale a hundredfold.
    Set learning_rate to about 1e-2 then."""
    warmup_steps: NonNegativeInt = 1000
    """Steps in which the learning rate rises from 0 to its peak."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """The curve by which the learning rate falls after the warm-up."""
    final_fraction: Fraction = 0.1
    """The learning rate ends at this share of its peak."""
    weight_decay: NonNegativeFloat = 0.01
    """Decoupled weight decay of AdamW."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    """Decay rates of AdamW's two moments."""
    gradient_clipping: NonNegativeFloat = 1.0
    """The largest norm of a step's gradient; a longer one is scaled down. 0 does not clip."""
    dropout: Fraction = 0.0
    """The dropout rate of the model that is trained."""
    dtype: Dtype = "auto"
    """The dtype of training. `auto` is bfloat16 where the machine multiplies fast in it, else
    float32; the resolved dtype decides content."""
    activation_checkpointing: Annotated[bool, Watching] = False
    """Keep only what enters each block, and compute the block again for its backward pass:
    less memory, a third more time."""
    compile: Annotated[bool, Watching] = False
    """Compile the student's blocks (torch.compile); not under ZeRO-3
    (docs/adr/0007-compile.md)."""
    deepspeed: Annotated[str, ByContent] = "ds_configs/zero3.json"
    """The DeepSpeed JSON. Of its content only `optimizer` decides."""
    log_every: Annotated[PositiveInt, Watching] = 10
    """Steps between two lines of metrics.jsonl and two points of TensorBoard."""
    profile: Annotated[bool, Watching] = False
    """Write a profile of a few steps to profile/ (`--profile`)."""
    peak_tflops: Annotated[PositiveFloat | None, Watching] = None
    """TFLOP/s of one device, of which MFU is a share.
    When absent, the data sheet's for a known GPU, else measured at start."""
    validate_every: PositiveInt = 1000
    """Steps between two validations. Counts only with `patience` or `export: best`, when the
    validations decide which weights come out."""
    validation_rows: PositiveInt = 512
    """Held-out rows in one validation."""
    patience: PositiveInt | None = None
    """Stop after this many validations in a row whose loss is not below the best by more than
    `min_delta`. When absent, training never stops early."""
    min_delta: NonNegativeFloat = 0.0
    """The smallest improvement of the validation loss that `patience` accepts as one.
    Counts only with `patience`."""
    export: Literal["last", "best"] = "last"
    """Which weights become hf/: those after the last step, or those of the smallest validation
    loss."""
    save_every: Annotated[PositiveInt, Watching] = 1000
    """Steps between two checkpoints."""
    save_minutes: Annotated[PositiveFloat, Watching] = 30.0
    """Save also when this many minutes have passed since the last checkpoint."""
    keep_checkpoints: Annotated[PositiveInt, Watching] = 2
    """Number of the newest checkpoints that are kept."""
    keep_every: Annotated[PositiveInt | None, Watching] = None
    """Save a checkpoint every N steps, with N this number, and never delete it."""
    keep_best: Annotated[bool, Watching] = False
    """Save after each validation that is the best so far, and keep that checkpoint until a better
    one exists."""
    max_skipped_steps: Annotated[PositiveInt, Watching] = 10
    """Stop after this many steps in a row whose gradients are not finite.
    Such a step is skipped: the weights stay as they were."""
    spike_factor: Annotated[float, Field(gt=1.0), Watching] = 5.0
    """A step counts as a spike when its gradient norm, before clipping, is above this factor times
    the median of the last 100 steps."""

    def identity(self) -> dict[str, JsonValue]:
        identity = super().identity()
        if self.patience is None:
            del identity["min_delta"]
            if self.export == "last":  # then no validation decides which weights come out
                del identity["validate_every"]
        return identity
