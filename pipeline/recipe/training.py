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
    warmup_steps: NonNegativeInt = 1000
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    #: The learning rate ends at this share of its peak.
    final_fraction: Fraction = 0.1
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.01
    betas: tuple[Fraction, Fraction] = (0.9, 0.98)
    gradient_clipping: Annotated[float, Field(ge=0.0)] = 1.0
    dropout: Fraction = 0.0
    dtype: Dtype = "auto"
    deepspeed: str = "ds_configs/zero3.json"
    log_every: PositiveInt = 10
    validate_every: PositiveInt = 1000
    validation_rows: PositiveInt = 512
    save_every: PositiveInt = 1000
    #: Save also when this many minutes have gone by since the last time.
    save_minutes: Annotated[float, Field(gt=0.0)] = 30.0
    keep_checkpoints: PositiveInt = 2
    #: Stop after so many steps in a row whose gradients are not finite. Such a step is skipped: weights stay as they were.
    max_skipped_steps: PositiveInt = 10
