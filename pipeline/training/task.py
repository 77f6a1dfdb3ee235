"""What the training loop asks of whatever is trained. Distillation and fine-tuning each write one Task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from pipeline.training.loader import Batch


class Engine(Protocol):
    """What is used of DeepSpeed's engine, which has no types of its own."""

    #: The module that was handed to DeepSpeed.
    module: Any
    optimizer: Any
    #: Steps left out since the engine was made because their gradient was not finite.
    skipped_steps: int
    #: By parameter group, the share of the learning rate its weights take (`engine.initialize`).
    rate_scales: list[float]

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def backward(self, loss: torch.Tensor) -> Any: ...

    def step(self) -> Any: ...

    def train(self) -> Any: ...

    def eval(self) -> Any: ...

    def destroy(self) -> None: ...

    def get_global_grad_norm(self) -> Any: ...

    def train_micro_batch_size_per_gpu(self) -> int: ...

    def save_checkpoint(self, root: str, *, tag: str, save_latest: bool) -> Any: ...

    def load_checkpoint(self, root: str, *, tag: str) -> Any: ...


#: (engine, batch, step) → named scalar tensors.
LossFunction = Callable[[Engine, Batch, int], dict[str, torch.Tensor]]


class Task(ABC):
    """What is trained: its loss, and what is watched of it.

    Every rank calls each method. `state` is what a loss carries from step to step besides the
    weights; checkpoints keep it.
    """

    #: The name in messages, e.g. "distill student".
    label: str
    #: Whether there are rows to validate on.
    validates: bool = True
    #: Whether `after_step` must be called, which costs a reduction over the ranks at every step.
    follows_means: bool = False

    @abstractmethod
    def loss(self, engine: Engine, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        """Return named scalars: "loss" is trained on, the others are logged as loss/<name>."""

    @abstractmethod
    def validate(self, engine: Engine, step: int) -> dict[str, float]:
        """Return named numbers, logged as validation/<name>.

        Early stopping and the best checkpoint go by the first one; less is better.
        """

    @abstractmethod
    def flops(self, source: int, target: int) -> float:
        """Return the operations of training on one example of these lengths, a teacher's included."""

    def samples(self, engine: Engine) -> dict[str, str]:
        """Return Markdown by name, which TensorBoard shows after each validation."""
        return {}

    def after_step(self, step: int, means: Mapping[str, float]) -> None:  # noqa: B027 - optional
        """Take the means of a step's parts over its micro batches and the ranks."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as JSON values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - optional
        """Take back what `state` returned."""
