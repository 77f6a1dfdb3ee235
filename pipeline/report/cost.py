"""What a cached teacher cost in floating-point operations. What training costs is logged step by step."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import PipelineError


def forward_cost(model: Path, sources: int, targets: int, *, logits: bool) -> float | None:
    """Operations of one forward pass of the model in a directory; None when its configuration is not there or not known.

    sources, targets: tokens of an example. logits: whether the LM head runs.
    """
    from transformers import AutoConfig

    from pipeline.models.architecture import Architecture

    if not (model / "config.json").is_file():
        return None
    try:
        architecture = Architecture.of(AutoConfig.from_pretrained(model))
        return architecture.forward_flops(sources, targets, logits=logits).total
    except (PipelineError, OSError, ValueError, KeyError):
        return None
