"""What every training stage is told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.base import Dtype, Fraction, NonNegativeInt, PositiveInt, Section


class Optimisation(Section):
    """What the recipe owns of training; DeepSpeed's JSON owns ZeRO and leaves these at "auto"."""

    max_steps: PositiveInt = 100_000
    #: Examples in one optimiser step, over all ranks.
    batch_size: PositiveInt = 256
    #: Examples in one forward pass on one rank; all of a rank's share when absent.
    micro_batch_size: PositiveInt | None = None
    learning_rate: Annotated[float, Field(gt=0.0)] = 5e-4
    #: Multiply each weight's learning rate by the root mean square of its first values, as Adafactor does (arXiv 1804.04235, section 8):
    #: T5's first weights differ in scale a hundredfold. Set learning_rate to about 1e-2 then.
    scale_parameter: bool = False
    warmup_steps: NonNegativeInt = 1000
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    #: The learning rate ends at this share of its peak.
    final_fraction: Fraction = 0.1
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    gradient_clipping: Annotated[float, Field(ge=0.0)] = 1.0
    dropout: Fraction = 0.0
    dtype: Dtype = "auto"
    #: Keep only what enters each block, and compute the block again for its backward pass: less memory, a third more time.
    activation_checkpointing: bool = False
    #: Compile the student's blocks (torch.compile); not under ZeRO-3 (docs/adr/0007).
    compile: bool = False
    deepspeed: str = "ds_configs/zero3.json"
    log_every: PositiveInt = 10
    #: Write a profile of a few steps to profile/ (`--profile`).
    profile: bool = False
    #: TFLOP/s of one device that MFU is a share of; when absent the data sheet's of a known GPU, else measured at start.
    peak_tflops: Annotated[float, Field(gt=0.0)] | None = None
    validate_every: PositiveInt = 1000
    validation_rows: PositiveInt = 512
    #: Stop after so many validations in a row whose loss is not below the best by more than `min_delta`; never when absent.
    patience: PositiveInt | None = None
    min_delta: Annotated[float, Field(ge=0.0)] = 0.0
    #: Which weights become hf/: those after the last step, or those of the smallest validation loss.
    export: Literal["last", "best"] = "last"
    save_every: PositiveInt = 1000
    #: Save also when this many minutes have gone by since the last time.
    save_minutes: Annotated[float, Field(gt=0.0)] = 30.0
    #: How many of the newest checkpoints are kept.
    keep_checkpoints: PositiveInt = 2
    #: Save, and keep for good, every so many steps.
    keep_every: PositiveInt | None = None
    #: Save after a validation that is the best so far, and keep that checkpoint until there is a better one.
    keep_best: bool = False
    #: Stop after so many steps in a row whose gradients are not finite. Such a step is skipped: weights stay as they were.
    max_skipped_steps: PositiveInt = 10
    #: A step counts as a spike when its gradient norm, before clipping, is above so many times the median of the last 100 steps'.
    spike_factor: Annotated[float, Field(gt=1.0)] = 5.0
