"""The form of report.json. Markdown, HTML and the terminal's table show only these numbers."""

from __future__ import annotations

from typing import TypedDict

from pipeline.downstream.speed import Measurement

#: Pairs of step and value, thinned to a few hundred.
Points = list[list[float]]


class Estimate(TypedDict):
    #: Over the seeds.
    mean: float
    #: Sample standard deviation over the seeds; None with one.
    deviation: float | None
    #: 95%, by bootstrap over the test rows; None where that is not defined.
    interval: list[float] | None


class TaskInfo(TypedDict):
    kind: str
    #: The metric that judges the task.
    metric: str
    #: All metrics, that one first.
    metrics: list[str]
    #: Number of test rows scored.
    rows: int


class ModelSize(TypedDict):
    encoder_layers: int
    decoder_layers: int
    #: Of the whole model.
    parameters: int
    #: Of its embeddings and LM head.
    embedding_parameters: int


class Retention(TypedDict):
    #: Score ÷ the reference model's score, on the task's own metric.
    share: float
    #: 95%, by paired bootstrap of the difference, the reference's score held fixed.
    interval: list[float] | None


class ModelRow(TypedDict):
    #: As in the recipe, without the run's own directory; None for a baseline.
    directory: str | None
    baseline: bool
    #: None for a baseline, and for a model whose files are missing.
    size: ModelSize | None
    #: Parameters of the reference ÷ parameters of this model.
    compression: float | None
    validation_lm_loss: float | None
    #: Task → metric → estimate; a task without a finished unit is absent.
    scores: dict[str, dict[str, Estimate]]
    #: Task → retention; empty for the reference itself, and without one.
    retention: dict[str, Retention]
    #: Task → how the model was fine-tuned on it.
    training: dict[str, FineTuning]
    #: Task → measurements of one of its units.
    speed: dict[str, list[Measurement]]


class FineTuning(TypedDict):
    #: Finished seeds.
    seeds: list[int]
    #: The rate whose scores are shown; None for a baseline.
    learning_rate: float | None
    #: gold, distilled or both.
    data: str
    #: The model that labelled the distilled rows.
    teacher: str | None
    #: Number of training rows.
    rows: int
    #: For each seed: the step whose weights were kept (`best`), and the last one (`trained`).
    steps: list[dict[str, int]]


class PairedDifference(TypedDict):
    """`model` minus `against` on the task's own metric, paired over the test rows."""

    task: str
    model: str
    against: str
    difference: float
    interval: list[float]
    p_value: float


class StageRecord(TypedDict):
    """One artifact of the run: its inputs and its cost."""

    #: Its path below the run, such as distill/student.
    artifact: str
    stage: str
    #: `complete`, or `begun` (some of it exists).
    state: str
    #: Role → artifact, or a name outside the run.
    inputs: dict[str, str]
    #: Of distillation: the preset with changed weights, and the kind of targets.
    objective: str | None
    #: Of distillation: the source of the first weights.
    initial: str | None
    steps: int | None
    total_steps: int | None
    rows: int | None
    tokens: int | None
    #: Time spent training or caching, without interruptions and start-up.
    seconds: float | None
    processes: int
    #: Of all processes, by `planning.flops`; None where they were not counted.
    flops: float | None
    bytes: int | None
    train_loss: float | None
    validation_loss: float | None
    #: sha256 of recipe.yaml.
    recipe: str | None
    fingerprint: str | None


class Curve(TypedDict):
    """Losses of one artifact by step, in nats a target token."""

    artifact: str
    #: Name of both losses, such as "LM loss".
    label: str
    train: Points
    validation: Points
    #: Part of the objective → its unweighted values.
    parts: dict[str, Points]
    #: Of fine-tuning: metric → its values on the validation rows.
    scores: dict[str, Points]


class Report(TypedDict):
    name: str
    run: str
    version: str
    #: The model the others are measured against; None when none is finished.
    reference: str | None
    tasks: dict[str, TaskInfo]
    models: dict[str, ModelRow]
    differences: list[PairedDifference]
    stages: list[StageRecord]
    curves: list[Curve]
    #: What the recipe asks for and the run does not hold, one line each.
    missing: list[str]
    #: What cannot be compared, one line each.
    warnings: list[str]
