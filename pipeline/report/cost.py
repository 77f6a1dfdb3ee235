"""What a cached teacher cost in floating-point operations. What training costs is logged step by step."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.models.flops import forward_flops


def forward_cost(model: Path, sources: int, targets: int, *, logits: bool) -> float | None:
    """Operations of one forward pass of the model in a directory; None when its configuration is not there or not known.

    sources, targets: tokens of an example. logits: whether the LM head runs.
    """
    from transformers import AutoConfig

    from pipeline.families import family_of

    if not (model / "config.json").is_file():
        return None
    try:
        config = AutoConfig.from_pretrained(model)
        family = family_of(config)
        shape, size, gated = family.shape(config), family.head_size(config), family.gated(config)
    except (PipelineError, OSError, ValueError, KeyError):
        return None
    return forward_flops(shape, sources, targets, vocab_size=size, gated=gated, logits=logits).total
