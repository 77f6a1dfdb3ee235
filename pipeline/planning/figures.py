"""A plan: numbers and strings, with bytes, operations and hours as they are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.planning.assumptions import PlanAssumptions
from pipeline.planning.cache_bytes import CacheFigures
from pipeline.planning.chain import NamedModel
from pipeline.planning.corpus_rows import CorpusRows
from pipeline.planning.memory import RankMemory


@dataclass(frozen=True)
class PlannedModel:
    name: str
    model_type: str
    encoder_layers: int
    decoder_layers: int
    d_model: int
    d_ff: int
    num_heads: int
    d_kv: int
    parameters: int
    embedding_parameters: int

    @classmethod
    def of(cls, model: NamedModel) -> PlannedModel:
        architecture = model.architecture
        return cls(
            name=model.name,
            model_type=architecture.model_type,
            **asdict(architecture.shape),
            parameters=architecture.size.total,
            embedding_parameters=architecture.size.embeddings,
        )


@dataclass(frozen=True)
class PlannedLink:
    key: str
    #: The first link that reads the same cache; None if nothing is compared with a teacher.
    shares_cache_with: str | None
    teacher: str | None
    student: PlannedModel
    capacity_ratio: float | None
    steps: int
    rows_seen: int
    #: The caches that could be made, by kind of target.
    targets: dict[str, CacheFigures]
    #: The recommended kind, as `advice.Advice`.
    recommended: str
    why: str
    #: What the size of the corpus means for the cache, in sentences.
    follows: list[str]
    operations_per_step: float
    training_gpu_hours: float
    #: Training with the teacher online.
    online_gpu_hours: float
    caching_gpu_hours: float
    #: Of a process that caches; None without a cache.
    caching_bytes: float | None
    micro_batch_size: int
    memory: RankMemory
    memory_with_checkpointing: RankMemory
    #: What cannot work, in sentences.
    does_not_fit: list[str]

    @property
    def shares_another_cache(self) -> bool:
        return self.shares_cache_with not in (None, self.key)


@dataclass(frozen=True)
class Plan:
    #: The path of the recipe.
    recipe: str
    assumed: PlanAssumptions
    teacher: PlannedModel | None
    #: Where the teacher's configuration was found.
    teacher_source: str | None
    rows: CorpusRows
    #: The preset.
    objective: str
    #: The path of the DeepSpeed JSON.
    deepspeed: str
    batch_size: int
    links: list[PlannedLink]


def as_json(plan: Plan) -> dict[str, Any]:
    """Return what `miniend plan --json` prints: all fields, and the peak of each memory."""
    document = asdict(plan)
    for link, entry in zip(plan.links, document["links"], strict=True):
        entry["memory"]["peak"] = link.memory.peak
        entry["memory_with_checkpointing"]["peak"] = link.memory_with_checkpointing.peak
    return document
