"""The form of report.json. Markdown, HTML and the terminal's table show these numbers and no others."""

from __future__ import annotations

from typing import TypedDict

from pipeline.downstream.timing import Measurement


class Estimate(TypedDict):
    #: Over the seeds.
    mean: float
    #: Sample standard deviation over the seeds; None with one.
    deviation: float | None
    #: 95%, by bootstrap over the test rows; None where that is not defined.
    interval: list[float] | None


class TaskInfo(TypedDict):
    kind: str
    #: The metric that the task is judged by, and all of them, that one first.
    metric: str
    metrics: list[str]
    #: Test rows scored.
    rows: int


class Size(TypedDict):
    encoder_layers: int
    decoder_layers: int
    #: All weights, and those of them in embeddings and the LM head.
    parameters: int
    embedding_parameters: int


class Retention(TypedDict):
    #: Score ÷ the reference model's score, on the task's own metric.
    share: float
    #: 95%, by paired bootstrap of the difference, the reference's score held fixed.
    interval: list[float] | None


class ModelRow(TypedDict):
    #: As the recipe has it, the run's own directory left out; None for a baseline.
    directory: str | None
    baseline: bool
    #: None for a baseline, and for a model whose files are not there.
    size: Size | None
    #: Parameters of the reference ÷ parameters of this model.
    compression: float | None
    validation_lm_loss: float | None
    #: Task → metric → estimate; a task without a finished unit is absent.
    scores: dict[str, dict[str, Estimate]]
    #: Task → retention; empty for the reference itself, and without one.
    retention: dict[str, Retention]
    #: Task → how it was trained on it.
    training: dict[str, FineTuning]
    #: Task → measurements of one of its units.
    speed: dict[str, list[Measurement]]


class FineTuning(TypedDict):
    #: Finished seeds and the learning rate shown; None for a baseline.
    seeds: list[int]
    learning_rate: float | None
    #: gold, distilled or both, and the model that labelled the distilled rows.
    data: str
    teacher: str | None
    #: Rows trained on.
    rows: int
    #: Of each seed: the step whose weights were kept, and the last one.
    steps: list[dict[str, int]]


class Difference(TypedDict):
    """`model` minus `against` on the task's own metric, paired over the test rows."""

    task: str
    model: str
    against: str
    difference: float
    interval: list[float]
    p_value: float


class Stage(TypedDict):
    """One artifact of the run: what it is made from and what it cost."""

    #: Below the run, such as distill/student.
    artifact: str
    stage: str
    #: complete, or begun (some of it is there).
    state: str
    #: Role → artifact, or a name outside the run.
    inputs: dict[str, str]
    #: Of distillation: parts and weights in words, and where the first weights come from.
    objective: str | None
    initial: str | None
    steps: int | None
    total_steps: int | None
    rows: int | None
    tokens: int | None
    #: Time spent training or caching, interruptions and start-up left out.
    seconds: float | None
    processes: int
    #: Of all processes, by `planning.flops`; None where nothing counted them.
    flops: float | None
    bytes: int | None
    train_loss: float | None
    validation_loss: float | None
    #: sha256 of recipe.yaml, and the fingerprint.
    recipe: str | None
    fingerprint: str | None


class Curve(TypedDict):
    """Losses by step, thinned to a few hundred points: nats a target token."""

    artifact: str
    #: What the pair is called, such as "LM loss".
    label: str
    train: list[list[float]]
    validation: list[list[float]]
    #: Part of the objective → its unweighted values.
    parts: dict[str, list[list[float]]]
    #: Of fine-tuning: metric → its values on the validation rows.
    scores: dict[str, list[list[float]]]


class Report(TypedDict):
    name: str
    run: str
    version: str
    #: The model the others are measured against; None when none is finished.
    reference: str | None
    tasks: dict[str, TaskInfo]
    models: dict[str, ModelRow]
    differences: list[Difference]
    stages: list[Stage]
    curves: list[Curve]
    #: What the recipe asks for and the run does not hold, and what does not fit together: one line each.
    missing: list[str]
    warnings: list[str]
