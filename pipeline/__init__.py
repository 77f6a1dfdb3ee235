"""MiniEnD: task-agnostic distillation of encoder-decoder language models, one stage at a time."""

__version__ = "0.1.0"
