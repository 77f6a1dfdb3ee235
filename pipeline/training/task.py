"""The interface between the training loop and the model it trains.

Distillation and fine-tuning each implement `Task`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from pipeline.training.loader import Batch


class Engine(Protocol):
    """The part of DeepSpeed's engine that is used here; DeepSpeed itself has no types."""

    #: The module that was handed to DeepSpeed.
    module: Any
    optimizer: Any
    #: Steps skipped since the engine was made because their gradient was not finite.
    skipped_steps: int
    #: The factor on the learning rate of each parameter group (`engine.initialize`).
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
    """A model to train: its loss, its validation and what is logged.

    Every rank calls each method. `state` is what a loss carries from step to step in addition to
    the weights; checkpoints hold it.
    """

    #: The name in messages, e.g. "distill student".
    label: str
    #: Whether there are rows to validate on.
    validates: bool = True
    #: Whether `after_step` must be called, which costs a reduction over the ranks at each step.
    follows_means: bool = False

    @abstractmethod
    def loss(self, engine: Engine, batch: Batch, step: int) -> dict[str, torch.Tensor]:
        """Return named scalars: training minimises "loss"; the others are logged as loss/<name>."""

    @abstractmethod
    def validate(self, engine: Engine, step: int) -> dict[str, float]:
        """Return named numbers, logged as validation/<name>.

        Early stopping and the best checkpoint use the first one; smaller is better.
        """

    @abstractmethod
    def flops(self, source: int, target: int) -> float:
        """Return the operations of training on one example, including the teacher's.

        source, target: lengths in tokens.
        """

    def samples(self, engine: Engine) -> dict[str, str]:
        """Return Markdown by name; TensorBoard shows it after each validation."""
        return {}

    def after_step(self, step: int, means: Mapping[str, float]) -> None:  # noqa: B027 - optional
        """Receive the means of a step's parts over its micro batches and the ranks."""

    def state(self) -> dict[str, Any]:
        """Return the state to store in a checkpoint, as JSON values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - optional
        """Restore what `state` returned."""
